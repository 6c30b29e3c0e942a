//! `envoy.filters.http.rbac`: who may ask for what. Of rules that allow, one must hold; of rules that deny, none may.

use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use http::StatusCode;

use super::{Answer, ClaimMatcher, Facts, Verdict};
use crate::exchange::Flag;
use crate::matcher::{HeaderMatcher, RequestView, StringMatcher, Subject};
use crate::tls::Peer;

/// What Envoy says as well.
const BODY: &[u8] = b"RBAC: access denied";

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rbac {
    /// Without any it lets everything through.
    pub(crate) rules: Option<Rules>,
    /// Those that are only tried.
    pub(crate) shadow: Option<Rules>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) action: Action,
    pub(crate) policies: Vec<Policy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    /// Lets all through, and says to logs which of them its policies are about.
    Log,
}

/// One of each must hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) name: Box<str>,
    pub(crate) permissions: Vec<Rule>,
    pub(crate) principals: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule {
    Always,
    All(Vec<Self>),
    OneOf(Vec<Self>),
    Not(Box<Self>),
    Header(HeaderMatcher),
    /// Without its query.
    Path(StringMatcher),
    Client(AddressBlock),
    /// Who is connected, whatever is said of whose the connection is.
    Direct(AddressBlock),
    Claim(ClaimMatcher),
    /// Where the connection was to go.
    To(AddressBlock),
    Ports(Range<u32>),
    /// What was asked for in TLS, which is nothing where it is not spoken.
    ServerName(StringMatcher),
    /// Who has shown a certificate with such a name; all who speak TLS where none is said, as Envoy has it.
    Authenticated(Option<StringMatcher>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressBlock {
    pub(crate) address: IpAddr,
    /// At most as many as the address has.
    pub(crate) prefix_bits: u8,
}

impl Rbac {
    pub(super) fn judge(
        &self,
        subject: &Subject<'_, impl RequestView>,
        facts: &Facts,
        verdict: &mut Verdict,
    ) {
        let matching = |rules: &Rules| rules.matching(subject, facts);
        let shadow = self.shadow.as_ref();
        verdict.is_shadowed |= shadow.is_some_and(|rules| !rules.allow(matching(rules)));
        let Some(rules) = &self.rules else { return };
        let matching = matching(rules);
        if rules.action == Action::Log {
            verdict.log_hint = Some(matching.is_some());
        }
        if !rules.allow(matching) {
            verdict.by.policy = matching;
            verdict.answer = Some(Answer {
                status: StatusCode::FORBIDDEN,
                code: None,
                flag: Flag::None,
                body: Bytes::from_static(BODY),
            });
        }
    }
}

impl Rules {
    /// The first of the policies that the request is of.
    fn matching(&self, subject: &Subject<'_, impl RequestView>, facts: &Facts) -> Option<usize> {
        let one = |rules: &[Rule]| rules.iter().any(|rule| rule.holds(subject, facts));
        let mut policies = self.policies.iter();
        policies.position(|policy| one(&policy.permissions) && one(&policy.principals))
    }

    fn allow(&self, matching: Option<usize>) -> bool {
        match self.action {
            Action::Allow => matching.is_some(),
            Action::Deny => matching.is_none(),
            Action::Log => true,
        }
    }
}

impl Rule {
    fn holds(&self, subject: &Subject<'_, impl RequestView>, facts: &Facts) -> bool {
        match self {
            Self::Always => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(subject, facts)),
            Self::OneOf(rules) => rules.iter().any(|rule| rule.holds(subject, facts)),
            Self::Not(rule) => !rule.holds(subject, facts),
            Self::Header(header) => header.matches(subject),
            Self::Path(path) => path.matches(subject.path.as_bytes()),
            Self::Client(block) => block.holds(subject.client.address),
            Self::Direct(block) => block.holds(subject.direct),
            Self::Claim(claim) => claim.matches(facts),
            Self::To(block) => block.holds(subject.client.channel.to.ip()),
            Self::Ports(ports) => ports.contains(&subject.client.channel.to.port().into()),
            Self::ServerName(name) => {
                let asked = subject.client.channel.server_name.as_deref();
                name.matches(asked.unwrap_or_default().as_bytes())
            }
            Self::Authenticated(wanted) => {
                let is = |peer: &Peer| wanted.as_ref().is_none_or(|wanted| peer.is(wanted));
                subject.client.channel.peer.as_deref().is_some_and(is)
            }
        }
    }
}

impl AddressBlock {
    fn holds(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                let differ = block.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => {
                let differ = block.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::balance::Draw;
    use crate::matcher::{Of, Wanted};
    use crate::worker::Random;

    fn allows(rbac: &Rules, method: &str, path: &str, client: &str) -> bool {
        let request = Request::builder().method(method).body(()).unwrap();
        let subject = Subject {
            authority: "a",
            path,
            client: client.parse().unwrap(),
            direct: "10.0.0.9".parse().unwrap(),
            request: &request.into_parts().0,
        };
        rbac.allow(rbac.matching(&subject, &Facts::default()))
    }

    fn block(address: &str, prefix_bits: u8) -> AddressBlock {
        AddressBlock {
            address: address.parse().unwrap(),
            prefix_bits,
        }
    }

    fn method(name: &str) -> Rule {
        Rule::Header(HeaderMatcher {
            of: Of::Method,
            wanted: Wanted::Text(StringMatcher::exact(name)),
            inverted: false,
            missing_is_empty: false,
        })
    }

    #[test]
    fn a_policy_is_of_someone_and_something() {
        let policies = vec![
            Policy {
                name: "p".into(),
                permissions: vec![method("GET"), Rule::Path(StringMatcher::exact("/open"))],
                principals: vec![Rule::Always],
            },
            Policy {
                name: "p".into(),
                permissions: vec![Rule::Always],
                principals: vec![
                    Rule::Client(block("10.0.0.0", 8)),
                    Rule::Client(block("fd00::", 8)),
                ],
            },
        ];
        for (method, path, client, found) in [
            ("GET", "/", "192.0.2.1", true),
            ("PUT", "/open", "192.0.2.1", true),
            ("PUT", "/", "192.0.2.1", false),
            ("PUT", "/", "10.9.8.7", true),
            ("PUT", "/", "fd12::1", true),
            ("PUT", "/", "fe80::1", false),
        ] {
            for (action, allowed) in [(Action::Allow, found), (Action::Deny, !found)] {
                let policies = policies.clone();
                let rbac = Rules { action, policies };
                let case = format!("{action:?} {method} {path} {client}");
                assert_eq!(allows(&rbac, method, path, client), allowed, "{case}");
            }
        }
        for (action, allowed) in [(Action::Allow, false), (Action::Deny, true)] {
            let policies = vec![];
            assert_eq!(
                allows(&Rules { action, policies }, "GET", "/", "10.0.0.1"),
                allowed
            );
        }
    }

    #[test]
    fn rules_that_are_tried_refuse_nobody() {
        let rules = |action| {
            Some(Rules {
                action,
                policies: vec![Policy {
                    name: "p".into(),
                    permissions: vec![Rule::Always],
                    principals: vec![Rule::Always],
                }],
            })
        };
        use Action::{Allow, Deny};
        for (enforced, shadow, is_refused, is_shadowed) in [
            (None, None, false, false),
            (None, rules(Deny), false, true),
            (None, rules(Allow), false, false),
            (rules(Deny), rules(Deny), true, true),
            (rules(Deny), rules(Allow), true, false),
            (rules(Allow), rules(Deny), false, true),
        ] {
            let rbac = Rbac {
                rules: enforced,
                shadow,
            };
            let subject = Subject {
                authority: "a",
                path: "/",
                client: "10.0.0.1".parse().unwrap(),
                direct: "10.0.0.9".parse().unwrap(),
                request: &Request::new(()).into_parts().0,
            };
            let mut verdict = Verdict::default();
            rbac.judge(&subject, &Facts::default(), &mut verdict);
            let found = (verdict.answer.is_some(), verdict.is_shadowed);
            assert_eq!(found, (is_refused, is_shadowed), "{rbac:?}");
        }
    }

    #[test]
    fn rules_that_log_refuse_nobody() {
        let log = |path| {
            Some(Rules {
                action: Action::Log,
                policies: vec![Policy {
                    name: "p".into(),
                    permissions: vec![Rule::Path(StringMatcher::exact(path))],
                    principals: vec![Rule::Always],
                }],
            })
        };
        for (rules, shadow, expected) in [
            (log("/"), None, Some(true)),
            (log("/a"), None, Some(false)),
            // What is only tried says nothing.
            (None, log("/"), None),
            (None, log("/a"), None),
        ] {
            let rbac = Rbac { rules, shadow };
            let subject = Subject {
                authority: "a",
                path: "/",
                client: "10.0.0.1".parse().unwrap(),
                direct: "10.0.0.9".parse().unwrap(),
                request: &Request::new(()).into_parts().0,
            };
            let mut verdict = Verdict::default();
            rbac.judge(&subject, &Facts::default(), &mut verdict);
            let found = (verdict.answer, verdict.is_shadowed, verdict.log_hint);
            assert_eq!(found, (None, false, expected), "{rbac:?}");
        }
    }

    /// A connection to 10.0.0.2:80 without TLS.
    #[test]
    fn rules_know_where_a_connection_was_to_go() {
        let name = |name| Rule::ServerName(StringMatcher::exact(name));
        for (rule, expected) in [
            (Rule::To(block("10.0.0.2", 32)), true),
            (Rule::To(block("10.0.0.1", 32)), false),
            (Rule::Ports(80..81), true),
            (Rule::Ports(1..80), false),
            (Rule::Ports(81..65536), false),
            (name(""), true),
            (name("a"), false),
            (Rule::Authenticated(None), false),
            (Rule::Authenticated(Some(StringMatcher::exact(""))), false),
        ] {
            let policies = vec![Policy {
                name: "p".into(),
                permissions: vec![rule.clone()],
                principals: vec![Rule::Always],
            }];
            let action = Action::Allow;
            assert_eq!(
                allows(&Rules { action, policies }, "GET", "/", "10.0.0.1"),
                expected,
                "{rule:?}"
            );
        }
    }

    #[test]
    fn blocks_hold_addresses_that_begin_like_them() {
        for (block, inside, outside) in [
            (block("10.1.2.3", 32), "10.1.2.3", "10.1.2.2"),
            (block("10.1.2.3", 31), "10.1.2.2", "10.1.2.1"),
            (block("10.1.2.3", 8), "10.255.0.0", "11.1.2.3"),
            (block("0.0.0.0", 0), "255.255.255.255", "::"),
            (block("::", 0), "fd00::1", "0.0.0.0"),
            (block("fd00::1", 128), "fd00::1", "fd00::"),
            (block("fd00::", 9), "fd7f::", "fd80::"),
        ] {
            assert!(block.holds(inside.parse().unwrap()), "{block:?} {inside}");
            assert!(!block.holds(outside.parse().unwrap()), "{block:?} {outside}");
        }
    }

    /// De Morgan, and twice not.
    #[test]
    fn rules_are_as_logic_has_them() {
        fn rule(random: &Random, depth: u32) -> Rule {
            let some = |random: &Random| (0..random.below(4)).map(|_| rule(random, depth - 1)).collect();
            match random.below(if depth == 0 { 3 } else { 6 }) {
                0 => Rule::Always,
                1 => method(["GET", "PUT"][random.below(2) as usize]),
                2 => Rule::Path(StringMatcher::exact(["/a", "/b"][random.below(2) as usize])),
                3 => Rule::All(some(random)),
                4 => Rule::OneOf(some(random)),
                _ => Rule::Not(Box::new(rule(random, depth - 1))),
            }
        }
        let not = |rule: &Rule| Rule::Not(Box::new(rule.clone()));
        for seed in 0..300 {
            let random = Random::seeded(seed);
            let rules: Vec<Rule> = (0..random.below(4)).map(|_| rule(&random, 3)).collect();
            let request = Request::builder()
                .method(["GET", "PUT"][random.below(2) as usize])
                .body(());
            let subject = Subject {
                authority: "a",
                path: ["/a", "/b"][random.below(2) as usize],
                client: "10.0.0.1".parse().unwrap(),
                direct: "10.0.0.9".parse().unwrap(),
                request: &request.unwrap().into_parts().0,
            };
            let facts = Facts::default();
            let all = Rule::All(rules.clone());
            let none = Rule::OneOf(rules.iter().map(not).collect());
            assert_eq!(
                all.holds(&subject, &facts),
                !none.holds(&subject, &facts),
                "seed {seed}: {rules:?}"
            );
            assert_eq!(
                all.holds(&subject, &facts),
                not(&not(&all)).holds(&subject, &facts),
                "seed {seed}: {rules:?}"
            );
        }
    }
}
