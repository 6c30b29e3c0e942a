//! A central with its authority, disk and neighbours, and the intent and reports that most tests start from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tombolo_global_cp::{Central, CentralError, Config};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::shutdown::{Shutdown, Trigger};
use tombolo_runtime::tls::{self, Identity};

use crate::peers::{Peer, stamp};

pub(crate) const WORKSPACE: &str = "organizations/acme/tenants/shop/workspaces/web";
pub(crate) const REVIEWS: &str = "services/shop/reviews/organizations/acme/tenants/shop/workspaces/web";

pub(crate) struct World {
    folder: tempfile::TempDir,
    authority: Authority,
    management_addr: SocketAddr,
}

pub(crate) struct RunningCentral {
    pub(crate) feed: SocketAddr,
    admin: SocketAddr,
    trigger: Trigger,
    joined: JoinHandle<Result<(), CentralError>>,
}

impl World {
    pub(crate) async fn new() -> World {
        tls::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create_or_open(&folder.path().join("authority"), "acme").unwrap();
        let management_addr = address_of_our_own();
        World {
            folder,
            authority,
            management_addr,
        }
    }

    pub(crate) fn identity(&self, plane: Plane, name: &str) -> Identity {
        let folder = self.issue(plane, name);
        Identity::load(&folder).unwrap()
    }

    pub(crate) fn issue(&self, plane: Plane, name: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("{plane}-{name}"));
        let id = PlaneId::new("acme", plane, name).unwrap();
        self.authority.issue(&id, &folder).unwrap();
        folder
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn config(&self) -> Config {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            name: "a".to_owned(),
            management: format!("https://{}", self.management_addr),
            listen: any,
            admin: any,
            identity: self.issue(Plane::Central, "a"),
            data_dir: self.data_dir(),
        }
    }

    pub(crate) async fn central(&self) -> RunningCentral {
        let (trigger, shutdown) = Shutdown::new();
        let running = Central::start(self.config(), shutdown).await.unwrap();
        RunningCentral {
            feed: running.feed_addr,
            admin: running.admin_addr,
            trigger,
            joined: tokio::spawn(running.join()),
        }
    }

    pub(crate) async fn management(&self) -> Peer {
        let listener = TcpListener::bind(self.management_addr).await.unwrap();
        Peer::management(listener, self.identity(Plane::Management, "m"))
    }

    pub(crate) fn edge(&self, cluster: &str, central: &RunningCentral) -> Peer {
        Peer::edge(cluster, central.feed, self.identity(Plane::Edge, cluster))
    }

    pub(crate) fn edge_again(&self, cluster: &str, central: &RunningCentral, before: &Peer) -> Peer {
        Peer::edge_again(cluster, central.feed, self.identity(Plane::Edge, cluster), before)
    }
}

impl RunningCentral {
    pub(crate) async fn stop(self) {
        self.trigger.fire();
        self.joined.await.unwrap().unwrap();
    }

    pub(crate) async fn http(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: central\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The state of one link, as the admin port tells it.
    pub(crate) async fn link(&self, name: &str) -> Value {
        let answer = self.http("GET", "/links").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let links: Vec<Value> = serde_json::from_str(body).unwrap();
        links
            .into_iter()
            .find(|link| link["link"] == name)
            .unwrap_or(Value::Null)
    }

    pub(crate) async fn until_link(&self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let link = self.link(name).await;
            if is_wanted(&link) {
                return link;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the link {name} is not as wanted: {}", self.link(name).await);
    }
}

/// Management's address must outlive its restarts, so it is no port that the system hands out to others meanwhile.
fn address_of_our_own() -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, 128 | high, low, number], 8081))
}

/// Two clusters, and one workspace that owns the namespace `shop` in both.
pub(crate) fn intent() -> Vec<(&'static str, Value)> {
    let document = |name: &str, spec| json!({"name": name, "spec": spec});
    let of = |name: &'static str, spec| (name, document(name, spec));
    vec![
        of("organizations/acme", json!({})),
        of(
            "organizations/acme/clusters/us-east",
            json!({"region": "us-east"}),
        ),
        of(
            "organizations/acme/clusters/us-west",
            json!({"region": "us-west"}),
        ),
        of("organizations/acme/tenants/shop", json!({})),
        of(WORKSPACE, json!({"namespaces": ["*/shop"]})),
    ]
}

pub(crate) fn joined() -> [(&'static str, Value); 2] {
    [("joined/us-east", json!(true)), ("joined/us-west", json!(true))]
}

/// One service, one gateway and a receipt, of the cluster whose network is `127.0.<number>.0/24`.
pub(crate) fn report(number: u8) -> Vec<(&'static str, Value)> {
    vec![
        ("services/shop/reviews", service()),
        (
            "gateways/mesh/gateway",
            json!({"gateway": {"eastWest": [format!("127.0.{number}.1:15443")], "state": "up"}}),
        ),
        ("receipt", json!({"receipt": {"version": [1, 1], "proxies": 2}})),
    ]
}

pub(crate) fn service() -> Value {
    json!({"service": {"ports": [{"name": "http", "port": 9000, "protocol": "http"}], "state": "up"}})
}

/// A mesh at rest: both clusters have reported, and each knows the other's offer.
pub(crate) async fn at_rest(world: &World, central: &RunningCentral) -> (Peer, Peer, Peer) {
    let management = world.management().await;
    let bodies: Vec<_> = intent().into_iter().chain(joined()).collect();
    management.publish(stamp(1, 1, "management"), true, &bodies);
    let east = world.edge("us-east", central);
    let west = world.edge("us-west", central);
    east.publish(stamp(100, 1, "us-east"), true, &report(1));
    west.publish(stamp(100, 1, "us-west"), true, &report(2));
    for edge in [&east, &west] {
        edge.until("a whole slice with a remote", |told| {
            (told.complete && !remotes(&told.json(REVIEWS)?).is_empty()).then_some(())
        })
        .await;
    }
    (management, east, west)
}

/// The addresses of the other clusters that a slice's service names.
pub(crate) fn remotes(service: &Value) -> Vec<String> {
    let remotes = &service["service"]["value"]["remotes"];
    let remotes = remotes.as_array().into_iter().flatten();
    let gateways = remotes.flat_map(|remote| remote["gateways"].as_array().unwrap().clone());
    gateways
        .map(|gateway| gateway.as_str().unwrap().to_owned())
        .collect()
}
