//! Whose tokens a gateway believes, and which claims its rules may ask for. What no proxy could make anything of is told, and
//! was stored before it was; nobody gets in by it.

use crate::finding::{Code, Finding};
use crate::intent::{AccessRule, HostPolicy, Jwt, JwtIssuer};
use crate::name::Fqn;
use crate::setting::Issuers;

/// A gateway has its own customers, its staff, and a few partners; each may be another host that all of its proxies ask for keys.
const ISSUERS_MAX: usize = 8;
/// Its words are values of it (RFC 8693, section 4.2).
const SCOPE: &str = "scope";

/// What is wrong with them, as errors: it is not written any more.
pub(super) fn check(name: &Fqn, policy: &HostPolicy) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |field: String, message: String| {
        findings.push(Finding::error(name, field, Code::SettingIgnored, message));
    };
    if let Some(jwt) = &policy.jwt {
        if jwt.issuers.is_empty() {
            let message = "a jwt without issuers would let nobody through; name one, or leave jwt out";
            tell("spec.jwt.issuers".to_owned(), message.to_owned());
        }
        for (number, issuer) in jwt.issuers.iter().enumerate() {
            if let Some(message) = unbelievable(jwt, number, issuer) {
                tell(format!("spec.jwt.issuers[{number}]"), message);
            }
        }
    }
    for (half, rules) in policy
        .authorization
        .iter()
        .flat_map(|authorization| [("allow", &authorization.allow), ("deny", &authorization.deny)])
    {
        for (number, rule) in rules.iter().enumerate() {
            let field = format!("spec.authorization.{half}[{number}].claims");
            if !can_match(rule) {
                let message = "a claim has a name and at least one value, and one of scope is a single word; this could never \
                               hold";
                tell(field, message.to_owned());
            } else if !rule.claims.is_empty() && policy.jwt.is_none() {
                let message = "claims are of tokens, which nothing here verifies, so that none would ever hold; give the \
                               gateway a jwt, or leave the claims out";
                tell(field, message.to_owned());
            }
        }
    }
    findings
}

/// Those that can be believed.
pub(super) fn issuers(jwt: &Jwt) -> Issuers {
    let issuers = jwt.issuers.iter().enumerate();
    issuers
        .filter(|(number, issuer)| unbelievable(jwt, *number, issuer).is_none())
        .map(|(_, issuer)| issuer.clone())
        .collect()
}

/// Whether any claims of a token could be those that the rule asks for.
pub(super) fn can_match(rule: &AccessRule) -> bool {
    let mut claims = rule.claims.iter();
    claims.all(|(claim, values)| {
        let is_word = |value: &String| !value.contains(char::is_whitespace);
        !claim.is_empty() && !values.is_empty() && (claim != SCOPE || values.iter().all(is_word))
    })
}

/// Whether nobody could tell whom the rule is to keep out: by claims that could never hold, or that nothing verifies.
pub(super) fn is_blind(rule: &AccessRule, jwt: Option<&Issuers>) -> bool {
    !can_match(rule) || (jwt.is_none() && !rule.claims.is_empty())
}

/// The `number`th of them.
fn unbelievable(jwt: &Jwt, number: usize, issuer: &JwtIssuer) -> Option<String> {
    let same = jwt.issuers.iter().filter(|other| other.issuer == issuer.issuer);
    if issuer.issuer.is_empty() || issuer.audiences.contains("") {
        // To a proxy this is anybody, and any audience.
        let message = "an issuer and its audiences have names; write the iss and the aud of its tokens";
        Some(message.to_owned())
    } else if number >= ISSUERS_MAX {
        Some(format!(
            "a jwt has at most {ISSUERS_MAX} issuers; give others to a gateway with other hosts"
        ))
    } else if same.count() > 1 {
        let name = &issuer.issuer;
        Some(format!(
            "issuer {name} is listed twice; give all of its audiences in one entry"
        ))
    } else if issuer.jwks_uri.authority().is_none() {
        let uri = &issuer.jwks_uri;
        Some(format!(
            "no proxy can fetch keys from {uri}; write https://, a host in small letters or an address, and a path"
        ))
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::intent::Authorization;

    const KEYS: &str = "https://login.example.com/keys";

    fn policy(issuers: Option<Value>, allow: &Value) -> HostPolicy {
        let jwt = issuers.map(|issuers| json!({"issuers": issuers}));
        let authorization: Authorization = serde_json::from_value(json!({"allow": allow})).unwrap();
        HostPolicy {
            jwt: jwt.map(|jwt| serde_json::from_value(jwt).unwrap()),
            authorization: Some(authorization),
            ..HostPolicy::default()
        }
    }

    #[test]
    fn what_no_proxy_could_make_anything_of_lets_nobody_in() {
        let name = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/in";
        let name: Fqn = name.parse().unwrap();
        let good = || Some(json!([{"issuer": "a", "jwksUri": KEYS}]));
        let staff = json!([{"claims": {"role": ["staff"]}}]);
        // Whose tokens count, which fields are told, and how many rules let somebody through.
        for (issuers, allow, believed, told, rules) in [
            (good(), staff.clone(), vec!["a"], vec![], 1),
            (
                None,
                staff.clone(),
                vec![],
                vec!["spec.authorization.allow[0].claims"],
                1,
            ),
            (None, json!([{}]), vec![], vec![], 1),
            (
                good(),
                json!([
                    {},
                    {"claims": {"role": []}},
                    {"claims": {"": ["a"]}},
                    {"claims": {"scope": ["read", "read write"]}},
                    {"claims": {"scope": ["read"], "role": ["one two"]}},
                ]),
                vec!["a"],
                vec![
                    "spec.authorization.allow[1].claims",
                    "spec.authorization.allow[2].claims",
                    "spec.authorization.allow[3].claims",
                ],
                2,
            ),
            (
                Some(
                    (0..10)
                        .map(|n| json!({"issuer": n.to_string(), "jwksUri": KEYS}))
                        .collect(),
                ),
                json!([{}]),
                vec!["0", "1", "2", "3", "4", "5", "6", "7"],
                vec!["spec.jwt.issuers[8]", "spec.jwt.issuers[9]"],
                1,
            ),
            (Some(json!([])), json!([{}]), vec![], vec!["spec.jwt.issuers"], 1),
            (
                Some(json!([
                    {"issuer": "", "jwksUri": KEYS},
                    {"issuer": "a", "audiences": [""], "jwksUri": KEYS},
                    {"issuer": "b", "jwksUri": KEYS},
                    {"issuer": "c", "jwksUri": "https://a/#b"},
                    {"issuer": "d", "jwksUri": KEYS},
                    {"issuer": "d", "audiences": ["x"], "jwksUri": KEYS},
                ])),
                json!([{}]),
                vec!["b"],
                vec![
                    "spec.jwt.issuers[0]",
                    "spec.jwt.issuers[1]",
                    "spec.jwt.issuers[3]",
                    "spec.jwt.issuers[4]",
                    "spec.jwt.issuers[5]",
                ],
                1,
            ),
        ] {
            let policy = policy(issuers, &allow);
            let found = policy.jwt.as_ref().map(issuers_of).unwrap_or_default();
            assert_eq!(found, believed, "{policy:?}");
            let fields: Vec<String> = check(&name, &policy).into_iter().map(|told| told.field).collect();
            assert_eq!(fields, told, "{policy:?}");
            let authorization = policy.authorization.unwrap();
            let matching = authorization.allow.iter().filter(|rule| can_match(rule));
            assert_eq!(matching.count(), rules);
        }
    }

    fn issuers_of(jwt: &Jwt) -> Vec<String> {
        issuers(jwt).iter().map(|issuer| issuer.issuer.clone()).collect()
    }
}
