//! A proxy from its start to its end: what it keeps on disk, what its admin port says, and its drain.

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use http::{Request, StatusCode};
use http_body_util::Full;
use prost::Message;
use tombolo_runtime::last_good;

use crate::restart::Load;
use crate::support::ads::AdsServer;
use crate::support::proxy::{DEADLINE, Proxy, client, eventually, free_address, get, send};
use crate::support::site::Site;
use crate::support::upstream::Upstream;
use crate::support::{ads, mesh};

/// Invariant 4: losing every plane above it changes nothing that a plane serves, also across its own restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_restarted_proxy_serves_with_its_edge_dead() {
    let host = Upstream::start("a").await;
    let mesh = Site::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let (url, edge) = (mesh.url("/"), mesh.edge.address);
    assert_eq!(get(&client(), &url).await.unwrap().body, "a / ");
    let Site {
        edge: server,
        proxy,
        data,
        ..
    } = mesh;
    drop(server);
    proxy.stop().await;

    let proxy = Proxy::start(&format!("http://{edge}"), data.path());
    eventually("the proxy is ready without its edge", || proxy.is_ready()).await;
    assert_eq!(get(&client(), &url).await.unwrap().body, "a / ");

    let server = AdsServer::start_at(edge).await;
    eventually("the proxy says what it holds", || async {
        server.requests().iter().any(|request| {
            request.type_url == ads::CLUSTER && request.initial_resource_versions.contains_key("a")
        })
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_last_good_file_is_set_aside() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("last-good.xds");
    std::fs::write(&file, b"not a configuration").unwrap();
    let edge = AdsServer::start_at(free_address()).await;
    let listener = free_address();
    edge.put("in", &mesh::listener("in", listener, "in"));
    edge.put("in", &mesh::routes("in", vec![mesh::answer("/", 200, "served")]));
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    assert_eq!(
        get(&client(), &format!("http://{listener}/")).await.unwrap().body,
        "served"
    );
    let aside = data.path().join("last-good.xds.corrupt");
    assert_eq!(std::fs::read(aside).unwrap(), b"not a configuration");
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_stays_taken_costs_a_restarted_proxy_only_its_listener() {
    let data = tempfile::tempdir().unwrap();
    let (free, taken) = (free_address(), free_address());
    let stored = DeltaDiscoveryResponse {
        resources: vec![
            ads::stored("free", &mesh::listener("free", free, "all")),
            ads::stored("taken", &mesh::listener("taken", taken, "all")),
            ads::stored(
                "all",
                &mesh::routes("all", vec![mesh::answer("/", 200, "served")]),
            ),
        ],
        ..Default::default()
    };
    last_good::save(&data.path().join("last-good.xds"), &stored.encode_to_vec()).unwrap();
    let other = std::net::TcpListener::bind(taken).unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the other port answers", || async {
        get(&client(), &format!("http://{free}/"))
            .await
            .is_some_and(|answer| answer.body == "served")
    })
    .await;
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    drop(other);
    proxy.stop().await;
}

/// A rollback: the file is of a version that knew more, and everything above is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_last_good_file_has_beyond_this_version_costs_only_itself() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("last-good.xds");
    let (good, bad) = (free_address(), free_address());
    let answer = || mesh::routes("good", vec![mesh::answer("/", 200, "served")]);
    let of_later = RouteConfiguration {
        name: "bad".to_owned(),
        validate_clusters: Some(envoy_types::pb::google::protobuf::BoolValue { value: true }),
        ..answer()
    };
    let stored = DeltaDiscoveryResponse {
        resources: vec![
            ads::stored("good", &mesh::listener("good", good, "good")),
            ads::stored("good", &answer()),
            ads::stored("bad", &mesh::listener("bad", bad, "bad")),
            ads::stored("bad", &of_later),
        ],
        ..Default::default()
    };
    last_good::save(&file, &stored.encode_to_vec()).unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let served = get(&client(), &format!("http://{good}/")).await.unwrap();
    assert_eq!(served.body, "served");
    assert!(
        get(&client(), &format!("http://{bad}/")).await.is_none(),
        "no listener without its route table"
    );
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    assert!(file.exists(), "a later version may read all of it");
    proxy.stop().await;

    last_good::save(&file, b"\xff\xff").unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the file is set aside", || async {
        data.path().join("last-good.xds.corrupt").exists() && !file.exists()
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_says_what_runs_and_when_nothing_does() {
    let data = tempfile::tempdir().unwrap();
    let edge = AdsServer::start_at(free_address()).await;
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the admin port answers", || async {
        proxy.admin("/ready").await.is_some()
    })
    .await;
    let ready = proxy.admin("/ready").await.unwrap();
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.contains("no listener runs"), "{}", ready.body);

    let host = Upstream::start("a").await;
    edge.put("a", &mesh::cluster("a"));
    edge.put("a", &mesh::endpoints("a", &[(host.address, 0)]));
    edge.put("in", &mesh::listener("in", free_address(), "in"));
    edge.put("in", &mesh::routes("in", vec![mesh::to_cluster("/a", "a")]));
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let dump = proxy.admin("/config_dump").await.unwrap().body;
    let hosts = proxy.admin("/hosts").await.unwrap().body;
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let kinds: Vec<&str> = dump["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|resource| resource["acknowledged"] == true)
        .map(|resource| resource["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["cluster", "endpoints", "listener", "routes"]);
    assert!(hosts.contains(&host.address.to_string()), "{hosts}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_proxy_finishes_what_it_has_and_ends() {
    let host = Upstream::start("host").await;
    let mesh = Site::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let load = Load::start_until_left(mesh.listener);
    load.answers(50).await;
    assert!(mesh.proxy.is_ready().await);
    let request = Request::post(format!("http://{}/drain", mesh.proxy.admin))
        .body(Full::default())
        .unwrap();
    assert_eq!(
        send(&client(), request).await.unwrap().status,
        StatusCode::ACCEPTED
    );
    let ready = mesh.proxy.admin("/ready").await.unwrap();
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.contains("the proxy drains"), "{}", ready.body);
    assert_eq!(load.left().await, Vec::<String>::new());
    tokio::time::timeout(DEADLINE, mesh.proxy.task)
        .await
        .expect("the proxy ends")
        .unwrap()
        .unwrap();
}
