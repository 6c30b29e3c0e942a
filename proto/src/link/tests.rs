//! Two sessions over a real gRPC stream on loopback.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Server};

use super::{Inputs, Link, LinkError, dial, server};
use crate::frame::{Frame, Rejection};
use crate::generated::feed as pb;
use crate::held::{Held, Stamp, Version};
use crate::resource::{Resource, Set};
use crate::session::{Action, Event, Expect, Party, PeerAck, Publication, Session};

const DEADLINE: Duration = Duration::from_secs(20);

fn session(plane: &str, other: &str) -> Session {
    let local = Party {
        node: format!("{plane}-1"),
        plane: plane.to_owned(),
    };
    Session::new(
        local,
        Expect {
            plane: other.to_owned(),
            node: None,
        },
        Held::default(),
    )
}

fn publication(revision: u64, names: &[&str]) -> Publication {
    let set: Set = names
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                Resource::new(*name, format!("body of {name}")).unwrap(),
            )
        })
        .collect();
    Publication {
        stamp: Stamp {
            version: Version { epoch: 1, revision },
            source: "test".to_owned(),
            sequence: 0,
        },
        set: Arc::new(set),
        complete: true,
    }
}

struct Plane {
    publish: watch::Sender<Option<Publication>>,
    _events: mpsc::Sender<Event>,
    actions: mpsc::UnboundedReceiver<Action>,
    inputs: Option<Inputs>,
    told: mpsc::UnboundedSender<Action>,
}

impl Plane {
    fn new() -> Self {
        let (publish, publications) = watch::channel(None);
        let (events_in, events) = mpsc::channel(8);
        let (told, actions) = mpsc::unbounded_channel();
        Self {
            publish,
            _events: events_in,
            actions,
            inputs: Some(Inputs { publications, events }),
            told,
        }
    }

    /// The next action for which `pick` gives something.
    async fn next<T>(&mut self, mut pick: impl FnMut(Action) -> Option<T>) -> T {
        let found = async {
            loop {
                let action = self.actions.recv().await.expect("the drive ended");
                if let Some(found) = pick(action) {
                    return found;
                }
            }
        };
        timeout(DEADLINE, found).await.expect("the action came in time")
    }
}

async fn listen() -> (Channel, mpsc::Receiver<Link>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, links) = mpsc::channel(4);
    let feed = server(move |link, _| {
        accepted
            .try_send(link)
            .map_err(|_| Status::resource_exhausted("full"))
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        Server::builder()
            .add_service(feed)
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    (channel, links, tasks)
}

fn drive(
    tasks: &mut JoinSet<()>,
    link: Link,
    mut session: Session,
    plane: &mut Plane,
    rejects: Option<&'static str>,
) -> mpsc::Receiver<LinkError> {
    let (ended, end) = mpsc::channel(1);
    let mut inputs = plane.inputs.take().unwrap();
    let told = plane.told.clone();
    tasks.spawn(async move {
        let error = link
            .drive(&mut session, &mut inputs, |action| {
                let answers = match (&action, rejects) {
                    (Action::Apply(applied), Some(name)) if applied.put.iter().any(|r| r.name() == name) => {
                        vec![Event::Rejected(Rejection {
                            name: name.to_owned(),
                            reason: "no".to_owned(),
                        })]
                    }
                    _ => Vec::new(),
                };
                let _ = told.send(action);
                answers
            })
            .await;
        let _ = ended.send(error).await;
    });
    end
}

fn acked(action: Action) -> Option<PeerAck> {
    match action {
        Action::PeerAcked(ack) => Some(ack),
        _ => None,
    }
}

#[tokio::test]
async fn both_sides_publish_and_learn_what_the_other_rejects() {
    let (channel, mut links, mut tasks) = listen().await;
    let (mut central, mut edge) = (Plane::new(), Plane::new());
    central
        .publish
        .send_replace(Some(publication(1, &["web", "bad"])));

    let link = dial(channel).await.unwrap();
    drive(
        &mut tasks,
        link,
        session("edge", "central"),
        &mut edge,
        Some("bad"),
    );
    let link = timeout(DEADLINE, links.recv()).await.unwrap().unwrap();
    drive(&mut tasks, link, session("central", "edge"), &mut central, None);

    let ack = central.next(acked).await;
    assert_eq!(
        (ack.stamp.version.revision, ack.rejected.len()),
        (1, 1),
        "rejected in the first word about it"
    );

    // Upwards, and a change of both.
    edge.publish.send_replace(Some(publication(5, &["report"])));
    let ack = edge.next(acked).await;
    assert_eq!(ack.stamp.version.revision, 5);
    central.publish.send_replace(Some(publication(2, &["web"])));
    let ack = central
        .next(|action| acked(action).filter(|ack| ack.stamp.version.revision == 2))
        .await;
    assert!(ack.rejected.is_empty());
    let removed = edge
        .next(|action| match action {
            Action::Apply(applied) if applied.stamp.version.revision == 2 => Some(applied.removed),
            _ => None,
        })
        .await;
    assert_eq!(removed, ["bad"]);
}

#[tokio::test]
async fn a_peer_that_speaks_nonsense_is_cut_off_by_name() {
    let (channel, mut links, mut tasks) = listen().await;
    let mut central = Plane::new();
    let nonsense = dial(channel).await.unwrap();
    let link = timeout(DEADLINE, links.recv()).await.unwrap().unwrap();
    let mut end = drive(&mut tasks, link, session("central", "edge"), &mut central, None);

    nonsense.outgoing.send(pb::Frame { kind: None }).await.unwrap();
    let error = timeout(DEADLINE, end.recv()).await.unwrap().unwrap();
    assert!(matches!(error, LinkError::Frame(_)), "{error}");
}

#[tokio::test]
async fn a_peer_that_sends_before_it_says_hello_is_cut_off_by_name() {
    let (channel, mut links, mut tasks) = listen().await;
    let mut central = Plane::new();
    let rude = dial(channel).await.unwrap();
    let link = timeout(DEADLINE, links.recv()).await.unwrap().unwrap();
    let mut end = drive(&mut tasks, link, session("central", "edge"), &mut central, None);

    let beat = crate::frame::Heartbeat {
        round: 0,
        stamp: None,
        digest: crate::resource::Digest::default(),
        complete: false,
    };
    rude.outgoing.send(Frame::Heartbeat(beat).into()).await.unwrap();
    let error = timeout(DEADLINE, end.recv()).await.unwrap().unwrap();
    assert!(matches!(error, LinkError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn a_peer_that_goes_away_ends_the_drive() {
    let (channel, mut links, mut tasks) = listen().await;
    let mut central = Plane::new();
    let gone = dial(channel).await.unwrap();
    let link = timeout(DEADLINE, links.recv()).await.unwrap().unwrap();
    let mut end = drive(&mut tasks, link, session("central", "edge"), &mut central, None);
    drop(gone);
    let error = timeout(DEADLINE, end.recv()).await.unwrap().unwrap();
    assert!(
        matches!(error, LinkError::Closed | LinkError::Broken(_)),
        "{error}"
    );
}

#[tokio::test]
async fn a_frozen_peer_is_given_up_after_five_seconds() {
    let (channel, mut links, mut tasks) = listen().await;
    let mut central = Plane::new();
    // Holds the stream open and never says anything.
    let _frozen = dial(channel).await.unwrap();
    let link = timeout(DEADLINE, links.recv()).await.unwrap().unwrap();
    let mut end = drive(&mut tasks, link, session("central", "edge"), &mut central, None);
    let error = timeout(DEADLINE, end.recv()).await.unwrap().unwrap();
    assert!(matches!(error, LinkError::Silent), "{error}");
}
