//! The feed to the centrals: intent goes down at the version that drew it, reports come up. Each connection is a task;
//! what its central has reported outlives it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tombolo_proto::frame::Rejection;
use tombolo_proto::link::{self, Inputs, Link};
use tombolo_proto::session::{Action, Event, Expect, Party, Publication, Session};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;
use tombolo_runtime::tls::{self, Identity, PeerIdentity};
use tonic::{Extensions, Status};

use crate::audit;
use crate::iam::Principal;
use crate::mesh::{CentralReport, Mesh, merge};
use crate::questions::{QUEUED_MAX, Questions};
use crate::store::{self, Store, StoreError};
use crate::writer::Writes;

/// How often changed reports are stored. They serve a restarted management until its centrals speak, so that
/// losing a moment of them loses nothing.
const STORE_INTERVAL: Duration = Duration::from_secs(2);
/// Connections that wait for the loop.
const LINKS_MAX: usize = 64;
const PLANE: &str = "management";
const CENTRAL: &str = "central";

/// The server's side of the feed, and what it has heard.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Store,
    writes: Writes,
    identity: Arc<Identity>,
    heard: Heard,
    questions: Questions,
}

/// What the centrals have reported. Cheap to clone; each link writes only its own central's part.
#[derive(Clone, Debug)]
struct Heard {
    centrals: Arc<watch::Sender<Centrals>>,
    mesh: Arc<watch::Sender<Arc<Mesh>>>,
}

#[derive(Clone, Debug, Default)]
struct Centrals {
    reports: BTreeMap<String, Arc<CentralReport>>,
    /// Counts what was received.
    received: u64,
}

struct Accepted {
    central: String,
    link: Link,
}

impl Feed {
    /// Begins with what was stored.
    pub(crate) async fn open(
        store: Store,
        writes: Writes,
        identity: Arc<Identity>,
    ) -> Result<Feed, StoreError> {
        let mut tx = store.read_published().await?;
        let mut centrals = Centrals::default();
        for (central, document) in store.reports(&mut tx).await? {
            match CentralReport::from_json(document) {
                Ok(report) => {
                    centrals.reports.insert(central, Arc::new(report));
                }
                Err(error) => tracing::warn!(central, %error, "left out the stored reports"),
            }
        }
        let mesh = Arc::new(merge(&centrals.reports));
        Ok(Feed {
            store,
            writes,
            identity,
            heard: Heard {
                centrals: Arc::new(watch::Sender::new(centrals)),
                mesh: Arc::new(watch::Sender::new(mesh)),
            },
            questions: Questions::default(),
        })
    }

    pub(crate) fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.heard.mesh.subscribe()
    }

    /// What can be asked of the edges.
    pub(crate) fn questions(&self) -> Questions {
        self.questions.clone()
    }

    pub(crate) async fn run(
        self,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> Result<(), tonic::transport::Error> {
        let (accepted, links) = mpsc::channel(LINKS_MAX);
        let service = link::server(move |link, extensions: &Extensions| accept(link, extensions, &accepted));
        let incoming = tls::incoming(listener, self.identity.clone());
        let mut ending = shutdown.clone();
        let server = tls::server()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move { ending.wait().await });
        let links = self.serve_links(links, shutdown.clone());
        let store = self.store_reports(shutdown.clone());
        // The links end with the shutdown, and the server when its streams have ended.
        let (served, (), ()) = tokio::join!(server, links, store);
        served
    }

    /// One task per connection; a central that connects again replaces its old connection, which may be half open.
    async fn serve_links(&self, mut links: mpsc::Receiver<Accepted>, mut shutdown: Shutdown) {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut by_central = BTreeMap::new();
        loop {
            tokio::select! {
                accepted = links.recv() => {
                    let Some(Accepted { central, link }) = accepted else { break };
                    let drive = drive(
                        link,
                        central.clone(),
                        self.party(),
                        self.writes.clone(),
                        self.heard.clone(),
                        self.questions.clone(),
                    );
                    let old: Option<tokio::task::AbortHandle> = by_central.insert(central, tasks.spawn(drive));
                    if let Some(old) = old {
                        old.abort();
                    }
                }
                Some(_) = tasks.join_next() => {}
                () = shutdown.wait() => break,
            }
        }
        tasks.shutdown().await;
    }

    async fn store_reports(&self, mut shutdown: Shutdown) {
        let mut due = interval(STORE_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stored: BTreeMap<String, Arc<CentralReport>> = self.heard.centrals.borrow().reports.clone();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = shutdown.wait() => return,
            }
            let latest = self.heard.centrals.borrow().reports.clone();
            for (central, report) in latest {
                // Level, not edge: what could not be remembered when it was heard is tried again.
                self.writes.join(&central, &report.heard_clusters());
                if stored.get(&central).is_some_and(|old| Arc::ptr_eq(old, &report)) {
                    continue;
                }
                match self.store_report(&central, &report).await {
                    Ok(()) => drop(stored.insert(central, report)),
                    Err(error) => {
                        tracing::debug!(central, error = chain(&error), "cannot store the reports yet");
                    }
                }
            }
        }
    }

    async fn store_report(&self, central: &str, report: &CentralReport) -> Result<(), StoreError> {
        let Some(document) = report.to_json() else {
            return Ok(());
        };
        let mut tx = self.store.begin_as(&Principal::System).await?;
        self.store
            .upsert_report(&mut tx, central, document, audit::now())
            .await?;
        store::commit(tx).await
    }

    fn party(&self) -> Party {
        Party {
            node: self.identity.id().name.clone(),
            plane: PLANE.to_owned(),
        }
    }
}

impl Heard {
    fn report(&self, central: &str) -> Arc<CentralReport> {
        let centrals = self.centrals.borrow();
        centrals.reports.get(central).cloned().unwrap_or_default()
    }

    /// Changes one central's report, and what follows from it.
    fn update<T>(&self, central: &str, change: impl FnOnce(&mut CentralReport, u64) -> T) -> T {
        let mut result = None;
        self.centrals.send_modify(|centrals| {
            centrals.received += 1;
            let report = centrals.reports.entry(central.to_owned()).or_default();
            result = Some(change(Arc::make_mut(report), centrals.received));
            let mesh = merge(&centrals.reports);
            self.mesh.send_if_modified(|held| {
                let differs = **held != mesh;
                if differs {
                    *held = Arc::new(mesh);
                }
                differs
            });
        });
        result.expect("invariant: send_modify calls its closure")
    }
}

/// One connection's right to write what its central reports. It ends with the connection's task, however that ends,
/// or when the central has connected again.
struct Connected {
    heard: Heard,
    central: String,
    id: u64,
}

impl Connected {
    fn new(heard: Heard, central: String) -> Connected {
        let id = heard.update(&central, |report, received| {
            report.connection = Some(received);
            received
        });
        Connected { heard, central, id }
    }

    fn update<T: Default>(&self, change: impl FnOnce(&mut CentralReport, u64) -> T) -> T {
        self.heard.update(&self.central, |report, received| {
            if report.connection == Some(self.id) {
                change(report, received)
            } else {
                T::default()
            }
        })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.update(|report, _| report.connection = None);
    }
}

fn accept(link: Link, extensions: &Extensions, accepted: &mpsc::Sender<Accepted>) -> Result<(), Status> {
    let Some(PeerIdentity(peer)) = extensions.get::<PeerIdentity>() else {
        return Err(Status::unauthenticated("the connection has no identity"));
    };
    if peer.plane != Plane::Central {
        return Err(Status::permission_denied(format!("{peer} is not a central")));
    }
    let accepted_link = Accepted {
        central: peer.name.clone(),
        link,
    };
    accepted
        .try_send(accepted_link)
        .map_err(|_| Status::unavailable("too many connections at once; try again"))
}

async fn drive(
    link: Link,
    central: String,
    local: Party,
    writes: Writes,
    heard: Heard,
    questions: Questions,
) {
    let expect = Expect {
        plane: CENTRAL.to_owned(),
        node: Some(central.clone()),
    };
    let connected = Connected::new(heard.clone(), central.clone());
    let mut session = Session::new(local, expect, heard.report(&central).held());
    let (publisher, publications) = watch::channel(Some(writes.snapshot().publication()));
    let (asking, events) = mpsc::channel(QUEUED_MAX);
    let _linked = questions.link(&central, asking);
    let mut inputs = Inputs { publications, events };
    tracing::info!(central, "central connected");
    let driven = link.drive(&mut session, &mut inputs, |action| {
        if let Action::Answered(answer) = action {
            questions.answered(answer);
            return Vec::new();
        }
        on_action(action, &connected, &writes)
    });
    let error = tokio::select! {
        error = driven => error,
        never = forward(writes.watch(), publisher) => match never {},
    };
    tracing::warn!(central, error = chain(&error), "central disconnected");
}

/// Snapshots, as the link takes them.
async fn forward(
    mut snapshots: watch::Receiver<Arc<crate::snapshot::Snapshot>>,
    publisher: watch::Sender<Option<Publication>>,
) -> Infallible {
    loop {
        let publication = snapshots.borrow_and_update().publication();
        publisher.send_if_modified(|held| {
            let differs = held.as_ref().is_none_or(|held| held.stamp != publication.stamp);
            if differs {
                *held = Some(publication);
            }
            differs
        });
        if snapshots.changed().await.is_err() {
            // The writer has stopped; the link lives until it is told.
            std::future::pending::<()>().await;
        }
    }
}

fn on_action(action: Action, connected: &Connected, writes: &Writes) -> Vec<Event> {
    let central = connected.central.as_str();
    match action {
        Action::Apply(applied) => {
            let (bad, clusters) = connected.update(|report, received| {
                let bad = report.apply(applied, received);
                (bad, report.heard_clusters())
            });
            writes.join(central, &clusters);
            bad.into_iter()
                .map(|bad| {
                    tracing::warn!(central, error = %bad, "cannot use a report");
                    Event::Rejected(Rejection {
                        name: bad.name,
                        reason: bad.reason,
                    })
                })
                .collect()
        }
        Action::Alarm(alarm) => {
            tracing::error!(central, %alarm, "the feed raises an alarm");
            Vec::new()
        }
        Action::Braked { stamp, names } => {
            tracing::error!(central, %stamp, names = names.len(), "the central withdraws much at once: held back");
            Vec::new()
        }
        Action::PeerAcked(ack) => {
            for rejection in &ack.rejected {
                tracing::error!(
                    central,
                    fqn = rejection.name,
                    reason = rejection.reason,
                    "the central cannot use a resource"
                );
            }
            connected.update(|report, _| report.rejected = ack.rejected);
            Vec::new()
        }
        Action::PeerJoined { held, .. } => {
            if let Some(held) = held {
                writes.heard(held.version);
            }
            Vec::new()
        }
        Action::InSync { .. }
        | Action::Send(_)
        | Action::PeerSilent
        | Action::Close(_)
        | Action::Asked(_)
        | Action::Answered(_) => Vec::new(),
    }
}
