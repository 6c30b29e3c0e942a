//! `upgrade_configs` of an HTTP connection manager and of a route.

use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::envoy::config::route::v3::route_action::UpgradeConfig as OfRoute;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig as OfListener;

use super::fields::{At, Reason, done};
use crate::tunnel::{CONNECT, Upgrade};

/// The field's name, which the caller cannot put in front of every reason.
const UPGRADES: &str = "upgrade_configs";

pub(super) fn of_listener(configs: Vec<OfListener>) -> Result<Box<[Upgrade]>, Reason> {
    let mut upgrades = Vec::with_capacity(configs.len());
    for (index, mut pb) in configs.into_iter().enumerate() {
        let is_on = pb.enabled.take().is_none_or(|enabled| enabled.value);
        let upgrade = upgrade(&take(&mut pb.upgrade_type), is_on, &upgrades);
        let decoded = upgrade.and_then(|upgrade| done(&pb).map(|()| upgrade));
        upgrades.push(decoded.at_index(UPGRADES, index)?);
    }
    Ok(upgrades.into())
}

pub(super) fn of_route(configs: Vec<OfRoute>) -> Result<Box<[Upgrade]>, Reason> {
    let mut upgrades = Vec::with_capacity(configs.len());
    for (index, pb) in configs.into_iter().enumerate() {
        upgrades.push(route_upgrade(pb, &upgrades).at_index(UPGRADES, index)?);
    }
    Ok(upgrades.into())
}

fn route_upgrade(mut pb: OfRoute, before: &[Upgrade]) -> Result<Upgrade, Reason> {
    let is_on = pb.enabled.take().is_none_or(|enabled| enabled.value);
    let upgrade = upgrade(&take(&mut pb.upgrade_type), is_on, before)?;
    let ends_here = match pb.connect_config.take() {
        None => false,
        Some(config) => {
            done(&config).at("connect_config")?;
            true
        }
    };
    match (&*upgrade.kind == CONNECT, ends_here) {
        (true, false) if is_on => {
            return Err("connect_config: is required, CONNECT is not passed on to hosts".to_owned());
        }
        (false, true) => return Err("connect_config: is of CONNECT only".to_owned()),
        _ => {}
    }
    done(&pb)?;
    Ok(upgrade)
}

fn upgrade(kind: &str, is_on: bool, before: &[Upgrade]) -> Result<Upgrade, Reason> {
    let kind = kind.to_ascii_lowercase().into_boxed_str();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    if kind.is_empty() || !kind.bytes().all(is_token) {
        return Err(format!("upgrade_type: {kind:?} is no protocol"));
    }
    if &*kind == "h2c" {
        return Err("upgrade_type: h2c is not switched to".to_owned());
    }
    if before.iter().any(|other| other.kind == kind) {
        return Err(format!("upgrade_type: {kind} is listed twice"));
    }
    Ok(Upgrade { kind, is_on })
}

/// Whether requests of HTTP/2 may ask for a connection.
pub(super) fn connects(options: Option<&mut Http2ProtocolOptions>) -> bool {
    options.is_some_and(|options| take(&mut options.allow_connect))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;

    fn of(kind: &str, enabled: Option<bool>, connect_config: Option<ConnectConfig>) -> OfRoute {
        OfRoute {
            upgrade_type: kind.to_owned(),
            enabled: enabled.map(|value| BoolValue { value }),
            connect_config,
        }
    }

    #[test]
    fn what_routes_let_through_is_taken_or_refused() {
        let ends = || Some(ConnectConfig::default());
        let posts = || ConnectConfig {
            allow_post: true,
            ..ConnectConfig::default()
        };
        let upgrade = |kind: &str, is_on| Upgrade {
            kind: kind.into(),
            is_on,
        };
        let refused = |reason: &str| Err(format!("upgrade_configs[0].{reason}"));
        for (config, expected) in [
            (of("WebSocket", None, None), Ok(upgrade("websocket", true))),
            (
                of("websocket", Some(false), None),
                Ok(upgrade("websocket", false)),
            ),
            (of("CONNECT", Some(true), ends()), Ok(upgrade("connect", true))),
            (of("CONNECT", Some(false), None), Ok(upgrade("connect", false))),
            (
                of("CONNECT", None, None),
                refused("connect_config: is required, CONNECT is not passed on to hosts"),
            ),
            (
                of("websocket", None, ends()),
                refused("connect_config: is of CONNECT only"),
            ),
            (
                of("CONNECT", None, Some(posts())),
                refused("connect_config.allow_post: is not supported by this proxy"),
            ),
            (of("", None, None), refused("upgrade_type: \"\" is no protocol")),
            (
                of("a, b", None, None),
                refused("upgrade_type: \"a, b\" is no protocol"),
            ),
            (
                of("H2C", None, None),
                refused("upgrade_type: h2c is not switched to"),
            ),
        ] {
            let found = of_route(vec![config.clone()]);
            assert_eq!(found, expected.map(|upgrade| [upgrade].into()), "{config:?}");
        }
        let twice = of_route(vec![of("websocket", None, None), of("WEBSOCKET", None, None)]);
        let reason = "upgrade_configs[1].upgrade_type: websocket is listed twice";
        assert_eq!(twice, Err(reason.to_owned()));
    }
}
