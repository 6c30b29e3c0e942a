//! What a plane makes of a neighbour that speaks nonsense, and of its own files when they are broken: it says so, applies
//! none of it, and serves what it served.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::VirtualHost;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use http::{Request, StatusCode};
use http_body_util::Full;
use tombolo_tests::ads::contrary::{CLUSTER_TYPE, ContraryProxy};
use tombolo_tests::ads::{Ads, contract};
use tombolo_tests::feed::stamp;
use tombolo_tests::island::{Given, Island};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::{Application, Applications};
use tombolo_tests::{client, eventually, free_port, tombolo_binary};

const DEADLINE: Duration = Duration::from_secs(20);
const CLUSTER: &str = "here";
const HOST: &str = "web.shop:8080";
const ROUTES_TYPE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

const INTENT: &str = "
- {name: organizations/acme}
- {name: organizations/acme/clusters/here, spec: {region: north}}
- {name: organizations/acme/tenants/t}
- {name: organizations/acme/tenants/t/workspaces/w, spec: {namespaces: ['*/shop']}}
";

#[tokio::test]
async fn a_proxy_refuses_an_edges_nonsense_by_name_and_serves_on() {
    let upstream = Applications::default()
        .start("web", ([127, 0, 0, 1], free_port()).into())
        .await
        .unwrap();
    let listener: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let good = contract::one_service(listener, &[upstream.address()], contract::Retries::Idempotent);
    let ads = Ads::start(good.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let node = sidecar("nonsense-1", listener);
    let _proxy = Proxy::start(
        Software::Tombolo,
        &node,
        ads.address(),
        &tombolo_binary(),
        dir.path(),
    )
    .await
    .unwrap();
    serves(listener).await;

    let mut bytes = good.clone();
    bytes.insert_raw(ROUTES_TYPE, contract::NAME, b"\xff\xff nonsense".to_vec());
    let mut unsupported = good.clone();
    unsupported.insert(
        contract::NAME,
        &contract::route_configuration(vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            include_request_attempt_count: true,
            ..VirtualHost::default()
        }]),
    );
    for (nonsense, words) in [
        (bytes, "only: not a valid message"),
        (unsupported, "include_request_attempt_count"),
    ] {
        ads.publish(nonsense);
        eventually(DEADLINE, || async {
            let answers = ads.answers();
            let refusal = answers.last().and_then(|answer| answer.refusal.clone());
            let refusal = refusal.with_context(|| format!("no refusal: {answers:?}"))?;
            ensure!(refusal.contains(words), "{refusal:?} does not say {words:?}");
            Ok(())
        })
        .await;
        for _ in 0..20 {
            ask(listener).await.unwrap();
        }
    }
    ads.publish(good);
    serves(listener).await;
}

#[tokio::test]
async fn an_edge_cuts_off_a_proxy_that_speaks_nonsense_and_no_other() {
    let stage = Stage::start([127, 0, 30, 1], [127, 0, 30, 11]).await;
    let nonce = DeltaDiscoveryRequest {
        type_url: CLUSTER_TYPE.to_owned(),
        response_nonce: "never sent".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/made.Up".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    for (request, words) in [
        (nonce, "is not that of the unanswered response"),
        (unknown, "made.Up"),
    ] {
        let node = sidecar("contrary", ([127, 0, 30, 99], 15001).into());
        let mut proxy = ContraryProxy::connect(stage.island.xds(), &node, CLUSTER_TYPE)
            .await
            .unwrap();
        proxy.next().await.unwrap();
        proxy.say(request).await.unwrap();
        let error = until_cut_off(&mut proxy).await;
        assert!(error.contains(words), "{error}");
    }
    let mut stranger = sidecar("stranger", ([127, 0, 30, 99], 15001).into());
    stranger.cluster = "elsewhere".to_owned();
    let mut proxy = ContraryProxy::connect(stage.island.xds(), &stranger, CLUSTER_TYPE)
        .await
        .unwrap();
    let error = until_cut_off(&mut proxy).await;
    assert!(error.contains("and this edge serves here"), "{error}");
    stage.serves_every_time().await;
}

#[tokio::test]
async fn an_edge_refuses_a_centrals_nonsense_by_name_and_keeps_the_rest() {
    let stage = Stage::start([127, 0, 30, 2], [127, 0, 30, 12]).await;
    stage.island.stop_planning();
    let nonsense: BTreeMap<String, Bytes> = [
        ("cluster", "{\"half\": "),
        ("pods/web", "{}"),
        ("namespaces/shop", "[1, 2, 3]"),
    ]
    .into_iter()
    .map(|(name, body)| (name.to_owned(), Bytes::from(body)))
    .collect();
    // Not all there is, so that nothing is removed by it.
    stage
        .island
        .central()
        .publish_part(stamp("scripted/1", 1, 9, 1000), nonsense)
        .unwrap();
    let rejected = eventually(DEADLINE, || async {
        let ack = stage.island.central().heard().ack.context("no acknowledgement")?;
        ensure!(ack.stamp.version.revision == 9, "acknowledged {} only", ack.stamp);
        Ok(ack.rejected)
    })
    .await;
    let names: Vec<&str> = rejected.iter().map(|rejection| rejection.name.as_str()).collect();
    assert_eq!(names, ["cluster", "namespaces/shop", "pods/web"], "{rejected:?}");
    assert!(
        rejected[2]
            .reason
            .contains("is not the name of a slice's resource"),
        "{rejected:?}"
    );
    stage.serves_every_time().await;
}

#[tokio::test]
async fn an_edge_with_truncated_files_says_so_and_its_proxies_serve_on() {
    let mut stage = Stage::start([127, 0, 30, 3], [127, 0, 30, 13]).await;
    let dir = stage.island.data_dir();
    kept(&dir, &["slice", "view"]).await;
    stage.island.kill_edge();
    truncate_all(&dir);
    stage.island.start_edge_alone().unwrap();
    let admin = stage.island.admin();
    eventually(DEADLINE, || async {
        let reply = client::get(admin, "/readyz").await?;
        ensure!(
            reply.status == StatusCode::SERVICE_UNAVAILABLE,
            "{}",
            reply.status
        );
        ensure!(reply.text().contains("none is on disk"), "{}", reply.text());
        Ok(())
    })
    .await;
    let log = stage.island.log_tail();
    assert!(
        log.contains("is corrupt") && log.contains("it was moved to"),
        "{log}"
    );
    // It tells its proxies nothing rather than half of it.
    stage.serves_every_time().await;

    stage.island.restart_edge().await.unwrap();
    stage.serves_every_time().await;
}

#[tokio::test]
async fn a_proxy_with_a_truncated_file_starts_without_and_asks_its_edge() {
    let mut stage = Stage::start([127, 0, 30, 4], [127, 0, 30, 14]).await;
    let dir = stage.island.dir().join(&stage.node.id);
    kept(&dir, &["last-good.xds"]).await;
    stage.proxy.take();
    truncate_all(&dir);
    stage.start_proxy().await.unwrap();
    serves(stage.listener).await;
    let log = stage.proxy.as_ref().unwrap().log_tail();
    assert!(
        log.contains("is corrupt") && log.contains("starting without"),
        "{log}"
    );
}

/// An edge, one service with one instance, and a sidecar of ours.
struct Stage {
    proxy: Option<Proxy>,
    node: Node,
    listener: SocketAddr,
    island: Island,
    _application: Application,
}

impl Stage {
    async fn start(proxy: [u8; 4], application: [u8; 4]) -> Stage {
        let listener = SocketAddr::from((proxy, 15001));
        let application = SocketAddr::from((application, 8080));
        let platform = format!(
            "services:\n- namespace: shop\n  name: web\n  ports: [{{name: http, port: 8080}}]\n  \
             instances: [{{address: {}}}]\n",
            application.ip()
        );
        let island = Island::start(Given {
            cluster: CLUSTER,
            intent: INTENT,
            platform: &platform,
            others: BTreeMap::new(),
            issuer_ca: None,
        })
        .await
        .unwrap();
        let application = Applications::default().start("web", application).await.unwrap();
        let mut stage = Stage {
            proxy: None,
            node: sidecar("sidecar", listener),
            listener,
            island,
            _application: application,
        };
        stage.start_proxy().await.unwrap();
        serves(listener).await;
        stage
    }

    async fn start_proxy(&mut self) -> Result<()> {
        let binary = tombolo_binary();
        let (xds, dir) = (self.island.xds(), self.island.dir());
        self.proxy = Some(Proxy::start(Software::Tombolo, &self.node, xds, &binary, dir).await?);
        Ok(())
    }

    async fn serves_every_time(&self) {
        for _ in 0..50 {
            ask(self.listener).await.unwrap();
        }
    }
}

fn sidecar(id: &str, outbound: SocketAddr) -> Node {
    Node {
        id: id.to_owned(),
        cluster: CLUSTER.to_owned(),
        namespace: "shop".to_owned(),
        role: Role::Sidecar { outbound },
    }
}

async fn ask(listener: SocketAddr) -> Result<()> {
    let request = Request::get("/").header("host", HOST).body(Full::default())?;
    let reply = client::send(listener, request).await?.expect(StatusCode::OK)?;
    ensure!(reply.header("x-answered-by") == "web", "{}", reply.text());
    Ok(())
}

async fn serves(listener: SocketAddr) {
    eventually(DEADLINE, || ask(listener)).await;
}

/// Why the edge ended the stream.
async fn until_cut_off(proxy: &mut ContraryProxy) -> String {
    let cut_off = async {
        for _ in 0..10 {
            if let Err(error) = proxy.next().await {
                return Ok(format!("{error:#}"));
            }
        }
        bail!("the edge goes on talking")
    };
    cut_off.await.unwrap()
}

/// Waits until these files are there.
async fn kept(dir: &Path, files: &[&str]) {
    eventually(DEADLINE, || async {
        for file in files {
            ensure!(dir.join(file).is_file(), "{file} is not on disk");
        }
        Ok(())
    })
    .await;
}

/// Cuts every file in a folder in half. Sockets are none.
fn truncate_all(dir: &Path) {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    for entry in entries.filter(|entry| entry.file_type().unwrap().is_file()) {
        let path = entry.path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
}
