//! What a request counts as for a limit: a list of names and values, made from its head by the actions of a route. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderName;

use crate::config::Forward;
use crate::matcher::{HeaderMatcher, Of, ParameterMatcher, RequestView, Subject};

/// One descriptor of a route's requests; there is none of a request for which an action has nothing to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    /// Which of a listener's filters it is for.
    pub(crate) stage: u32,
    /// In the order of their entries.
    pub(crate) actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// The same for all.
    Key(Entry),
    /// Where the request goes, if that is not drawn.
    Destination,
    /// The first line of a header.
    Header {
        of: Of,
        key: Box<str>,
        /// Whether a request without it has this entry less, or no descriptor.
        skips: bool,
    },
    Client,
    /// The block of addresses that the client is in.
    ClientBlock {
        v4_bits: u8,
        v6_bits: u8,
    },
    /// If the headers match, or if they do not.
    Headers {
        matchers: Vec<HeaderMatcher>,
        expected: bool,
        entry: Entry,
    },
    Parameters {
        matchers: Vec<ParameterMatcher>,
        expected: bool,
        entry: Entry,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) value: Box<str>,
}

/// What a route and its host say of their requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RouteLimits {
    pub(crate) own: Vec<Described>,
    /// Of the host.
    pub(crate) outer: Arc<[Described]>,
    /// Whether the host's count beside the route's own.
    pub(crate) includes_outer: bool,
}

/// Whether a host's descriptors count on a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outer {
    /// Where the route has none.
    #[default]
    Default,
    Included,
    Ignored,
}

impl RouteLimits {
    /// Those of `stage` that concern the route.
    pub(crate) fn of(&self, stage: u32, outer: Outer) -> impl Iterator<Item = &Described> {
        let outer_counts = match outer {
            Outer::Included => true,
            Outer::Default => self.includes_outer || self.own.is_empty(),
            Outer::Ignored => self.includes_outer,
        };
        let outer = self.outer.iter().filter(move |_| outer_counts);
        self.own
            .iter()
            .chain(outer)
            .filter(move |described| described.stage == stage)
    }
}

impl Described {
    pub(crate) fn entries(
        &self,
        subject: &Subject<'_, impl RequestView>,
        forward: Option<&Forward>,
    ) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            entries.extend(action.entry(subject, forward)?);
        }
        (!entries.is_empty()).then_some(entries)
    }
}

impl Action {
    /// Its entry, if it has one; `None` where the request has no descriptor for it.
    fn entry(
        &self,
        subject: &Subject<'_, impl RequestView>,
        forward: Option<&Forward>,
    ) -> Option<Option<Entry>> {
        let entry = match self {
            Self::Key(entry) => entry.clone(),
            Self::Destination => match forward?.targets.as_slice() {
                [only] => Entry::new("destination_cluster", &only.cluster),
                _ => return None,
            },
            Self::Header { of, key, skips } => match of.first(subject) {
                Some(value) => Entry::new(key, &String::from_utf8_lossy(&value)),
                None => return skips.then_some(None),
            },
            Self::Client => Entry::new("remote_address", &subject.client.address.to_string()),
            Self::ClientBlock { v4_bits, v6_bits } => Entry::new(
                "masked_remote_address",
                &block(subject.client.address, *v4_bits, *v6_bits),
            ),
            Self::Headers {
                matchers,
                expected,
                entry,
            } => {
                let matched = matchers.iter().all(|matcher| matcher.matches(subject));
                (matched == *expected).then(|| entry.clone())?
            }
            Self::Parameters {
                matchers,
                expected,
                entry,
            } => {
                let query = subject.request.query().unwrap_or_default();
                let matched = matchers.iter().all(|matcher| matcher.matches(query));
                (matched == *expected).then(|| entry.clone())?
            }
        };
        Some(Some(entry))
    }
}

impl Entry {
    pub(crate) fn new(key: &str, value: &str) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}

fn block(client: IpAddr, v4_bits: u8, v6_bits: u8) -> String {
    match client {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4_bits)).unwrap_or(0);
            format!(
                "{}/{v4_bits}",
                std::net::Ipv4Addr::from_bits(address.to_bits() & mask)
            )
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6_bits)).unwrap_or(0);
            format!(
                "{}/{v6_bits}",
                std::net::Ipv6Addr::from_bits(address.to_bits() & mask)
            )
        }
    }
}

/// A header's name as what of a head it is.
pub(crate) fn of_name(name: &str) -> Option<Of> {
    match name {
        ":method" => Some(Of::Method),
        ":path" => Some(Of::Target),
        ":authority" => Some(Of::Authority),
        name => name.parse::<HeaderName>().ok().map(|name| match name {
            http::header::HOST => Of::Authority,
            name => Of::Header(name),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::{HeaderEdits, Target};
    use crate::matcher::{StringMatcher, Wanted};

    fn forward(clusters: &[&str]) -> Forward {
        let target = |name: &&str| Target {
            cluster: (*name).into(),
            weight: 1,
            labels: None,
            edits: HeaderEdits::default(),
        };
        Forward {
            targets: clusters.iter().map(target).collect(),
            total_weight: 1,
            timeout: None,
            duration: None,
            idle: None,
            retry: None,
            host: None,
            path: None,
            hash: Box::default(),
            response_edits: Arc::default(),
            mirrors: Vec::new(),
            upgrades: Box::default(),
            limits: None,
        }
    }

    fn header(name: &str, skips: bool) -> Action {
        Action::Header {
            of: of_name(name).unwrap(),
            key: "k".into(),
            skips,
        }
    }

    fn headers(name: &'static str, expected: bool) -> Action {
        Action::Headers {
            matchers: vec![HeaderMatcher {
                of: Of::Header(HeaderName::from_static(name)),
                wanted: Wanted::Present(true),
                inverted: false,
                missing_is_empty: false,
            }],
            expected,
            entry: Entry::new("header_match", "v"),
        }
    }

    fn parameters(name: &str, value: &str, expected: bool) -> Action {
        Action::Parameters {
            matchers: vec![ParameterMatcher {
                name: name.into(),
                wanted: Some(StringMatcher::exact(value)),
            }],
            expected,
            entry: Entry::new("query_match", "v"),
        }
    }

    fn described(actions: Vec<Action>, client: &str, clusters: &[&str]) -> Option<String> {
        let request = Request::get("/p?q=1").header("x-a", "1").header("x-a", "2");
        let parts = request.body(()).unwrap().into_parts().0;
        let subject = Subject {
            authority: "shop",
            path: "/p",
            client: client.parse().unwrap(),
            direct: [10, 0, 0, 9].into(),
            request: &parts,
        };
        let entries = Described { stage: 0, actions }.entries(&subject, Some(&forward(clusters)))?;
        let shown = entries
            .iter()
            .map(|entry| format!("{}={}", entry.key, entry.value));
        Some(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn actions_describe_a_request() {
        let key = || Action::Key(Entry::new("generic_key", "v"));
        let blocks = |v4_bits, v6_bits| Action::ClientBlock { v4_bits, v6_bits };
        let (v4, v6) = ("10.1.2.3", "2001:db8::1");
        for (actions, client, expected) in [
            (vec![key()], v4, Some("generic_key=v")),
            (vec![], v4, None),
            (vec![Action::Destination], v4, Some("destination_cluster=a")),
            (vec![header("x-a", false)], v4, Some("k=1")),
            (vec![header("X-A", false), key()], v4, Some("k=1 generic_key=v")),
            (vec![header(":path", false)], v4, Some("k=/p?q=1")),
            (vec![header(":method", false)], v4, Some("k=GET")),
            (vec![header(":authority", false)], v4, Some("k=shop")),
            (vec![header("host", false)], v4, Some("k=shop")),
            (vec![header("x-b", false), key()], v4, None),
            (vec![header("x-b", true), key()], v4, Some("generic_key=v")),
            (vec![header("x-b", true)], v4, None),
            (vec![Action::Client], v4, Some("remote_address=10.1.2.3")),
            (vec![Action::Client], v6, Some("remote_address=2001:db8::1")),
            (
                vec![blocks(32, 128)],
                v4,
                Some("masked_remote_address=10.1.2.3/32"),
            ),
            (
                vec![blocks(24, 128)],
                v4,
                Some("masked_remote_address=10.1.2.0/24"),
            ),
            (vec![blocks(0, 0)], v4, Some("masked_remote_address=0.0.0.0/0")),
            (
                vec![blocks(24, 64)],
                v6,
                Some("masked_remote_address=2001:db8::/64"),
            ),
            (vec![blocks(24, 0)], v6, Some("masked_remote_address=::/0")),
            (vec![headers("x-a", true)], v4, Some("header_match=v")),
            (vec![headers("x-a", false), key()], v4, None),
            (vec![headers("x-b", false)], v4, Some("header_match=v")),
            (vec![parameters("q", "1", true)], v4, Some("query_match=v")),
            (vec![parameters("q", "2", true), key()], v4, None),
            (vec![parameters("q", "2", false)], v4, Some("query_match=v")),
        ] {
            let got = described(actions.clone(), client, &["a"]);
            assert_eq!(got.as_deref(), expected, "{actions:?} {client}");
        }
        // Where it goes is drawn later.
        assert_eq!(described(vec![Action::Destination, key()], v4, &["a", "b"]), None);
    }

    #[test]
    fn a_hosts_descriptors_count_where_a_route_has_none() {
        let described = |value: &str| Described {
            stage: 0,
            actions: vec![Action::Key(Entry::new("generic_key", value))],
        };
        let of_stage = |stage| Described {
            stage,
            ..described("other")
        };
        for (has_own, includes, outer, expected) in [
            (false, false, Outer::Default, "host"),
            (true, false, Outer::Default, "own"),
            (true, true, Outer::Default, "own host"),
            (true, false, Outer::Included, "own host"),
            (false, false, Outer::Ignored, ""),
            (true, false, Outer::Ignored, "own"),
            (true, true, Outer::Ignored, "own host"),
        ] {
            let limits = RouteLimits {
                own: if has_own {
                    vec![described("own"), of_stage(1)]
                } else {
                    vec![]
                },
                outer: [described("host"), of_stage(2)].into(),
                includes_outer: includes,
            };
            let names = limits.of(0, outer).map(|described| match &described.actions[0] {
                Action::Key(entry) => &*entry.value,
                other => panic!("{other:?}"),
            });
            assert_eq!(
                names.collect::<Vec<_>>().join(" "),
                expected,
                "{has_own} {includes} {outer:?}"
            );
        }
    }
}
