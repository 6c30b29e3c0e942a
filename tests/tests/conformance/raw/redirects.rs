//! Where redirects lead.

use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteMatch};

use super::{Ask, BOTH, Site, at, prefix};
use crate::case::{Case, Expect};

struct Row {
    name: &'static str,
    action: RedirectAction,
    /// What is asked, and where that is led; `HOST` is the row's own.
    asks: Vec<(Case, &'static str)>,
}

pub(super) fn sites() -> Vec<Site> {
    let sites = [
        Row {
            name: "to another host",
            action: RedirectAction {
                host_redirect: "new.test".to_owned(),
                ..RedirectAction::default()
            },
            asks: vec![
                (at("/"), "http://new.test/"),
                (at("/a/b?c=d"), "http://new.test/a/b?c=d"),
            ],
        },
        Row {
            name: "to another port",
            action: RedirectAction {
                port_redirect: 8443,
                ..RedirectAction::default()
            },
            asks: vec![(at("/a"), "http://HOST:8443/a")],
        },
        Row {
            name: "to https",
            action: RedirectAction {
                scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
                ..RedirectAction::default()
            },
            asks: vec![(at("/a?b"), "https://HOST/a?b")],
        },
        Row {
            name: "to a scheme",
            action: RedirectAction {
                scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect("https".to_owned())),
                response_code: RedirectResponseCode::PermanentRedirect as i32,
                ..RedirectAction::default()
            },
            asks: vec![(at("/"), "https://HOST/")],
        },
        Row {
            name: "to another path",
            action: RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/new".to_owned())),
                ..RedirectAction::default()
            },
            asks: vec![
                (at("/a"), "http://HOST/new"),
                (at("/a?b=c"), "http://HOST/new?b=c"),
            ],
        },
        Row {
            name: "to another path with a query of its own",
            action: RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/new?x=y".to_owned())),
                ..RedirectAction::default()
            },
            asks: vec![
                (at("/a"), "http://HOST/new?x=y"),
                (at("/a?b=c"), "http://HOST/new?x=y"),
            ],
        },
        Row {
            name: "to another prefix",
            action: RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PrefixRewrite("/new".to_owned())),
                ..RedirectAction::default()
            },
            asks: vec![
                (at("/a"), "http://HOST/newa"),
                (at("/a/b?c"), "http://HOST/newa/b?c"),
            ],
        },
        Row {
            name: "without the query",
            action: RedirectAction {
                host_redirect: "new.test".to_owned(),
                strip_query: true,
                ..RedirectAction::default()
            },
            asks: vec![
                (at("/a?b=c"), "http://new.test/a"),
                (at("/a"), "http://new.test/a"),
            ],
        },
    ];
    let site = |(number, row): (usize, Row)| {
        let host = format!("redirect{number}.test");
        let ask = |(case, location): (Case, &str)| Ask {
            host: host.clone(),
            case,
            expect: Expect::Header("location", location.replace("HOST", &host).leak()),
        };
        Site {
            name: row.name,
            domains: vec![host.clone()],
            versions: BOTH,
            routes: vec![leads(prefix("/"), row.action)],
            asks: row.asks.into_iter().map(ask).collect(),
        }
    };
    sites.into_iter().enumerate().map(site).collect()
}

fn leads(matcher: RouteMatch, to: RedirectAction) -> Route {
    Route {
        r#match: Some(matcher),
        action: Some(Action::Redirect(to)),
        ..Route::default()
    }
}
