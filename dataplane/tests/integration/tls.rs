//! TLS towards clients, over real sockets and two workers: who is served by which filter chain, in which protocol, and what
//! happens to those that are not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::logs::{json_log, with_logs};
use crate::support::ads::AdsServer;
use crate::support::certs::{Authority, Pair};
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};
use crate::support::upstream::Upstream;
use crate::support::{certs, mesh};

mod chains;
mod clients;

/// A proxy with one listener and one host.
struct Stage {
    listener: SocketAddr,
    proxy: Proxy,
    edge: AdsServer,
    host: Upstream,
    data: tempfile::TempDir,
}

impl Stage {
    /// With the listener that `made` makes of a plain one, whose requests go to the host.
    async fn start(made: impl FnOnce(Listener) -> Listener) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        let host = Upstream::start("a").await;
        edge.put("a", &mesh::cluster("a"));
        edge.put("a", &mesh::endpoints("a", &[(host.address, 0)]));
        edge.put("in", &made(mesh::listener("in", listener, "in")));
        edge.put("in", &mesh::routes("in", vec![mesh::to_cluster("/", "a")]));
        for name in ["one", "two", "rest"] {
            edge.put(name, &mesh::routes(name, vec![mesh::answer("/", 200, name)]));
        }
        let proxy = Proxy::start(&edge.url(), data.path());
        Self {
            listener,
            proxy,
            edge,
            host,
            data,
        }
    }

    /// With one chain, for all names, and ready.
    async fn known_by(pair: &Pair) -> Self {
        let context = certs::context(vec![certs::certificate(pair)], &[]);
        let made = |listener| with_tls(listener, context);
        Self::start(made).await.ready().await
    }

    async fn ready(self) -> Self {
        eventually("the proxy is ready", || self.proxy.is_ready()).await;
        self
    }

    async fn connect(&self, name: &str, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.listener).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = TlsConnector::from(Arc::clone(client)).connect(name, stream);
        tokio::time::timeout(DEADLINE, connecting).await.unwrap()
    }

    /// The body of an answer over HTTP/1.1.
    async fn ask(&self, name: &str, client: &Arc<ClientConfig>) -> std::io::Result<String> {
        let mut stream = self.connect(name, client).await?;
        ask_on(&mut stream, "/x").await
    }

    async fn metric(&self, line: &str) -> Option<u64> {
        self.proxy.metric(line).await
    }
}

async fn ask_on(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let answer = read_answer(stream).await?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}

/// One answer with a length.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut answer = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                if body.len() >= length.unwrap_or(0) {
                    return Ok(text);
                }
            }
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap()
}

/// `listener`, whose only chain answers in TLS.
fn with_tls(mut listener: Listener, context: DownstreamTlsContext) -> Listener {
    listener.filter_chains[0].transport_socket = certs::socket(context);
    listener
}

/// A chain for `names`, of the routes of that name.
fn chain(names: &[&str], routes: &str, pair: &Pair) -> FilterChain {
    let plain = mesh::listener("in", "127.0.0.1:1".parse().unwrap(), routes);
    let mut chain = with_tls(plain, certs::context(vec![certs::certificate(pair)], &[]))
        .filter_chains
        .remove(0);
    chain.filter_chain_match = Some(FilterChainMatch {
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    });
    chain
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_is_what_was_agreed_on_or_what_the_client_begins_with() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let stage = Stage::known_by(&pair).await;
    for (protocols, agreed) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&[], None),
    ] {
        let client = authority.client(protocols, None);
        let stream = stage.connect("a.example", &client).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
    }
    // Whatever was agreed on is spoken, and what was not is told from its first bytes.
    for (protocols, http2) in [
        (&["http/1.1"][..], false),
        (&["h2"], true),
        (&[], false),
        (&[], true),
    ] {
        let client = authority.client(protocols, None);
        let stream = stage.connect("a.example", &client).await.unwrap();
        let io = TokioIo::new(stream);
        let request = |uri: &str| {
            Request::post(uri)
                .header("host", "h")
                .body(Full::<Bytes>::from("body"))
                .unwrap()
        };
        let response = if http2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request("https://h/x")).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request("/x")).await.unwrap()
        };
        let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "a /x body", "{protocols:?} {http2}");
        assert_eq!(stage.host.last_headers()["x-forwarded-proto"], "https");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_in_pieces_is_read_and_whoever_says_nothing_is_left() {
    let authority = Authority::new();
    let pair = authority.sign(&["one.example"]);
    let made = |mut listener: Listener| {
        listener.filter_chains = vec![chain(&["one.example"], "one", &pair)];
        listener.listener_filters_timeout =
            Some(envoy_types::pb::google::protobuf::Duration { seconds: 1, nanos: 0 });
        listener
    };
    let stage = Stage::start(made).await.ready().await;
    let mut client = rustls::ClientConnection::new(
        authority.client(&[], None),
        ServerName::try_from("one.example").unwrap(),
    )
    .unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(stage.listener).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in hello.chunks(100) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut answer = vec![0; 5];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer[0], 22, "the server's side of the handshake");
    // Nothing, part of a hello, and what is no hello.
    for said in [&b""[..], &hello[..50], b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer, b"", "{said:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{said:?}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_requests_to_a_port_of_tls_are_not_answered() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let stage = Stage::known_by(&pair).await;
    let mut stream = TcpStream::connect(stage.listener).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(stage.host.requests(), 0);
    let line = "tombolo_connections_refused_total{listener=\"in\",why=\"handshake\"}";
    assert_eq!(stage.metric(line).await, Some(1));
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_waited_for_and_replaced_without_losing_a_request() {
    let authority = Authority::new();
    let stage = Stage::start(|listener| with_tls(listener, certs::context(vec![], &["cert"]))).await;
    let asked = || async {
        let names = stage
            .edge
            .requests()
            .into_iter()
            .flat_map(|asked| asked.resource_names_subscribe);
        names.into_iter().any(|name| name == "cert")
    };
    eventually("the secret is asked for", asked).await;
    assert!(!stage.proxy.is_ready().await);
    assert!(
        TcpStream::connect(stage.listener).await.is_err(),
        "nothing could be answered there"
    );
    stage
        .edge
        .put("cert", &certs::secret("cert", &authority.sign(&["a.example"])));
    let stage = stage.ready().await;
    let client = authority.client(&[], None);
    let first = stage.connect("a.example", &client).await.unwrap();
    let certificate_of =
        |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let before = certificate_of(&first);

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let stage = Arc::new(stage);
    let mut loads = Vec::new();
    for kept in [Some(first), None] {
        let (stage, stop, answered) = (Arc::clone(&stage), Arc::clone(&stop), Arc::clone(&answered));
        let client = Arc::clone(&client);
        loads.push(tokio::spawn(async move {
            let mut kept = kept;
            while !stop.load(Ordering::Relaxed) {
                let body = match &mut kept {
                    Some(stream) => ask_on(stream, "/x").await.unwrap(),
                    None => stage.ask("a.example", &client).await.unwrap(),
                };
                assert_eq!(body, "a /x ");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut seen = before;
    for _ in 0..3 {
        stage
            .edge
            .put("cert", &certs::secret("cert", &authority.sign(&["a.example"])));
        let old = seen.clone();
        eventually("the certificate is replaced", || async {
            let fresh = authority.client(&[], None);
            certificate_of(&stage.connect("a.example", &fresh).await.unwrap()) != old
        })
        .await;
        let fresh = authority.client(&[], None);
        seen = certificate_of(&stage.connect("a.example", &fresh).await.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 10);
    assert_eq!(stage.edge.nacks(), Vec::<String>::new());
    let kept = eventually_kept(stage.data.path()).await;
    assert_eq!(kept & 0o077, 0, "keys are on the disk: {kept:o}");
}

async fn eventually_kept(data: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    let mode = || std::fs::metadata(data.join("last-good.xds")).map(|held| held.permissions().mode());
    eventually("it is on the disk", || async { mode().is_ok() }).await;
    mode().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_by_whichever_worker() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let stage = Stage::known_by(&pair).await;
    let client = authority.client(&[], None);
    for nth in 0..10 {
        let mut stream = stage.connect("a.example", &client).await.unwrap();
        ask_on(&mut stream, "/x").await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        let resumed = kind == rustls::HandshakeKind::Resumed;
        assert_eq!(resumed, nth > 0, "connection {nth}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cipher_is_the_cheapest_unless_the_client_has_no_instructions_for_it() {
    use rustls::CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as OLD_AES_128,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 as OLD_AES_256, TLS13_AES_128_GCM_SHA256 as AES_128,
        TLS13_AES_256_GCM_SHA384 as AES_256, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA20,
    };
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let stage = Stage::known_by(&pair).await;
    for (offered, agreed) in [
        (&[AES_256, CHACHA20, AES_128][..], AES_128),
        (&[AES_256, CHACHA20], AES_256),
        (&[CHACHA20, AES_256, AES_128], CHACHA20),
        (&[OLD_AES_256, OLD_AES_128], OLD_AES_128),
    ] {
        let client = authority.client_of(offered);
        let stream = stage.connect("a.example", &client).await.unwrap();
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, agreed, "{offered:?}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_arrives_whole_though_its_client_is_slow() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let stage = Stage::known_by(&pair).await;
    let client = authority.client(&[], None);
    let mut stream = stage.connect("a.example", &client).await.unwrap();
    // The host answers with what it was sent, after all of it.
    let body = vec![b'b'; 12_000_000];
    let head = format!(
        "POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut answer = Vec::new();
    let reading = async {
        // More than sockets hold, and slowly, so that the last of it waits in the proxy.
        while !answer.ends_with(b"bbbb") || answer.len() < body.len() {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let told = format!("content-length: {}", answer.len() - head);
    assert!(String::from_utf8_lossy(&answer[..head]).contains(&told));
    assert_eq!(answer.len() - head, "a /x ".len() + body.len());
    assert_eq!(ask_on(&mut stream, "/y").await.unwrap(), "a /y ");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_say_who_a_client_is_and_how_it_speaks() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let context = certs::with_clients(certs::context(vec![certs::certificate(&pair)], &[]), &authority);
    let logged = tempfile::tempdir().unwrap();
    let path = logged.path().join("log");
    let fields = [
        ("name", "%REQUESTED_SERVER_NAME%"),
        ("version", "%DOWNSTREAM_TLS_VERSION%"),
        ("cipher", "%DOWNSTREAM_TLS_CIPHER%"),
        ("who", "%DOWNSTREAM_PEER_DNS_SAN%"),
        ("uri", "%DOWNSTREAM_PEER_URI_SAN%"),
        ("local", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ];
    let log = json_log(&path, &fields);
    let stage = Stage::start(|listener| with_logs(with_tls(listener, context), vec![log]))
        .await
        .ready()
        .await;
    let client = authority.client(&[], Some(&authority.sign(&["web.shop"])));
    stage.ask("a.example", &client).await.unwrap();
    let address = stage.listener.to_string();
    // What is still to be written is when it stops.
    stage.proxy.stop().await;
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let expected = serde_json::json!({
        "name": "a.example", "version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "who": "web.shop", "uri": null,
        "local": address,
    });
    assert_eq!(line, expected);
}
