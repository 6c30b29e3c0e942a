//! Which chain serves a client: by the name it asks for, and while chains change.

use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Stage, ask_on, chain, with_tls};
use crate::support::certs::Authority;
use crate::support::proxy::eventually;
use crate::support::{certs, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_chooses_its_chain_and_certificate() {
    let authority = Authority::new();
    let one = authority.sign(&["one.example"]);
    let two = authority.sign(&["a.two.example", "b.a.two.example"]);
    let rest = authority.sign(&["rest.test", "other.test"]);
    let listener = |mut listener: Listener, with_rest: bool| {
        listener.filter_chains = vec![
            chain(&["one.example"], "one", &one),
            chain(&["*.two.example"], "two", &two),
        ];
        listener.default_filter_chain = with_rest.then(|| FilterChain {
            filter_chain_match: None,
            ..chain(&[], "rest", &rest)
        });
        listener
    };
    let stage = Stage::start(|plain| listener(plain, true)).await.ready().await;
    let client = authority.client(&[], None);
    for (name, expected) in [
        ("one.example", "one"),
        ("a.two.example", "two"),
        ("b.a.two.example", "two"),
        ("rest.test", "rest"),
        ("other.test", "rest"),
    ] {
        assert_eq!(stage.ask(name, &client).await.unwrap(), expected, "{name}");
    }
    let plain = mesh::listener("in", stage.listener, "in");
    stage.edge.put("in", &listener(plain, false));
    eventually("the default is gone", || async {
        stage.ask("rest.test", &client).await.is_err()
    })
    .await;
    assert_eq!(stage.ask("one.example", &client).await.unwrap(), "one");
    let line = "tombolo_connections_refused_total{listener=\"in\",why=\"no_filter_chain\"}";
    assert!(stage.metric(line).await.unwrap() > 0);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_of_everything_is_not_the_default() {
    let authority = Authority::new();
    let pair = authority.sign(&["one.example"]);
    let made = |mut listener: Listener| {
        let plain = |routes| {
            mesh::listener("in", "127.0.0.1:1".parse().unwrap(), routes)
                .filter_chains
                .remove(0)
        };
        listener.filter_chains = vec![chain(&["one.example"], "one", &pair), plain("two")];
        listener.default_filter_chain = Some(plain("rest"));
        listener
    };
    let stage = Stage::start(made).await.ready().await;
    let mut kept = TcpStream::connect(stage.listener).await.unwrap();
    assert_eq!(ask_on(&mut kept, "/x").await.unwrap(), "two");
    stage
        .edge
        .put("one", &mesh::routes("one", vec![mesh::answer("/", 200, "new")]));
    let client = authority.client(&[], None);
    eventually("another chain has changed", || async {
        stage.ask("one.example", &client).await.unwrap() == "new"
    })
    .await;
    for _ in 0..2 {
        assert_eq!(ask_on(&mut kept, "/x").await.unwrap(), "two");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_is_tightened_does_not_go_on_without_its_secret() {
    let authority = Authority::new();
    let stage = Stage::start(|listener| listener).await.ready().await;
    let asked = || async {
        let mut stream = TcpStream::connect(stage.listener).await?;
        ask_on(&mut stream, "/x").await
    };
    assert_eq!(asked().await.unwrap(), "a /x ");
    let plain = mesh::listener("in", stage.listener, "in");
    let tight = with_tls(plain, certs::context(vec![], &["cert"]));
    stage.edge.put("in", &tight);
    eventually("plain text is not served", || async { asked().await.is_err() }).await;
    stage
        .edge
        .put("cert", &certs::secret("cert", &authority.sign(&["a.example"])));
    let client = authority.client(&[], None);
    eventually("TLS is", || async {
        stage.ask("a.example", &client).await.is_ok()
    })
    .await;
    assert!(asked().await.is_err());
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_begins_late_finds_what_is_there_then() {
    let authority = Authority::new();
    let (before, after) = (authority.sign(&["a.example"]), authority.sign(&["a.example"]));
    let context = |pair| certs::context(vec![certs::certificate(pair)], &[]);
    let stage = Stage::start(|listener| with_tls(listener, context(&before)))
        .await
        .ready()
        .await;
    let certificate_of =
        |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let fresh = || authority.client(&[], None);
    let old = certificate_of(&stage.connect("a.example", &fresh()).await.unwrap());
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(stage.listener).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let plain = mesh::listener("in", stage.listener, "in");
    stage.edge.put("in", &with_tls(plain, context(&after)));
    for _ in 0..3 {
        eventually("the certificate is replaced", || async {
            certificate_of(&stage.connect("a.example", &fresh()).await.unwrap()) != old
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    for stream in silent {
        let name = ServerName::try_from("a.example").unwrap();
        let stream = TlsConnector::from(fresh()).connect(name, stream).await.unwrap();
        assert!(certificate_of(&stream) != old);
    }
    stage.proxy.stop().await;
}
