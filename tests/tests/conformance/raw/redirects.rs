//! Where redirects lead.

use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteMatch};

use super::{Ask, Site, at, prefix};
use crate::case::{Case, Expect};

pub(super) fn sites() -> Vec<Site> {
    let sites = [
        (
            "to another host",
            RedirectAction {
                host_redirect: "new.test".to_owned(),
                ..RedirectAction::default()
            },
            vec![
                (at("/"), "http://new.test/"),
                (at("/a/b?c=d"), "http://new.test/a/b?c=d"),
            ],
        ),
        (
            "to another port",
            RedirectAction {
                port_redirect: 8443,
                ..RedirectAction::default()
            },
            vec![(at("/a"), "http://HOST:8443/a")],
        ),
        (
            "to https",
            RedirectAction {
                scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
                ..RedirectAction::default()
            },
            vec![(at("/a?b"), "https://HOST/a?b")],
        ),
        (
            "to a scheme",
            RedirectAction {
                scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect("https".to_owned())),
                response_code: RedirectResponseCode::PermanentRedirect as i32,
                ..RedirectAction::default()
            },
            vec![(at("/"), "https://HOST/")],
        ),
        (
            "to another path",
            RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/new".to_owned())),
                ..RedirectAction::default()
            },
            vec![
                (at("/a"), "http://HOST/new"),
                (at("/a?b=c"), "http://HOST/new?b=c"),
            ],
        ),
        (
            "to another path with a query of its own",
            RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/new?x=y".to_owned())),
                ..RedirectAction::default()
            },
            vec![
                (at("/a"), "http://HOST/new?x=y"),
                (at("/a?b=c"), "http://HOST/new?x=y"),
            ],
        ),
        (
            "to another prefix",
            RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PrefixRewrite("/new".to_owned())),
                ..RedirectAction::default()
            },
            vec![
                (at("/a"), "http://HOST/newa"),
                (at("/a/b?c"), "http://HOST/newa/b?c"),
            ],
        ),
        (
            "without the query",
            RedirectAction {
                host_redirect: "new.test".to_owned(),
                strip_query: true,
                ..RedirectAction::default()
            },
            vec![
                (at("/a?b=c"), "http://new.test/a"),
                (at("/a"), "http://new.test/a"),
            ],
        ),
    ];
    let site =
        |(number, (name, action, asks)): (usize, (&'static str, RedirectAction, Vec<(Case, &str)>))| {
            let host = format!("redirect{number}.test");
            let ask = |(case, location): (Case, &str)| Ask {
                host: host.clone(),
                case,
                expect: Expect::Header("location", location.replace("HOST", &host).leak()),
            };
            Site {
                name,
                domains: vec![host.clone()],
                routes: vec![leads(prefix("/"), action)],
                asks: asks.into_iter().map(ask).collect(),
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
