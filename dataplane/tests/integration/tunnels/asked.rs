//! What holds for requests holds for those that become connections: filters judge them, services are asked about them, and their
//! time is bounded.

use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as RbacAction;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ASKS, DEADLINE, Stage, Thresholds, ask_http2, echoes, receive, until, with_upgrades};
use crate::support::asking::service;
use crate::support::authorizer::{self, Asked};
use crate::support::mesh;
use crate::support::proxy::eventually;

fn with_filters(listener: Listener, filters: &[(&str, Any)]) -> Listener {
    let filters = filters.iter().map(|(name, config)| (*name, config.clone()));
    mesh::with_filters(with_upgrades(listener), filters)
}

/// Asks with as much of a body as there is.
fn authz() -> (&'static str, Any) {
    let asking = ExtAuthz {
        services: Some(Services::GrpcService(service("service"))),
        transport_api_version: 2,
        with_request_body: Some(BufferSettings {
            max_request_bytes: 8,
            allow_partial_message: true,
            pack_as_bytes: true,
        }),
        ..ExtAuthz::default()
    };
    ("authz", pack_any(asking))
}

/// Turns upgrades to `other` away.
fn rbac() -> (&'static str, Any) {
    let other = HeaderMatcher {
        name: "upgrade".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("other".to_owned())),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    };
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(Rule::Header(other)),
        }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    let rules = Rules {
        action: RbacAction::Deny.into(),
        policies: [("other".to_owned(), policy)].into(),
        ..Rules::default()
    };
    let rbac = Rbac {
        rules: Some(rules),
        ..Rbac::default()
    };
    ("rbac", pack_any(rbac))
}

/// With a service that is asked.
async fn start(filters: &[(&str, Any)]) -> (Stage, Asked) {
    let (service, asked) = authorizer::start().await;
    let made = |listener| with_filters(listener, filters);
    let stage = Stage::start_with(made, Thresholds::default()).await;
    stage
        .edge
        .put("service", &mesh::with_http2(mesh::cluster("service")));
    stage
        .edge
        .put("service", &mesh::endpoints("service", &[(service, 0)]));
    let request = format!("GET /no HTTP/1.1\r\n{ASKS}\r\n");
    eventually("the service is known", || async {
        stage.talk(&request).await.starts_with("HTTP/1.1 401 ")
    })
    .await;
    (stage, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_before_it_is_a_connection() {
    let (stage, asked) = start(&[authz(), rbac()]).await;
    let times = || asked.lock().unwrap().len();
    let next = "GET /smuggled/no HTTP/1.1\r\nhost: h\r\n\r\n";
    let other = ASKS.replace("websocket", "other");
    for (path, asks, rest, status, is_asked) in [
        ("/ws", ASKS, "x-do: deny\r\n\r\n", 401, true),
        ("/ws", ASKS, "x-do: break\r\n\r\n", 403, true),
        ("/no", ASKS, "x-do: allow\r\n\r\n", 401, true),
        // A filter behind it still sees what it is to become.
        ("/on/ws", &other, "x-do: allow\r\n\r\n", 403, true),
        // Nobody is asked about what cannot be.
        ("/off/ws", ASKS, "x-do: allow\r\n\r\n", 403, false),
        ("/ws", ASKS, "content-length: 5\r\n\r\nhello", 400, false),
        (
            "/ws",
            ASKS,
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            false,
        ),
    ] {
        let before = times();
        let request = format!("GET {path} HTTP/1.1\r\n{asks}{rest}{next}");
        let answer = stage.talk(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer:?}");
        assert!(answer.contains("connection: close"), "{request:?}: {answer:?}");
        assert_eq!(times() > before, is_asked, "{request:?}");
        assert!(!stage.has_seen("smuggled"), "{request:?}");
    }
    let mut stream = stage.connect().await;
    let request = format!("GET /ws?token=1 HTTP/1.1\r\n{ASKS}x-do: change\r\n\r\nfirst");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "hellofirst").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("x-told: 1\r\n"), "{answer}");
    for line in [
        "GET /ws?user=alice HTTP/1.1\r\n",
        "x-user: alice\r\n",
        "\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        assert!(stage.has_seen(line), "{line:?} did not come");
    }
    echoes(stream).await;
    let told = asked.lock().unwrap().last().cloned().unwrap();
    let headers = &authorizer::http(&told).headers;
    assert_eq!(headers["upgrade"], "websocket");
    assert_eq!(headers["connection"], "upgrade");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_about_streams_and_connect() {
    let (stage, asked) = start(&[authz()]).await;
    for (protocol, uri, first, method, path) in [
        (Some("websocket"), "http://h/ws", "hello", "GET", "/ws"),
        (None, "h:80", "", "CONNECT", ""),
    ] {
        let (answer, _sending) = ask_http2(&stage, protocol, uri).await;
        assert_eq!(answer.status(), 200, "{uri}");
        let got = receive(&mut answer.into_body(), first.len()).await.unwrap();
        assert_eq!(got, first.as_bytes(), "{uri}");
        let told = asked.lock().unwrap().last().cloned().unwrap();
        let http = authorizer::http(&told);
        assert_eq!((&*http.method, &*http.path), (method, path), "{uri}");
    }
    let request = "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\nx-do: deny\r\n\r\nfirst";
    let answer = stage.talk(request).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let mut stream = stage.connect().await;
    let request = "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\nx-do: change\r\n\r\nfirst";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "first").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("x-told: 1\r\n"), "{answer}");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_judge_it_like_other_requests() {
    let made = |listener| with_filters(listener, &[rbac()]);
    let stage = Stage::start_with(made, Thresholds::default()).await;
    let other = ASKS.replace("websocket", "other");
    let answer = stage
        .talk(&format!("GET /on/other HTTP/1.1\r\n{other}\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!stage.has_seen("GET /on/other"));
    let mut stream = stage.connect().await;
    let request = format!("GET /ws HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lasts_as_long_as_its_route_lets_a_stream() {
    let stage = Stage::start().await;
    let request = format!("GET /lasting/ws HTTP/1.1\r\n{ASKS}\r\n");
    let mut stream = stage.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    let (answer, _sending) = ask_http2(&stage, Some("websocket"), "http://h/lasting/ws").await;
    let mut body = answer.into_body();
    receive(&mut body, 5).await.unwrap();
    // Bytes that move do not make it longer.
    let moving = async {
        while stream.write_all(b"x").await.is_ok()
            && stream.read(&mut [0; 8]).await.is_ok_and(|read| read > 0)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, moving)
        .await
        .expect("it is broken off");
    let end = receive(&mut body, 1).await;
    assert!(end.is_err(), "{end:?} is no end");
    let took: Vec<f64> = stage
        .log(2)
        .await
        .iter()
        .filter_map(|line| line["duration_ms"].as_f64())
        .collect();
    assert!(
        took.iter().all(|took| (690.0..5_000.0).contains(took)),
        "{took:?}"
    );
    stage.proxy.stop().await;
}
