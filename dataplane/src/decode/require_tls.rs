//! `require_tls` of a virtual host: before all of its routes stands one that sends away who comes in plain text.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use http::StatusCode;

use super::fields::Reason;
use crate::config::{Action, Redirect, Route};
use crate::matcher::{Case, HeaderMatcher, Of, PathMatcher, RouteMatcher, StringMatcher, Text, Wanted};
use crate::router::NO_LEVELS;

/// The route, if there is to be one.
pub(super) fn route(required: i32) -> Result<Option<Route>, Reason> {
    match TlsRequirementType::try_from(required) {
        Ok(TlsRequirementType::None) => Ok(None),
        Ok(TlsRequirementType::All) => Ok(Some(to_https())),
        Ok(TlsRequirementType::ExternalOnly) => Err("only NONE and ALL are supported".to_owned()),
        Err(_) => Err(format!("value {required} is unknown")),
    }
}

fn to_https() -> Route {
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
            path: PathMatcher::Prefix(Text::new("/", Case::Matters)),
            headers: vec![in_plain_text],
            query: Vec::new(),
            cookies: Vec::new(),
        },
        edits: Arc::default(),
        action: Action::Redirect(Redirect {
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            keeps_query: true,
            status: StatusCode::MOVED_PERMANENTLY,
            response_edits: Arc::default(),
        }),
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
        let route = route(TlsRequirementType::All as i32).unwrap().unwrap();
        // A head may say what it likes.
        let (parts, ()) = Request::get("/a")
            .header("x-forwarded-proto", "https")
            .body(())
            .unwrap()
            .into_parts();
        for (scheme, path, expected) in [
            ("http", "/a", true),
            ("https", "/a", false),
            // CONNECT, which a redirect does not help.
            ("http", "", false),
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
            assert_eq!(route.matcher.matches(&subject), expected, "{scheme} {path:?}");
        }
    }
}
