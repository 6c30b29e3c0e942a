//! Feed peers for tests: what they publish is set by the test, and what they are told is there to look at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tombolo_proto::frame::Rejection;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::link::{Inputs, Link, LinkError, dial, server};
use tombolo_proto::resource::{Resource, Set};
use tombolo_proto::session::{Action, Event, Expect, Party, Publication, Session};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::telemetry::chain;
use tombolo_runtime::tls::{self, Identity};

/// What a peer was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) resources: BTreeMap<String, Resource>,
    pub(crate) stamp: Option<Stamp>,
    pub(crate) complete: bool,
    pub(crate) in_sync: bool,
    /// Of ours, by the central.
    pub(crate) rejected: Vec<Rejection>,
    pub(crate) alarms: Vec<String>,
    /// Why connections ended or could not be made.
    pub(crate) errors: Vec<String>,
}

/// One peer of the central: an edge that dials it, or a management that it dials.
pub(crate) struct Peer {
    told: Arc<Mutex<Told>>,
    publications: watch::Sender<Option<Publication>>,
    task: JoinHandle<()>,
}

impl Told {
    pub(crate) fn json(&self, name: &str) -> Option<Value> {
        let resource = self.resources.get(name)?;
        Some(serde_json::from_slice(resource.body()).unwrap())
    }

    fn on(&mut self, action: Action) {
        match action {
            Action::Apply(applied) => {
                for resource in applied.put {
                    self.resources.insert(resource.name().to_owned(), resource);
                }
                for name in applied.removed {
                    self.resources.remove(&name);
                }
                self.stamp = Some(applied.stamp);
                self.complete = applied.complete;
            }
            Action::InSync { .. } => self.in_sync = true,
            Action::PeerAcked(ack) => self.rejected = ack.rejected,
            Action::Alarm(alarm) => self.alarms.push(alarm.to_string()),
            _ => {}
        }
    }
}

impl Peer {
    /// An edge that knows nothing yet, and dials `central` until it is dropped.
    pub(crate) fn edge(cluster: &str, central: SocketAddr, identity: Identity) -> Peer {
        Peer::dialling(cluster, central, identity, Told::default())
    }

    /// The same edge with what `before` was told: what a restart from its disk looks like.
    pub(crate) fn edge_again(cluster: &str, central: SocketAddr, identity: Identity, before: &Peer) -> Peer {
        let before = before.told.lock().unwrap();
        let told = Told {
            resources: before.resources.clone(),
            stamp: before.stamp.clone(),
            complete: before.complete,
            ..Told::default()
        };
        drop(before);
        Peer::dialling(cluster, central, identity, told)
    }

    fn dialling(node: &str, central: SocketAddr, identity: Identity, told: Told) -> Peer {
        let held = Held {
            stamp: told.stamp.clone(),
            names: told
                .resources
                .iter()
                .map(|(name, resource)| (name.clone(), resource.hash()))
                .collect(),
            complete: told.complete,
        };
        let session = Session::new(party(node, "edge"), expect("central"), held);
        let told = Arc::new(Mutex::new(told));
        let (publications, inputs) = inputs();
        let task = tokio::spawn(dial_for_ever(
            central,
            Arc::new(identity),
            session,
            inputs,
            told.clone(),
        ));
        Peer {
            told,
            publications,
            task,
        }
    }

    /// A management on `listener`, until it is dropped.
    pub(crate) fn management(listener: TcpListener, identity: Identity) -> Peer {
        let told: Arc<Mutex<Told>> = Arc::default();
        let (publications, published) = watch::channel(None);
        let (arrived, links) = mpsc::unbounded_channel();
        let accept = move |link, _: &_| {
            arrived.send(link).unwrap();
            Ok(())
        };
        let serving = tls::server()
            .add_service(server(accept))
            .serve_with_incoming(tls::incoming(listener, Arc::new(identity)));
        let each = take_links(links, published, told.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                served = serving => served.unwrap(),
                () = each => {}
            }
        });
        Peer {
            told,
            publications,
            task,
        }
    }

    pub(crate) fn publish(&self, stamp: Stamp, complete: bool, bodies: &[(&str, Value)]) {
        let resources = bodies
            .iter()
            .map(|(name, body)| Resource::new(*name, body.to_string()).unwrap());
        self.publish_resources(stamp, complete, resources);
    }

    pub(crate) fn publish_resources(
        &self,
        stamp: Stamp,
        complete: bool,
        resources: impl IntoIterator<Item = Resource>,
    ) {
        let set: Set = resources
            .into_iter()
            .map(|resource| (resource.name().to_owned(), resource))
            .collect();
        self.publications.send_replace(Some(Publication {
            stamp,
            set: Arc::new(set),
            complete,
        }));
    }

    pub(crate) fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap())
    }

    /// Ends it, and returns when its address is free again.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Looks again and again, for at most ten seconds, and returns what `look` finds.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Told) -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(found) = self.told(&look) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{what}: not within 10 s; last told: {}",
            self.told(|told| format!("{told:?}"))
        )
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn stamp(epoch: u64, revision: u64, source: &str) -> Stamp {
    Stamp {
        version: Version { epoch, revision },
        source: source.to_owned(),
        sequence: 0,
    }
}

async fn dial_for_ever(
    central: SocketAddr,
    identity: Arc<Identity>,
    mut session: Session,
    mut inputs: Inputs,
    told: Arc<Mutex<Told>>,
) {
    loop {
        let error = dial_once(central, identity.clone(), &mut session, &mut inputs, &told).await;
        told.lock().unwrap().errors.push(error);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn dial_once(
    central: SocketAddr,
    identity: Arc<Identity>,
    session: &mut Session,
    inputs: &mut Inputs,
    told: &Mutex<Told>,
) -> String {
    let channel = match tls::connect(&format!("https://{central}"), Plane::Central, identity).await {
        Ok(channel) => channel,
        Err(error) => return chain(&error),
    };
    let error = match dial(channel).await {
        Ok(link) => drive(link, session, inputs, told).await,
        Err(error) => error,
    };
    chain(&error)
}

async fn take_links(
    mut links: mpsc::UnboundedReceiver<Link>,
    published: watch::Receiver<Option<Publication>>,
    told: Arc<Mutex<Told>>,
) {
    let mut session = Session::new(party("m", "management"), expect("central"), Held::default());
    let (_events, events) = mpsc::channel(1);
    let mut inputs = Inputs {
        publications: published,
        events,
    };
    while let Some(link) = links.recv().await {
        let error = drive(link, &mut session, &mut inputs, &told).await;
        told.lock().unwrap().errors.push(error.to_string());
    }
}

async fn drive(link: Link, session: &mut Session, inputs: &mut Inputs, told: &Mutex<Told>) -> LinkError {
    link.drive(session, inputs, |action| {
        told.lock().unwrap().on(action);
        Vec::new()
    })
    .await
}

fn inputs() -> (watch::Sender<Option<Publication>>, Inputs) {
    let (publications, published) = watch::channel(None);
    let (_, events) = mpsc::channel::<Event>(1);
    let inputs = Inputs {
        publications: published,
        events,
    };
    (publications, inputs)
}

fn party(node: &str, plane: &str) -> Party {
    Party {
        node: node.to_owned(),
        plane: plane.to_owned(),
    }
}

fn expect(plane: &str) -> Expect {
    Expect {
        plane: plane.to_owned(),
        node: None,
    }
}
