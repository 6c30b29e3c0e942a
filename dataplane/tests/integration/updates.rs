//! Changes of the configuration while requests pass: none is lost, and what cannot be had changes nothing.

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;

use crate::support::clients::Clients;
use crate::support::proxy::{client, eventually, free_address, get, http2_client};
use crate::support::site::Site;
use crate::support::upstream::Upstream;
use crate::support::{ads, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_moves_without_a_gap() {
    let mesh = Site::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
    let moved = free_address();
    let client = client();
    assert_eq!(get(&client, &mesh.url("/")).await.unwrap().body, "here");
    mesh.edge.put("in", &mesh::listener("in", moved, "in"));
    eventually("the new port answers", || async {
        get(&client, &format!("http://{moved}/"))
            .await
            .is_some_and(|answer| answer.body == "here")
    })
    .await;
    eventually("the old port is closed", || async {
        tokio::net::TcpStream::connect(mesh.listener).await.is_err()
    })
    .await;
}

/// Invariant 3: make before break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_a_listener_keeps_its_routes_until_the_new_ones_are_known() {
    let mesh = Site::start(vec![], vec![mesh::answer("/", 200, "old")]).await;
    mesh.edge.put("in", &mesh::listener("in", mesh.listener, "next"));
    eventually("the new routes are asked for", || async {
        let asked = |name: &str| name == "next";
        mesh.edge
            .requests()
            .iter()
            .any(|request| request.resource_names_subscribe.iter().any(|n| asked(n)))
    })
    .await;
    let client = client();
    assert_eq!(get(&client, &mesh.url("/")).await.unwrap().body, "old");
    mesh.edge
        .put("next", &mesh::routes("next", vec![mesh::answer("/", 200, "new")]));
    eventually("the new routes are used", || async {
        get(&client, &mesh.url("/")).await.unwrap().body == "new"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_the_configuration_changes() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Site::start(
        vec![
            (mesh::cluster("a"), vec![(a.address, 0)]),
            (mesh::cluster("b"), vec![(b.address, 0)]),
        ],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let clients = Clients::start(&mesh.url("/"), 4);
    for round in 0..20 {
        let (cluster, hosts) = if round % 2 == 0 {
            ("b", [(b.address, 0), (a.address, 1)])
        } else {
            ("a", [(a.address, 0), (b.address, 1)])
        };
        mesh.edge.put(cluster, &mesh::endpoints(cluster, &hosts));
        mesh.edge
            .put("in", &mesh::routes("in", vec![mesh::to_cluster("/", cluster)]));
        mesh.acknowledges(ads::ROUTES, "in").await;
    }
    let answered = clients.stop().await;
    assert!(answered > 100, "only {answered} requests");
    assert!(a.requests() > 0 && b.requests() > 0);
    assert_eq!(mesh.edge.nacks(), Vec::<String>::new());
    mesh.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_and_changes_nothing() {
    let host = Upstream::start("a").await;
    let mesh = Site::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let mut odd = mesh::listener("in", free_address(), "in");
    odd.stat_prefix = "odd".to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let resource = |name: &str, type_url: &str, body: Vec<u8>| {
        envoy_types::pb::envoy::service::discovery::v3::Resource {
            name: name.to_owned(),
            version: "nonsense".to_owned(),
            resource: Some(envoy_types::pb::google::protobuf::Any {
                type_url: type_url.to_owned(),
                value: body,
            }),
            ..Default::default()
        }
    };
    let cases = [
        (
            ads::ROUTES,
            vec![resource("in", ads::ROUTES, vec![0xff; 9])],
            "in: not a valid message",
        ),
        (
            ads::ROUTES,
            vec![resource("in", ads::CLUSTER, vec![])],
            "in: resource: is a type.googleapis.com/envoy.config.cluster.v3.Cluster, not a ",
        ),
        (
            "type.googleapis.com/what",
            vec![],
            "type.googleapis.com/what: this type was not asked for",
        ),
        (
            ads::LISTENER,
            vec![resource("in", ads::LISTENER, odd.encode_to_vec())],
            "in: stat_prefix: is not supported by this proxy",
        ),
        (
            ads::LISTENER,
            vec![resource(
                "in",
                ads::LISTENER,
                mesh::listener("in", taken.1, "in").encode_to_vec(),
            )],
            "in: address: cannot listen on",
        ),
        (
            ads::CLUSTER,
            vec![resource("b", ads::CLUSTER, mesh::cluster("c").encode_to_vec())],
            "b: name: is \"c\", but the resource is named \"b\"",
        ),
    ];
    for (index, (type_url, resources, expected)) in cases.into_iter().enumerate() {
        mesh.edge.send_nonsense(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            ..Default::default()
        });
        eventually("the nonsense is refused", || async {
            mesh.edge.nacks().len() > index
        })
        .await;
        let nack = mesh.edge.nacks().pop().unwrap();
        assert!(nack.starts_with(expected), "{nack}");
        assert_eq!(
            get(&client(), &mesh.url("/")).await.unwrap().body,
            "a / ",
            "after {nack}"
        );
    }
    let dump = mesh.proxy.admin("/config_dump").await.unwrap().body;
    assert!(!dump.contains("\"nonsense\""), "{dump}");
    assert!(dump.contains("but the resource is named"), "{dump}");
    let before = mesh.edge.nacks().len();
    mesh.edge.send_nonsense(DeltaDiscoveryResponse {
        type_url: ads::CLUSTER.to_owned(),
        resources: vec![
            resource("b", ads::CLUSTER, mesh::cluster("c").encode_to_vec()),
            resource("d", ads::CLUSTER, mesh::cluster("d").encode_to_vec()),
        ],
        ..Default::default()
    });
    eventually("the nonsense is refused", || async {
        mesh.edge.nacks().len() > before
    })
    .await;
    let nack = mesh.edge.nacks().pop().unwrap();
    assert!(nack.starts_with("b: ") && !nack.contains("d: "), "{nack}");
    let dump = mesh.proxy.admin("/config_dump").await.unwrap().body;
    assert!(
        dump.contains("\"name\":\"d\",\"version\":\"nonsense\",\"acknowledged\":true"),
        "{dump}"
    );
    assert!(!dump.contains("\"name\":\"b\""), "{dump}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_listener_finishes_what_it_has() {
    for (client, connection) in [(client(), Some("close")), (http2_client(), None)] {
        let host = Upstream::start("a").await;
        let mesh = Site::start(
            vec![(mesh::cluster("a"), vec![(host.address, 0)])],
            vec![mesh::to_cluster("/", "a")],
        )
        .await;
        let slow = tokio::spawn({
            let url = mesh.url("/slow");
            async move { get(&client, &url).await }
        });
        eventually("the request is in flight", || async { host.requests() == 1 }).await;
        mesh.edge.remove(ads::LISTENER, "in");
        eventually("the port is closed", || async {
            tokio::net::TcpStream::connect(mesh.listener).await.is_err()
        })
        .await;
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.body, "a /slow ");
        let told = answer
            .headers
            .get("connection")
            .map(|value| value.to_str().unwrap());
        assert_eq!(told, connection, "HTTP/2 says so by GOAWAY instead");
        eventually("no connection is left", || async {
            let metrics = mesh.proxy.metrics().await;
            metrics.contains("tombolo_connections_active{listener=\"in\"} 0")
        })
        .await;
    }
}
