//! The hop to the centrals: reports go to all of them, the slice comes from one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::routes::Slice;
use tombolo_proto::frame::{Answer, Question};
use tombolo_proto::held::Held;
use tombolo_proto::link::{Inputs, LinkError, dial};
use tombolo_proto::session::{Action, Alarm, Event, Expect, Party, Publication, Session};
use tombolo_runtime::backoff::{Backoff, jitter};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::shutdown::{Shutdown, Tasks};
use tombolo_runtime::telemetry::chain;
use tombolo_runtime::tls::{Identity, TlsError, connect};

use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use answer::answer;
use copy::SliceCopy;
use follow::{Follow, FollowEvent, Link};

mod answer;
pub(crate) mod copy;
pub(crate) mod follow;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A central that comes back is found within this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(1);
/// An operator's words, and answers, that wait for one link.
const EVENTS_MAX: usize = 4;

/// The links to all centrals and what came of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cluster: ClusterName,
    urls: Vec<String>,
    state: Mutex<State>,
    adopted: watch::Sender<Option<Adopted>>,
    events: Vec<mpsc::Sender<Event>>,
    /// What questions are answered from, with the fleet.
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    fleet: Fleet,
    /// Of questions, one is answered at a time: proxies come first.
    answering: Arc<Semaphore>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    follow: Follow,
    /// By central: removals that wait for an operator.
    braked: Vec<Vec<String>>,
    alarms: Vec<Option<Alarm>>,
}

/// The tasks to be: one per central.
#[derive(Debug)]
pub(crate) struct Links {
    shared: Arc<Shared>,
    held: Held,
    events: Vec<mpsc::Receiver<Event>>,
}

/// The slice in use.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    pub(crate) version: (u64, u64),
    pub(crate) slice: Arc<Slice>,
    /// The same as it goes to the disk.
    pub(crate) copy: Arc<SliceCopy>,
}

/// What the admin port tells of one central.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CentralState {
    pub(crate) url: String,
    pub(crate) link: &'static str,
    pub(crate) followed: bool,
    pub(crate) version: Option<(u64, u64)>,
    /// The central withholds something that concerns this cluster.
    pub(crate) incomplete: bool,
    /// Removals that wait for `POST /removals/confirm`.
    pub(crate) braked: Vec<String>,
    pub(crate) alarm: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Connect(#[from] TlsError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Adopted {
    pub(crate) fn new(copy: &SliceCopy) -> Option<Adopted> {
        let version = copy.version()?;
        Some(Adopted {
            version: (version.epoch, version.revision),
            slice: Arc::new(copy.slice()),
            copy: Arc::new(copy.clone()),
        })
    }
}

impl Feed {
    /// Starts from what the disk holds. Nothing happens until the links run.
    pub(crate) fn new(
        cluster: &ClusterName,
        urls: &[String],
        last_good: Option<SliceCopy>,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        fleet: &Fleet,
        metrics: &Metrics,
    ) -> (Feed, Links) {
        let (senders, receivers) = urls.iter().map(|_| mpsc::channel(EVENTS_MAX)).unzip();
        let held = last_good.as_ref().map(SliceCopy::held).unwrap_or_default();
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            urls: urls.to_vec(),
            adopted: watch::Sender::new(last_good.as_ref().and_then(Adopted::new)),
            state: Mutex::new(State {
                follow: Follow::new(urls.len(), last_good),
                braked: vec![Vec::new(); urls.len()],
                alarms: vec![None; urls.len()],
            }),
            events: senders,
            snapshots,
            fleet: fleet.clone(),
            answering: Arc::new(Semaphore::new(1)),
            metrics: metrics.clone(),
        });
        let links = Links {
            shared: shared.clone(),
            held,
            events: receivers,
        };
        (Feed { shared }, links)
    }

    /// The slice in use; `None` until there is one.
    pub(crate) fn adopted(&self) -> watch::Receiver<Option<Adopted>> {
        self.shared.adopted.subscribe()
    }

    /// Applies the removals that the brake holds back, of every central.
    pub(crate) fn confirm_removals(&self) {
        for events in &self.shared.events {
            // A full queue holds the same word already.
            let _ = events.try_send(Event::ConfirmRemovals);
        }
    }

    pub(crate) fn centrals(&self) -> Vec<CentralState> {
        let state = self.shared.lock();
        let links = state.follow.links();
        links
            .zip(&self.shared.urls)
            .enumerate()
            .map(|(at, ((link, copy), url))| CentralState {
                url: url.clone(),
                link: match link {
                    Link::Down => "down",
                    Link::Syncing => "syncing",
                    Link::InSync => "inSync",
                },
                followed: state.follow.followed() == Some(at),
                version: copy.version().map(|version| (version.epoch, version.revision)),
                incomplete: !copy.complete,
                braked: state.braked[at].clone(),
                alarm: state.alarms[at].as_ref().map(ToString::to_string),
            })
            .collect()
    }
}

impl Links {
    pub(crate) fn spawn(
        self,
        identity: &Arc<Identity>,
        publications: &watch::Receiver<Option<Publication>>,
        tasks: &mut Tasks,
        shutdown: &Shutdown,
    ) {
        for (at, events) in self.events.into_iter().enumerate() {
            let local = Party {
                node: self.shared.cluster.to_string(),
                plane: Plane::Edge.to_string(),
            };
            let expect = Expect {
                plane: Plane::Central.to_string(),
                node: None,
            };
            let session = Session::new(local, expect, self.held.clone()).answering();
            let inputs = Inputs {
                publications: publications.clone(),
                events,
            };
            let shared = self.shared.clone();
            let link = shared.keep_link(at, session, inputs, identity.clone(), shutdown.clone());
            tasks.spawn("central-link", link);
        }
        tasks.spawn("follow-ticks", self.shared.tick(shutdown.clone()));
    }
}

impl Shared {
    async fn keep_link(
        self: Arc<Self>,
        at: usize,
        mut session: Session,
        mut inputs: Inputs,
        identity: Arc<Identity>,
        mut shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        let central = self.urls[at].as_str();
        loop {
            let attempt = self.attempt(at, &mut session, &mut inputs, &identity, &mut backoff);
            let error = tokio::select! {
                error = attempt => error,
                () = shutdown.wait() => return,
            };
            self.follow(FollowEvent::Down(at));
            tracing::warn!(cluster = %self.cluster, central, error = chain(&error), "no feed from this central");
            tokio::select! {
                () = sleep(backoff.next(jitter())) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// One connection, from its start to its end.
    async fn attempt(
        self: &Arc<Self>,
        at: usize,
        session: &mut Session,
        inputs: &mut Inputs,
        identity: &Arc<Identity>,
        backoff: &mut Backoff,
    ) -> AttemptError {
        let connected = async {
            let channel = connect(&self.urls[at], Plane::Central, identity.clone()).await?;
            Ok::<_, AttemptError>(dial(channel).await?)
        };
        let link = match connected.await {
            Ok(link) => link,
            Err(error) => return error,
        };
        self.follow(FollowEvent::Connected(at));
        link.drive(session, inputs, |action| self.act(at, action, backoff))
            .await
            .into()
    }

    fn act(self: &Arc<Self>, at: usize, action: Action, backoff: &mut Backoff) -> Vec<Event> {
        let central = self.urls[at].as_str();
        match action {
            Action::PeerJoined { node, .. } => {
                backoff.reset();
                tracing::info!(cluster = %self.cluster, central, node, "connected to a central");
                Vec::new()
            }
            Action::Apply(applied) => {
                if applied.complete {
                    self.lock().braked[at].clear();
                }
                self.follow(FollowEvent::Applied(at, applied))
            }
            Action::InSync { .. } => {
                self.lock().alarms[at] = None;
                self.follow(FollowEvent::InSync(at))
            }
            Action::Braked { stamp, names } => {
                tracing::error!(
                    cluster = %self.cluster, central, %stamp, removals = names.len(),
                    "removals are held back: check the intent, then POST /removals/confirm on the admin port"
                );
                self.lock().braked[at].extend(names);
                Vec::new()
            }
            Action::Alarm(alarm) => {
                self.metrics.alarms.inc();
                tracing::error!(cluster = %self.cluster, central, alarm = %alarm, "the feed raised an alarm");
                self.lock().alarms[at] = Some(alarm);
                Vec::new()
            }
            Action::PeerAcked(ack) => {
                for rejection in ack.rejected {
                    tracing::warn!(
                        cluster = %self.cluster, central, name = rejection.name, reason = rejection.reason,
                        "the central cannot use part of the report"
                    );
                }
                Vec::new()
            }
            Action::Asked(question) => self.answer(at, question),
            // The drive handles these itself, and an edge asks nobody.
            Action::Send(_) | Action::PeerSilent | Action::Close(_) | Action::Answered(_) => Vec::new(),
        }
    }

    /// Aside: to lower for a whole cluster takes long, and the link goes on meanwhile.
    fn answer(self: &Arc<Self>, at: usize, question: Question) -> Vec<Event> {
        let Ok(turn) = self.answering.clone().try_acquire_owned() else {
            let busy = format!(
                "the edge of {} is busy with another question; ask again",
                self.cluster
            );
            return vec![Event::Answer(Answer {
                id: question.id,
                answer: Err(busy),
            })];
        };
        let shared = self.clone();
        spawn_blocking(move || {
            let snapshot = shared.snapshots.borrow().clone();
            let told = answer(&shared.cluster, snapshot.as_deref(), &shared.fleet, &question);
            drop(turn);
            // Of a link that takes no more, nobody waits for it.
            let _ = shared.events[at].try_send(Event::Answer(Answer {
                id: question.id,
                answer: told.map(Bytes::from),
            }));
        });
        Vec::new()
    }

    fn follow(&self, event: FollowEvent) -> Vec<Event> {
        let mut state = self.lock();
        let before = state.follow.followed();
        let outcome = state.follow.on(event);
        let followed = state.follow.followed();
        if outcome.adopted {
            // Sent under the lock, so that two links cannot publish in another order than they adopted.
            self.adopted
                .send_replace(state.follow.adopted().and_then(Adopted::new));
        }
        let live = state
            .follow
            .links()
            .filter(|(link, _)| *link == Link::InSync)
            .count();
        drop(state);
        self.metrics
            .centrals_live
            .set(i64::try_from(live).unwrap_or(i64::MAX));
        if let Some(at) = followed.filter(|_| followed != before) {
            tracing::info!(cluster = %self.cluster, central = self.urls[at], "following this central");
        }
        outcome.rejections.into_iter().map(Event::Rejected).collect()
    }

    async fn tick(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => drop(self.follow(FollowEvent::Tick)),
                () = shutdown.wait() => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A step of the follower is one assignment after another of plain values: a panic elsewhere leaves nothing
        // that the next step does not overwrite.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fleet::Roster;

    #[tokio::test]
    async fn one_question_at_a_time_is_answered_aside() {
        let cluster: ClusterName = "us-east".parse().unwrap();
        let (_snapshots, snapshots) = watch::channel(None);
        let fleet = Fleet::new(Roster::default());
        let urls = ["https://central".to_owned()];
        let (feed, mut links) = Feed::new(&cluster, &urls, None, snapshots, &fleet, &Metrics::default());
        let question = |id: u64| Question {
            id,
            cluster: "us-east".to_owned(),
            body: Bytes::from_static(br#"{"after": {}}"#),
        };
        let turn = feed.shared.answering.clone().try_acquire_owned().unwrap();
        let refused = feed.shared.answer(0, question(1));
        let [
            Event::Answer(Answer {
                id: 1,
                answer: Err(busy),
            }),
        ] = &refused[..]
        else {
            panic!("{refused:?}");
        };
        assert!(busy.contains("busy"), "{busy}");
        drop(turn);
        assert!(feed.shared.answer(0, question(2)).is_empty(), "the link goes on");
        let told = links.events[0].recv().await.unwrap();
        assert!(matches!(told, Event::Answer(Answer { id: 2, .. })), "{told:?}");
    }
}
