//! What a proxy does and what the session answers, as tables: `C +a -b` is a response about clusters that puts `a` and
//! removes `b`.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use tombolo_compiler::proxy::{Listener, ProxyConfig};

use super::*;
use crate::encode::encode;
use crate::testing::{config, endpoints, origin, upstream};

/// A proxy that answers when it is told to.
#[derive(Default)]
struct Proxy {
    session: Session,
    unanswered: VecDeque<Response>,
}

impl Proxy {
    /// Subscribed to everything, and holding it.
    fn running(config: &ProxyConfig) -> Proxy {
        let mut proxy = Proxy::default();
        proxy.target(config, 1);
        let clusters: Vec<&str> = config.clusters.keys().map(String::as_str).collect();
        proxy.open(Kind::Cluster, &[]);
        proxy.open(Kind::Endpoints, &clusters);
        proxy.open(Kind::Listener, &[]);
        proxy.open(Kind::Routes, &["in"]);
        proxy.ack_all();
        assert_eq!(proxy.session.standing().running, Some((1, 1)));
        proxy
    }

    fn target(&mut self, config: &ProxyConfig, revision: u64) -> Vec<String> {
        let target = Target {
            version: (1, revision),
            resources: Arc::new(encode(config)),
        };
        self.on(AdsEvent::Target(target))
    }

    fn open(&mut self, kind: Kind, subscribe: &[&str]) -> Vec<String> {
        self.on(AdsEvent::Request(request(kind, subscribe)))
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[&str]) -> Vec<String> {
        let unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
        self.on(AdsEvent::Request(Request {
            unsubscribe,
            ..request(kind, &[])
        }))
    }

    /// Acknowledges the oldest response.
    fn ack(&mut self) -> Vec<String> {
        self.answer(None)
    }

    fn nack(&mut self, message: &str) -> Vec<String> {
        self.answer(Some(message.to_owned()))
    }

    fn ack_all(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while !self.unanswered.is_empty() {
            sent.extend(self.ack());
        }
        sent
    }

    fn answer(&mut self, refused: Option<String>) -> Vec<String> {
        let response = self.unanswered.pop_front().unwrap();
        self.on(AdsEvent::Request(Request {
            answer: Some(Answer {
                nonce: response.nonce,
                refused,
            }),
            ..request(response.kind, &[])
        }))
    }

    fn on(&mut self, event: AdsEvent) -> Vec<String> {
        let mut lines = Vec::new();
        for action in self.session.on(event) {
            match action {
                AdsAction::Send(response) => {
                    lines.push(line(&response));
                    self.unanswered.push_back(response);
                }
                AdsAction::Refuse(nonsense) => lines.push(nonsense.to_string()),
            }
        }
        lines
    }

    fn revision(&self) -> Option<u64> {
        self.session.standing().running.map(|version| version.1)
    }

    fn refused(&self) -> Vec<(String, String)> {
        let refusals = self.session.standing().refusals;
        refusals
            .into_iter()
            .map(|refusal| (refusal.name, refusal.reason))
            .collect()
    }
}

fn request(kind: Kind, subscribe: &[&str]) -> Request {
    Request {
        kind,
        subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        unsubscribe: vec![],
        initial_versions: BTreeMap::new(),
        answer: None,
    }
}

fn line(response: &Response) -> String {
    let letter = match response.kind {
        Kind::Cluster => "C",
        Kind::Endpoints => "E",
        Kind::Listener => "L",
        Kind::Routes => "R",
    };
    let put = response.put.iter().map(|put| format!(" +{}", put.name));
    let removed = response.removed.iter().map(|name| format!(" -{name}"));
    [letter.to_owned()]
        .into_iter()
        .chain(put)
        .chain(removed)
        .collect()
}

const NONE: [&str; 0] = [];

#[test]
fn clusters_and_endpoints_come_before_listeners_and_routes() {
    let mut proxy = Proxy::default();
    assert_eq!(proxy.open(Kind::Cluster, &[]), NONE, "the edge holds nothing yet");
    assert_eq!(proxy.target(&config(&["a", "b"]), 1), ["C +a +b"]);
    assert_eq!(proxy.open(Kind::Listener, &[]), NONE);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.open(Kind::Endpoints, &["a"]), ["E +a"]);
    assert_eq!(
        proxy.open(Kind::Endpoints, &["b"]),
        NONE,
        "one unanswered response per type"
    );
    assert_eq!(proxy.ack(), ["E +b"]);
    assert_eq!(proxy.ack(), ["L +in"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.open(Kind::Routes, &["in"]), ["R +in"]);
    assert_eq!(proxy.revision(), None, "not before all is acknowledged");
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), Some(1));
}

#[test]
fn invariant_3_make_before_break() {
    let mut proxy = Proxy::running(&config(&["a"]));
    assert_eq!(
        proxy.target(&config(&["b"]), 2),
        ["C +b"],
        "the old cluster and the old routes stay"
    );
    assert_eq!(
        proxy.ack(),
        NONE,
        "a cluster without endpoints is of no use to a route"
    );
    assert_eq!(proxy.open(Kind::Endpoints, &["b"]), ["E +b"]);
    assert_eq!(proxy.ack(), ["R +in"]);
    assert_eq!(proxy.ack(), ["C -a", "E -a"]);
    assert_eq!(proxy.revision(), Some(2));
    assert_eq!(proxy.ack_all(), NONE);
}

#[test]
fn invariant_3_a_listener_goes_when_the_one_that_replaces_it_is_there() {
    let mut after = config(&["a", "b"]);
    let listener = after.listeners.remove("in").unwrap();
    after.listeners.insert("new".into(), listener);
    let replacing = || {
        let mut proxy = Proxy::running(&config(&["a"]));
        assert_eq!(proxy.target(&after, 2), ["C +b"]);
        proxy.ack();
        proxy.open(Kind::Endpoints, &["b"]);
        assert_eq!(proxy.ack(), ["L +new", "R +in"]);
        proxy
    };
    let mut proxy = replacing();
    assert_eq!(proxy.ack(), ["L -in"]);
    proxy.ack_all();
    assert_eq!(proxy.revision(), Some(2));

    // One that cannot be had keeps nobody else open; it is tried again on what that one leaves.
    let mut proxy = replacing();
    assert_eq!(proxy.nack("new: address in use"), ["L -in"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.ack(), ["L +new"]);
    assert_eq!(proxy.nack("new: address in use"), NONE);
    assert_eq!(proxy.revision(), Some(1));
}

#[test]
fn what_did_not_change_is_not_sent() {
    let before = config(&["a", "b"]);
    let mut endpoints_of_a = before.clone();
    endpoints_of_a.endpoints.get_mut("a").unwrap().value = endpoints(&[&[9001, 9002]]);
    let mut cluster_b = before.clone();
    cluster_b.clusters.get_mut("b").unwrap().value = upstream(700);
    let mut listener = before.clone();
    listener.listeners.get_mut("in").unwrap().value = Listener {
        bind: "127.0.0.1:8081".parse().unwrap(),
        ..before.listeners["in"].value.clone()
    };
    for (after, sent) in [
        (before.clone(), &[][..]),
        (endpoints_of_a, &["E +a"]),
        // Envoy warms an updated cluster until its endpoints come again.
        (cluster_b, &["C +b", "E +b"]),
        (listener, &["L +in"]),
    ] {
        let mut proxy = Proxy::running(&before);
        assert_eq!(proxy.target(&after, 2), sent);
        assert_eq!(
            proxy.revision(),
            Some(if sent.is_empty() { 2 } else { 1 }),
            "{sent:?}"
        );
        proxy.ack_all();
        assert_eq!(proxy.revision(), Some(2), "{sent:?}");
    }
}

#[test]
fn a_refused_resource_is_held_back_until_it_changes() {
    let before = config(&["a"]);
    let mut proxy = Proxy::running(&before);
    let mut bad = before.clone();
    bad.clusters.get_mut("a").unwrap().value = upstream(1);
    assert_eq!(proxy.target(&bad, 2), ["C +a", "E +a"]);
    assert_eq!(
        proxy.nack("a: connect_timeout: too short"),
        NONE,
        "the same is not sent again"
    );
    proxy.ack_all();
    assert_eq!(
        proxy.target(&bad, 3),
        NONE,
        "nor for a newer revision with the same content"
    );
    assert_eq!(proxy.revision(), Some(1));
    assert_eq!(
        proxy.refused(),
        [("a".to_owned(), "connect_timeout: too short".to_owned())]
    );
    assert_eq!(proxy.session.standing().refusals[0].origins, [origin("a")]);

    let mut good = before.clone();
    good.clusters.get_mut("a").unwrap().value = upstream(900);
    assert_eq!(proxy.target(&good, 4), ["C +a", "E +a"]);
    assert_eq!(proxy.refused().len(), 1, "until the new one is acknowledged");
    proxy.ack_all();
    assert_eq!((proxy.revision(), proxy.refused()), (Some(4), vec![]));
}

#[test]
fn a_refusal_is_over_when_the_old_content_is_wanted_again() {
    let before = config(&["a"]);
    let mut proxy = Proxy::running(&before);
    let mut bad = before.clone();
    bad.clusters.get_mut("a").unwrap().value = upstream(1);
    proxy.target(&bad, 2);
    proxy.nack("a: no");
    proxy.ack_all();
    assert_eq!(proxy.target(&before, 3), NONE);
    assert_eq!((proxy.revision(), proxy.refused()), (Some(3), vec![]));
}

#[test]
fn neighbours_of_a_refused_resource_are_sent_again_without_it() {
    let mut proxy = Proxy::running(&config(&["a"]));
    assert_eq!(proxy.target(&config(&["a", "b", "c"]), 2), ["C +b +c"]);
    assert_eq!(proxy.nack("b: no"), ["C +c"]);
    proxy.ack();
    assert_eq!(proxy.open(Kind::Endpoints, &["c"]), ["E +c"]);
    assert_eq!(
        proxy.ack(),
        NONE,
        "the routes to b wait, and nothing is removed meanwhile"
    );
    assert_eq!(proxy.revision(), Some(1));

    // What it needs is gone: the routes go on without it, and so does the refusal.
    assert_eq!(proxy.target(&config(&["a", "c"]), 3), ["R +in"]);
    proxy.ack();
    assert_eq!((proxy.revision(), proxy.refused()), (Some(3), vec![]));
}

#[test]
fn a_refusal_without_a_name_is_about_the_whole_response_and_ends() {
    let mut proxy = Proxy::running(&config(&["a"]));
    assert_eq!(proxy.target(&config(&["a", "b", "c"]), 2), ["C +b +c"]);
    assert_eq!(proxy.nack("out of memory"), NONE);
    assert_eq!(proxy.refused().len(), 2);
}

#[test]
fn a_refused_route_is_shown_on_the_resource_that_it_came_from() {
    let mut proxy = Proxy::running(&config(&["a"]));
    proxy.target(&config(&["a", "b"]), 2);
    proxy.ack();
    proxy.open(Kind::Endpoints, &["b"]);
    assert_eq!(proxy.ack(), ["R +in"]);
    // Each careful route is two on the wire, so b's are the third and the fourth.
    assert_eq!(
        proxy.nack("in: virtual_hosts[0].routes[3].match: bad prefix"),
        NONE
    );
    assert_eq!(proxy.session.standing().refusals[0].origins, [origin("b")]);
    assert_eq!(proxy.revision(), Some(1));
}

#[test]
fn refused_routes_keep_the_clusters_that_the_old_ones_use() {
    let mut proxy = Proxy::running(&config(&["a"]));
    proxy.target(&config(&["b"]), 2);
    proxy.ack();
    proxy.open(Kind::Endpoints, &["b"]);
    assert_eq!(proxy.ack(), ["R +in"]);
    assert_eq!(proxy.nack("in: no"), NONE, "a is not removed");
}

#[test]
fn a_slow_proxy_gets_the_latest_and_nothing_between() {
    let mut proxy = Proxy::running(&config(&["a"]));
    let with = |port: u16| {
        let mut config = config(&["a"]);
        config.endpoints.get_mut("a").unwrap().value = endpoints(&[&[port]]);
        config
    };
    assert_eq!(proxy.target(&with(1), 2), ["E +a"]);
    for revision in 3..100 {
        assert_eq!(proxy.target(&with(revision as u16), revision), NONE);
    }
    assert_eq!(proxy.ack(), ["E +a"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), Some(99));
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_differs() {
    let old = encode(&config(&["a", "gone"]));
    let new = config(&["a"]);
    let held = |kind: Kind, subscribe: &[&str]| Request {
        initial_versions: old
            .of(kind)
            .map(|(name, encoded)| (name.clone(), encoded.version.clone()))
            .collect(),
        ..request(kind, subscribe)
    };
    let mut proxy = Proxy::default();
    proxy.target(&new, 7);
    assert_eq!(
        proxy.on(AdsEvent::Request(held(Kind::Cluster, &[]))),
        ["C"],
        "nothing is removed yet"
    );
    proxy.ack();
    assert_eq!(
        proxy.on(AdsEvent::Request(held(Kind::Endpoints, &["a", "gone"]))),
        NONE
    );
    assert_eq!(proxy.on(AdsEvent::Request(held(Kind::Listener, &[]))), ["L"]);
    assert_eq!(
        proxy.on(AdsEvent::Request(held(Kind::Routes, &["in"]))),
        ["R +in"]
    );
    proxy.ack();
    assert_eq!(proxy.ack(), ["C -gone", "E -gone"]);
    assert_eq!(proxy.revision(), Some(7));
}

#[test]
fn a_proxy_that_holds_everything_already_counts_at_once() {
    let config = config(&["a"]);
    let resources = encode(&config);
    let mut proxy = Proxy::default();
    proxy.target(&config, 7);
    for (kind, names) in [
        (Kind::Cluster, &[][..]),
        (Kind::Endpoints, &["a"]),
        (Kind::Listener, &[]),
        (Kind::Routes, &["in"]),
    ] {
        assert_eq!(proxy.revision(), None);
        let initial_versions = resources
            .of(kind)
            .map(|(name, encoded)| (name.clone(), encoded.version.clone()))
            .collect();
        proxy.on(AdsEvent::Request(Request {
            initial_versions,
            ..request(kind, names)
        }));
    }
    assert_eq!(proxy.revision(), Some(7));
}

#[test]
fn names_are_subscribed_unsubscribed_and_asked_for_again() {
    let mut proxy = Proxy::running(&config(&["a", "b"]));
    assert_eq!(
        proxy.open(Kind::Endpoints, &["nothing"]),
        ["E -nothing"],
        "it does not exist"
    );
    proxy.ack();
    assert_eq!(proxy.open(Kind::Endpoints, &["a"]), ["E +a"], "asked for again");
    proxy.ack();
    assert_eq!(proxy.unsubscribe(Kind::Endpoints, &["b", "nothing"]), NONE);
    let mut changed = config(&["a", "b"]);
    changed.endpoints.get_mut("b").unwrap().value = endpoints(&[&[9]]);
    assert_eq!(proxy.target(&changed, 2), NONE, "nobody asks for b");
    assert_eq!(proxy.open(Kind::Endpoints, &["b"]), ["E +b"]);
}

#[test]
fn a_name_that_is_asked_for_again_while_it_is_on_its_way_is_sent_again() {
    let mut proxy = Proxy::running(&config(&["a"]));
    let mut changed = config(&["a"]);
    changed.endpoints.get_mut("a").unwrap().value = endpoints(&[&[9]]);
    assert_eq!(proxy.target(&changed, 2), ["E +a"]);
    assert_eq!(proxy.open(Kind::Endpoints, &["a"]), NONE);
    assert_eq!(proxy.ack(), ["E +a"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), Some(2));
}

#[test]
fn wildcards_are_taken_in_both_spellings() {
    for subscribe in [&[][..], &["*"]] {
        let mut proxy = Proxy::default();
        proxy.target(&config(&["a"]), 1);
        assert_eq!(proxy.open(Kind::Cluster, subscribe), ["C +a"]);
        proxy.ack();
        assert_eq!(proxy.unsubscribe(Kind::Cluster, &["*"]), NONE);
        assert_eq!(proxy.target(&config(&["a", "b"]), 2), NONE);
    }
}

#[test]
fn a_wildcard_is_answered_although_there_is_nothing() {
    let mut proxy = Proxy::default();
    proxy.target(&ProxyConfig::default(), 1);
    assert_eq!(proxy.open(Kind::Cluster, &[]), ["C"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.open(Kind::Listener, &[]), ["L"]);
    assert_eq!(proxy.revision(), Some(1), "nothing was derived for it");
}

#[test]
fn a_wrong_nonce_is_refused() {
    let answer = |nonce: &str| Request {
        answer: Some(Answer {
            nonce: nonce.to_owned(),
            refused: None,
        }),
        ..request(Kind::Cluster, &[])
    };
    let mut proxy = Proxy::running(&config(&["a"]));
    let said = proxy.on(AdsEvent::Request(answer("1")));
    assert!(
        said[0].starts_with("response_nonce \"1\" is not that of the unanswered response"),
        "{said:?}"
    );
    let mut fresh = Proxy::default();
    fresh.target(&config(&["a"]), 1);
    fresh.open(Kind::Cluster, &[]);
    let said = fresh.on(AdsEvent::Request(answer("77")));
    assert!(said[0].contains("\"77\""), "{said:?}");
}

#[test]
fn a_large_set_comes_in_parts() {
    let mut large = ProxyConfig::default();
    for at in 0..6 {
        let mut big = endpoints(&[&[]]);
        let group = &mut big.priorities[0][0];
        let ports = (1..=12_000).map(|port: u16| endpoints(&[&[port]]).priorities[0][0].endpoints[0].clone());
        group.endpoints = ports.collect();
        large
            .endpoints
            .insert(format!("e{at}"), tombolo_compiler::finding::Traced::untraced(big));
    }
    let mut proxy = Proxy::default();
    proxy.target(&large, 1);
    let mut parts = proxy.open(Kind::Endpoints, &["e0", "e1", "e2", "e3", "e4", "e5"]);
    parts.extend(proxy.ack_all());
    assert!(parts.len() > 1, "{parts:?}");
    let names: Vec<&str> = parts.iter().flat_map(|part| part.split(' ').skip(1)).collect();
    assert_eq!(names, ["+e0", "+e1", "+e2", "+e3", "+e4", "+e5"]);
}
