//! `hash_policy` of a route's action.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy as PbHashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{Cookie, PolicySpecifier};

use super::fields::{At, Reason, done, duration};
use crate::hash::{CookieHash, HashPolicy, MadeCookie, Of};

/// A cookie's `Max-Age` is in seconds, and with 0 it is gone at once.
const MAX_AGE_MIN: Duration = Duration::from_secs(1);

pub(super) fn decode(mut pb: PbHashPolicy) -> Result<HashPolicy, Reason> {
    let is_terminal = take(&mut pb.terminal);
    let of = match pb.policy_specifier.take() {
        Some(PolicySpecifier::Header(mut header)) => {
            let name = take(&mut header.header_name);
            done(&header).at("header")?;
            match name.to_ascii_lowercase().as_str() {
                ":authority" | "host" => Of::Authority,
                name => Of::Header(
                    name.parse()
                        .map_err(|_| format!("header.header_name: {name:?} is not a header name"))?,
                ),
            }
        }
        Some(PolicySpecifier::Cookie(cookie)) => Of::Cookie(self::cookie(cookie).at("cookie")?),
        Some(PolicySpecifier::QueryParameter(parameter)) if !parameter.name.is_empty() => {
            Of::Parameter(parameter.name.into())
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => Of::SourceIp,
        _ => {
            return Err(
                "policy_specifier: only header, cookie, query_parameter with a name and source_ip are supported"
                    .to_owned(),
            );
        }
    };
    done(&pb)?;
    Ok(HashPolicy { of, is_terminal })
}

fn cookie(mut pb: Cookie) -> Result<CookieHash, Reason> {
    let name = cookie_name(take(&mut pb.name)).at("name")?;
    let path = cookie_path(take(&mut pb.path)).at("path")?;
    let ttl = pb.ttl.take().map(duration).transpose().at("ttl")?;
    if ttl.is_some_and(|ttl| !ttl.is_zero() && ttl < MAX_AGE_MIN) {
        return Err("ttl: must be 0 or at least 1 s".to_owned());
    }
    let made = ttl.map(|ttl| MadeCookie {
        ttl: Some(ttl).filter(|ttl| !ttl.is_zero()),
        path,
    });
    done(&pb)?;
    Ok(CookieHash { name, made })
}

/// What stands between a `;` and a `=` in a header.
pub(super) fn cookie_name(name: String) -> Result<Box<str>, Reason> {
    let is_name = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("{name:?} is not a name of a cookie"));
    }
    Ok(name.into())
}

pub(super) fn cookie_path(path: String) -> Result<Box<str>, Reason> {
    let is_path = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    if !path.bytes().all(is_path) {
        return Err(format!("{path:?} is not a path of a cookie"));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
        ConnectionProperties, CookieAttribute, Header, QueryParameter,
    };
    use envoy_types::pb::google::protobuf::Duration as PbDuration;

    use super::*;

    fn nanos(nanos: i32) -> PbDuration {
        PbDuration { seconds: 0, nanos }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let only =
            "policy_specifier: only header, cookie, query_parameter with a name and source_ip are supported";
        let cookie = |change: fn(&mut Cookie)| {
            let mut cookie = Cookie {
                name: "c".to_owned(),
                ..Default::default()
            };
            change(&mut cookie);
            PolicySpecifier::Cookie(cookie)
        };
        let header = |name: &str| {
            PolicySpecifier::Header(Header {
                header_name: name.to_owned(),
                ..Default::default()
            })
        };
        let attribute = CookieAttribute::default;
        for (specifier, expected) in [
            (header("k"), None),
            (
                header("a b"),
                Some("header.header_name: \"a b\" is not a header name"),
            ),
            (header("Host"), None),
            (header(":authority"), None),
            (cookie(|_| {}), None),
            (
                cookie(|c| c.ttl = Some(nanos(999_999_999))),
                Some("cookie.ttl: must be 0 or at least 1 s"),
            ),
            (cookie(|c| c.ttl = Some(nanos(0))), None),
            (
                cookie(|c| c.name = "a;b".to_owned()),
                Some("cookie.name: \"a;b\" is not a name of a cookie"),
            ),
            (
                cookie(|c| c.path = "/;x".to_owned()),
                Some("cookie.path: \"/;x\" is not a path of a cookie"),
            ),
            (
                PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: false }),
                Some(only),
            ),
            (
                PolicySpecifier::QueryParameter(QueryParameter::default()),
                Some(only),
            ),
        ] {
            let policy = PbHashPolicy {
                policy_specifier: Some(specifier),
                ..Default::default()
            };
            let refused = decode(policy).err();
            assert_eq!(refused.as_deref(), expected);
        }
        let attributed = Cookie {
            name: "c".to_owned(),
            attributes: vec![attribute()],
            ..Default::default()
        };
        let refused = self::cookie(attributed).err();
        assert_eq!(
            refused.as_deref(),
            Some("attributes: is not supported by this proxy")
        );
        assert_eq!(decode(PbHashPolicy::default()).err().as_deref(), Some(only));
    }
}
