//! One peer of central, management or an edge: what it has told us, whether it can be heard, and what it should hold.
//! It outlives connections. The feed's drive gives it each action; the loop takes its news; the disk its bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};
use tombolo_compiler::observe::{Agent, Signal, observe};
use tombolo_proto::frame::Rejection;
use tombolo_proto::held::{Held, Stamp};
use tombolo_proto::link::{Inputs, LinkError};
use tombolo_proto::session::{Action, Alarm, Event, PeerAck, Publication};
use tombolo_runtime::telemetry::chain;

use crate::metrics::LinkMetrics;
use crate::mirror::{Item, Mirror, News};

/// An operator's words are rare, and so are people's questions.
const EVENTS_MAX: usize = 16;
/// A log line names this many of the names that it is about.
const NAMES_LOGGED_MAX: usize = 10;

#[derive(Debug)]
pub(crate) struct Peer<T> {
    name: String,
    state: Mutex<State<T>>,
    publications: watch::Sender<Option<Publication>>,
    events: mpsc::Sender<Event>,
    /// Wants to know that something happened to any peer.
    planner: Arc<Notify>,
    metrics: LinkMetrics,
}

/// What an operator may see of a peer.
#[derive(Debug, Serialize)]
pub(crate) struct LinkStatus {
    link: String,
    agent: Agent,
    /// What is held of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stamp: Option<String>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<String>,
    /// Removals that wait for `POST /brake/confirm`.
    braked: Vec<String>,
    /// What it sent and we cannot use.
    refused: BTreeMap<String, String>,
    /// What we sent and it cannot use.
    refused_by_peer: BTreeMap<String, String>,
}

#[derive(Debug)]
struct State<T> {
    mirror: Mirror<T>,
    agent: Agent,
    alarm: Option<String>,
    refused_by_peer: Vec<Rejection>,
    is_unsaved: bool,
}

impl<T: Item> Peer<T> {
    /// The inputs are for the task that drives the peer's links.
    pub(crate) fn new(
        name: String,
        mirror: Mirror<T>,
        planner: Arc<Notify>,
        metrics: LinkMetrics,
    ) -> (Self, Inputs) {
        let (publications, published) = watch::channel(None);
        let (events, said) = mpsc::channel(EVENTS_MAX);
        metrics.braked.set(count(mirror.braked().len()));
        let peer = Self {
            name,
            state: Mutex::new(State {
                mirror,
                agent: Agent::Unknown,
                alarm: None,
                refused_by_peer: Vec::new(),
                is_unsaved: false,
            }),
            publications,
            events,
            planner,
            metrics,
        };
        let inputs = Inputs {
            publications: published,
            events: said,
        };
        (peer, inputs)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn held(&self) -> Held {
        self.lock().mirror.held()
    }

    pub(crate) fn agent(&self) -> Agent {
        self.lock().agent
    }

    pub(crate) fn news(&self) -> Option<News<T>> {
        self.lock().mirror.news()
    }

    /// Takes one action of the feed's session; returns what the session should be told at once.
    pub(crate) fn on(&self, action: Action) -> Vec<Event> {
        match action {
            Action::PeerJoined { node, held, .. } => self.joined(&node, held.as_ref()),
            Action::Apply(applied) => {
                let mut state = self.lock();
                let rejections = state.mirror.apply(applied);
                state.is_unsaved = true;
                self.metrics.braked.set(count(state.mirror.braked().len()));
                drop(state);
                self.planner.notify_one();
                self.refuse(rejections)
            }
            Action::Braked { stamp, names } => {
                let logged = names[..names.len().min(NAMES_LOGGED_MAX)].join(", ");
                tracing::error!(
                    link = self.name, %stamp, removals = names.len(), names = logged,
                    "holding back removals until an operator confirms them: POST /brake/confirm?link={}", self.name
                );
                let mut state = self.lock();
                state.mirror.brake(names);
                self.metrics.braked.set(count(state.mirror.braked().len()));
                drop(state);
                self.planner.notify_one();
                Vec::new()
            }
            Action::InSync { stamp, .. } => {
                tracing::debug!(link = self.name, %stamp, "in sync");
                self.lock().alarm = None;
                self.metrics.alarm.set(0);
                Vec::new()
            }
            Action::Alarm(alarm) => {
                self.alarm(&alarm);
                Vec::new()
            }
            Action::PeerAcked(ack) => {
                self.acked(ack);
                Vec::new()
            }
            // The drive keeps these for itself, and the relay questions and answers.
            Action::Send(_)
            | Action::PeerSilent
            | Action::Close(_)
            | Action::Asked(_)
            | Action::Answered(_) => Vec::new(),
        }
    }

    pub(crate) fn disconnected(&self, error: &LinkError) {
        tracing::warn!(link = self.name, error = chain(error), "the feed ended");
        self.metrics.up.set(0);
        self.signal(Signal::Disconnected);
    }

    /// Publishes unless that is what is published already.
    pub(crate) fn publish(&self, publication: Option<Publication>) {
        let Some(publication) = publication else { return };
        self.publications.send_if_modified(|current| {
            let is_new = current.as_ref().is_none_or(|current| {
                current.stamp != publication.stamp || current.complete != publication.complete
            });
            if is_new {
                *current = Some(publication);
            }
            is_new
        });
    }

    /// Lets the removals happen that the brake holds. Without a connection the word is kept for the next one.
    pub(crate) fn confirm_removals(&self) -> bool {
        self.say(Event::ConfirmRemovals)
    }

    /// Tells the session something; whether there was room for it.
    pub(crate) fn say(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// What should be on disk, if it is not there yet.
    pub(crate) fn take_unsaved(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        if !state.is_unsaved {
            return None;
        }
        let bytes = state.mirror.to_bytes()?;
        state.is_unsaved = false;
        Some(bytes)
    }

    /// It did not get there: try again.
    pub(crate) fn set_unsaved(&self) {
        self.lock().is_unsaved = true;
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let by_name = |rejections: Vec<Rejection>| {
            rejections
                .into_iter()
                .map(|rejection| (rejection.name, rejection.reason))
                .collect()
        };
        let state = self.lock();
        LinkStatus {
            link: self.name.clone(),
            agent: state.agent,
            stamp: state.mirror.stamp().map(ToString::to_string),
            complete: state.mirror.is_complete(),
            alarm: state.alarm.clone(),
            braked: state.mirror.braked().iter().cloned().collect(),
            refused: by_name(state.mirror.rejections()),
            refused_by_peer: by_name(state.refused_by_peer.clone()),
        }
    }

    fn joined(&self, node: &str, holds: Option<&Stamp>) -> Vec<Event> {
        let holds = holds.map(ToString::to_string);
        tracing::info!(link = self.name, node, holds, "the feed is up");
        self.metrics.up.set(1);
        self.signal(Signal::Connected);
        let mut state = self.lock();
        state.alarm = None;
        self.metrics.alarm.set(0);
        let refused = state.mirror.rejections();
        refused.into_iter().map(Event::Rejected).collect()
    }

    fn signal(&self, signal: Signal) {
        let mut state = self.lock();
        state.agent = observe(state.agent, signal);
        drop(state);
        self.planner.notify_one();
    }

    fn refuse(&self, rejections: Vec<Rejection>) -> Vec<Event> {
        for rejection in &rejections {
            self.metrics.refused.inc();
            tracing::warn!(
                link = self.name,
                name = rejection.name,
                reason = rejection.reason,
                "refused a resource, its last good value stays"
            );
        }
        rejections.into_iter().map(Event::Rejected).collect()
    }

    fn alarm(&self, alarm: &Alarm) {
        self.metrics.alarms.inc();
        match alarm {
            // Ends by itself.
            Alarm::Mismatch { .. } => tracing::warn!(link = self.name, "{alarm}"),
            Alarm::Backwards { .. } | Alarm::Diverged { .. } => {
                tracing::error!(link = self.name, "{alarm}");
                self.lock().alarm = Some(alarm.to_string());
                self.metrics.alarm.set(1);
            }
        }
    }

    fn acked(&self, ack: PeerAck) {
        let mut state = self.lock();
        if ack.rejected == state.refused_by_peer {
            return;
        }
        for rejection in &ack.rejected {
            tracing::warn!(
                link = self.name,
                stamp = %ack.stamp,
                name = rejection.name,
                reason = rejection.reason,
                "the peer refused a resource"
            );
        }
        state.refused_by_peer = ack.rejected;
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic elsewhere happens between whole steps of the mirror, never within one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
