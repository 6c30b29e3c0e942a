//! A central as management sees it: it dials the feed, keeps what it is given, and reports.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tombolo_proto::codec;
use tombolo_proto::frame::{Answer, Question};
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::link::{self, Inputs, LinkError};
use tombolo_proto::resource::Set;
use tombolo_proto::session::{Action, Alarm, Event, Expect, Party, PeerAck, Publication, Session};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::{Identity, connect};

use crate::support::Management;

pub(crate) struct Central {
    name: String,
    state: Arc<Mutex<State>>,
    reports: watch::Sender<Option<Publication>>,
    sequence: u64,
    task: JoinHandle<LinkError>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Body by name.
    pub(crate) items: BTreeMap<String, String>,
    /// Of each step, in order, with how many resources were held after it.
    pub(crate) steps: Vec<(Stamp, usize)>,
    pub(crate) stamp: Option<Stamp>,
    pub(crate) complete: bool,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) acks: Vec<PeerAck>,
    /// To every question; without one there is no answer.
    pub(crate) answer: Option<Result<String, String>>,
}

impl Central {
    pub(crate) async fn connect(management: &Management, name: &str) -> Central {
        Central::connect_as(management, name, Plane::Central).await
    }

    pub(crate) async fn connect_as(management: &Management, name: &str, plane: Plane) -> Central {
        Central::connect_refusing(management, name, plane, None).await
    }

    /// A central that cannot use the resource of that name.
    pub(crate) async fn connect_refusing(
        management: &Management,
        name: &str,
        plane: Plane,
        refused: Option<&'static str>,
    ) -> Central {
        Central::connect_holding(management, name, plane, refused, Held::default()).await
    }

    /// A central that holds something from before.
    pub(crate) async fn connect_holding(
        management: &Management,
        name: &str,
        plane: Plane,
        refused: Option<&'static str>,
        held: Held,
    ) -> Central {
        let channel = {
            let identity = identity(management.dir.path(), name, plane);
            let target = format!("https://{}", management.running.as_ref().unwrap().feed_addr());
            connect(&target, Plane::Management, identity).await.unwrap()
        };
        let local = Party {
            node: name.to_owned(),
            plane: plane.to_string(),
        };
        let expect = Expect {
            plane: "management".to_owned(),
            node: None,
        };
        let state = Arc::new(Mutex::new(State::default()));
        let (reports, publications) = watch::channel(None);
        let seen = state.clone();
        let task = tokio::spawn(async move {
            let mut session = Session::new(local, expect, held).answering();
            let (_events, events) = mpsc::channel(1);
            let mut inputs = Inputs { publications, events };
            let link = match link::dial(channel).await {
                Ok(link) => link,
                Err(error) => return error,
            };
            link.drive(&mut session, &mut inputs, |action| {
                if let Action::Asked(question) = action {
                    return seen.lock().unwrap().answer(&question).into_iter().collect();
                }
                seen.lock().unwrap().take(action);
                let refused = refused.map(|name| tombolo_proto::frame::Rejection {
                    name: name.to_owned(),
                    reason: "not in this version".to_owned(),
                });
                refused.map(Event::Rejected).into_iter().collect()
            })
            .await
        });
        Central {
            name: name.to_owned(),
            state,
            reports,
            sequence: 0,
            task,
        }
    }

    /// To every question from now on.
    pub(crate) fn answers(&self, answer: Result<String, String>) {
        self.state.lock().unwrap().answer = Some(answer);
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    /// Publishes exactly these reports from now on.
    pub(crate) fn report(&mut self, items: &[(&str, &dyn erased::Noun)]) {
        self.sequence += 1;
        let set: Set = items
            .iter()
            .map(|(name, noun)| ((*name).to_owned(), codec::encode(*name, &noun.json()).unwrap()))
            .collect();
        let stamp = Stamp {
            version: Version {
                epoch: 1,
                revision: self.sequence,
            },
            source: self.name.clone(),
            sequence: 0,
        };
        self.reports.send_replace(Some(Publication {
            stamp,
            set: Arc::new(set),
            complete: true,
        }));
    }

    pub(crate) async fn ended(self) -> LinkError {
        self.task.await.unwrap()
    }

    pub(crate) fn disconnect(self) {
        self.task.abort();
    }
}

impl State {
    fn answer(&self, question: &Question) -> Option<Event> {
        let answer = self.answer.clone()?;
        Some(Event::Answer(Answer {
            id: question.id,
            answer: answer.map(Into::into),
        }))
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Apply(applied) => {
                for name in &applied.removed {
                    self.items.remove(name);
                }
                for resource in &applied.put {
                    let body = String::from_utf8(resource.body().to_vec()).unwrap();
                    self.items.insert(resource.name().to_owned(), body);
                }
                self.steps.push((applied.stamp.clone(), self.items.len()));
                self.stamp = Some(applied.stamp);
                self.complete = applied.complete;
            }
            Action::Alarm(alarm) => self.alarms.push(alarm),
            Action::PeerAcked(ack) => self.acks.push(ack),
            _ => {}
        }
    }
}

fn identity(dir: &Path, name: &str, plane: Plane) -> Arc<Identity> {
    let authority = Authority::create_or_open(&dir.join("authority"), "acme").unwrap();
    let id = PlaneId::new("acme", plane, name).unwrap();
    let out = dir.join(format!("{plane}-{name}"));
    authority.issue(&id, &out).unwrap();
    Arc::new(Identity::load(&out).unwrap())
}

/// Nouns of several types in one list.
pub(crate) mod erased {
    use super::Serialize;

    pub(crate) trait Noun {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: Serialize> Noun for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
