//! Whether a gateway's authorization lets a request through, as far as that can be told without knowing who asks.

use std::collections::{BTreeMap, BTreeSet};

use super::request::Request;
use crate::intent::AddressBlock;
use crate::routes::{Access, AccessRule, SPELLINGS};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Whoever asks, by a field of the authorization.
    Refused(String),
    /// It has no rules, or none that is enforced, because of what a jwt or an authorization says that cannot be.
    Closed,
    /// Whoever asks.
    Admitted,
    /// Those who are one of `of`, anybody where that is empty, and none of `but`.
    Depends {
        of: BTreeSet<Asker>,
        but: BTreeSet<Asker>,
    },
}

/// What a rule wants of who asks; all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asker {
    /// Anywhere when empty.
    pub(super) sources: BTreeSet<AddressBlock>,
    /// Of the token, each with the values of which it has one.
    pub(super) claims: BTreeMap<String, BTreeSet<String>>,
}

pub(super) fn admission(access: &Access, request: &Request) -> Admission {
    let fits = |rule: &AccessRule| {
        let method = |method: &crate::http::Method| method.as_str() == request.method();
        (rule.methods.is_empty() || rule.methods.iter().any(method))
            && (rule.paths.is_empty() || rule.paths.iter().any(|path| path.admits(request.path())))
    };
    let fitting = |rules: &'_ [AccessRule]| -> Vec<(usize, AccessRule)> {
        let rules = rules.iter().cloned().enumerate();
        rules.filter(|(_, rule)| fits(rule)).collect()
    };
    let spelled = || {
        SPELLINGS
            .iter()
            .any(|part| request.path().to_ascii_lowercase().contains(part))
    };
    if *access == Access::nobody() {
        return Admission::Closed;
    }
    if access.names_paths() && spelled() {
        return Admission::Refused("spec.authorization".to_owned());
    }
    let (denied, allowed) = (fitting(&access.deny), fitting(&access.allow));
    let asker = |rule: &AccessRule| Asker {
        sources: rule.sources.clone(),
        claims: rule.claims.clone(),
    };
    let anybody = |(_, rule): &&(usize, AccessRule)| asker(rule) == Asker::default();
    if let Some((number, _)) = denied.iter().find(anybody) {
        return Admission::Refused(format!("spec.authorization.deny[{number}]"));
    }
    if allowed.is_empty() {
        return Admission::Refused("spec.authorization.allow".to_owned());
    }
    let of = match allowed.iter().find(anybody) {
        Some(_) => BTreeSet::new(),
        None => askers(allowed.iter().map(|(_, rule)| asker(rule))),
    };
    let but = askers(denied.iter().map(|(_, rule)| asker(rule)));
    if of.is_empty() && but.is_empty() {
        return Admission::Admitted;
    }
    Admission::Depends { of, but }
}

/// Those of whom only addresses are asked are one.
fn askers(all: impl Iterator<Item = Asker>) -> BTreeSet<Asker> {
    let (claiming, near): (Vec<Asker>, Vec<Asker>) = all.partition(|asker| !asker.claims.is_empty());
    let sources: BTreeSet<AddressBlock> = near.into_iter().flat_map(|asker| asker.sources).collect();
    let near = (!sources.is_empty()).then(|| Asker {
        sources,
        claims: BTreeMap::new(),
    });
    near.into_iter().chain(claiming).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_hang_on_who_asks_is_told() {
        let access: Access = serde_json::from_value(json!({
            "allow": [
                {"methods": ["GET"], "paths": [{"type": "PathPrefix", "value": "/open"}]},
                {"sources": ["10.0.0.0/8"], "paths": [{"type": "Exact", "value": "/near"}]},
            ],
            "deny": [
                {"paths": [{"type": "PathPrefix", "value": "/open/not"}]},
                {"sources": ["192.0.2.1"], "methods": ["GET"]},
            ],
        }))
        .unwrap();
        let block = |text: &str| -> BTreeSet<Asker> {
            let sources = [text.to_owned().try_into().unwrap()].into();
            let claims = BTreeMap::new();
            [Asker { sources, claims }].into()
        };
        let nobody = || block("192.0.2.1");
        for (method, path, expected) in [
            (
                "GET",
                "/open/not/a",
                Admission::Refused("spec.authorization.deny[0]".to_owned()),
            ),
            (
                "GET",
                "/open%2Fx",
                Admission::Refused("spec.authorization".to_owned()),
            ),
            (
                "POST",
                "/open",
                Admission::Refused("spec.authorization.allow".to_owned()),
            ),
            (
                "GET",
                "/opening",
                Admission::Refused("spec.authorization.allow".to_owned()),
            ),
            (
                "GET",
                "/open",
                Admission::Depends {
                    of: BTreeSet::new(),
                    but: nobody(),
                },
            ),
            (
                "PUT",
                "/near",
                Admission::Depends {
                    of: block("10.0.0.0/8"),
                    but: BTreeSet::new(),
                },
            ),
            (
                "GET",
                "/near",
                Admission::Depends {
                    of: block("10.0.0.0/8"),
                    but: nobody(),
                },
            ),
        ] {
            let url = format!("http://a.example.com{path}");
            let request = Request::new(method, &url, BTreeMap::new()).unwrap();
            assert_eq!(admission(&access, &request), expected, "{method} {path}");
        }
        let open: Access = serde_json::from_value(json!({"allow": [{}]})).unwrap();
        let request = Request::new("GET", "http://a.example.com/", BTreeMap::new()).unwrap();
        assert_eq!(admission(&open, &request), Admission::Admitted);
        assert_eq!(admission(&Access::nobody(), &request), Admission::Closed);
    }

    #[test]
    fn a_rule_with_claims_lets_nobody_through_by_itself() {
        let access: Access = serde_json::from_value(json!({
            "allow": [
                {"claims": {"role": ["admin"]}},
                {"sources": ["10.0.0.0/8"], "claims": {"role": ["staff"]}, "paths": [{"type": "Exact", "value": "/in"}]},
                {"sources": ["192.0.2.1"]},
            ],
            "deny": [{"claims": {"sub": ["mallory"]}, "methods": ["POST"]}],
        }))
        .unwrap();
        let asker = |sources: &[&str], claims: &[(&str, &str)]| Asker {
            sources: sources
                .iter()
                .map(|text| (*text).to_owned().try_into().unwrap())
                .collect(),
            claims: claims
                .iter()
                .map(|(claim, value)| ((*claim).to_owned(), [(*value).to_owned()].into()))
                .collect(),
        };
        let admin = || asker(&[], &[("role", "admin")]);
        let near = || asker(&["192.0.2.1"], &[]);
        let staff = || asker(&["10.0.0.0/8"], &[("role", "staff")]);
        let mallory = || asker(&[], &[("sub", "mallory")]);
        for (method, path, of, but) in [
            ("GET", "/", [admin(), near()].into(), [].into()),
            ("GET", "/in", [admin(), near(), staff()].into(), [].into()),
            ("POST", "/", [admin(), near()].into(), [mallory()].into()),
        ] {
            let request =
                Request::new(method, &format!("http://a.example.com{path}"), BTreeMap::new()).unwrap();
            assert_eq!(
                admission(&access, &request),
                Admission::Depends { of, but },
                "{method} {path}"
            );
        }
    }
}
