//! The server over real gRPC, with a configuration that the test makes.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status as PbStatus;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tombolo_runtime::shutdown::Trigger;
use tonic::Code;
use tonic::transport::Server;

use super::*;
use crate::ads::node::tests::node;
use crate::encode::Kind;
use crate::testing::config;

const DEADLINE: Duration = Duration::from_secs(20);

struct Edge {
    address: SocketAddr,
    fleet: Fleet,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    _trigger: Trigger,
}

struct Stream {
    requests: mpsc::Sender<PbRequest>,
    responses: Streaming<PbResponse>,
}

/// Every proxy gets a cluster of the name that the slice's revision says.
fn by_revision(snapshot: &Snapshot, _: &ProxyNode) -> (ProxyConfig, Vec<Finding>) {
    (config(&[&format!("r{}", snapshot.version.1)]), vec![])
}

fn snapshot(revision: u64) -> Option<Arc<Snapshot>> {
    Some(Arc::new(Snapshot {
        cluster: "us-east".parse().unwrap(),
        version: (1, revision),
        slice: Arc::default(),
        view: Arc::default(),
        addresses: Arc::default(),
        authorities: None,
    }))
}

async fn edge() -> Edge {
    let (snapshots, receiver) = watch::channel(snapshot(1));
    let (trigger, shutdown) = Shutdown::new();
    let fleet = Fleet::new(Default::default());
    let ads = Ads {
        cluster: "us-east".parse().unwrap(),
        snapshots: receiver,
        lower: by_revision,
        fleet: fleet.clone(),
        metrics: Metrics::default(),
        shutdown,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(ads.into_service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Edge {
        address,
        fleet,
        snapshots,
        _trigger: trigger,
    }
}

fn first(id: &str, kind: Kind) -> PbRequest {
    let metadata = [
        ("tombolo.role", "gateway"),
        ("tombolo.namespace", "mesh"),
        ("tombolo.workload", "gateway"),
    ];
    PbRequest {
        node: Some(node(id, "us-east", &metadata)),
        type_url: kind.type_url().to_owned(),
        ..PbRequest::default()
    }
}

impl Edge {
    async fn open(&self, first: PbRequest) -> Stream {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel.connect().await.unwrap());
        let (requests, queue) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(queue))
            .await
            .unwrap();
        Stream {
            requests,
            responses: responses.into_inner(),
        }
    }
}

impl Stream {
    async fn next(&mut self) -> Result<PbResponse, Status> {
        let next = timeout(DEADLINE, self.responses.message())
            .await
            .expect("no answer in time");
        next.map(|response| response.expect("the stream ended"))
    }

    async fn send(&self, request: PbRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&self, response: &PbResponse, refused: Option<&str>) {
        self.send(PbRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refused.map(|message| PbStatus {
                message: message.to_owned(),
                ..PbStatus::default()
            }),
            ..PbRequest::default()
        })
        .await;
    }
}

fn names(response: &PbResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[tokio::test]
async fn a_proxy_that_speaks_nonsense_is_refused_and_others_are_served_on() {
    let edge = edge().await;
    let mut good = edge.open(first("good", Kind::Cluster)).await;
    let response = good.next().await.unwrap();
    assert_eq!(names(&response), ["r1"]);
    good.answer(&response, None).await;

    let unknown_type = PbRequest {
        type_url: "type.googleapis.com/envoy.config.core.v3.Nothing".into(),
        ..first("bad", Kind::Cluster)
    };
    let other_cluster = PbRequest {
        node: Some(node("bad", "us-west", &[])),
        ..first("bad", Kind::Cluster)
    };
    let wrong_nonce = PbRequest {
        response_nonce: "77".into(),
        ..first("bad", Kind::Cluster)
    };
    for (request, expected) in [
        (PbRequest::default(), "node is missing"),
        (unknown_type, "is not served"),
        (other_cluster, "this edge serves us-east"),
        (wrong_nonce, "response_nonce \"77\""),
    ] {
        let refused = edge.open(request).await.next().await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(expected), "{refused:?}");
    }
    // No gRPC at all.
    let mut garbage = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, &[0xff; 4096])
        .await
        .unwrap();

    edge.snapshots.send_replace(snapshot(2));
    let response = good.next().await.unwrap();
    assert_eq!(names(&response), ["r2"]);
    assert_eq!(
        edge.fleet.proxies().connected.into_keys().collect::<Vec<_>>(),
        ["good"]
    );
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_stalls_nobody() {
    let edge = edge().await;
    let mut silent = edge.open(first("silent", Kind::Cluster)).await;
    let mut quick = edge.open(first("quick", Kind::Cluster)).await;
    silent.next().await.unwrap();
    for revision in 2..20 {
        let response = quick.next().await.unwrap();
        quick.answer(&response, None).await;
        edge.snapshots.send_replace(snapshot(revision));
    }
    assert_eq!(names(&quick.next().await.unwrap()), ["r19"]);
}

#[tokio::test]
async fn invariant_9_a_proxy_that_is_cut_off_is_unknown_and_one_that_closes_its_stream_is_gone() {
    let edge = edge().await;
    let mut changes = edge.fleet.subscribe();
    let mut closing = edge.open(first("closing", Kind::Cluster)).await;
    closing.next().await.unwrap();
    let mut cut = edge.open(first("cut", Kind::Cluster)).await;
    cut.next().await.unwrap();
    drop(closing.requests);
    // Ends the stream with an error, as a broken connection does.
    let wrong = PbRequest {
        response_nonce: "77".into(),
        ..first("cut", Kind::Cluster)
    };
    cut.send(wrong).await;
    let ended = async {
        loop {
            let proxies = edge.fleet.proxies();
            if proxies.connected.is_empty() {
                return proxies.unknown;
            }
            changes.changed().await.unwrap();
        }
    };
    let unknown = timeout(DEADLINE, ended).await.unwrap();
    assert_eq!(unknown.into_keys().collect::<Vec<_>>(), ["cut"]);
}

#[tokio::test]
async fn invariant_8_a_refusal_is_in_the_receipt_on_the_resource_that_it_came_from() {
    let edge = edge().await;
    let mut changes = edge.fleet.subscribe();
    let mut proxy = edge.open(first("gw-1", Kind::Cluster)).await;
    let response = proxy.next().await.unwrap();
    proxy.answer(&response, Some("r1: no such thing")).await;
    let rejected = async {
        loop {
            let receipt = crate::fleet::receipt((1, 1), &edge.fleet.proxies());
            if !receipt.rejected.is_empty() {
                return receipt;
            }
            changes.changed().await.unwrap();
        }
    };
    let receipt = timeout(DEADLINE, rejected).await.unwrap();
    assert_eq!(receipt.rejected[0].origin, Some(crate::testing::origin("r1")));
    assert_eq!(receipt.rejected[0].reason, "r1: no such thing");
    assert_eq!(receipt.behind, [("gw-1".to_owned(), (0, 0))].into());
}

#[tokio::test]
async fn nothing_is_answered_before_slice_and_view_are_held() {
    let edge = edge().await;
    edge.snapshots.send_replace(None);
    let mut proxy = edge.open(first("gw-1", Kind::Cluster)).await;
    edge.snapshots.send_replace(snapshot(3));
    assert_eq!(names(&proxy.next().await.unwrap()), ["r3"]);
}

#[tokio::test]
async fn a_proxy_of_the_state_of_the_world_is_served_and_held_to_the_same() {
    let edge = edge().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", edge.address)).unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel.connect().await.unwrap());
    let (requests, queue) = mpsc::channel(8);
    let PbRequest { node, type_url, .. } = first("world", Kind::Cluster);
    let asked = PbWorldRequest {
        node,
        type_url,
        ..PbWorldRequest::default()
    };
    requests.send(asked.clone()).await.unwrap();
    let mut responses = client
        .stream_aggregated_resources(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let mut versions = Vec::new();
    for revision in 1..3 {
        edge.snapshots.send_replace(snapshot(revision));
        let response = timeout(DEADLINE, responses.message()).await.unwrap();
        let response = response.unwrap().unwrap();
        let names: Vec<String> = response
            .resources
            .iter()
            .map(|any| prost::Message::decode(any.value.as_slice()).unwrap())
            .map(|cluster: envoy_types::pb::envoy::config::cluster::v3::Cluster| cluster.name)
            .collect();
        // The old one is not left out: nothing says yet that its routes are gone.
        let expected = ["r1", "r2"];
        assert_eq!(names, expected[..revision as usize]);
        versions.push(response.version_info.clone());
        let answer = PbWorldRequest {
            response_nonce: response.nonce,
            version_info: response.version_info,
            ..asked.clone()
        };
        requests.send(answer).await.unwrap();
    }
    assert_ne!(versions[0], versions[1]);
    assert_eq!(
        edge.fleet.proxies().connected.into_keys().collect::<Vec<_>>(),
        ["world"]
    );
    let unknown = PbWorldRequest {
        type_url: "type.googleapis.com/envoy.config.core.v3.Nothing".into(),
        ..asked
    };
    requests.send(unknown).await.unwrap();
    let refused = timeout(DEADLINE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
