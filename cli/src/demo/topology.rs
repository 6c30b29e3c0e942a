//! What runs where: three clusters on one machine, each on a loopback network of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::process::Recipe;
use super::traffic;

pub(super) const ORGANIZATION: &str = "acme";
pub(super) const CENTRALS: [&str; 2] = ["a", "b"];
/// The shop's host, as the world knows it.
const SHOP_HOST: &str = "shop.example.com";
/// The reviews service, as an application in the shop's namespace calls it.
const REVIEWS_HOST: &str = "reviews";

/// The default port of management's API, if it is free.
const API_PORT: u16 = 8080;
const FEED_PORT: u16 = 8081;
const CENTRAL_PORT: u16 = 8082;
const CENTRAL_ADMIN_PORT: u16 = 8083;
const XDS_PORT: u16 = 15010;
const EDGE_ADMIN_PORT: u16 = 15014;
const PROXY_ADMIN_PORT: u16 = 15000;
const INGRESS_PORT: u16 = 8080;
const EAST_WEST_PORT: u16 = 15443;
const OUTBOUND_PORT: u16 = 15001;
const APPLICATION_PORT: u16 = 9000;

/// One of the clusters; its network is `127.0.<number>.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) name: &'static str,
    number: u8,
}

pub(super) const CLUSTERS: [Cluster; 3] = [
    Cluster {
        name: "us-east",
        number: 1,
    },
    Cluster {
        name: "us-west",
        number: 2,
    },
    Cluster {
        name: "eu-central",
        number: 3,
    },
];

/// Where things are kept and reached.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) root: PathBuf,
    pub(super) api: SocketAddr,
    /// The built web admin, if it is to be served.
    pub(super) web_dir: Option<PathBuf>,
}

impl Topology {
    pub(super) fn new(root: PathBuf, web_dir: Option<PathBuf>) -> anyhow::Result<Topology> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((loopback, API_PORT)).or_else(|_| TcpListener::bind((loopback, 0)));
        let api = listener
            .and_then(|listener| listener.local_addr())
            .context("find a free port for the API")?;
        Ok(Topology { root, api, web_dir })
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.root.join("authority")
    }

    pub(super) fn identity(&self, name: &str) -> PathBuf {
        self.root.join("identities").join(name)
    }

    /// The folder that a cluster's edge watches as its platform.
    pub(super) fn platform(&self, cluster: Cluster) -> PathBuf {
        self.root.join("platform").join(cluster.name)
    }

    pub(super) fn management(&self, database_url: &str) -> Recipe {
        let mut recipe = Recipe::new("management", "management")
            .flag("listen", &self.api)
            .flag("feed-listen", &feed())
            .flag("identity", &self.identity("management").display())
            .flag("organization", &ORGANIZATION)
            .flag("data-dir", &self.data("management").display())
            .ready_at(self.api, "/readyz");
        recipe
            .env
            .push(("TOMBOLO_DATABASE_URL".to_owned(), database_url.to_owned()));
        match &self.web_dir {
            Some(dir) => recipe.flag("web-dir", &dir.display()),
            None => recipe,
        }
    }

    pub(super) fn central(&self, name: &str) -> Recipe {
        let central = format!("central-{name}");
        Recipe::new(&central, "central")
            .flag("name", &name)
            .flag("management", &format!("https://{}", feed()))
            .flag("listen", &central_feed(name))
            .flag("admin", &central_admin(name))
            .flag("identity", &self.identity(&central).display())
            .flag("data-dir", &self.data(&central).display())
            .ready_at(central_admin(name), "/readyz")
    }

    pub(super) fn edge(&self, cluster: Cluster) -> Recipe {
        let name = format!("{}/edge", cluster.name);
        let centrals: Vec<String> = CENTRALS
            .iter()
            .map(|name| format!("https://{}", central_feed(name)))
            .collect();
        Recipe::new(&name, "edge")
            .flag("cluster", &cluster.name)
            .flag("central", &centrals.join(","))
            .flag("identity", &self.identity(cluster.name).display())
            .flag("static-dir", &self.platform(cluster).display())
            .flag("xds-listen", &cluster.xds())
            .flag("admin", &cluster.at(2, EDGE_ADMIN_PORT))
            .flag("data-dir", &self.data(&name).display())
            .ready_at(cluster.at(2, EDGE_ADMIN_PORT), "/readyz")
    }

    pub(super) fn gateway(&self, cluster: Cluster) -> Recipe {
        self.proxy(cluster, "gateway", cluster.at(1, PROXY_ADMIN_PORT))
            .flag("role", &"gateway")
            .flag("namespace", &"mesh")
            .flag("workload", &"gateway")
    }

    /// The proxy beside the clients of a cluster.
    pub(super) fn sidecar(&self, cluster: Cluster) -> Recipe {
        self.proxy(cluster, "client", cluster.at(3, PROXY_ADMIN_PORT))
            .flag("role", &"sidecar")
            .flag("namespace", &"shop")
            .flag("outbound", &cluster.outbound())
    }

    fn proxy(&self, cluster: Cluster, name: &str, admin: SocketAddr) -> Recipe {
        let name = format!("{}/{name}", cluster.name);
        Recipe::new(&name, "proxy")
            .flag("id", &name.replace('/', "-"))
            .flag("cluster", &cluster.name)
            .flag("xds", &format!("http://{}", cluster.xds()))
            .flag("admin", &admin)
            .flag("data-dir", &self.data(&name).display())
            .flag("workers", &1)
            .ready_at(admin, "/ready")
    }

    fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// Writes what the cluster's platform would tell its edge.
    pub(super) fn write_platform(&self, cluster: Cluster) -> anyhow::Result<()> {
        let folder = self.platform(cluster);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        write(&folder.join("mesh.yaml"), &cluster.platform_document())
    }
}

impl Cluster {
    fn at(self, host: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, 0, self.number, host), port).into()
    }

    pub(super) fn xds(self) -> SocketAddr {
        self.at(2, XDS_PORT)
    }

    pub(super) fn ingress(self) -> SocketAddr {
        self.at(1, INGRESS_PORT)
    }

    pub(super) fn outbound(self) -> SocketAddr {
        self.at(3, OUTBOUND_PORT)
    }

    fn application(self, version: u8) -> SocketAddr {
        self.at(10 + version, APPLICATION_PORT)
    }

    pub(super) fn reviews(self, version: u8) -> Recipe {
        let listen = self.application(version);
        Recipe::new(format!("{}/reviews-v{version}", self.name), "sample")
            .flag("name", &"reviews")
            .flag("version-label", &format!("v{version}"))
            .flag("cluster", &self.name)
            .flag("listen", &listen)
            .ready_at(listen, "/")
    }

    pub(super) fn paths(self) -> [traffic::Path; 2] {
        [
            traffic::Path {
                cluster: self.name,
                via: "client proxy",
                proxy: self.outbound(),
                host: REVIEWS_HOST,
            },
            traffic::Path {
                cluster: self.name,
                via: "gateway",
                proxy: self.ingress(),
                host: SHOP_HOST,
            },
        ]
    }

    fn platform_document(self) -> String {
        let [v1, v2] = [self.application(1).ip(), self.application(2).ip()];
        let gateway = self.at(1, 0).ip();
        format!(
            "services:\n\
             - namespace: shop\n  name: reviews\n  ports: [{{name: http, port: {APPLICATION_PORT}, protocol: http}}]\n  instances:\n\
             \x20 - {{address: {v1}, labels: {{version: v1}}}}\n\
             \x20 - {{address: {v2}, labels: {{version: v2}}}}\n\
             gateways:\n\
             - {{namespace: mesh, name: gateway, bind: {gateway}, eastWestPort: {EAST_WEST_PORT}}}\n"
        )
    }
}

fn feed() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 9, 1), FEED_PORT).into()
}

fn central_feed(name: &str) -> SocketAddr {
    (central_ip(name), CENTRAL_PORT).into()
}

fn central_admin(name: &str) -> SocketAddr {
    (central_ip(name), CENTRAL_ADMIN_PORT).into()
}

fn central_ip(name: &str) -> Ipv4Addr {
    let index = CENTRALS.iter().position(|central| *central == name).unwrap_or(0);
    Ipv4Addr::new(
        127,
        0,
        9,
        2 + u8::try_from(index).expect("invariant: there are two centrals"),
    )
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
