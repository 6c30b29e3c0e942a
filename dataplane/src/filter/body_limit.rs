//! `envoy.filters.http.buffer`, as far as it bounds a request's body. Nothing is held back until all of it has come: what is too long
//! from its head on is refused, and what turns out to be is broken off.

use bytes::Bytes;
use http::{StatusCode, header};

use super::{Answer, Verdict};
use crate::exchange::Flag;
use crate::matcher::RequestView;

/// What Envoy says as well.
pub(crate) const TOO_LARGE: &str = "Payload Too Large";

/// Bytes of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyLimit(pub(crate) u32);

impl BodyLimit {
    pub(super) fn judge(self, request: &impl RequestView, verdict: &mut Verdict) {
        let max = u64::from(self.0);
        let said = request.lines(&header::CONTENT_LENGTH).next().map(|said| {
            let said = std::str::from_utf8(said).ok();
            // More than what counts is too much; what is none is refused elsewhere.
            said.map_or(0, |said| said.trim().parse().unwrap_or(u64::MAX))
        });
        match said {
            Some(said) if said > max => {
                verdict.answer = Some(Answer {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    code: None,
                    flag: Flag::None,
                    body: Bytes::from_static(TOO_LARGE.as_bytes()),
                });
            }
            None if request.is_open_ended() => {
                verdict.body_max = Some(verdict.body_max.map_or(max, |held| held.min(max)));
            }
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn what_says_too_much_is_refused_and_what_says_nothing_is_counted() {
        for (said, status, counted) in [
            (Some("0"), None, None),
            (Some("7"), None, None),
            (Some("8"), Some(413), None),
            (Some("99999999999999999999999"), Some(413), None),
            (None, None, Some(7)),
        ] {
            let mut request = Request::builder();
            if let Some(said) = said {
                request = request.header("content-length", said);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let mut verdict = Verdict::default();
            BodyLimit(9).judge(&parts, &mut verdict);
            verdict.answer = None;
            BodyLimit(7).judge(&parts, &mut verdict);
            let answer = verdict.answer.map(|answer| answer.status.as_u16());
            assert_eq!((answer, verdict.body_max), (status, counted), "{said:?}");
        }
    }
}
