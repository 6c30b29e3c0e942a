//! What asks to become a connection, and may or may not. Over HTTP/2 such a request is another one.

use envoy_types::pb::envoy::config::route::v3::route_action::UpgradeConfig;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::google::protobuf::BoolValue;
use http::Version;
use tombolo_tests::ads::contract;
use tombolo_tests::upstream::WISH;

use super::{Site, at, forwards, passes, prefix, site};
use crate::case::{Case, Expect, GET};

type Lines = &'static [(&'static str, &'static str)];

pub(super) fn sites() -> Vec<Site> {
    let route = |path: &str, upgrade: &str, enabled: Option<bool>| -> Route {
        let action = RouteAction {
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: upgrade.to_owned(),
                enabled: enabled.map(|value| BoolValue { value }),
                ..UpgradeConfig::default()
            }],
            ..RouteAction::default()
        };
        forwards(prefix(path), contract::NAME, action)
    };
    let routes = vec![
        route("/never", "websocket", Some(false)),
        route("/never-in-capitals", "WebSocket", Some(false)),
        route("/other", "spoken", Some(true)),
        route("/said", "spoken", None),
        route("/not-other", "spoken", Some(false)),
        passes(prefix("/")),
    ];
    let ask = |path, headers: Lines| Case { path, headers, ..GET };
    let websocket = |path| {
        ask(
            path,
            &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                (WISH, "switch"),
            ],
        )
    };
    let spoken = |path| {
        ask(
            path,
            &[("connection", "upgrade"), ("upgrade", "spoken"), (WISH, "switch")],
        )
    };
    let refused: &[Expect] = &[Expect::Status(403), Expect::NoHeader("x-answered-by")];
    let switched: &[Expect] = &[
        Expect::Status(101),
        Expect::Header("upgrade", "websocket"),
        Expect::Header("connection", "upgrade"),
    ];
    let speaks: &[Expect] = &[Expect::Status(101), Expect::Header("upgrade", "spoken")];
    let upgrades = site(
        "upgrades",
        "upgrades.test",
        routes,
        &[
            (websocket("/"), switched),
            (
                ask(
                    "/",
                    &[
                        ("connection", "Upgrade"),
                        ("upgrade", "WebSocket"),
                        (WISH, "switch"),
                    ],
                ),
                &[Expect::Status(101), Expect::Header("upgrade", "WebSocket")],
            ),
            (
                ask(
                    "/",
                    &[
                        ("connection", "keep-alive, upgrade"),
                        ("upgrade", "websocket"),
                        (WISH, "switch"),
                    ],
                ),
                &[Expect::Status(101)],
            ),
            (websocket("/never"), refused),
            (websocket("/never-in-capitals"), refused),
            (spoken("/"), refused),
            (spoken("/other"), speaks),
            (spoken("/said"), speaks),
            (spoken("/not-other"), refused),
            // A route's word about one protocol leaves the listener's about others.
            (websocket("/other"), switched),
            (websocket("/not-other"), switched),
            (at("/never"), &[Expect::Says("\"by\"")]),
            // Without the one the other asks for nothing.
            (
                ask("/never", &[("upgrade", "websocket")]),
                &[Expect::Says("\"by\"")],
            ),
            (
                ask("/never", &[("connection", "upgrade")]),
                &[Expect::Says("\"by\"")],
            ),
            (
                ask(
                    "/",
                    &[
                        ("connection", "upgrade"),
                        ("upgrade", "websocket"),
                        (WISH, "status=400"),
                    ],
                ),
                &[
                    Expect::Status(400),
                    Expect::Header("x-answered-by", "application"),
                ],
            ),
        ],
    );
    vec![Site {
        versions: &[Version::HTTP_11],
        ..upgrades
    }]
}
