//! A cluster with a real edge, real proxies of both kinds, and applications that tell who they are. Its platform stays
//! as it is; its intent changes with every case.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tombolo_compiler::explain::Entry;
use tombolo_compiler::name::{HostPort, WorkloadId};
use tombolo_compiler::report::{ClusterReport, Receipt, ReportItem};
use tombolo_compiler::routes::Slice;
use tombolo_compiler::view::View;
use tombolo_tests::feed::stamp;
use tombolo_tests::island::{Given, Island};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::{Application, Applications};
use tombolo_tests::{free_port, tombolo_binary, within};

use crate::decision::Decisions;

/// The cluster of the worlds in which the proxies stand.
pub(crate) const HERE: &str = "east";
/// The workloads of the worlds, each run by one kind of proxy.
const GATEWAYS: [(&str, &str, Software); 2] = [
    ("mesh/gateway", "127.0.31.1", Software::Tombolo),
    ("shop/door", "127.0.31.2", Software::Envoy),
];
const SIDECARS: [(&str, Software); 4] = [
    ("cart", Software::Tombolo),
    ("mesh", Software::Tombolo),
    ("shop", Software::Tombolo),
    ("shop", Software::Envoy),
];
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// Running; gone on drop.
pub(crate) struct Site {
    island: Island,
    doors: Vec<Door>,
    view: View,
    applications: Vec<Application>,
    revision: u64,
}

/// A proxy that takes requests.
pub(crate) struct Door {
    pub(crate) entry: Entry,
    pub(crate) software: Software,
    /// Of a sidecar; a gateway listens on the ports that its resources say.
    outbound: Option<SocketAddr>,
    bind: &'static str,
    /// None of an Envoy.
    pub(crate) decisions: Option<Decisions>,
    _proxy: Proxy,
}

impl Door {
    /// Where a request for that port goes in.
    pub(crate) fn address(&self, port: Option<u16>) -> SocketAddr {
        self.outbound.unwrap_or_else(|| {
            let port = port.expect("invariant: a question to a gateway names its port");
            SocketAddr::new(self.bind.parse().expect("invariant: it is an address"), port)
        })
    }
}

impl Site {
    pub(crate) async fn start() -> Result<Site> {
        let view = view();
        let island = Island::start(Given {
            cluster: HERE,
            intent: "[{name: organizations/acme}, {name: organizations/acme/clusters/east, spec: {region: r1}}]",
            platform: &platform(&view),
            others: BTreeMap::new(),
            issuer_ca: None,
        })
        .await?;
        island.stop_planning();
        let doors = doors(&island)
            .await
            .with_context(|| format!("the edge's log ends with:\n{}", island.log_tail()))?;
        Ok(Site {
            doors,
            applications: applications(&view).await?,
            view,
            island,
            revision: 1,
        })
    }

    pub(crate) fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// What the edge sees.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The application that stands at an address.
    pub(crate) fn at(&self, address: HostPort) -> Option<&str> {
        let stands = |application: &&Application| {
            let at = application.address();
            (at.ip(), at.port()) == (address.ip(), address.port())
        };
        self.applications.iter().find(stands).map(Application::name)
    }

    /// Gives the edge a slice, and waits until every proxy has proven that it runs what became of it.
    pub(crate) async fn run(&mut self, slice: &Slice) -> Result<()> {
        self.revision += 1;
        let items: BTreeMap<String, Bytes> = slice
            .items
            .iter()
            .map(|(key, item)| Ok((key.to_string(), serde_json::to_vec(item)?.into())))
            .collect::<Result<_>>()?;
        self.island
            .central()
            .publish(stamp("scripted/1", 1, self.revision, 1), items)?;
        within(DEADLINE, async || {
            let receipt = self.receipt()?;
            ensure!(
                receipt.version == (1, self.revision),
                "the edge is at {:?}",
                receipt.version
            );
            ensure!(
                receipt.proxies as usize == self.doors.len(),
                "{} proxies",
                receipt.proxies
            );
            let (behind, rejected) = (&receipt.behind, &receipt.rejected);
            ensure!(behind.is_empty(), "behind: {behind:?}, refused: {rejected:?}");
            Ok(())
        })
        .await
    }

    pub(crate) fn log_tail(&self) -> String {
        self.island.log_tail()
    }

    fn receipt(&self) -> Result<Receipt> {
        let heard = self.island.central().heard();
        let body = heard.items.get("receipt").context("no receipt yet")?;
        match serde_json::from_slice(body)? {
            ReportItem::Receipt(receipt) => Ok(receipt),
            other => bail!("{other:?} is no receipt"),
        }
    }
}

/// The gateways of another cluster stand where their applications are.
pub(crate) fn placed(cluster: &str, mut report: ClusterReport) -> ClusterReport {
    for (workload, gateway) in &mut report.gateways {
        if !gateway.east_west.is_empty() {
            gateway.east_west = [far_address(cluster, &workload.to_string())].into();
        }
    }
    report
}

fn far_address(cluster: &str, workload: &str) -> HostPort {
    let cluster = if cluster == "north" { 1 } else { 2 };
    let workload = if workload == "mesh/gateway" { 1 } else { 2 };
    HostPort::new([127, 0, 32, cluster * 10 + workload].into(), 15443)
}

/// Services with subsets, with an instance that is down, with none that is up, and with ports of every kind.
fn view() -> View {
    let instance = |last: u8, version: &str, state: &str| {
        json!({"address": format!("127.0.31.{last}"), "labels": {"version": version}, "state": state,
            "ports": {"http": 8080, "grpc": 9090}})
    };
    let http = json!({"name": "http", "port": 80});
    let document = json!({
        "services": {
            "cart/basket": {"ports": [http], "instances": [instance(11, "1", "up"), instance(12, "2", "up")]},
            "shop/reviews": {
                "ports": [http, {"name": "grpc", "port": 90, "protocol": "grpc", "health": "tcp"},
                    {"name": "sql", "port": 5432, "protocol": "tcp"}],
                "instances": [instance(21, "1", "up"), instance(22, "2", "up"), instance(23, "1", "down")]},
            "shop/web": {"ports": [http], "instances": [instance(31, "1", "down")]},
        },
        "gateways": {
            "mesh/gateway": {"bind": GATEWAYS[0].1, "eastWestPort": 15443},
            "shop/door": {"bind": GATEWAYS[1].1, "eastWestPort": 15443},
        },
    });
    serde_json::from_value(document).expect("invariant: it is a view")
}

/// The same as the static platform has it.
fn platform(view: &View) -> String {
    let entries = |things: &Value| -> Vec<Value> {
        let things = things.as_object().into_iter().flatten();
        things
            .map(|(id, thing)| {
                let (namespace, name) = id.split_once('/').expect("invariant: namespace/name");
                let mut entry = thing.clone();
                entry["namespace"] = namespace.into();
                entry["name"] = name.into();
                entry
            })
            .collect()
    };
    let view = json!(view);
    json!({"services": entries(&view["services"]), "gateways": entries(&view["gateways"])}).to_string()
}

async fn doors(island: &Island) -> Result<Vec<Door>> {
    let mut doors = Vec::new();
    for (workload, bind, software) in GATEWAYS {
        let id: WorkloadId = workload.parse()?;
        let role = Role::Gateway {
            workload: id.name.to_string(),
        };
        let namespace = id.namespace.to_string();
        let proxy = proxy(island, software, &namespace, role).await?;
        doors.push(Door {
            entry: Entry::Ingress(id),
            software,
            outbound: None,
            bind,
            decisions: decisions(software, &proxy).await?,
            _proxy: proxy,
        });
    }
    for (namespace, software) in SIDECARS {
        let outbound = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let role = Role::Sidecar { outbound };
        let proxy = proxy(island, software, namespace, role).await?;
        doors.push(Door {
            entry: Entry::Sidecar(namespace.parse()?),
            software,
            outbound: Some(outbound),
            bind: "",
            decisions: decisions(software, &proxy).await?,
            _proxy: proxy,
        });
    }
    Ok(doors)
}

async fn decisions(software: Software, proxy: &Proxy) -> Result<Option<Decisions>> {
    match software {
        Software::Tombolo => Ok(Some(Decisions::of(proxy.admin()).await?)),
        Software::Envoy => Ok(None),
    }
}

async fn proxy(island: &Island, software: Software, namespace: &str, role: Role) -> Result<Proxy> {
    let node = Node {
        id: match &role {
            Role::Gateway { .. } => format!("{}-gateway", software.name()),
            Role::Sidecar { .. } => format!("{}-{namespace}", software.name()),
        },
        cluster: HERE.to_owned(),
        namespace: namespace.to_owned(),
        role,
    };
    Proxy::start(software, &node, island.xds(), &tombolo_binary(), island.dir()).await
}

/// One for each instance that is up, at each of its ports, and one for each gateway of the other clusters.
async fn applications(view: &View) -> Result<Vec<Application>> {
    let all = Applications::default();
    let mut standing = Vec::new();
    for (id, service) in &view.services {
        let up = service
            .instances
            .iter()
            .filter(|instance| instance.state == tombolo_compiler::report::State::Up);
        for instance in up {
            for port in instance.ports.values() {
                let address = SocketAddr::new(instance.address, *port);
                standing.push(all.start(&format!("{id} at {address}"), address).await?);
            }
        }
    }
    for cluster in ["north", "west"] {
        for (workload, ..) in GATEWAYS {
            let at = far_address(cluster, workload);
            let name = format!("{workload} of {cluster}");
            standing.push(all.start(&name, SocketAddr::new(at.ip(), at.port())).await?);
        }
    }
    Ok(standing)
}
