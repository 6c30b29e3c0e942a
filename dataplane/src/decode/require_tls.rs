//! `require_tls` of a virtual host: before all of its routes stand those that send away who comes in plain text.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use http::StatusCode;

use super::fields::Reason;
use crate::config::{Action, Redirect, Route};
use crate::matcher::{Case, HeaderMatcher, Of, PathMatcher, RouteMatcher, StringMatcher, Text, Wanted};
use crate::router::NO_LEVELS;

/// The routes, if there are to be any.
pub(super) fn routes(required: i32) -> Result<Vec<Route>, Reason> {
    match TlsRequirementType::try_from(required) {
        Ok(TlsRequirementType::None) => Ok(Vec::new()),
        Ok(TlsRequirementType::All) => Ok(in_plain_text()),
        Ok(TlsRequirementType::ExternalOnly) => Err("only NONE and ALL are supported".to_owned()),
        Err(_) => Err(format!("value {required} is unknown")),
    }
}

/// To https with a request; CONNECT, which a redirect does not help, is refused.
fn in_plain_text() -> Vec<Route> {
    let everything = PathMatcher::Prefix(Text::new("", Case::Matters));
    let to_https = Action::Redirect(Redirect {
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: None,
        keeps_query: true,
        status: StatusCode::MOVED_PERMANENTLY,
        response_edits: Arc::default(),
    });
    let refused = Action::Respond {
        status: StatusCode::FORBIDDEN,
        body: Bytes::new(),
        edits: Arc::default(),
    };
    let routes = [(everything, to_https), (PathMatcher::Connect, refused)];
    routes.map(|(path, action)| route(path, action)).into()
}

fn route(path: PathMatcher, action: Action) -> Route {
    let in_plain_text = HeaderMatcher {
        of: Of::Scheme,
        wanted: Wanted::Text(StringMatcher::Exact(Text::new("http", Case::Matters))),
        inverted: false,
        missing_is_empty: false,
    };
    Route {
        name: Box::default(),
        levels: NO_LEVELS,
        matcher: RouteMatcher {
            path,
            headers: vec![in_plain_text],
            query: Vec::new(),
            cookies: Vec::new(),
        },
        edits: Arc::default(),
        action,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::channel::Channel;
    use crate::matcher::{Client, Subject};

    #[test]
    fn who_comes_in_plain_text_is_sent_away() {
        let routes = routes(TlsRequirementType::All as i32).unwrap();
        // A head may say what it likes.
        let (parts, ()) = Request::get("/a")
            .header("x-forwarded-proto", "https")
            .body(())
            .unwrap()
            .into_parts();
        for (scheme, path, expected) in [
            ("http", "/a", Some(0)),
            ("http", "*", Some(0)),
            ("https", "/a", None),
            // CONNECT.
            ("http", "", Some(1)),
            ("https", "", None),
        ] {
            let channel = Channel {
                scheme,
                to: ([10, 0, 0, 2], 80).into(),
                server_name: None,
                peer: None,
                cipher: None,
            };
            let address = [10, 0, 0, 1].into();
            let subject = Subject {
                authority: "a",
                path,
                client: Client {
                    address,
                    channel: &channel,
                },
                direct: address,
                request: &parts,
            };
            let found = routes.iter().position(|route| route.matcher.matches(&subject));
            assert_eq!(found, expected, "{scheme} {path:?}");
        }
    }
}
