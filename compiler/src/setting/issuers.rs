//! Those whose tokens count.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common;
use crate::intent::JwtIssuer;

/// By the `iss` of their tokens. Written as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<JwtIssuer>", into = "Vec<JwtIssuer>")]
pub struct Issuers(BTreeMap<String, JwtIssuer>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadIssuers {
    #[error("issuer {0} is listed twice; give all of its audiences in one entry")]
    Twice(String),
}

impl Issuers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &JwtIssuer> {
        self.0.values()
    }

    /// Those whose tokens both accept, for the audiences that both accept. Two that disagree about an issuer's keys
    /// cannot both be right, so its tokens count for neither.
    pub(crate) fn meet(&self, other: &Issuers) -> Issuers {
        let both = self.0.iter().filter_map(|(name, mine)| {
            let met = meet(mine, other.0.get(name)?)?;
            Some((name.clone(), met))
        });
        Issuers(both.collect())
    }
}

fn meet(a: &JwtIssuer, b: &JwtIssuer) -> Option<JwtIssuer> {
    if a.jwks_uri != b.jwks_uri {
        return None;
    }
    Some(JwtIssuer {
        audiences: common(&a.audiences, &b.audiences)?,
        ..a.clone()
    })
}

/// Of two that are named the same the last counts.
impl FromIterator<JwtIssuer> for Issuers {
    fn from_iter<I: IntoIterator<Item = JwtIssuer>>(issuers: I) -> Issuers {
        let named = issuers.into_iter().map(|issuer| (issuer.issuer.clone(), issuer));
        Issuers(named.collect())
    }
}

impl TryFrom<Vec<JwtIssuer>> for Issuers {
    type Error = BadIssuers;

    fn try_from(list: Vec<JwtIssuer>) -> Result<Self, BadIssuers> {
        let mut issuers = BTreeMap::new();
        for issuer in list {
            let name = issuer.issuer.clone();
            if issuers.insert(name.clone(), issuer).is_some() {
                return Err(BadIssuers::Twice(name));
            }
        }
        Ok(Issuers(issuers))
    }
}

impl From<Issuers> for Vec<JwtIssuer> {
    fn from(issuers: Issuers) -> Vec<JwtIssuer> {
        issuers.0.into_values().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn issuers(list: Value) -> Issuers {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn the_meet_accepts_what_both_accept() {
        let entry = |keys: &str, audiences: &[&str]| json!([{"issuer": "https://a", "jwksUri": keys, "audiences": audiences}]);
        for (a, b, both) in [
            (
                entry("https://k", &[]),
                entry("https://k", &["x"]),
                entry("https://k", &["x"]),
            ),
            (
                entry("https://k", &["x", "y"]),
                entry("https://k", &["y"]),
                entry("https://k", &["y"]),
            ),
            (entry("https://k", &["x"]), entry("https://k", &["y"]), json!([])),
            (entry("https://k", &[]), entry("https://other", &[]), json!([])),
            (entry("https://k", &[]), json!([]), json!([])),
        ] {
            let (a, b) = (issuers(a), issuers(b));
            assert_eq!(a.meet(&b), issuers(both));
            assert_eq!(a.meet(&b), b.meet(&a));
        }
    }

    #[test]
    fn an_issuer_is_listed_once() {
        let twice = json!([
            {"issuer": "a", "jwksUri": "https://k"},
            {"issuer": "a", "jwksUri": "https://l"},
        ]);
        let error = serde_json::from_value::<Issuers>(twice).unwrap_err().to_string();
        assert!(error.contains("issuer a is listed twice"), "{error}");
    }
}
