//! The feed towards the edges. An edge's certificate says which cluster it is, and it may report for no other.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tombolo_compiler::name::ClusterName;
use tombolo_proto::link::{Inputs, Link};
use tombolo_proto::session::{Action, Expect, Party, Session};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::tls::PeerIdentity;
use tonic::{Extensions, Status};

use crate::item::Reported;
use crate::metrics::CentralMetrics;
use crate::mirror::Mirror;
use crate::peer::Peer;
use crate::peers::Peers;
use crate::relay::Relay;

/// Links that wait to be taken; each is taken at once.
const ARRIVALS_MAX: usize = 64;

pub(crate) type Arrivals = mpsc::Receiver<(ClusterName, Link)>;
/// A cluster that was heard in an earlier life, and the inputs for the links of it that will come.
pub(crate) type KnownEdge = (Arc<Peer<Reported>>, Inputs);

/// Whatever the tasks of all edges share.
pub(crate) struct Edges {
    pub(crate) local: Party,
    pub(crate) relay: Arc<Relay>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) planner: Arc<Notify>,
    pub(crate) metrics: CentralMetrics,
    pub(crate) shutdown: Shutdown,
}

/// What [`tombolo_proto::link::server`] wants, and where the links go that it lets in.
pub(crate) fn door() -> (impl Fn(Link, &Extensions) -> Result<(), Status>, Arrivals) {
    let (arrived, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let accept = move |link, extensions: &Extensions| {
        let cluster = cluster_of(extensions.get::<PeerIdentity>()).inspect_err(|status| {
            tracing::warn!(reason = status.message(), "refused a feed");
        })?;
        arrived
            .try_send((cluster, link))
            .map_err(|_| Status::unavailable("this central is stopping or overloaded: try again"))
    };
    (accept, arrivals)
}

fn cluster_of(peer: Option<&PeerIdentity>) -> Result<ClusterName, Status> {
    let PeerIdentity(id) =
        peer.ok_or_else(|| Status::unauthenticated("the connection has no peer identity"))?;
    if id.plane != Plane::Edge {
        return Err(Status::permission_denied(format!(
            "{id} is not an edge: only edges report to a central; check --identity of the caller"
        )));
    }
    id.name
        .parse()
        .map_err(|error| Status::permission_denied(format!("{id} does not name a cluster: {error}")))
}

impl Edges {
    /// Runs one task per cluster, for those known from disk and those that arrive, until the shutdown.
    pub(crate) async fn run(mut self, known: BTreeMap<ClusterName, KnownEdge>, mut arrivals: Arrivals) {
        let mut tasks = JoinSet::new();
        let mut doors = BTreeMap::new();
        for (cluster, (edge, inputs)) in known {
            doors.insert(cluster.clone(), self.spawn(&mut tasks, &cluster, edge, inputs));
        }
        loop {
            let (cluster, link) = tokio::select! {
                () = self.shutdown.wait() => break,
                arrived = arrivals.recv() => match arrived {
                    Some(arrived) => arrived,
                    None => break,
                },
            };
            let door = match doors.entry(cluster.clone()) {
                btree_map::Entry::Occupied(entry) => entry.into_mut(),
                btree_map::Entry::Vacant(entry) => {
                    let (edge, inputs) = self.add(&cluster, Mirror::default());
                    let door = self.spawn(&mut tasks, &cluster, edge, inputs);
                    entry.insert(door)
                }
            };
            // Full means that a newer link is already waiting: this one is dropped, and its edge dials again.
            let _ = door.try_send(link);
        }
        tasks.shutdown().await;
    }

    pub(crate) fn add(&self, cluster: &ClusterName, mirror: Mirror<Reported>) -> KnownEdge {
        let name = cluster.to_string();
        let metrics = self.metrics.link(&name);
        let (edge, inputs) = Peer::new(name, mirror, self.planner.clone(), metrics);
        let edge = Arc::new(edge);
        self.peers.add(cluster.clone(), edge.clone());
        self.planner.notify_one();
        (edge, inputs)
    }

    fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        cluster: &ClusterName,
        edge: Arc<Peer<Reported>>,
        inputs: Inputs,
    ) -> mpsc::Sender<Link> {
        let expect = Expect {
            plane: Plane::Edge.to_string(),
            node: Some(cluster.to_string()),
        };
        let session = Session::new(self.local.clone(), expect, edge.held());
        let (door, links) = mpsc::channel(1);
        tasks.spawn(drive(edge, self.relay.clone(), session, inputs, links));
        door
    }
}

/// Drives the links of one cluster, one after the other. The newest counts: an edge that was cut off comes back before
/// its old connection is known to be dead.
async fn drive(
    edge: Arc<Peer<Reported>>,
    relay: Arc<Relay>,
    mut session: Session,
    mut inputs: Inputs,
    mut links: mpsc::Receiver<Link>,
) {
    let on_action = |action| match action {
        Action::Answered(answer) => {
            relay.answered(answer);
            Vec::new()
        }
        action => edge.on(action),
    };
    let mut next = links.recv().await;
    while let Some(link) = next {
        next = tokio::select! {
            error = link.drive(&mut session, &mut inputs, on_action) => {
                edge.disconnected(&error);
                links.recv().await
            }
            newer = links.recv() => {
                tracing::info!(link = edge.name(), "a newer connection of the edge replaces the last one");
                newer
            }
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_an_edge_gets_in_and_only_as_its_cluster() {
        for (id, expected) in [
            (Some("spiffe://acme/plane/edge/us-east"), "us-east"),
            (
                Some("spiffe://acme/plane/edge/us_east"),
                "does not name a cluster",
            ),
            (Some("spiffe://acme/plane/central/a"), "is not an edge"),
            (Some("spiffe://acme/plane/management/m"), "is not an edge"),
            (None, "no peer identity"),
        ] {
            let peer = id.map(|id| PeerIdentity(id.parse().unwrap()));
            let found = match cluster_of(peer.as_ref()) {
                Ok(cluster) => cluster.to_string(),
                Err(status) => status.message().to_owned(),
            };
            assert!(found.contains(expected), "{id:?}: {found}");
        }
    }
}
