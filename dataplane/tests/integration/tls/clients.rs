//! Certificates of clients: who has to show one, who is believed, and what rules and hosts learn of it.

use envoy_types::pb::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use http::Request;
use http_body_util::Full;

use super::{Stage, ask_on, with_tls};
use crate::jwt::only;
use crate::support::certs::Authority;
use crate::support::proxy::eventually;
use crate::support::{certs, mesh, proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_word_for_its_certificate_is_not_seen() {
    let stage = Stage::start(|listener| listener).await.ready().await;
    let mut believed = mesh::answer("/", 200, "believed");
    believed.r#match.as_mut().unwrap().headers = vec![HeaderMatcher {
        name: "x-forwarded-client-cert".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    }];
    let table = mesh::routes("in", vec![believed, mesh::answer("/", 200, "unknown")]);
    stage.edge.put("in", &table);
    let asked = async |client: &proxy::HttpClient| {
        let request = Request::get(format!("http://{}/x", stage.listener))
            .header("X-Forwarded-Client-Cert", "URI=spiffe://a/b")
            .body(Full::default())
            .unwrap();
        proxy::send(client, request).await.unwrap().body
    };
    for client in [proxy::client(), proxy::http2_client()] {
        eventually("the routes are there", || async {
            asked(&client).await != "a /x "
        })
        .await;
        assert_eq!(asked(&client).await, "unknown");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_have_to_show_a_certificate_that_is_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.sign(&["a.example"]);
    let context = certs::with_clients(certs::context(vec![certs::certificate(&pair)], &[]), &authority);
    let stage = Stage::start(|listener| with_tls(listener, context))
        .await
        .ready()
        .await;
    let (known, stranger) = (authority.sign(&["client"]), other.sign(&["client"]));
    for (shown, served) in [(Some(&known), true), (Some(&stranger), false), (None, false)] {
        let client = authority.client(&[], shown);
        // In TLS 1.3 the client hears of it only after its side of the handshake. The second time it would have a ticket.
        for _ in 0..2 {
            let Ok(mut stream) = stage.connect("a.example", &client).await else {
                assert!(!served);
                continue;
            };
            assert_eq!(ask_on(&mut stream, "/x").await.is_ok(), served);
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "it is looked at again");
        }
    }
    assert_eq!(stage.host.requests(), 2);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_go_by_the_names_of_a_clients_certificate() {
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let mut context = certs::with_clients(certs::context(vec![certs::certificate(&pair)], &[]), &authority);
    context.require_client_certificate = None;
    let authenticated = |name: Option<&str>| {
        only(Identifier::Authenticated(Authenticated {
            principal_name: name.map(|name| StringMatcher {
                match_pattern: Some(string_matcher::MatchPattern::Suffix(name.to_owned())),
                ..Default::default()
            }),
        }))
    };
    let (web, other) = (authority.sign(&["web.shop"]), authority.sign(&["web.cart"]));
    for (rules, expected) in [
        (authenticated(None), [true, true, true]),
        (authenticated(Some(".shop")), [true, false, false]),
    ] {
        let listener = |listener| {
            with_tls(
                mesh::with_filters(listener, vec![("rbac", rules)]),
                context.clone(),
            )
        };
        let stage = Stage::start(listener).await.ready().await;
        for (shown, is_let) in [Some(&web), Some(&other), None].into_iter().zip(expected) {
            let answer = stage
                .ask("a.example", &authority.client(&[], shown))
                .await
                .unwrap();
            let words = if is_let { "a /x " } else { "RBAC: access denied" };
            assert_eq!(answer, words);
        }
        stage.proxy.stop().await;
    }
}
