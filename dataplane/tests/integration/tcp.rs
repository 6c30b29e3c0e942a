//! Connections that are passed on as they are, over real sockets and two workers: that every byte arrives, that each direction
//! ends by itself, and how the others end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::ads::AdsServer;
use crate::support::certs::Authority;
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};
use crate::support::upstream::serving;
use crate::support::{ads, certs, mesh, upstream};

/// So much, in so few bytes that change, that a byte in the wrong place is seen.
const LONG: usize = 50_000_000;

struct Stage {
    listener: SocketAddr,
    proxy: Proxy,
    edge: AdsServer,
    _data: tempfile::TempDir,
}

pub(crate) fn to(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: "tcp".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

pub(crate) fn chain(proxy: &TcpProxy) -> FilterChain {
    FilterChain {
        filters: vec![Filter {
            name: "envoy.filters.network.tcp_proxy".to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy.clone()))),
        }],
        ..Default::default()
    }
}

pub(crate) fn passing(address: SocketAddr, chains: Vec<FilterChain>) -> Listener {
    Listener {
        filter_chains: chains,
        ..mesh::listener("in", address, "unused")
    }
}

impl Stage {
    /// With a cluster for each list of hosts, called `a`, `b` and so on.
    async fn start(chains: Vec<FilterChain>, clusters: &[&[(SocketAddr, u32)]]) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        for (name, hosts) in ["a", "b"].into_iter().zip(clusters) {
            edge.put(name, &mesh::cluster(name));
            edge.put(name, &mesh::endpoints(name, hosts));
        }
        edge.put("in", &passing(listener, chains));
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        // A TCP proxy waits for no routes, and this edge for no acknowledgement of what listeners use.
        for (name, _) in ["a", "b"].into_iter().zip(clusters) {
            let known = || async { edge.is_acknowledged(ads::ENDPOINTS, name) };
            eventually("its hosts are known", known).await;
        }
        Self {
            listener,
            proxy,
            edge,
            _data: data,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener).await.unwrap()
    }

    /// What is counted of `cluster`.
    async fn metric(&self, name: &str, cluster: &str, label: &str) -> u64 {
        let series = format!("{name}{{listener=\"in\",cluster=\"{cluster}\",{label}}}");
        self.proxy.metric(&series).await.unwrap_or(0)
    }

    async fn ended(&self, cluster: &str, flags: &str) -> u64 {
        self.metric(
            "tombolo_tcp_connections_total",
            cluster,
            &format!("flags=\"{flags}\""),
        )
        .await
    }
}

fn long() -> Vec<u8> {
    let mut next = 1u32;
    let mut bytes = Vec::with_capacity(LONG);
    while bytes.len() < LONG {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend(next.to_le_bytes());
    }
    bytes
}

/// Sends back what it reads, and says `bye` once that has ended.
async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _ = to.write_all(b"bye").await;
        let _ = to.shutdown().await;
    }
}

async fn echoing() -> SocketAddr {
    serving(echo).await
}

/// All that comes back for `sent`, which is ended before the answer has been.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Send + 'static, sent: Vec<u8>) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        to
    });
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, from.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    drop(sending.await.unwrap());
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_and_each_direction_ends_by_itself() {
    let stage = Stage::start(vec![chain(&to("a"))], &[&[(echoing().await, 0)]]).await;
    let sent = long();
    let answer = exchange(stage.connect().await, sent.clone()).await;
    assert_eq!(answer.len(), LONG + 3);
    assert!(answer[..LONG] == sent && answer.ends_with(b"bye"));
    assert_eq!(exchange(stage.connect().await, Vec::new()).await, b"bye");
    eventually("both are counted", || async { stage.ended("a", "").await == 2 }).await;
    let bytes = "tombolo_tcp_bytes_total";
    assert_eq!(stage.metric(bytes, "a", "direction=\"sent\"").await, LONG as u64);
    assert_eq!(
        stage.metric(bytes, "a", "direction=\"received\"").await,
        LONG as u64 + 6
    );
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_is_passed_on_by_its_name_or_opened() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example", "b.example"]);
    let config = {
        use rustls::pki_types::pem::PemObject;
        let chain =
            vec![rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        builder
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    };
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let encrypted = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { echo(acceptor.accept(stream).await.unwrap()).await });
        }
    });
    let named = |name: &str, chain: FilterChain| FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![name.to_owned()],
            ..Default::default()
        }),
        ..chain
    };
    let opened = FilterChain {
        transport_socket: certs::socket(certs::context(vec![certs::certificate(&pair)], &[])),
        ..chain(&to("b"))
    };
    let chains = vec![named("a.example", chain(&to("a"))), named("b.example", opened)];
    let stage = Stage::start(chains, &[&[(encrypted, 0)], &[(echoing().await, 0)]]).await;
    let sent: Vec<u8> = long()[..5_000_000].to_vec();
    for (name, cluster) in [("a.example", "a"), ("b.example", "b")] {
        let client = authority.client(&[], None);
        let connector = TlsConnector::from(client);
        let name = ServerName::try_from(name).unwrap();
        let stream = connector.connect(name, stage.connect().await).await.unwrap();
        let answer = exchange(stream, sent.clone()).await;
        assert_eq!(answer.len(), sent.len() + 3, "{cluster}");
        assert!(answer.starts_with(&sent) && answer.ends_with(b"bye"), "{cluster}");
        eventually("it is counted", || async { stage.ended(cluster, "").await == 1 }).await;
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_tried_as_often_as_the_listener_says() {
    let gone = free_address();
    let twice = TcpProxy {
        max_connect_attempts: Some(UInt32Value { value: 2 }),
        ..to("a")
    };
    let hosts: &[(SocketAddr, u32)] = &[(gone, 0)];
    let stage = Stage::start(vec![chain(&to("a"))], &[hosts]).await;
    assert_eq!(stage.connect().await.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(stage.ended("a", "UF").await, 1);
    let failures = || async {
        let series = "tombolo_tcp_connect_failures_total{listener=\"in\",cluster=\"a\"}";
        stage.proxy.metric(series).await.unwrap_or(0)
    };
    assert_eq!(failures().await, 1);
    stage
        .edge
        .put("in", &passing(stage.listener, vec![chain(&twice)]));
    eventually("it is tried twice", || async {
        let before = failures().await;
        let _ = stage.connect().await.read(&mut [0]).await;
        failures().await == before + 2
    })
    .await;
    stage.edge.put("a", &mesh::endpoints("a", &[]));
    eventually("there is no host", || async {
        let _ = stage.connect().await.read(&mut [0]).await;
        stage.ended("a", "UH").await > 0
    })
    .await;
    stage
        .edge
        .put("in", &passing(stage.listener, vec![chain(&to("nowhere"))]));
    eventually("there is no cluster", || async {
        let _ = stage.connect().await.read(&mut [0]).await;
        stage.ended("-", "NC").await > 0
    })
    .await;
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_is_not_taken_for_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let stage = Stage::start(vec![chain(&to("a"))], &[&[(host, 0)]]).await;
    let mut client = stage.connect().await;
    client.write_all(b"hello").await.unwrap();
    let (mut taken, _) = tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut seen = [0; 5];
    taken.read_exact(&mut seen).await.unwrap();
    taken.set_zero_linger().unwrap();
    drop(taken);
    let read = tokio::time::timeout(DEADLINE, client.read(&mut [0]))
        .await
        .unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    eventually("it is counted", || async { stage.ended("a", "UC").await == 1 }).await;

    let mut client = stage.connect().await;
    client.write_all(b"hello").await.unwrap();
    let (mut taken, _) = tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    taken.read_exact(&mut seen).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let read = tokio::time::timeout(DEADLINE, taken.read(&mut [0]))
        .await
        .unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    eventually("it is counted", || async { stage.ended("a", "DC").await == 1 }).await;
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_its_host_is_dead_or_nothing_moves() {
    let frozen = upstream::Upstream::start("a").await;
    let edge = AdsServer::start_at(free_address()).await;
    let data = tempfile::tempdir().unwrap();
    let (checked, idle) = (free_address(), free_address());
    edge.put("a", &mesh::with_checks(mesh::cluster("a"), 100, 100));
    edge.put("a", &mesh::endpoints("a", &[(frozen.address, 0)]));
    edge.put("b", &mesh::cluster("b"));
    edge.put("b", &mesh::endpoints("b", &[(echoing().await, 0)]));
    edge.put("in", &passing(checked, vec![chain(&to("a"))]));
    let impatient = TcpProxy {
        idle_timeout: Some(PbDuration { seconds: 1, nanos: 0 }),
        ..to("b")
    };
    let listener = Listener {
        name: "idle".to_owned(),
        ..passing(idle, vec![chain(&impatient)])
    };
    edge.put("idle", &listener);
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    for name in ["a", "b"] {
        let known = || async { edge.is_acknowledged(ads::ENDPOINTS, name) };
        eventually("its hosts are known", known).await;
    }

    let mut client = TcpStream::connect(checked).await.unwrap();
    client.write_all(b"GET / HT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    frozen.mood.send_replace(upstream::Mood::Frozen);
    let read = tokio::time::timeout(DEADLINE, client.read(&mut [0]))
        .await
        .unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = TcpStream::connect(idle).await.unwrap();
    let began = Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 1);
    }
    let read = tokio::time::timeout(DEADLINE, client.read(&mut [0]))
        .await
        .unwrap();
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset,
        "no end like any other"
    );
    assert!(
        began.elapsed() > Duration::from_millis(2900),
        "{:?}",
        began.elapsed()
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_shared_out_by_weight_and_outlive_a_change() {
    let weighted = |weights: [u32; 2]| TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: ["a", "b"]
                .into_iter()
                .zip(weights)
                .map(|(name, weight)| ClusterWeight {
                    name: name.to_owned(),
                    weight,
                    ..Default::default()
                })
                .collect(),
        })),
        ..to("a")
    };
    let (one, other) = (echoing().await, echoing().await);
    let chains = vec![chain(&weighted([1, 1]))];
    let mut stage = Stage::start(chains, &[&[(one, 0)], &[(other, 0)]]).await;
    let mut held = stage.connect().await;
    for _ in 0..40 {
        exchange(stage.connect().await, b"x".to_vec()).await;
    }
    eventually("all are counted", || async {
        stage.ended("a", "").await + stage.ended("b", "").await == 40
    })
    .await;
    assert!((5..35).contains(&stage.ended("a", "").await));
    stage
        .edge
        .put("in", &passing(stage.listener, vec![chain(&weighted([0, 1]))]));
    eventually("it is acknowledged", || async {
        stage.edge.is_acknowledged(ads::LISTENER, "in")
    })
    .await;
    let before = stage.ended("a", "").await;
    for _ in 0..10 {
        exchange(stage.connect().await, b"x".to_vec()).await;
    }
    assert_eq!(stage.ended("a", "").await, before);
    // A proxy that is told to stop waits for it.
    stage.proxy.begin_stop();
    let gone = || async { TcpStream::connect(stage.listener).await.is_err() };
    eventually("nobody else is let in", gone).await;
    held.write_all(b"still here").await.unwrap();
    let mut seen = [0; 10];
    held.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"still here");
    drop(held);
    stage.proxy.stop().await;
}
