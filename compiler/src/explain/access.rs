//! Whether a gateway's authorization lets a request through, as far as that can be told without knowing who asks.

use std::collections::BTreeSet;

use super::request::Request;
use crate::intent::AddressBlock;
use crate::routes::{Access, AccessRule, SPELLINGS};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Whoever asks, by a field of the authorization.
    Refused(String),
    /// Whoever asks.
    Admitted,
    /// Those who ask from one of `from`, from anywhere where that is empty, and from none of `but`.
    Depends {
        from: BTreeSet<AddressBlock>,
        but: BTreeSet<AddressBlock>,
    },
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
    if access.names_paths() && spelled() {
        return Admission::Refused("spec.authorization".to_owned());
    }
    let (denied, allowed) = (fitting(&access.deny), fitting(&access.allow));
    if let Some((number, _)) = denied.iter().find(|(_, rule)| rule.sources.is_empty()) {
        return Admission::Refused(format!("spec.authorization.deny[{number}]"));
    }
    if allowed.is_empty() {
        return Admission::Refused("spec.authorization.allow".to_owned());
    }
    let sources = |rules: &[(usize, AccessRule)]| -> BTreeSet<AddressBlock> {
        rules
            .iter()
            .flat_map(|(_, rule)| rule.sources.iter().copied())
            .collect()
    };
    let from = match allowed.iter().any(|(_, rule)| rule.sources.is_empty()) {
        true => BTreeSet::new(),
        false => sources(&allowed),
    };
    let but = sources(&denied);
    if from.is_empty() && but.is_empty() {
        return Admission::Admitted;
    }
    Admission::Depends { from, but }
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
        let block = |text: &str| -> BTreeSet<AddressBlock> { [text.to_owned().try_into().unwrap()].into() };
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
                    from: BTreeSet::new(),
                    but: nobody(),
                },
            ),
            (
                "PUT",
                "/near",
                Admission::Depends {
                    from: block("10.0.0.0/8"),
                    but: BTreeSet::new(),
                },
            ),
            (
                "GET",
                "/near",
                Admission::Depends {
                    from: block("10.0.0.0/8"),
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
    }
}
