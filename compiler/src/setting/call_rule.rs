//! One rule of an authorization: from whom, with which method, for which path.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common;
use crate::http::Method;
use crate::http::{Path, PlainPath};
use crate::selector::Pattern;

/// What is left out matches everything, so `{}` matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallRule {
    /// Left out, also callers without an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PrincipalPattern>,
    /// Any of these; every one when empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<Method>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PlainPath>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no workload identities; use namespace/account, where each side is a name, prefix* or *")]
pub struct BadPrincipal(String);

/// Workload identities, `namespace/account` as in `spiffe://…/ns/NAMESPACE/sa/ACCOUNT`; each side is a name, a prefix
/// such as `shop*`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrincipalPattern {
    namespace: Pattern,
    account: Pattern,
}

impl CallRule {
    /// Exactly the requests that both match; `None` when there are none.
    pub(crate) fn meet(&self, other: &CallRule) -> Option<CallRule> {
        let from = meet_option(&self.from, &other.from, PrincipalPattern::meet)?;
        let methods = common(&self.methods, &other.methods)?;
        let path = meet_option(&self.path, &other.path, meet_paths)?;
        Some(CallRule { from, methods, path })
    }
}

impl PrincipalPattern {
    fn meet(&self, other: &PrincipalPattern) -> Option<PrincipalPattern> {
        Some(PrincipalPattern {
            namespace: self.namespace.meet(&other.namespace)?,
            account: self.account.meet(&other.account)?,
        })
    }
}

impl FromStr for PrincipalPattern {
    type Err = BadPrincipal;

    fn from_str(text: &str) -> Result<Self, BadPrincipal> {
        let parse = || {
            let (namespace, account) = text.split_once('/')?;
            Some(PrincipalPattern {
                namespace: Pattern::parse(namespace)?,
                account: Pattern::parse(account)?,
            })
        };
        parse().ok_or_else(|| BadPrincipal(text.to_owned()))
    }
}

impl TryFrom<String> for PrincipalPattern {
    type Error = BadPrincipal;

    fn try_from(text: String) -> Result<Self, BadPrincipal> {
        text.parse()
    }
}

impl From<PrincipalPattern> for String {
    fn from(pattern: PrincipalPattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for PrincipalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

/// What is left out is everything; the outer `None` is nothing.
#[allow(clippy::option_option)]
fn meet_option<T: Clone>(
    a: &Option<T>,
    b: &Option<T>,
    meet: impl FnOnce(&T, &T) -> Option<T>,
) -> Option<Option<T>> {
    match (a, b) {
        (None, other) | (other, None) => Some(other.clone()),
        (Some(a), Some(b)) => meet(a, b).map(Some),
    }
}

fn meet_paths(a: &PlainPath, b: &PlainPath) -> Option<PlainPath> {
    match (a, b) {
        (PlainPath::Exact(a), PlainPath::Exact(b)) => (a == b).then(|| PlainPath::Exact(a.clone())),
        (PlainPath::Exact(exact), PlainPath::PathPrefix(prefix))
        | (PlainPath::PathPrefix(prefix), PlainPath::Exact(exact)) => prefix
            .is_above(exact.as_str())
            .then(|| PlainPath::Exact(exact.clone())),
        (PlainPath::PathPrefix(a), PlainPath::PathPrefix(b)) => {
            let narrower = if b.is_above(a.as_str()) {
                a
            } else if a.is_above(b.as_str()) {
                b
            } else {
                return None;
            };
            Some(PlainPath::PathPrefix(without_slash(narrower)))
        }
    }
}

/// The one way to write a prefix, so that equal ones are equal.
fn without_slash(prefix: &Path) -> Path {
    let text = prefix.as_str().trim_end_matches('/').to_owned();
    Path::try_from(text).unwrap_or_else(|_| Path::root())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(value: Value) -> CallRule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_meet_of_two_rules_is_what_both_match() {
        let prefix = |path: &str| json!({"path": {"type": "PathPrefix", "value": path}});
        let exact = |path: &str| json!({"path": {"type": "Exact", "value": path}});
        for (a, b, both) in [
            (
                json!({}),
                json!({"from": "shop/web"}),
                Some(json!({"from": "shop/web"})),
            ),
            (
                json!({"from": "*/web"}),
                json!({"from": "shop/*"}),
                Some(json!({"from": "shop/web"})),
            ),
            (json!({"from": "shop/*"}), json!({"from": "pay/*"}), None),
            (
                json!({"methods": ["GET", "HEAD"]}),
                json!({"methods": ["GET", "POST"]}),
                Some(json!({"methods": ["GET"]})),
            ),
            (json!({"methods": ["GET"]}), json!({"methods": ["POST"]}), None),
            (prefix("/a"), prefix("/a/b"), Some(prefix("/a/b"))),
            (prefix("/a"), exact("/a/b"), Some(exact("/a/b"))),
            (prefix("/a/"), exact("/a"), Some(exact("/a"))),
            (prefix("/a"), prefix("/ab"), None),
            (exact("/a"), exact("/a/"), None),
            (prefix("/"), prefix("/x"), Some(prefix("/x"))),
        ] {
            let (a, b) = (rule(a), rule(b));
            assert_eq!(a.meet(&b), both.map(rule), "{a:?} and {b:?}");
            assert_eq!(a.meet(&b), b.meet(&a), "{a:?} and {b:?}");
        }
    }

    #[test]
    fn what_names_no_identity_is_refused() {
        for bad in ["", "shop", "shop/", "Shop/web", "a/b/c", "*"] {
            let error = bad.parse::<PrincipalPattern>().unwrap_err().to_string();
            assert!(error.contains("use namespace/account"), "{bad:?}: {error}");
        }
    }
}
