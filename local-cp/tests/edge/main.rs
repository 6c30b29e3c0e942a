//! An edge as a whole: below a central that the test scripts, above real Envoy, and alone with its disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tempfile::TempDir;
use tombolo_compiler::finding::{Origin, Traced};
use tombolo_compiler::http::Edits;
use tombolo_compiler::name::Fqn;
use tombolo_compiler::report::{Receipt, ReportItem};
use tombolo_compiler::routes::{
    Conduct, Delivery, GatewayAction, GatewayRule, HostConduct, Locality, NamespaceOwner, RoutedGateway,
    RoutedGatewayMode, RoutedService, ServiceAction, ServiceRule, SliceItem, SliceKey,
};
use tombolo_local_cp::{Config, EdgeError, Plaintext, Running, start};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::shutdown::{Shutdown, Trigger};
use tombolo_tests::client::{Reply, get, send};
use tombolo_tests::feed::{Above, ORGANIZATION, stamp};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::Applications;
use tombolo_tests::{eventually, free_port};

mod proxyless;
mod tokens;

const DEADLINE: Duration = Duration::from_secs(30);
const WORKSPACE: &str = "organizations/acme/tenants/t/workspaces/w";
const GATEWAY: &str = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/in";

/// A cluster without its edge: identities, a platform folder, a data folder, a central.
struct Cluster {
    dir: TempDir,
    authority: Authority,
    central: Option<Above>,
}

/// A started edge; stopped by `stop`, or cut off on drop.
struct Edge {
    running: Running,
    trigger: Trigger,
}

impl Cluster {
    async fn new(platform: &str) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create_or_open(&dir.path().join("authority"), ORGANIZATION).unwrap();
        let edge = PlaneId::new(ORGANIZATION, Plane::Edge, "us-east").unwrap();
        authority.issue(&edge, &dir.path().join("identity")).unwrap();
        fs::create_dir(dir.path().join("platform")).unwrap();
        let mut cluster = Cluster {
            dir,
            authority,
            central: None,
        };
        cluster.platform(platform);
        let id = PlaneId::new(ORGANIZATION, Plane::Central, "a").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let central = Above::start(&cluster.authority, &id, address, cluster.dir.path());
        cluster.central = Some(central.await.unwrap());
        cluster
    }

    fn platform(&mut self, yaml: &str) {
        fs::write(self.dir.path().join("platform/all.yaml"), yaml).unwrap();
    }

    fn config(&self) -> Config {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            cluster: "us-east".parse().unwrap(),
            centrals: self.central.iter().map(Above::target).collect(),
            identity: self.dir.path().join("identity"),
            static_dir: self.dir.path().join("platform"),
            plaintext: Plaintext::LoopbackOnly,
            xds_listen: any,
            admin: any,
            data_dir: self.dir.path().join("data"),
            issuer_ca: Some(self.dir.path().join("identity/ca.pem")),
        }
    }

    async fn start(&self) -> Edge {
        let (trigger, shutdown) = Shutdown::new();
        let running = start(self.config(), shutdown).await.unwrap();
        Edge { running, trigger }
    }

    fn central(&self) -> &Above {
        self.central.as_ref().unwrap()
    }

    fn publish(&self, revision: u64, items: BTreeMap<String, Bytes>) {
        let stamp = stamp("a/1", 1, revision, revision);
        self.central().publish(stamp, items).unwrap();
    }

    fn receipt(&self) -> Result<Receipt> {
        let heard = self.central().heard();
        let body = heard.items.get("receipt").context("no receipt yet")?;
        match serde_json::from_slice(body)? {
            ReportItem::Receipt(receipt) => Ok(receipt),
            other => anyhow::bail!("no receipt: {other:?}"),
        }
    }

    async fn awaited_receipt(&self, wanted: impl Fn(&Receipt) -> bool) -> Receipt {
        eventually(DEADLINE, || async {
            let receipt = self.receipt()?;
            ensure!(wanted(&receipt), "{receipt:?}");
            Ok(receipt)
        })
        .await
    }
}

impl Edge {
    async fn page(&self) -> Result<Value> {
        let reply = get(self.running.admin_addr, "/config")
            .await?
            .expect(StatusCode::OK)?;
        Ok(serde_json::from_str(&reply.text())?)
    }

    async fn ready(&self) {
        eventually(DEADLINE, || async {
            get(self.running.admin_addr, "/readyz")
                .await?
                .expect(StatusCode::OK)
        })
        .await;
    }

    async fn stop(self) {
        self.trigger.fire();
        self.running.join().await.unwrap();
    }
}

fn platform(gateway: &str, application: SocketAddr) -> String {
    format!(
        "services:\n- namespace: shop\n  name: web\n  ports: [{{name: http, port: 8080}}]\n  instances: [{{address: \
         {}, ports: {{http: {}}}}}]\ngateways:\n- {{namespace: mesh, name: gateway, bind: {gateway}}}\n",
        application.ip(),
        application.port()
    )
}

/// One ingress on this port in front of one service.
fn slice(port: u16) -> BTreeMap<String, Bytes> {
    slice_of(port, HostConduct::default())
}

fn slice_of(port: u16, conduct: HostConduct) -> BTreeMap<String, Bytes> {
    let workspace: Fqn = WORKSPACE.parse().unwrap();
    let gateway: Fqn = GATEWAY.parse().unwrap();
    let rule = ServiceRule {
        matches: vec![],
        action: ServiceAction::Split(vec![(None, 100)]),
        edits: Edits::default(),
        timeout: None,
        retry: None,
        conduct: Conduct::default(),
    };
    let service = RoutedService {
        id: "shop/web".parse().unwrap(),
        workspace: workspace.clone(),
        ports: vec![serde_json::from_str(r#"{"name":"http","port":8080}"#).unwrap()],
        subsets: vec![],
        rules: vec![Traced::untraced(rule)],
        remotes: vec![],
        delivery: Delivery::default(),
    };
    let rule = GatewayRule {
        matches: vec![],
        action: GatewayAction::Split(vec![(service.id.clone(), None, 100)]),
        edits: Edits::default(),
        timeout: None,
        retry: None,
        conduct: Conduct::default(),
    };
    let mode = RoutedGatewayMode::Ingress {
        port,
        hosts: ["shop.example.com".parse().unwrap()].into(),
        rules: vec![Traced::new(rule, Origin::new(gateway.clone(), "spec.rules[0]"))],
    };
    let routed = RoutedGateway {
        workload: "mesh/gateway".parse().unwrap(),
        workspace: workspace.clone(),
        mode,
        conduct,
    };
    let owner = NamespaceOwner {
        workspace: workspace.clone(),
    };
    let locality = Locality {
        region: "north".parse().unwrap(),
        zone: None,
    };
    let items = [
        (SliceKey::Cluster, SliceItem::Cluster(Traced::untraced(locality))),
        (
            SliceKey::Namespace("shop".parse().unwrap()),
            SliceItem::Namespace(Traced::untraced(owner)),
        ),
        (
            SliceKey::Service(service.id.clone(), workspace),
            SliceItem::Service(Traced::untraced(service)),
        ),
        (
            SliceKey::Gateway(gateway.clone()),
            SliceItem::Gateway(Traced::new(routed, Origin::new(gateway, "spec"))),
        ),
    ];
    items
        .into_iter()
        .map(|(key, item)| (key.to_string(), serde_json::to_vec(&item).unwrap().into()))
        .collect()
}

fn gateway_proxy() -> Node {
    Node {
        id: "gw-1".to_owned(),
        cluster: "us-east".to_owned(),
        namespace: "mesh".to_owned(),
        role: Role::Gateway {
            workload: "gateway".to_owned(),
        },
    }
}

async fn shop(address: SocketAddr) -> Result<Reply> {
    let request = Request::get("/")
        .header("host", "shop.example.com")
        .body(Full::default())?;
    send(address, request).await?.expect(StatusCode::OK)
}

#[tokio::test(flavor = "multi_thread")]
async fn real_envoy_routes_refuses_and_outlives_everything_above() {
    let applications = Applications::default();
    let address = SocketAddr::from(([127, 0, 31, 10], free_port()));
    let application = applications.start("web", address).await.unwrap();
    let (port, taken) = (free_port(), TcpListener::bind("127.0.31.1:0").unwrap());
    let mut cluster = Cluster::new(&platform("127.0.31.1", application.address())).await;
    cluster.publish(7, slice(port));
    let edge = cluster.start().await;
    edge.ready().await;

    let xds = edge.running.xds_addr;
    let node = gateway_proxy();
    let envoy = Proxy::start(Software::Envoy, &node, xds, "".as_ref(), cluster.dir.path());
    let _envoy = envoy.await.unwrap();
    let front = SocketAddr::from(([127, 0, 31, 1], port));
    eventually(DEADLINE, || shop(front)).await;
    let receipt = cluster
        .awaited_receipt(|receipt| receipt.proxies == 1 && receipt.behind.is_empty())
        .await;
    assert_eq!((receipt.version, receipt.accepted_only), ((1, 7), 1));
    let reported: Vec<String> = cluster.central().heard().items.into_keys().collect();
    assert_eq!(
        reported,
        ["gateways/mesh/gateway", "receipt", "services/shop/web"]
    );

    // Invariant 8: what Envoy refuses is shown on the user's resource, in its own words.
    cluster.publish(8, slice(taken.local_addr().unwrap().port()));
    let receipt = cluster
        .awaited_receipt(|receipt| !receipt.rejected.is_empty())
        .await;
    let rejection = &receipt.rejected[0];
    assert_eq!(rejection.origin.as_ref().unwrap().resource.as_str(), GATEWAY);
    assert!(rejection.reason.contains("cannot bind"), "{}", rejection.reason);
    assert_eq!(
        (receipt.version, receipt.behind),
        ((1, 8), [("gw-1".into(), (1, 7))].into())
    );

    cluster.publish(9, slice(port));
    let recovered = |receipt: &Receipt| receipt.rejected.is_empty() && receipt.behind.is_empty();
    cluster
        .awaited_receipt(|receipt| receipt.version == (1, 9) && recovered(receipt))
        .await;
    eventually(DEADLINE, || shop(front)).await;

    // Invariant 4: the central dies, then the edge; Envoy serves on, and a restarted edge knows it again.
    cluster.central = None;
    edge.stop().await;
    shop(front).await.unwrap();
    let (trigger, shutdown) = Shutdown::new();
    let config = Config {
        xds_listen: xds,
        ..cluster.config()
    };
    let running = start(config, shutdown).await.unwrap();
    let edge = Edge { running, trigger };
    eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(
            page["proxies"]["gw-1"]["running"] == serde_json::json!([1, 9]),
            "{page}"
        );
        Ok(())
    })
    .await;
    shop(front).await.unwrap();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_4_an_edge_starts_from_its_disk() {
    let mut cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    cluster.publish(7, slice(8080));
    let edge = cluster.start().await;
    edge.ready().await;
    edge.stop().await;

    // Nobody above, and the platform is gone too.
    cluster.central = None;
    fs::remove_dir_all(cluster.dir.path().join("platform")).unwrap();
    let edge = cluster.start().await;
    edge.ready().await;
    let page = eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(
            page["platformFaults"]
                .as_array()
                .is_some_and(|faults| faults.len() == 1),
            "{page}"
        );
        Ok(page)
    })
    .await;
    assert_eq!(page["sliceVersion"], serde_json::json!([1, 7]));
    assert_eq!((&page["services"], &page["gateways"]), (&1.into(), &1.into()));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_9_a_restarted_edge_knows_its_proxies_until_it_is_told_to_forget_them() {
    let cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    cluster.publish(7, slice(8080));
    let data = cluster.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let roster = br#"{"gw-1": {"running": [1, 6], "acknowledges": "activated"}}"#;
    tombolo_runtime::last_good::save(&data.join("proxies"), roster).unwrap();
    let edge = cluster.start().await;
    let receipt = cluster.awaited_receipt(|receipt| receipt.version == (1, 7)).await;
    assert_eq!(receipt.unknown, [("gw-1".into(), (1, 6))].into());

    for (id, status) in [
        ("gw-2", StatusCode::NOT_FOUND),
        ("gw-1", StatusCode::OK),
        ("gw-1", StatusCode::NOT_FOUND),
    ] {
        let request = Request::post(format!("/proxies/forget?id={id}"))
            .body(Full::default())
            .unwrap();
        let reply = send(edge.running.admin_addr, request).await.unwrap();
        assert_eq!(reply.status, status, "{id}: {}", reply.text());
    }
    cluster
        .awaited_receipt(|receipt| receipt.unknown.is_empty())
        .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_slice_on_disk_is_set_aside_and_fetched_again() {
    let mut cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    cluster.publish(7, slice(8080));
    let edge = cluster.start().await;
    edge.ready().await;
    edge.stop().await;
    let file = cluster.dir.path().join("data/slice");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();

    let above = cluster.central.take();
    let edge = cluster.start().await;
    let reply = get(edge.running.admin_addr, "/readyz").await.unwrap();
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(file.with_extension("corrupt").exists());
    edge.stop().await;

    cluster.central = above;
    let edge = cluster.start().await;
    edge.ready().await;
    assert_eq!(
        edge.page().await.unwrap()["sliceVersion"],
        serde_json::json!([1, 7])
    );
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_cannot_be_read_is_rejected_upwards_and_its_neighbours_are_used() {
    let cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    let mut items = slice(8080);
    items.insert(
        "namespaces/pay".to_owned(),
        Bytes::from_static(b"{\"namespace\":1}"),
    );
    cluster.publish(7, items);
    let edge = cluster.start().await;
    edge.ready().await;
    let rejected = eventually(DEADLINE, || async {
        let ack = cluster.central().heard().ack.context("no acknowledgement yet")?;
        ensure!(!ack.rejected.is_empty(), "nothing is rejected yet");
        Ok(ack.rejected)
    })
    .await;
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "namespaces/pay");
    assert!(
        rejected[0].reason.contains("cannot read the body"),
        "{}",
        rejected[0].reason
    );
    assert_eq!(edge.page().await.unwrap()["sliceItems"], 4);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_2_an_older_version_is_kept_out_and_raises_an_alarm() {
    let cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    cluster.publish(7, slice(8080));
    let edge = cluster.start().await;
    edge.ready().await;
    cluster
        .central()
        .publish(stamp("a/2", 1, 6, 1), slice(9090))
        .unwrap();
    let page = eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(page["centrals"][0]["alarm"].is_string(), "{page}");
        Ok(page)
    })
    .await;
    let alarm = page["centrals"][0]["alarm"].as_str().unwrap();
    assert!(
        alarm.starts_with("offered 1.6#1 of a/2, which is older than 1.7#7 of a/1"),
        "{alarm}"
    );
    assert_eq!(page["sliceVersion"], serde_json::json!([1, 7]));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_reports_to_all_centrals_and_follows_one_that_lives() {
    let mut cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    let id = PlaneId::new(ORGANIZATION, Plane::Central, "b").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let other = Above::start(&cluster.authority, &id, any, cluster.dir.path())
        .await
        .unwrap();
    cluster.publish(7, slice(8080));
    let mut config = cluster.config();
    config.centrals.push(other.target());
    let (trigger, shutdown) = Shutdown::new();
    let running = start(config, shutdown).await.unwrap();
    let edge = Edge { running, trigger };
    edge.ready().await;
    other.publish(stamp("b/1", 1, 7, 1), slice(8080)).unwrap();
    let page = eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(page["centrals"][1]["link"] == "inSync", "{page}");
        ensure!(other.heard().items.contains_key("receipt"), "no report at b yet");
        let (first, second) = (cluster.central().heard().items, other.heard().items);
        ensure!(
            first == second,
            "reported {first:?} to one and {second:?} to the other"
        );
        Ok(page)
    })
    .await;
    assert_eq!(page["centrals"][0]["followed"], true);

    cluster.central = None;
    other.publish(stamp("b/1", 1, 8, 2), slice(9090)).unwrap();
    eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(page["sliceVersion"] == serde_json::json!([1, 8]), "{page}");
        ensure!(page["centrals"][1]["followed"] == true, "{page}");
        Ok(())
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_5_a_file_that_breaks_withdraws_nothing_and_is_told() {
    let mut cluster = Cluster::new(&platform("127.0.0.1", "127.0.0.1:9".parse().unwrap())).await;
    cluster.publish(7, slice(8080));
    let edge = cluster.start().await;
    edge.ready().await;
    cluster.platform("services: [");
    let page = eventually(DEADLINE, || async {
        let page = edge.page().await?;
        ensure!(page["platformFaults"][0]["place"] == "all.yaml", "{page}");
        Ok(page)
    })
    .await;
    assert_eq!(page["services"], 1);
    let metrics = get(edge.running.admin_addr, "/metrics").await.unwrap().text();
    assert!(metrics.contains("tombolo_edge_platform_faults 1"), "{metrics}");
    assert!(cluster.central().heard().items.contains_key("services/shop/web"));
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_does_not_start_with_another_clusters_identity() {
    let cluster = Cluster::new("").await;
    let config = Config {
        cluster: "us-west".parse().unwrap(),
        ..cluster.config()
    };
    let (_trigger, shutdown) = Shutdown::new();
    let error = start(config, shutdown).await.unwrap_err();
    assert!(matches!(error, EdgeError::OtherIdentity { .. }));
    assert!(
        error
            .to_string()
            .contains("is spiffe://acme/plane/edge/us-east and not an edge's of cluster us-west"),
        "{error}"
    );
}

#[tokio::test]
async fn an_edge_serves_nobody_beyond_loopback_in_plain_text_unless_it_is_told_to() {
    let cluster = Cluster::new("").await;
    let config = Config {
        xds_listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..cluster.config()
    };
    let (_trigger, shutdown) = Shutdown::new();
    let error = start(config.clone(), shutdown.clone()).await.unwrap_err();
    assert!(matches!(error, EdgeError::Plaintext { .. }));
    assert!(error.to_string().contains("--allow-plaintext"), "{error}");

    let trusted = Config {
        plaintext: Plaintext::Anywhere,
        ..config
    };
    let running = start(trusted, shutdown).await.unwrap();
    drop(running);
}
