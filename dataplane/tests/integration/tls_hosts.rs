//! TLS towards hosts, over real sockets and two workers: which hosts are believed, in which protocol they are asked, and that one
//! that is not believed is one that cannot be reached.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, Secret, SubjectAltNameMatcher, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::CodecClientType;
use envoy_types::util::pack_any;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::certs::{Authority, Pair};
use crate::support::proxy::{Proxy, client, eventually, free_address, get, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::{ads, certs, mesh};

/// A host that answers in TLS with what it was asked, and notes how each connection was begun.
struct Host {
    address: SocketAddr,
    /// `NAME PROTOCOL` of each connection.
    begun: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// Known by `pair`; it asks for clients of `authority`, if there is one.
    async fn start(pair: &Pair, clients: Option<&Authority>) -> Self {
        let acceptor = acceptor(pair, clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let begun: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&begun);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    // Who does not believe it leaves.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let session = stream.get_ref().1;
                    let protocol = String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"-"));
                    let name = session.server_name().unwrap_or("-");
                    noted.lock().unwrap().push(format!("{name} {protocol}"));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                });
            }
        });
        Self { address, begun }
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

pub(crate) fn acceptor(pair: &Pair, clients: Option<&Authority>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/healthz" && request.uri().scheme_str() == Some("http") {
        return Ok(refused());
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    Ok(Response::new(Full::new(body.unwrap_or_default())))
}

fn refused() -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response
}

/// A cluster's side, that believes `authority` and asks for `name`.
fn context(authority: &Authority, name: &str) -> UpstreamTlsContext {
    UpstreamTlsContext {
        sni: name.to_owned(),
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(certs::believing(
                authority,
            ))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_names(mut context: UpstreamTlsContext, name: &str) -> UpstreamTlsContext {
    let common = context.common_tls_context.as_mut().unwrap();
    if let Some(ValidationContextType::ValidationContext(CertificateValidationContext {
        match_typed_subject_alt_names,
        ..
    })) = &mut common.validation_context_type
    {
        match_typed_subject_alt_names.push(SubjectAltNameMatcher {
            san_type: 2,
            matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(name.to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    context
}

fn cluster(context: UpstreamTlsContext) -> Cluster {
    Cluster {
        transport_socket: certs::socket(context),
        ..mesh::cluster("a")
    }
}

struct Stage {
    site: Site,
}

impl Stage {
    async fn start(cluster: Cluster, host: SocketAddr) -> Self {
        let routes = mesh::routes("in", vec![mesh::to_cluster("/", "a")]);
        let clusters = vec![at(cluster, host)];
        Self {
            site: Site::start_with(clusters, |plain| plain, routes, Proxy::start_logging).await,
        }
    }

    fn url(&self) -> String {
        self.site.url("/x")
    }

    async fn status(&self) -> StatusCode {
        get(&client(), &self.url()).await.unwrap().status
    }

    async fn is_logged(&self, flags: &str) -> bool {
        let text = std::fs::read_to_string(self.site.log()).unwrap_or_default();
        text.contains(&format!("\"flags\":\"{flags}\""))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_asked_by_name_and_in_the_protocol_of_their_cluster() {
    let authority = Authority::new();
    let body: String = "0123456789".repeat(100_000);
    for (http2, name, expected) in [
        (false, "host.example", "host.example -"),
        (true, "host.example", "host.example h2"),
        (false, "", "- -"),
    ] {
        let host = Host::start(&authority.sign(&["host.example"]), None).await;
        let cluster = cluster(with_names(context(&authority, name), "host.example"));
        let cluster = if http2 { mesh::with_http2(cluster) } else { cluster };
        let stage = Stage::start(cluster, host.address).await;
        for client in [client(), http2_client()] {
            for _ in 0..3 {
                let request = Request::post(stage.url()).body(Full::from(body.clone())).unwrap();
                let answer = send(&client, request).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK);
                assert!(answer.body == body, "{} bytes", answer.body.len());
            }
        }
        let begun = host.begun();
        assert!(begun.len() <= 4, "connections are kept: {begun:?}");
        assert!(begun.iter().all(|begun| begun == expected), "{begun:?}");
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_believed_cannot_be_reached() {
    let (authority, other) = (Authority::new(), Authority::new());
    let host = Host::start(&authority.sign(&["host.example"]), None).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = plain.accept().await.unwrap();
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    let good = || context(&authority, "host.example");
    let bad = [
        ("another authority", context(&other, "host.example"), host.address),
        ("another name", with_names(good(), "other.example"), host.address),
        ("no TLS", good(), plain_address),
    ];
    for (what, context, address) in bad {
        let stage = Stage::start(cluster(context), address).await;
        assert_eq!(stage.status().await, StatusCode::SERVICE_UNAVAILABLE, "{what}");
        eventually("it is logged", || stage.is_logged("UF")).await;
        // What was said before holds for the connections of then only.
        stage
            .site
            .edge
            .put("a", &mesh::endpoints("a", &[(host.address, 0)]));
        stage.site.edge.put("a", &cluster(good()));
        eventually("it is believed", || async {
            stage.status().await == StatusCode::OK
        })
        .await;
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_waits_for_its_secrets_and_shows_its_own() {
    let authority = Authority::new();
    let host = Host::start(&authority.sign(&["host.example"]), Some(&authority)).await;
    let mut context = context(&authority, "host.example");
    let common = context.common_tls_context.as_mut().unwrap();
    common.tls_certificate_sds_secret_configs = vec![certs::named("mine")];
    common.validation_context_type = Some(ValidationContextType::ValidationContextSdsSecretConfig(
        certs::named("ca"),
    ));
    let stage = Stage::start(cluster(context), host.address).await;
    assert_eq!(stage.status().await, StatusCode::SERVICE_UNAVAILABLE);
    eventually("it is logged", || stage.is_logged("UF")).await;
    let believed = Secret {
        name: "ca".to_owned(),
        r#type: Some(Type::ValidationContext(certs::believing(&authority))),
    };
    stage.site.edge.put("ca", &believed);
    stage
        .site
        .edge
        .put("mine", &certs::secret("mine", &authority.sign(&["proxy"])));
    eventually("both are known", || async {
        stage.status().await == StatusCode::OK
    })
    .await;
    // Of one worker, with a connection to the host.
    let kept = client();
    assert_eq!(get(&kept, &stage.url()).await.unwrap().status, StatusCode::OK);
    stage
        .site
        .edge
        .put("mine", &certs::secret("mine", &Authority::new().sign(&["proxy"])));
    eventually("it is acknowledged", || async {
        stage.site.edge.is_acknowledged(ads::SECRET, "mine")
    })
    .await;
    let after = get(&kept, &stage.url()).await.unwrap().status;
    assert_eq!(after, StatusCode::OK, "what is open goes on");
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_what_is_sent_is_not_lost() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.sign(&["host.example"]), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.read_exact(&mut [0; 10]).await.unwrap();
            // Until nothing can be sent any more. What it has not read makes its end a reset.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let head = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(head).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    let stage = Stage::start(cluster(context(&authority, "host.example")), address).await;
    for _ in 0..5 {
        let mut client = TcpStream::connect(stage.site.listener).await.unwrap();
        let (mut reader, mut writer) = client.split();
        let sending = async {
            let _ = writer
                .write_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 30000000\r\n\r\n")
                .await;
            let _ = writer.write_all(&vec![b'b'; 30_000_000]).await;
            std::future::pending::<()>().await;
        };
        let mut answer = [0; 12];
        let read = tokio::select! {
            read = reader.read_exact(&mut answer) => read,
            () = sending => unreachable!(),
        };
        read.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
    }
    stage.site.proxy.stop().await;
}

/// More than all sockets and windows on the way hold.
const MUCH: usize = 16_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_goes_on_beside_an_answer() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.sign(&["host.example"]), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).await.unwrap();
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // Until nothing can be sent any more.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let (reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader.take(MUCH as u64), &mut writer)
                .await
                .unwrap();
            writer.flush().await.unwrap();
        }
    });
    let stage = Stage::start(cluster(context(&authority, "host.example")), address).await;
    let request = Request::post(stage.url()).body(Full::new(Bytes::from(vec![b'b'; MUCH])));
    let client = http2_client();
    let answer = send(&client, request.unwrap());
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await;
    let answer = answer.expect("it is not stuck").unwrap();
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, MUCH));
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_made_in_tls_too() {
    let (authority, other) = (Authority::new(), Authority::new());
    let host = Host::start(&authority.sign(&["host.example"]), None).await;
    let checked = |authority: &Authority| {
        let cluster = mesh::with_http2(cluster(context(authority, "host.example")));
        let mut checked = mesh::with_checks(cluster, 100, 1000);
        if let Some(HealthChecker::HttpHealthCheck(check)) = &mut checked.health_checks[0].health_checker {
            check.codec_client_type = CodecClientType::Http2 as i32;
        }
        checked
    };
    let stage = Stage::start(checked(&authority), host.address).await;
    let is_said = async |health: &str| {
        let hosts = stage.site.proxy.admin("/hosts").await.unwrap().body;
        hosts.contains(&format!("\"{health}\""))
    };
    eventually("it is healthy", || is_said("healthy")).await;
    assert_eq!(stage.status().await, StatusCode::OK);
    stage.site.edge.put("a", &checked(&other));
    eventually("it is unhealthy", || is_said("unhealthy")).await;
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_waits_for_secrets_says_nothing() {
    let authority = Authority::new();
    let host = Host::start(&authority.sign(&["host.example"]), None).await;
    let mut waiting = context(&authority, "host.example");
    let common = waiting.common_tls_context.as_mut().unwrap();
    common.validation_context_type = Some(ValidationContextType::ValidationContextSdsSecretConfig(
        certs::named("ca"),
    ));
    let stage = Stage::start(mesh::with_checks(cluster(waiting), 100, 1000), host.address).await;
    let is_said = async |health: &str| {
        let hosts = stage.site.proxy.admin("/hosts").await.unwrap().body;
        hosts.contains(&format!("\"{health}\""))
    };
    eventually("its host is known", || is_said("unchecked")).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(is_said("unchecked").await);
    let believed = Secret {
        name: "ca".to_owned(),
        r#type: Some(Type::ValidationContext(certs::believing(&authority))),
    };
    stage.site.edge.put("ca", &believed);
    eventually("it is healthy", || is_said("healthy")).await;
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_may_be_put_into_tls() {
    let authority = Authority::new();
    let host = Host::start(&authority.sign(&["host.example"]), None).await;
    let stage = Stage::start(cluster(context(&authority, "host.example")), host.address).await;
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("a".to_owned())),
        ..Default::default()
    };
    let address = free_address();
    let passing = Listener {
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..mesh::listener("tcp", address, "unused")
    };
    stage.site.edge.put("tcp", &passing);
    eventually("it listens", || async {
        TcpStream::connect(address).await.is_ok()
    })
    .await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
        "{answer}"
    );
    stage.site.proxy.stop().await;
}
