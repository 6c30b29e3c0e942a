//! The PROXY protocol over real sockets and two workers: whose connection it is, where that is said, and what hosts are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket, proxy_protocol_config};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as Permitted;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules, rbac};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, UpstreamTlsContext};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::certs::Authority;
use crate::support::proxy::{DEADLINE, eventually};
use crate::support::site::{Site, at};
use crate::support::upstream::Upstream;
use crate::support::{ads, certs, mesh};
use crate::tls_hosts::acceptor;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

/// A proxy between an edge and whatever hosts a test has.
struct Stage {
    site: Site,
}

impl Stage {
    async fn start(listener: impl FnOnce(Listener) -> Listener, cluster: Cluster, host: SocketAddr) -> Self {
        let routes = vec![mesh::to_cluster("/", "a")];
        let site = Site::start_listening(vec![at(cluster, host)], listener, routes).await;
        site.acknowledges(ads::ENDPOINTS, "a").await;
        Self { site }
    }

    /// All that comes back for `said`, of which so many bytes are sent at a time.
    async fn talk(&self, said: &[u8], step: usize) -> String {
        let mut stream = TcpStream::connect(self.site.listener).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in said.chunks(step) {
            // Whoever is refused need not be listened to.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            if step == 1 {
                tokio::task::yield_now().await;
            }
        }
        rest(&mut stream).await
    }

    async fn refused(&self) -> u64 {
        let series = "tombolo_connections_refused_total{listener=\"in\",why=\"handshake\"}";
        self.site.proxy.metric(series).await.unwrap_or(0)
    }
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    // A reset behind the answer takes nothing from it.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

fn taking(protocol: ProxyProtocol) -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(protocol))),
        ..Default::default()
    }
}

fn told_whose(plain: Listener, protocol: ProxyProtocol) -> Listener {
    Listener {
        listener_filters: vec![taking(protocol)],
        listener_filters_timeout: Some(PbDuration { seconds: 1, nanos: 0 }),
        ..plain
    }
}

/// `listener`, which lets nobody in of whom `denied` holds.
fn denying(listener: Listener, denied: &[Identifier]) -> Listener {
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(Permitted::Any(true)),
        }],
        principals: denied
            .iter()
            .map(|denied| Principal {
                identifier: Some(denied.clone()),
            })
            .collect(),
        ..Default::default()
    };
    let rbac = Rbac {
        rules: Some(Rules {
            action: rbac::Action::Deny as i32,
            policies: [("denied".to_owned(), policy)].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    mesh::with_filters(listener, [("envoy.filters.http.rbac", pack_any(rbac))])
}

fn range(address: &str) -> envoy_types::pb::envoy::config::core::v3::CidrRange {
    envoy_types::pb::envoy::config::core::v3::CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: Some(UInt32Value { value: 32 }),
    }
}

fn v2(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, said].concat()
}

fn four(from: [u8; 4]) -> Vec<u8> {
    v2(
        0x21,
        0x11,
        &[&from[..], &[10, 0, 0, 2], &[0x1f, 0x90, 0, 80]].concat(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_a_connection_is_counts_everywhere() {
    let host = Upstream::start("a").await;
    let denied = [
        Identifier::RemoteIp(range("10.9.9.9")),
        Identifier::DirectRemoteIp(range("10.8.8.8")),
    ];
    let inside = |plain| denying(told_whose(plain, ProxyProtocol::default()), &denied);
    let stage = Stage::start(inside, mesh::cluster("a"), host.address).await;
    let mut six = [0; 36];
    (six[0], six[15]) = (0xfd, 7);
    for (header, expected) in [
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n".to_vec(), "10.0.0.1"),
        (b"PROXY TCP6 fd00::7 fd00::8 8080 80\r\n".to_vec(), "fd00::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (four([10, 0, 0, 7]), "10.0.0.7"),
        (v2(0x21, 0x21, &six), "fd00::7"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        // Who has connected is somebody else, whatever is said.
        (b"PROXY TCP4 10.8.8.8 10.0.0.2 8080 80\r\n".to_vec(), "10.8.8.8"),
    ] {
        let said = [&header, GET.as_bytes()].concat();
        for step in [said.len(), header.len(), 1] {
            let answer = stage.talk(&said, step).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{header:?}: {answer}");
            assert_eq!(host.last_headers()["x-forwarded-for"], expected, "{header:?}");
        }
    }
    let said = [&four([10, 9, 9, 9]), GET.as_bytes()].concat();
    let answer = stage.talk(&said, said.len()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
    stream
        .write_all(&[&four([10, 0, 0, 7]), &preface[..]].concat())
        .await
        .unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "SETTINGS come back");
    assert_eq!(stage.refused().await, 0);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_none_or_a_wrong_one_is_closed_and_counted() {
    let host = Upstream::start("a").await;
    let inside = |plain| told_whose(plain, ProxyProtocol::default());
    let stage = Stage::start(inside, mesh::cluster("a"), host.address).await;
    let long = format!("PROXY UNKNOWN {}", "x".repeat(93));
    for (nth, said) in [
        GET.as_bytes(),
        b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 x\r\nGET",
        long.as_bytes(),
        &v2(0x22, 0x11, &[0; 12]),
        &v2(0x21, 0x11, &vec![0; 4081]),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(stage.talk(said, said.len()).await, "", "{said:?}");
        eventually("it is counted", || async {
            stage.refused().await == nth as u64 + 1
        })
        .await;
    }
    // At every byte nothing more comes, until its second is over.
    let header = four([10, 0, 0, 7]);
    let mut held = Vec::new();
    let began = Instant::now();
    for cut in 0..header.len() {
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        stream.write_all(&header[..cut]).await.unwrap();
        held.push(stream);
    }
    for stream in &mut held {
        assert_eq!(rest(stream).await, "");
    }
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(10),
        "{took:?}"
    );
    eventually("they are counted", || async {
        stage.refused().await == 5 + header.len() as u64
    })
    .await;
    assert_eq!(host.requests(), 0);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_comes_before_tls_and_may_be_left_out_where_that_is_allowed() {
    let host = Upstream::start("a").await;
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let inside = |plain| {
        let protocol = ProxyProtocol {
            allow_requests_without_proxy_protocol: true,
            disallowed_versions: vec![proxy_protocol_config::Version::V1 as i32],
            ..Default::default()
        };
        let mut listener = told_whose(plain, protocol);
        let context = certs::context(vec![certs::certificate(&pair)], &[]);
        listener.filter_chains[0].transport_socket = certs::socket(context);
        listener
    };
    let stage = Stage::start(inside, mesh::cluster("a"), host.address).await;
    for (header, expected) in [(four([10, 0, 0, 7]), "10.0.0.7"), (Vec::new(), "127.0.0.1")] {
        // With the ClientHello in one segment.
        let stream = Together {
            inner: TcpStream::connect(stage.site.listener).await.unwrap(),
            before: header,
        };
        let connector = TlsConnector::from(authority.client(&["http/1.1"], None));
        let name = ServerName::try_from("a.example").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
        assert_eq!(host.last_headers()["x-forwarded-for"], expected);
    }
    let line = b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n";
    assert_eq!(
        stage.talk(line, line.len()).await.find("HTTP"),
        None,
        "no version that is taken"
    );
    stage.site.proxy.stop().await;
}

/// What is written first goes out with what was to go before it.
struct Together {
    inner: TcpStream,
    before: Vec<u8>,
}

impl AsyncRead for Together {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Together {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let before = self.before.len();
        let all = [&self.before, buf].concat();
        let written = std::task::ready!(std::pin::Pin::new(&mut self.inner).poll_write(cx, &all))?;
        assert_eq!(written, all.len(), "there is room for so little");
        self.before.clear();
        std::task::Poll::Ready(Ok(written - before))
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A host that answers each request with the header that its connection began with.
struct Told {
    address: SocketAddr,
    open: Arc<AtomicU64>,
}

impl Told {
    /// It speaks TLS behind the header where there is a `pair`.
    async fn start(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (open, tls) = (Arc::clone(&counted), tls.clone());
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    let header = header(&mut stream).await;
                    if let Some(header) = header {
                        match tls {
                            None => answer(stream, &header).await,
                            Some(tls) => answer(tls.accept(stream).await.unwrap(), &header).await,
                        }
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, open }
    }

    fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

async fn header(stream: &mut TcpStream) -> Option<String> {
    let mut said = Vec::new();
    loop {
        said.push(stream.read_u8().await.ok()?);
        if said.starts_with(b"PROXY ") && said.ends_with(b"\r\n") {
            return Some(String::from_utf8_lossy(&said).trim().to_owned());
        }
        if said.starts_with(V2) && said.len() == 16 {
            let length = u16::from_be_bytes([said[14], said[15]]);
            let mut rest = vec![0; length.into()];
            stream.read_exact(&mut rest).await.ok()?;
            return Some(match rest[..] {
                [] => "LOCAL".to_owned(),
                [a, b, c, d, _, _, _, _, high, low, _, _] => {
                    format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([high, low]))
                }
                _ => format!("{rest:?}"),
            });
        }
    }
}

/// Until the connection ends.
pub(crate) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, header: &str) {
    let mut seen = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&piece[..read]),
            _ => return,
        }
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            let length = header.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{header}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn told_in(
    mut cluster: Cluster,
    version: proxy_protocol_config::Version,
    inner: Option<TransportSocket>,
) -> Cluster {
    cluster.transport_socket = certs::socket(ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: version as i32,
            ..Default::default()
        }),
        transport_socket: inner.or_else(|| certs::socket(RawBuffer {})),
        ..Default::default()
    });
    cluster
}

/// One request on a connection that stays.
pub(crate) async fn ask(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    loop {
        answer.push(stream.read_u8().await.unwrap());
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        return String::from_utf8(body).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_told_whose_each_connection_is() {
    use proxy_protocol_config::Version;
    let authority = Authority::new();
    let pair = authority.sign(&["host.example"]);
    let inner = certs::socket(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(certs::believing(
                &authority,
            ))),
            ..Default::default()
        }),
        ..Default::default()
    });
    for (version, tls) in [
        (Version::V1, None),
        (Version::V2, None),
        (Version::V2, Some(inner)),
    ] {
        let host = Told::start(tls.is_some().then(|| acceptor(&pair, None))).await;
        let cluster = told_in(mesh::cluster("a"), version, tls.flatten());
        let stage = Stage::start(|plain| plain, cluster, host.address).await;
        let expected = |client: &TcpStream| {
            let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            match version {
                Version::V1 => format!(
                    "PROXY TCP4 {} {} {} {}",
                    from.ip(),
                    to.ip(),
                    from.port(),
                    to.port()
                ),
                Version::V2 => from.to_string(),
            }
        };
        let mut one = TcpStream::connect(stage.site.listener).await.unwrap();
        let mut other = TcpStream::connect(stage.site.listener).await.unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&mut one).await, expected(&one));
            assert_eq!(ask(&mut other).await, expected(&other));
        }
        assert_eq!(host.open(), 2, "each has one that it uses again");
        drop(one);
        eventually("nobody else's is left", || async { host.open() == 1 }).await;
        assert_eq!(ask(&mut other).await, expected(&other));
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_is_passed_on_and_checks_are_the_proxys_own() {
    let host = Told::start(None).await;
    let passing = |plain| {
        let proxy = TcpProxy {
            stat_prefix: "tcp".to_owned(),
            cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("a".to_owned())),
            ..Default::default()
        };
        Listener {
            filter_chains: vec![FilterChain {
                filters: vec![Filter {
                    name: "envoy.filters.network.tcp_proxy".to_owned(),
                    config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
                }],
                ..Default::default()
            }],
            ..told_whose(plain, ProxyProtocol::default())
        }
    };
    let checked = mesh::with_checks(mesh::cluster("a"), 100, 1000);
    let cluster = told_in(checked, proxy_protocol_config::Version::V2, None);
    let stage = Stage::start(passing, cluster, host.address).await;
    eventually("a check has passed", || async {
        let metrics = stage.site.proxy.metrics().await;
        metrics.contains(&format!(
            "tombolo_host_healthy{{cluster=\"a\",host=\"{}\"}} 1",
            host.address
        ))
    })
    .await;
    let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
    stream.write_all(&four([10, 0, 0, 7])).await.unwrap();
    assert_eq!(ask(&mut stream).await, "10.0.0.7:8080");
    stage.site.proxy.stop().await;
}
