//! Requests that wait for what an authorization service says of them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::ready;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    Header as HashedHeader, PolicySpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    BufferSettings, CheckSettings, ExtAuthz, ExtAuthzPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{Any, Duration as PbDuration};
use envoy_types::util::pack_any;
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::jwt::{Issuer, authentication, only_group};
use crate::support::asking::{self, Stage};
use crate::support::authorizer::{self, Asked};
use crate::support::mesh;
use crate::support::proxy::{client, eventually, http2_client};
use crate::support::upstream::Upstream;

const NAME: &str = "envoy.filters.http.ext_authz";

fn asking(cluster: &str) -> ExtAuthz {
    ExtAuthz {
        services: Some(Services::GrpcService(asking::service(cluster))),
        transport_api_version: 2,
        ..ExtAuthz::default()
    }
}

fn says(mut route: Route, said: Override) -> Route {
    let said = ExtAuthzPerRoute {
        r#override: Some(said),
    };
    route
        .typed_per_filter_config
        .insert(NAME.to_owned(), pack_any(said));
    route
}

async fn start(filters: Vec<(&str, Any)>, routes: Vec<Route>) -> (Stage, Asked) {
    let (service, asked) = authorizer::start().await;
    (
        Stage::start(filters, mesh::routes("in", routes), service).await,
        asked,
    )
}

fn times(asked: &Asked) -> usize {
    asked.lock().unwrap().len()
}

fn to_all() -> Vec<Route> {
    vec![mesh::to_cluster("/", "a")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_what_becomes_of_a_request() {
    let (stage, _) = start(vec![(NAME, pack_any(asking("service")))], to_all()).await;
    for client in [client(), http2_client()] {
        for (does, status, body, reaches) in [
            ("allow", 200, "a /p 123", true),
            ("deny", 401, "no", false),
            ("forbid", 403, "", false),
            ("say-nothing", 200, "a /p 123", true),
            ("change", 200, "a /p 123", true),
            ("hang", 403, "", false),
            ("break", 403, "", false),
            ("steer", 500, "", false),
            ("flood", 500, "", false),
            ("swell", 500, "", false),
            ("flood-answer", 500, "", false),
            // More than is read of an answer: it was one, and may have been a denial.
            ("talk", 500, "", false),
        ] {
            let (before, began) = (stage.upstream.requests(), Instant::now());
            let answer = stage.ask(&client, "/p", &[("x-do", does)], b"123").await;
            let got = (
                answer.status.as_u16(),
                &*answer.body,
                stage.upstream.requests() > before,
            );
            assert_eq!(got, (status, body, reaches), "{does}");
            assert!(began.elapsed() < Duration::from_secs(5), "{does}");
        }
        let denied = stage.ask(&client, "/p", &[("x-do", "deny")], b"").await;
        assert_eq!(denied.headers["www-authenticate"], "Basic");
        let cookies: Vec<_> = denied.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a", "b"]);
        assert_eq!(denied.headers["content-length"], "2");
        let call = [("x-do", "deny"), ("content-type", "application/grpc")];
        let called = stage.ask(&client, "/p", &call, b"").await;
        assert_eq!(called.status, 200);
        assert_eq!(called.headers["grpc-status"], "16");
        assert_eq!(called.headers["grpc-message"], "no");
        let shown = [("x-do", "show"), ("content-type", "application/grpc")];
        let called = stage.ask(&client, "/p", &shown, b"").await;
        let types: Vec<_> = called.headers.get_all("content-type").iter().collect();
        assert_eq!(types, ["application/grpc"], "a call is answered as one");
    }
    let metrics = stage.proxy.metrics().await;
    let counted = |line: &str| metrics.lines().any(|counted| counted.starts_with(line));
    assert!(
        counted("tombolo_requests_flagged_total{listener=\"in\",cluster=\"-\",flag=\"UAEX\"} "),
        "{metrics}"
    );
    assert!(counted(
        "tombolo_requests_total{listener=\"in\",cluster=\"service\",code_class=\"2xx\"} "
    ));
    assert!(counted(
        "tombolo_requests_total{listener=\"in\",cluster=\"service\",code_class=\"5xx\"} "
    ));
}

/// Of who it is, what was asked last counts, and not what the client says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_logged_as_a_service_has_changed_them() {
    let (stage, _) = start(vec![(NAME, pack_any(asking("service")))], to_all()).await;
    let mut expected = Vec::new();
    for client in [client(), http2_client()] {
        for (does, line) in [
            ("allow", "/p?token=1&b=2 mallory 10.0.0.1,127.0.0.1"),
            ("change", "/p?b=2&user=alice alice 10.0.0.1,127.0.0.1"),
            ("deny", "/p?token=1&b=2 mallory 10.0.0.1,127.0.0.1"),
        ] {
            let lines = [
                ("x-do", does),
                ("x-user", "mallory"),
                ("x-forwarded-for", "10.0.0.1"),
            ];
            stage.ask(&client, "/p?token=1&b=2", &lines, b"").await;
            expected.push(line);
        }
    }
    eventually("all are logged", || async {
        stage.logged().len() == expected.len()
    })
    .await;
    // By whichever worker.
    let mut logged = stage.logged();
    logged.sort();
    expected.sort();
    assert_eq!(logged, expected);
}

/// Those that belong together by what a service says of them go to one host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_chosen_by_what_a_service_has_said() {
    let mut route = mesh::to_cluster("/", "a");
    if let Some(Action::Route(action)) = &mut route.action {
        action.hash_policy = vec![HashPolicy {
            policy_specifier: Some(PolicySpecifier::Header(HashedHeader {
                header_name: "x-user".to_owned(),
                ..HashedHeader::default()
            })),
            terminal: true,
        }];
    }
    let (stage, _) = start(vec![(NAME, pack_any(asking("service")))], vec![route]).await;
    let mut hosts = Vec::new();
    for name in ["b", "c", "d", "e"] {
        hosts.push(Upstream::start(name).await);
    }
    let mut cluster = mesh::cluster("a");
    cluster.lb_policy = LbPolicy::RingHash as i32;
    stage.edge.put("a", &cluster);
    let addresses: Vec<_> = hosts.iter().map(|host| (host.address, 0)).collect();
    stage.edge.put("a", &mesh::endpoints("a", &addresses));
    let chosen = async |does| {
        let mut chosen = BTreeSet::new();
        for user in 0..20 {
            let lines = [("x-do", does), ("x-user", &*user.to_string())];
            let answer = stage.ask(&client(), "/p", &lines, b"").await;
            chosen.insert(answer.body.split(' ').next().unwrap_or_default().to_owned());
        }
        chosen
    };
    eventually("each user has one of the other hosts", || async {
        let chosen = chosen("allow").await;
        chosen.len() > 1 && chosen.iter().all(|name| ["b", "c", "d", "e"].contains(&&**name))
    })
    .await;
    assert_eq!(chosen("change").await.len(), 1, "they are all one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_changes_a_request_and_not_its_frame() {
    let (stage, asked) = start(vec![(NAME, pack_any(asking("service")))], to_all()).await;
    for client in [client(), http2_client()] {
        let mut lines = vec![
            ("x-do", "change"),
            ("x-user", "mallory"),
            ("x-list", "1"),
            ("authorization", "secret"),
        ];
        let is_http1 = lines.len() == 4 && times(&asked) == 0;
        if is_http1 {
            // Who names a header here would have it taken out behind the service's back.
            lines.push(("connection", "x-user"));
        }
        let answer = stage.ask(&client, "/p?token=1&b=2", &lines, b"123").await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "a /p 123"));
        assert_eq!(answer.headers["x-told"], "1");
        assert_eq!(answer.headers["content-length"], "8");
        let got = stage.upstream.last_headers();
        assert_eq!(got["x-user"], "alice");
        assert_eq!(got["x-list"], "1,2");
        assert!(!got.contains_key("authorization"), "{got:?}");
        assert!(!got.contains_key("connection"), "{got:?}");
        assert_eq!(got["host"], stage.listener.to_string());
        assert_eq!(
            got.get("content-length")
                .map_or("3", |said| said.to_str().unwrap()),
            "3"
        );
        let told = asked.lock().unwrap().last().cloned().unwrap();
        let http = authorizer::http(&told);
        assert_eq!((&*http.method, &*http.path), ("POST", "/p?token=1&b=2"));
        assert_eq!(http.host, stage.listener.to_string());
        assert_eq!(http.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(http.headers["x-request-id"], http.id);
        assert_eq!(http.headers.contains_key("x-user"), !is_http1);
        assert!(!http.headers.contains_key("connection"));
    }
}

/// As many lines as a client may send are as many for whoever lets it pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_head_goes_on() {
    let (stage, _) = start(vec![(NAME, pack_any(asking("service")))], to_all()).await;
    // With `host`, `content-length` and `x-do` they are 100.
    let names: Vec<String> = (0..97).map(|n| format!("x-{n}")).collect();
    for client in [client(), http2_client()] {
        for (does, status) in [("allow", 200), ("change", 200), ("flood", 500)] {
            let mut lines: Vec<_> = names.iter().map(|name| (&**name, "1")).collect();
            lines.push(("x-do", does));
            let answer = stage.ask(&client, "/", &lines, b"1").await;
            assert_eq!(answer.status.as_u16(), status, "{does}");
        }
    }
}

/// Who has not sent all of a request is told so, and else that it took too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_shown_may_take_as_long_as_its_route() {
    let shown = ExtAuthz {
        with_request_body: Some(BufferSettings {
            max_request_bytes: 8,
            ..BufferSettings::default()
        }),
        ..asking("service")
    };
    let mut route = mesh::to_cluster("/", "a");
    if let Some(Action::Route(action)) = &mut route.action {
        action.max_stream_duration = Some(MaxStreamDuration {
            max_stream_duration: Some(PbDuration {
                seconds: 0,
                nanos: 400_000_000,
            }),
            ..MaxStreamDuration::default()
        });
    }
    let (stage, _) = start(vec![(NAME, pack_any(shown))], vec![route]).await;
    for (does, body, expected) in [
        ("allow", "1234", "200"),
        ("allow", "12", "408"),
        ("hang", "1234", "504"),
    ] {
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        let request = format!(
            "POST / HTTP/1.1\r\nhost: h\r\nx-do: {does}\r\nconnection: close\r\ncontent-length: 4\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer[9..], expected.as_bytes(), "{does} {body}");

        let come = stream::once(ready(Ok::<_, Infallible>(Frame::data(Bytes::from_static(
            body.as_bytes(),
        )))));
        let body = match body.len() {
            4 => come.boxed(),
            _ => come.chain(stream::pending()).boxed(),
        };
        let request = Request::post(format!("http://{}/", stage.listener)).header("x-do", does);
        let request = request.body(StreamBody::new(body)).unwrap();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.status().as_str(), expected, "{does}, over HTTP/2");
    }
}

/// A token, a service and a rule about what the token says: each knows what those before it have found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_behind_a_service_know_what_tokens_say() {
    let issuer = Issuer::start().await;
    let filters = vec![
        ("jwt", authentication(issuer.local())),
        (NAME, pack_any(asking("service"))),
        ("rbac", only_group("dev")),
    ];
    let (stage, asked) = start(filters, to_all()).await;
    let (dev, ops) = (json!({"groups": ["dev"]}), json!({"groups": ["ops"]}));
    for client in [client(), http2_client()] {
        for (claims, does, status, is_asked) in [
            (Some(&dev), "allow", 200, true),
            (Some(&dev), "deny", 401, true),
            (Some(&ops), "allow", 403, true),
            (Some(&ops), "deny", 401, true),
            (None, "allow", 401, false),
        ] {
            let token = claims.map(|claims| issuer.token(claims)).unwrap_or_default();
            let (before, reached) = (times(&asked), stage.upstream.requests());
            let lines = [("authorization", &*token), ("x-do", does), ("x-user", "mallory")];
            let answer = stage.ask(&client, "/", &lines, b"").await;
            let got = (answer.status.as_u16(), times(&asked) > before);
            assert_eq!(got, (status, is_asked), "{claims:?} {does}");
            assert_eq!(
                stage.upstream.requests() > reached,
                status == 200,
                "{claims:?} {does}"
            );
            if is_asked {
                let told = asked.lock().unwrap().last().cloned().unwrap();
                let headers = &authorizer::http(&told).headers;
                // Who it is, by the token and by nobody else.
                assert_eq!(headers["x-user"], "anna");
                assert!(!headers.contains_key("authorization"), "{headers:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_service_it_is_as_the_listener_says() {
    let allow = ExtAuthz {
        failure_mode_allow: true,
        failure_mode_allow_header_add: true,
        ..asking("dead")
    };
    let (stage, _) = start(vec![(NAME, pack_any(allow))], to_all()).await;
    let answer = stage.ask(&client(), "/", &[], b"1").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "a / 1"));
    assert_eq!(
        stage.upstream.last_headers()["x-envoy-auth-failure-mode-allowed"],
        "true"
    );
    for cluster in ["dead", "unknown", "a"] {
        let (stage, _) = start(vec![(NAME, pack_any(asking(cluster)))], to_all()).await;
        let answer = stage.ask(&client(), "/", &[], b"1").await;
        assert_eq!(
            (answer.status.as_u16(), stage.upstream.requests()),
            (403, 0),
            "{cluster}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_sees_the_begin_of_a_body() {
    let shown = |partial| ExtAuthz {
        with_request_body: Some(BufferSettings {
            max_request_bytes: 8,
            allow_partial_message: partial,
            pack_as_bytes: true,
        }),
        ..asking("service")
    };
    let large = vec![b'x'; 300_000];
    for (partial, body, status, is_partial) in [
        (false, &b"123"[..], 200, "false"),
        (false, b"12345678", 200, "false"),
        (false, b"123456789", 413, ""),
        (false, &large, 413, ""),
        (true, b"123", 200, "false"),
        (true, b"123456789", 200, "true"),
        (true, &large, 200, "true"),
    ] {
        let (stage, asked) = start(vec![(NAME, pack_any(shown(partial)))], to_all()).await;
        for client in [client(), http2_client()] {
            let before = times(&asked);
            let answer = stage.ask(&client, "/p", &[], body).await;
            let said = format!("{partial} {}", body.len());
            assert_eq!(answer.status.as_u16(), status, "{said}");
            assert_eq!(times(&asked) > before, status == 200, "{said}");
            if status != 200 {
                continue;
            }
            assert_eq!(
                answer.body,
                format!("a /p {}", String::from_utf8_lossy(body)),
                "{said}"
            );
            let told = asked.lock().unwrap().last().cloned().unwrap();
            let http = authorizer::http(&told);
            assert_eq!(http.raw_body, &body[..body.len().min(8)], "{said}");
            assert_eq!(http.headers["x-envoy-auth-partial-body"], is_partial, "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_asks_otherwise_or_not_at_all() {
    let extended = Override::CheckSettings(CheckSettings {
        context_extensions: [("k".to_owned(), "v".to_owned())].into(),
        ..CheckSettings::default()
    });
    let routes = vec![
        says(mesh::to_cluster("/open", "a"), Override::Disabled(true)),
        says(mesh::to_cluster("/extended", "a"), extended),
        says(mesh::answer("/said", 204, ""), Override::Disabled(false)),
    ];
    let (stage, asked) = start(vec![(NAME, pack_any(asking("service")))], routes).await;
    for (path, does, status, is_asked) in [
        ("/open", "deny", 200, false),
        ("/extended", "allow", 200, true),
        ("/extended", "deny", 401, true),
        ("/said", "allow", 204, true),
        ("/said", "deny", 401, true),
        ("/nowhere", "deny", 404, false),
    ] {
        let before = times(&asked);
        let answer = stage.ask(&client(), path, &[("x-do", does)], b"").await;
        let got = (answer.status.as_u16(), times(&asked) > before);
        assert_eq!(got, (status, is_asked), "{path} {does}");
        if path == "/extended" {
            let told = asked.lock().unwrap().last().cloned().unwrap();
            assert_eq!(told.context_extensions["k"], "v");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_behind_a_service_judge_what_it_has_said() {
    let alice = HeaderMatcher {
        name: "x-user".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("alice".to_owned())),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    };
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(Rule::Header(alice)),
        }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    let rbac = Rbac {
        rules: Some(Rules {
            policies: [("alice".to_owned(), policy)].into(),
            ..Rules::default()
        }),
        ..Rbac::default()
    };
    let (authz, rbac) = ((NAME, pack_any(asking("service"))), ("rbac", pack_any(rbac)));
    for (filters, does, user, status, is_asked) in [
        (vec![authz.clone(), rbac.clone()], "change", "mallory", 200, true),
        (vec![authz.clone(), rbac.clone()], "allow", "mallory", 403, true),
        (vec![rbac.clone(), authz.clone()], "change", "mallory", 403, false),
        (vec![rbac, authz], "deny", "alice", 401, true),
    ] {
        let (stage, asked) = start(filters, to_all()).await;
        let answer = stage
            .ask(&client(), "/", &[("x-do", does), ("x-user", user)], b"")
            .await;
        let got = (answer.status.as_u16(), times(&asked) > 0);
        assert_eq!(got, (status, is_asked), "{does} {user}");
    }
}
