//! Bodies that are not written as they came, over real sockets: calls of gRPC-Web to hosts of gRPC, and answers that are compressed.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::compressor_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{Compressor, CompressorPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz};
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::ads::AdsServer;
use crate::support::asking::service;
use crate::support::proxy::{self, DEADLINE, HttpClient, Proxy, eventually, free_address};
use crate::support::upstream::serving;
use crate::support::{authorizer, mesh};

struct Stage {
    listener: SocketAddr,
    proxy: Proxy,
    /// Lets a host go on.
    go: Arc<Notify>,
    _edge: AdsServer,
    _data: tempfile::TempDir,
}

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn named(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn with_filters(listener: Listener, filters: Vec<HttpFilter>) -> Listener {
    mesh::with_manager(listener, |manager| {
        manager.http_filters.splice(0..0, filters);
    })
}

fn with_policies(mut routes: RouteConfiguration) -> RouteConfiguration {
    let cors = CorsPolicy {
        allow_origin_string_match: vec![StringMatcher {
            match_pattern: Some(MatchPattern::Exact("https://a.example".to_owned())),
            ..Default::default()
        }],
        expose_headers: "grpc-status".to_owned(),
        ..Default::default()
    };
    routes.typed_per_filter_config = [("cors".to_owned(), pack_any(cors))].into();
    let off = CompressorPerRoute {
        r#override: Some(Override::Disabled(true)),
    };
    let plain = &mut routes.virtual_hosts[0].routes[0];
    plain.typed_per_filter_config = [("compressor".to_owned(), pack_any(off))].into();
    routes
}

/// The gzip compressor, what browsers' calls are read by, and who may ask from elsewhere.
fn filters() -> Vec<HttpFilter> {
    let compressor = Compressor {
        compressor_library: Some(TypedExtensionConfig {
            name: "gzip".to_owned(),
            typed_config: Some(pack_any(Gzip::default())),
        }),
        ..Default::default()
    };
    vec![
        named("compressor", pack_any(compressor)),
        named("web", pack_any(GrpcWeb {})),
        named("cors", pack_any(Cors {})),
    ]
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(filters(), free_address()).await
    }

    /// `service` is whom filters ask.
    async fn start_with(filters: Vec<HttpFilter>, service: SocketAddr) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let (listener, nobody) = (free_address(), free_address());
        let go = Arc::new(Notify::new());
        let text = start_host(Arc::clone(&go)).await;
        let calls = start_calls().await;
        for (name, host) in [
            ("text", text),
            ("calls", calls),
            ("nobody", nobody),
            ("service", service),
        ] {
            let cluster = mesh::cluster(name);
            edge.put(
                name,
                &if name == "text" {
                    cluster
                } else {
                    mesh::with_http2(cluster)
                },
            );
            edge.put(name, &mesh::endpoints(name, &[(host, 0)]));
        }
        edge.put("in", &with_filters(mesh::listener("in", listener, "in"), filters));
        let routes = vec![
            mesh::to_cluster("/plain", "text"),
            mesh::to_cluster("/calls", "calls"),
            mesh::to_cluster("/nobody", "nobody"),
            mesh::to_cluster("/", "text"),
        ];
        edge.put("in", &with_policies(mesh::routes("in", routes)));
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            proxy,
            go,
            _edge: edge,
            _data: data,
        }
    }

    async fn ask(
        &self,
        client: &HttpClient,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Got {
        let url = format!("http://{}{path}", self.listener);
        let request = headers.iter().fold(
            Request::builder().method(method).uri(url),
            |request, (name, value)| request.header(*name, *value),
        );
        let request = request.body(Full::new(body)).unwrap();
        let asking = async {
            let answer: Response<_> = client.request(request).await.unwrap();
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec());
            Got {
                status: parts.status,
                headers: parts.headers,
                body: body.unwrap_or_else(|_| b"broken".to_vec()),
            }
        };
        tokio::time::timeout(DEADLINE, asking)
            .await
            .expect("it is answered")
    }
}

fn text() -> String {
    (0..1000).map(|line| format!("line {line}\n")).collect()
}

/// Answers by the last part of the path.
async fn start_host(go: Arc<Notify>) -> SocketAddr {
    serving(move |stream| say(stream, Arc::clone(&go))).await
}

async fn say(mut stream: TcpStream, go: Arc<Notify>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1)?.to_owned();
    let (lines, body) = match path.rsplit('/').next()? {
        "pieces" => {
            let start = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(start.as_bytes()).await.ok()?;
            for piece in ["one", "two", "six"] {
                stream
                    .write_all(format!("3\r\n{piece}\r\n").as_bytes())
                    .await
                    .ok()?;
                go.notified().await;
            }
            return stream.write_all(b"0\r\n\r\n").await.ok();
        }
        "half" => ("content-type: text/plain\r\ncontent-length: 100000\r\n", text()),
        "short" => (
            "content-type: text/plain\r\ncontent-length: 5\r\n",
            "short".to_owned(),
        ),
        "zipped" => ("content-type: text/plain\r\ncontent-encoding: gzip\r\n", text()),
        "tagged" => (
            "content-type: text/plain\r\netag: \"a\"\r\nvary: origin\r\n",
            text(),
        ),
        "image" => ("content-type: image/png\r\n", text()),
        _ => ("content-type: text/plain\r\nx: y\r\n", text()),
    };
    let body = if head.starts_with("HEAD") {
        String::new()
    } else {
        body
    };
    let answer = format!("HTTP/1.1 200 OK\r\n{lines}connection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// A host of gRPC: sends back what it is sent, and how many bytes that was among its trailers.
async fn start_calls() -> SocketAddr {
    serving(move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.ok()?;
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(call(request, respond));
        }
        Some(())
    })
    .await
}

async fn call(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    let line = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|line| line.to_str().unwrap_or_default().to_owned())
    };
    let is_call = line("content-type").as_deref() == Some("application/grpc")
        && line("te").as_deref() == Some("trailers");
    let path = request.uri().path().to_owned();
    let answer = Response::builder().header("content-type", "application/grpc");
    if path.ends_with("/only") {
        let answer = answer.header("grpc-status", "5").body(()).ok()?;
        return respond.send_response(answer, true).ok().map(drop);
    }
    if path.ends_with("/error") || !is_call {
        let answer = Response::builder()
            .status(502)
            .header("content-type", "text/plain")
            .body(())
            .ok()?;
        let mut body = respond.send_response(answer, false).ok()?;
        return body.send_data(Bytes::from_static(b"no"), true).ok();
    }
    let length = line("content-length").filter(|_| path.ends_with("/sized"));
    let answer = length
        .into_iter()
        .fold(answer, |answer, length| answer.header("content-length", length));
    let mut sending = respond.send_response(answer.body(()).ok()?, false).ok()?;
    let mut body = request.into_body();
    let mut count = 0;
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).ok()?;
        count += piece.len();
        sending.send_data(piece, false).ok()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    trailers.insert("x-count", count.into());
    sending.send_trailers(trailers).ok()
}

fn trailers(lines: &str) -> Vec<u8> {
    [&[0x80, 0, 0, 0, lines.len() as u8][..], lines.as_bytes()].concat()
}

/// Base64 of which each group stands for itself.
fn read(text: &[u8]) -> Vec<u8> {
    text.chunks(4)
        .flat_map(|group| STANDARD.decode(group).unwrap())
        .collect()
}

const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_calls_a_host_of_grpc() {
    let stage = Stage::start().await;
    let expected = [MESSAGE, &trailers("grpc-status:0\r\nx-count:10\r\n")].concat();
    let (plain, text) = ("application/grpc-web+proto", "application/grpc-web-text");
    for client in [proxy::client(), proxy::http2_client()] {
        for (content_type, accept) in [(plain, plain), (plain, text), (text, text), (text, plain)] {
            let body = if content_type == text {
                // Each of two parts with an end of its own.
                format!(
                    "{}{}",
                    STANDARD.encode(&MESSAGE[..4]),
                    STANDARD.encode(&MESSAGE[4..])
                )
                .into()
            } else {
                Bytes::from_static(MESSAGE)
            };
            let headers = [
                ("content-type", content_type),
                ("accept", accept),
                ("origin", "https://a.example"),
            ];
            let got = stage.ask(&client, "POST", "/calls/echo", &headers, body).await;
            assert_eq!(got.status, 200, "{headers:?}");
            let written = if accept == text {
                "application/grpc-web-text+proto"
            } else {
                plain
            };
            assert_eq!(got.headers["content-type"], written, "{headers:?}");
            assert_eq!(got.headers["access-control-allow-origin"], "https://a.example");
            assert_eq!(got.headers["access-control-expose-headers"], "grpc-status");
            let body = if accept == text { read(&got.body) } else { got.body };
            assert_eq!(body, expected, "{headers:?}");
        }
        let headers = [("content-type", "application/grpc-web")];
        let got = stage
            .ask(
                &client,
                "POST",
                "/calls/sized",
                &headers,
                Bytes::from_static(MESSAGE),
            )
            .await;
        assert_eq!(got.body, expected, "its host says how long its own answer is");
        assert!(!got.headers.contains_key("content-length"));
        for (path, status) in [("/calls/only", "5"), ("/calls/error", "14"), ("/nobody", "14")] {
            let got = stage
                .ask(&client, "POST", path, &headers, Bytes::from_static(MESSAGE))
                .await;
            assert_eq!(got.status, 200, "{path}");
            assert_eq!(got.headers["grpc-status"], status, "{path}");
            assert_eq!(got.headers["content-type"], plain, "{path}");
            assert!(got.body.is_empty(), "{path}");
        }
        // What is no call of a browser stays what it is.
        let got = stage
            .ask(
                &client,
                "POST",
                "/calls/echo",
                &[("content-type", "text/plain")],
                Bytes::new(),
            )
            .await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (502, &b"no"[..]));
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base64_may_come_byte_by_byte_and_must_be_that() {
    let stage = Stage::start().await;
    for (body, expected) in [
        (STANDARD.encode(MESSAGE), "grpc-status:0\r\nx-count:10\r\n"),
        (STANDARD.encode(MESSAGE).replace('=', ""), ""),
        ("AAAA#AAA".to_owned(), ""),
    ] {
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = "POST /calls/echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/grpc-web-text\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for letter in body.chars() {
            // Who is refused need not be listened to.
            let _ = stream.write_all(format!("1\r\n{letter}\r\n").as_bytes()).await;
            tokio::task::yield_now().await;
        }
        let _ = stream.write_all(b"0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("it ends");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if expected.is_empty() {
            assert!(!answer.contains("grpc-status:0"), "{body:?}: {answer:?}");
        } else {
            assert!(answer.contains(expected), "{body:?}: {answer:?}");
        }
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_about_is_recoded_as_well() {
    let asking = ExtAuthz {
        services: Some(Services::GrpcService(service("service"))),
        transport_api_version: 2,
        with_request_body: Some(BufferSettings {
            max_request_bytes: 100,
            pack_as_bytes: true,
            ..BufferSettings::default()
        }),
        ..ExtAuthz::default()
    };
    let text = "application/grpc-web-text";
    let encoded = STANDARD.encode(MESSAGE);
    let expected = [MESSAGE, &trailers("grpc-status:0\r\nx-count:10\r\n")].concat();
    for is_first in [true, false] {
        let (address, asked) = authorizer::start().await;
        let mut filters = filters();
        let place = if is_first { 0 } else { filters.len() };
        filters.insert(place, named("authz", pack_any(asking.clone())));
        let stage = Stage::start_with(filters, address).await;
        for client in [proxy::client(), proxy::http2_client()] {
            let call = async |does| {
                let headers = [("content-type", text), ("accept", text), ("x-do", does)];
                stage
                    .ask(&client, "POST", "/calls/echo", &headers, encoded.clone().into())
                    .await
            };
            let got = call("change").await;
            assert_eq!(got.status, 200, "{is_first}");
            assert_eq!(got.headers["content-type"], "application/grpc-web-text+proto");
            assert_eq!(got.headers["x-told"], "1");
            assert_eq!(read(&got.body), expected, "{is_first}");
            // A service behind the filter sees a call, one before it what the browser sent.
            let told = asked.lock().unwrap().last().cloned().unwrap();
            let http = authorizer::http(&told);
            let (shown, body) = if is_first {
                (text, encoded.as_bytes())
            } else {
                ("application/grpc", MESSAGE)
            };
            assert_eq!(http.headers["content-type"], shown);
            assert_eq!(http.raw_body, body, "{is_first}");
            let got = call("deny").await;
            if is_first {
                assert_eq!((got.status.as_u16(), &got.body[..]), (401, &b"no"[..]));
            } else {
                assert_eq!(got.status, 200);
                assert_eq!(got.headers["grpc-status"], "16");
                assert_eq!(got.headers["content-type"], "application/grpc-web-text+proto");
            }
            let gzip = [("accept-encoding", "gzip"), ("x-do", "change")];
            let got = stage.ask(&client, "GET", "/text", &gzip, Bytes::new()).await;
            assert_eq!(got.headers["content-encoding"], "gzip", "{is_first}");
            assert_eq!(unzipped(&got.body), self::text(), "{is_first}");
        }
        stage.proxy.stop().await;
    }
}

fn unzipped(body: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_for_those_who_take_it() {
    let stage = Stage::start().await;
    for client in [proxy::client(), proxy::http2_client()] {
        let gzip: &[(&str, &str)] = &[("accept-encoding", "gzip")];
        // Method, path and head; whether it is compressed, and what caches are told.
        for (method, path, headers, compressed, vary) in [
            ("GET", "/text", gzip, true, &["Accept-Encoding"][..]),
            ("GET", "/text", &[], false, &["Accept-Encoding"]),
            (
                "GET",
                "/text",
                &[("accept-encoding", "gzip;q=0")],
                false,
                &["Accept-Encoding"],
            ),
            ("GET", "/tagged", gzip, true, &["origin", "Accept-Encoding"]),
            ("GET", "/image", gzip, false, &[]),
            ("GET", "/zipped", gzip, false, &[]),
            ("GET", "/short", gzip, false, &[]),
            ("GET", "/plain/text", gzip, false, &[]),
            ("HEAD", "/text", gzip, false, &["Accept-Encoding"]),
        ] {
            let got = stage.ask(&client, method, path, headers, Bytes::new()).await;
            let coding = got
                .headers
                .get("content-encoding")
                .is_some_and(|coding| coding == "gzip");
            assert_eq!(
                coding,
                compressed || path == "/zipped",
                "{method} {path} {headers:?}"
            );
            let told: Vec<&str> = got
                .headers
                .get_all("vary")
                .iter()
                .map(|line| line.to_str().unwrap())
                .collect();
            assert_eq!(told, vary, "{method} {path} {headers:?}");
            if compressed {
                assert_eq!(unzipped(&got.body), text(), "{path}");
                assert!(!got.headers.contains_key("content-length"), "{path}");
                assert!(!got.headers.contains_key("etag"), "{path}");
            } else if method == "GET" && path != "/short" {
                assert_eq!(String::from_utf8_lossy(&got.body), text(), "{path}");
            }
        }
        let got = stage.ask(&client, "GET", "/half", gzip, Bytes::new()).await;
        assert_eq!(got.body, b"broken", "half of it is not taken for all");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_slowly_is_not_held_back() {
    let stage = Stage::start().await;
    for client in [proxy::client(), proxy::http2_client()] {
        let url = format!("http://{}/pieces", stage.listener);
        let request = Request::get(url)
            .header("accept-encoding", "gzip")
            .body(Full::<Bytes>::default());
        let mut answer = client.request(request.unwrap()).await.unwrap().into_body();
        let mut zipped = Vec::new();
        for said in ["one", "onetwo", "onetwosix"] {
            let reading = async {
                loop {
                    let mut so_far = Vec::new();
                    // There is no end yet.
                    let _ = GzDecoder::new(&zipped[..]).read_to_end(&mut so_far);
                    if so_far == said.as_bytes() {
                        break;
                    }
                    let frame = answer.frame().await.unwrap().unwrap();
                    zipped.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
            };
            tokio::time::timeout(DEADLINE, reading)
                .await
                .expect("it has come on");
            tokio::time::sleep(Duration::from_millis(20)).await;
            stage.go.notify_one();
        }
        let rest = tokio::time::timeout(DEADLINE, answer.collect())
            .await
            .expect("it ends")
            .unwrap();
        zipped.extend_from_slice(&rest.to_bytes());
        assert_eq!(unzipped(&zipped), "onetwosix");
    }
    stage.proxy.stop().await;
}
