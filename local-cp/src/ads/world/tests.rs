//! What a proxy says and what it is told, as tables: `C a b` is a response about clusters after which the proxy holds `a` and `b`
//! of them, `E a` one about endpoints that says `a` anew.
#![allow(clippy::unwrap_used)]

use prost::Message;
use tombolo_compiler::finding::Traced;
use tombolo_compiler::proxy::ProxyConfig;

use super::*;
use crate::encode::encode;
use crate::testing::{config, upstream};

/// A proxy that answers when it is told to.
struct Proxy {
    world: World,
    unanswered: VecDeque<WorldResponse>,
    /// What it asks for, and has taken, of each type.
    names: BTreeMap<Kind, Vec<String>>,
    versions: BTreeMap<Kind, String>,
}

impl Proxy {
    fn new() -> Proxy {
        Proxy {
            world: World::new(),
            unanswered: VecDeque::new(),
            names: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Subscribed to everything, and holding it.
    fn running(config: &ProxyConfig) -> Proxy {
        let mut proxy = Proxy::new();
        proxy.target(config, 1);
        proxy.open_all(config);
        proxy.ack_all();
        assert_eq!(proxy.revision(), Some(1));
        proxy
    }

    fn open_all(&mut self, config: &ProxyConfig) -> Vec<String> {
        let clusters: Vec<&str> = config.clusters.keys().map(String::as_str).collect();
        let asked: [(Kind, &[&str]); 4] = [
            (Kind::Cluster, &[]),
            (Kind::Endpoints, &clusters),
            (Kind::Listener, &[]),
            (Kind::Routes, &["in"]),
        ];
        asked
            .into_iter()
            .flat_map(|(kind, names)| self.ask(kind, names))
            .collect()
    }

    fn target(&mut self, config: &ProxyConfig, revision: u64) -> Vec<String> {
        let target = Target {
            version: (1, revision),
            resources: Arc::new(encode(config)),
        };
        let responses = self.world.on_target(target).unwrap();
        self.take(responses)
    }

    /// All that it wants, in answer to the last response that it has taken, or to none.
    fn ask(&mut self, kind: Kind, names: &[&str]) -> Vec<String> {
        self.names
            .insert(kind, names.iter().map(|name| (*name).to_owned()).collect());
        let nonce = self
            .world
            .sides
            .get(&kind)
            .map_or(String::new(), |side| side.nonce.clone());
        self.say(kind, nonce, None)
    }

    fn say(&mut self, kind: Kind, nonce: String, refused: Option<String>) -> Vec<String> {
        let request = WorldRequest {
            kind,
            names: self.names.get(&kind).cloned().unwrap_or_default(),
            version: self.versions.get(&kind).cloned().unwrap_or_default(),
            nonce,
            refused,
        };
        let responses = self.world.on_request(request).unwrap();
        self.take(responses)
    }

    /// Acknowledges the oldest response.
    fn ack(&mut self) -> Vec<String> {
        let response = self.unanswered.pop_front().unwrap();
        self.versions.insert(response.kind, response.version);
        self.say(response.kind, response.nonce, None)
    }

    fn nack(&mut self, message: &str) -> Vec<String> {
        let response = self.unanswered.pop_front().unwrap();
        self.say(response.kind, response.nonce, Some(message.to_owned()))
    }

    fn ack_all(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while !self.unanswered.is_empty() {
            told.extend(self.ack());
        }
        told
    }

    fn take(&mut self, responses: Vec<WorldResponse>) -> Vec<String> {
        let lines = responses.iter().map(line).collect();
        self.unanswered.extend(responses);
        lines
    }

    fn revision(&self) -> Option<u64> {
        self.world.standing().running.map(|version| version.1)
    }
}

/// By the name that stands first in each of them.
fn line(response: &WorldResponse) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    let letter = match response.kind {
        Kind::Cluster => "C",
        Kind::Endpoints => "E",
        Kind::Listener => "L",
        Kind::Routes => "R",
    };
    let names = response
        .resources
        .iter()
        .map(|any| Named::decode(any.value.as_slice()).unwrap().name);
    let words: Vec<String> = [letter.to_owned()].into_iter().chain(names).collect();
    words.join(" ")
}

fn with_timeout(mut config: ProxyConfig, cluster: &str, ms: u64) -> ProxyConfig {
    let traced = Traced::untraced(upstream(ms));
    config.clusters.insert(cluster.to_owned(), traced);
    config
}

const NONE: [&str; 0] = [];

#[test]
fn clusters_and_endpoints_come_before_listeners_and_routes() {
    let mut proxy = Proxy::new();
    assert_eq!(proxy.ask(Kind::Cluster, &[]), NONE, "the edge holds nothing yet");
    assert_eq!(proxy.ask(Kind::Listener, &[]), NONE);
    assert_eq!(proxy.target(&config(&["a", "b"]), 1), ["C a b"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.ask(Kind::Endpoints, &["a"]), ["E a"]);
    assert_eq!(proxy.ack(), NONE, "`b` has no endpoints yet");
    assert_eq!(proxy.ask(Kind::Endpoints, &["a", "b"]), ["E b"]);
    assert_eq!(proxy.ack(), ["L in"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.ask(Kind::Routes, &["in"]), ["R in"]);
    assert_eq!(proxy.revision(), None, "not before all is acknowledged");
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), Some(1));
}

#[test]
fn invariant_3_make_before_break() {
    let mut proxy = Proxy::running(&config(&["a"]));
    assert_eq!(proxy.target(&config(&["b"]), 2), ["C a b"], "`a` is not left out");
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.ask(Kind::Endpoints, &["a", "b"]), ["E b"]);
    assert_eq!(proxy.ack(), ["R in"]);
    assert_eq!(proxy.ack(), ["C b"], "endpoints need no farewell");
    proxy.ack_all();
    assert_eq!(proxy.revision(), Some(2));
}

#[test]
fn what_is_refused_stays_as_it_was_and_is_not_sent_again() {
    let both = config(&["a", "b"]);
    let mut proxy = Proxy::running(&both);
    let bad = with_timeout(both.clone(), "a", 1);
    assert_eq!(
        proxy.target(&bad, 2),
        ["C a b", "E a"],
        "endpoints end its warming"
    );
    let sent = proxy.unanswered[0].resources.clone();
    assert_eq!(proxy.nack("a: too short"), NONE);
    proxy.ack_all();
    let refusals = proxy.world.standing().refusals;
    assert_eq!((refusals[0].name.as_str(), refusals.len()), ("a", 1));
    // Another cluster changes: what goes beside it of `a` is what the proxy took.
    let other = with_timeout(bad.clone(), "b", 900);
    assert_eq!(proxy.target(&other, 3), ["C a b", "E b"]);
    let again = &proxy.unanswered[0].resources;
    let taken = encode(&both).get(Kind::Cluster, "a").unwrap().body.clone();
    assert_ne!(sent[0], taken);
    assert_eq!(again[0], taken);
    proxy.ack_all();
    assert_eq!(proxy.revision(), Some(1));

    // A new one that is refused does not appear at all.
    let mut proxy = Proxy::running(&config(&["b"]));
    assert_eq!(proxy.target(&config(&["a", "b"]), 2), ["C a b"]);
    assert_eq!(proxy.nack("a: no"), NONE);
    let next = with_timeout(config(&["a", "b"]), "b", 900);
    assert_eq!(proxy.target(&next, 3)[0], "C b");
}

#[test]
fn an_answer_to_a_response_that_is_not_the_last_is_none() {
    let mut proxy = Proxy::running(&config(&["a"]));
    assert_eq!(proxy.target(&config(&["a", "b"]), 2), ["C a b"]);
    proxy.ack();
    // Names that were written before the response was read.
    proxy.names.insert(Kind::Endpoints, vec!["b".to_owned()]);
    assert_eq!(proxy.say(Kind::Endpoints, String::new(), None), NONE);
    let nonce = "77".to_owned();
    assert_eq!(proxy.say(Kind::Endpoints, nonce, Some("no".to_owned())), NONE);
    assert!(proxy.world.standing().refusals.is_empty());
    assert_eq!(proxy.ask(Kind::Endpoints, &["b"]), ["E b"]);
}

#[test]
fn who_comes_back_is_not_told_again_what_it_holds() {
    let both = config(&["a", "b"]);
    let before = Proxy::running(&both);
    let back = || Proxy {
        versions: before.versions.clone(),
        ..Proxy::new()
    };
    let mut proxy = back();
    proxy.open_all(&both);
    // A response about endpoints or routes is not about all, so its version proves nothing.
    assert_eq!(proxy.target(&both, 1), ["E a b"]);
    assert_eq!(proxy.ack(), ["R in"]);
    proxy.ack_all();
    assert_eq!(proxy.revision(), Some(1));

    // Who asks by name is told again: that it holds something else of that version is not excluded.
    let mut proxy = back();
    proxy.target(&both, 1);
    assert_eq!(proxy.ask(Kind::Cluster, &["a", "b"]), ["C a b"]);

    // Clusters have changed meanwhile: all of them are said.
    let mut proxy = back();
    let changed = with_timeout(both.clone(), "a", 900);
    proxy.open_all(&changed);
    assert_eq!(proxy.target(&changed, 2)[0], "C a b");
}

#[test]
fn who_comes_back_keeps_its_listeners_until_all_can_be_said() {
    let mut two = config(&["a", "b"]);
    // A second listener, whose table sends nowhere and so needs nothing.
    let mut table = two.route_tables["in"].clone();
    table.value.hosts.clear();
    two.route_tables.insert("idle".to_owned(), table);
    let mut listener = two.listeners["in"].clone();
    listener.value.route_table = "idle".to_owned();
    two.listeners.insert("idle".to_owned(), listener);

    let mut proxy = Proxy::new();
    proxy.target(&two, 1);
    assert_eq!(proxy.ask(Kind::Cluster, &[]), ["C a b"]);
    assert_eq!(proxy.ask(Kind::Listener, &[]), NONE, "`in` would be gone");
    proxy.ack();
    assert_eq!(proxy.ask(Kind::Endpoints, &["a", "b"]), ["E a b"]);
    assert_eq!(proxy.ack(), ["L idle in"]);

    // What will never come is not waited for.
    let mut proxy = Proxy::new();
    proxy.target(&two, 1);
    proxy.ask(Kind::Cluster, &[]);
    assert_eq!(proxy.ask(Kind::Listener, &[]), NONE);
    assert_eq!(proxy.nack("a: no"), ["C b"]);
    proxy.ack();
    proxy.ask(Kind::Endpoints, &["b"]);
    assert_eq!(proxy.ack(), ["L idle"]);
}

#[test]
fn who_asks_by_name_runs_a_listener_with_its_routes() {
    let mut proxy = Proxy::new();
    proxy.target(&config(&["a"]), 1);
    assert_eq!(proxy.ask(Kind::Listener, &["in"]), ["L in"]);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), None, "its routes are not even asked for");
    assert_eq!(proxy.ask(Kind::Routes, &["in"]), ["R in"]);
    assert_eq!(proxy.revision(), None);
    assert_eq!(proxy.ack(), NONE);
    assert_eq!(proxy.revision(), Some(1));
}

#[test]
fn names_that_are_left_out_are_given_up() {
    let mut proxy = Proxy::new();
    proxy.target(&config(&["a", "b", "c"]), 1);
    assert_eq!(proxy.ask(Kind::Cluster, &["a", "b"]), ["C a b"]);
    proxy.ack();
    assert_eq!(proxy.ask(Kind::Cluster, &["b", "c"]), ["C b c"]);
    proxy.ack();
    assert_eq!(proxy.ask(Kind::Cluster, &["b"]), NONE);
    assert_eq!(
        proxy.ask(Kind::Cluster, &[]),
        NONE,
        "nothing any more, and not everything"
    );
    assert_eq!(proxy.target(&config(&["a", "b", "d"]), 2), NONE);
    assert_eq!(proxy.ask(Kind::Cluster, &["nobody"]), ["C"], "it does not exist");
    proxy.ack();
    assert_eq!(proxy.ask(Kind::Cluster, &["*"]), ["C a b d"]);
}
