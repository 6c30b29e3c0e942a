//! `envoy.extensions.filters.http.stateful_session.v3.StatefulSession`, and `StatefulSessionPerRoute` of routes.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession as PbStatefulSession, StatefulSessionPerRoute,
};
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::Cookie;
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use prost::Name;

use crate::decode::fields::{At, Reason, answer_status, any, done, duration, header_name, required};
use crate::decode::hash::{cookie_name, cookie_path};
use crate::filter::{Carrier, StatefulSession};
use crate::hash::MadeCookie;

/// Without a state there are no sessions, as where routes only have one.
pub(super) fn of_listener(config: &Any) -> Result<Option<Arc<StatefulSession>>, Reason> {
    session(any(config)?)
}

pub(super) fn of_route(config: &Any) -> Result<Option<Arc<StatefulSession>>, Reason> {
    let pb: StatefulSessionPerRoute = any(config)?;
    match required(pb.r#override).at("override")? {
        Override::Disabled(true) => Ok(None),
        Override::Disabled(false) => Err("disabled: must be true".to_owned()),
        Override::StatefulSession(pb) => session(pb).at("stateful_session"),
    }
}

fn session(mut pb: PbStatefulSession) -> Result<Option<Arc<StatefulSession>>, Reason> {
    let state = pb.session_state.take();
    let missing = match take(&mut pb.status_on_strict_destination_not_found) {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        status => answer_status(status).at("status_on_strict_destination_not_found")?,
    };
    let strict = take(&mut pb.strict).then_some(missing);
    done(&pb)?;
    let Some(state) = state else {
        return Ok(None);
    };
    let carrier = carrier(state).at("session_state")?;
    Ok(Some(Arc::new(StatefulSession { carrier, strict })))
}

fn carrier(pb: TypedExtensionConfig) -> Result<Carrier, Reason> {
    let config = required(pb.typed_config).at("typed_config")?;
    if config.type_url == HeaderBasedSessionState::type_url() {
        let pb: HeaderBasedSessionState = any(&config).at("typed_config")?;
        return header_name(&pb.name)
            .map(Carrier::Header)
            .at("name")
            .at("typed_config");
    }
    if config.type_url == CookieBasedSessionState::type_url() {
        let pb: CookieBasedSessionState = any(&config).at("typed_config")?;
        let cookie = required(pb.cookie).and_then(cookie).at("cookie");
        return cookie.at("typed_config");
    }
    Err(format!("typed_config: {} is not supported here", config.type_url))
}

/// Its time is in whole seconds, as in Envoy; without any it ends with the browser.
fn cookie(mut pb: Cookie) -> Result<Carrier, Reason> {
    let name = cookie_name(take(&mut pb.name)).at("name")?;
    let path = cookie_path(take(&mut pb.path)).at("path")?;
    let ttl = pb.ttl.take().map(duration).transpose().at("ttl")?;
    done(&pb)?;
    let made = MadeCookie {
        ttl: ttl.filter(|ttl| ttl.as_secs() > 0),
        path,
    };
    Ok(Carrier::Cookie { name, made })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::google::protobuf::Duration as PbDuration;
    use envoy_types::util::pack_any;

    use super::*;

    fn of_cookie(cookie: Cookie) -> PbStatefulSession {
        let state = CookieBasedSessionState { cookie: Some(cookie) };
        PbStatefulSession {
            session_state: Some(TypedExtensionConfig {
                name: "any".to_owned(),
                typed_config: Some(pack_any(state)),
            }),
            ..PbStatefulSession::default()
        }
    }

    fn per_route(said: Option<Override>) -> Any {
        pack_any(StatefulSessionPerRoute { r#override: said })
    }

    #[test]
    fn sessions_are_taken_or_refused() {
        let named = |name: &str| Cookie {
            name: name.to_owned(),
            ..Cookie::default()
        };
        let lasting = Cookie {
            ttl: Some(PbDuration {
                seconds: 60,
                nanos: 0,
            }),
            path: "/p".to_owned(),
            ..named("s")
        };
        let taken = |ttl_s: Option<u64>, path: &str, strict| {
            Ok(Some(Arc::new(StatefulSession {
                carrier: Carrier::Cookie {
                    name: "s".into(),
                    made: MadeCookie {
                        ttl: ttl_s.map(Duration::from_secs),
                        path: path.into(),
                    },
                },
                strict,
            })))
        };
        let strict = |status| PbStatefulSession {
            strict: true,
            status_on_strict_destination_not_found: status,
            ..of_cookie(named("s"))
        };
        let with_stats = PbStatefulSession {
            stat_prefix: "s".to_owned(),
            ..of_cookie(named("s"))
        };
        let refused = |reason: &str| Err(reason.to_owned());
        for (pb, expected) in [
            (PbStatefulSession::default(), Ok(None)),
            (of_cookie(named("s")), taken(None, "", None)),
            (of_cookie(lasting), taken(Some(60), "/p", None)),
            (strict(0), taken(None, "", Some(StatusCode::SERVICE_UNAVAILABLE))),
            (strict(404), taken(None, "", Some(StatusCode::NOT_FOUND))),
            (
                strict(99),
                refused("status_on_strict_destination_not_found: must be 200 to 599"),
            ),
            (
                of_cookie(named("")),
                refused("session_state.typed_config.cookie.name: \"\" is not a name of a cookie"),
            ),
            (with_stats, refused("stat_prefix: is not supported by this proxy")),
        ] {
            assert_eq!(of_listener(&pack_any(pb.clone())), expected, "{pb:?}");
            let said = per_route(Some(Override::StatefulSession(pb)));
            assert_eq!(
                of_route(&said),
                expected.map_err(|reason| format!("stateful_session.{reason}"))
            );
        }
        assert_eq!(of_route(&per_route(Some(Override::Disabled(true)))), Ok(None));
        assert_eq!(
            of_route(&per_route(Some(Override::Disabled(false)))),
            refused("disabled: must be true")
        );
        assert_eq!(of_route(&per_route(None)), refused("override: is required"));
    }
}
