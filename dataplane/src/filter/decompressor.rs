//! `envoy.filters.http.decompressor`: which bodies in gzip are passed on as what is in them, decided from heads alone; how that is done,
//! and how much may come of it, is the business of `gunzip`.

use std::sync::Arc;

use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue,
};

use super::Verdict;

const GZIP: &[u8] = b"gzip";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decompressor {
    /// None where those of requests are left alone.
    pub(crate) requests: Option<Unzipping>,
    pub(crate) answers: Option<Unzipping>,
    /// To hosts, whatever clients accept.
    pub(crate) says_accepted: bool,
    /// So many bytes may come of one.
    pub(crate) ratio_max: u32,
}

/// Which of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unzipping {
    /// Not what says that it is to stay as it is.
    Allowed,
    All,
}

impl Decompressor {
    pub(super) fn judge(self: &Arc<Self>, verdict: &mut Verdict) {
        verdict.recoding.decompress = Some(Arc::clone(self));
    }

    /// Makes the head of a request with a body that of what is in it, if it is to be that.
    pub(crate) fn begin_request(&self, headers: &mut HeaderMap, has_body: bool) -> bool {
        let begins = has_body && self.requests.is_some_and(|which| which.begin(headers));
        if self.says_accepted && self.answers.is_some() {
            let accepted: Vec<&[u8]> = headers
                .get_all(ACCEPT_ENCODING)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            let joined = [&accepted[..], &[GZIP]].concat().join(&b", "[..]);
            if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                headers.insert(ACCEPT_ENCODING, joined);
            }
        }
        begins
    }

    /// The same for an answer with a body.
    pub(crate) fn begin_answer(&self, status: StatusCode, headers: &mut HeaderMap) -> bool {
        // A part of what was compressed is nothing by itself.
        let begins =
            status != StatusCode::PARTIAL_CONTENT && self.answers.is_some_and(|which| which.begin(headers));
        let is_strong = |etag: &HeaderValue| !etag.as_bytes().starts_with(b"W/");
        if begins && headers.get(ETAG).is_some_and(is_strong) {
            // Other bytes are no longer the same entity to the letter.
            headers.remove(ETAG);
        }
        begins
    }
}

impl Unzipping {
    fn begin(self, headers: &mut HeaderMap) -> bool {
        let stays = || {
            let mut lines = headers.get_all(CACHE_CONTROL).iter();
            lines.any(|line| {
                let mut words = line.as_bytes().split(|byte| *byte == b',');
                words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
            })
        };
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let is_gzip = codings
            .next()
            .is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(GZIP))
            && codings.next().is_none();
        if !is_gzip || (self == Self::Allowed && stays()) {
            return false;
        }
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_LENGTH);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                name.parse::<http::HeaderName>().unwrap(),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    #[test]
    fn what_is_in_gzip_alone_is_unzipped() {
        const LENGTH: (&str, &str) = ("content-length", "9");
        for (lines, which, begins) in [
            (&[][..], Unzipping::All, false),
            (&[("content-encoding", "gzip"), LENGTH], Unzipping::Allowed, true),
            (&[("content-encoding", "GZIP")], Unzipping::Allowed, true),
            (&[("content-encoding", "br")], Unzipping::All, false),
            (&[("content-encoding", "gzip, br")], Unzipping::All, false),
            (
                &[("content-encoding", "gzip"), ("content-encoding", "gzip")],
                Unzipping::All,
                false,
            ),
            (
                &[("content-encoding", "gzip"), ("cache-control", "a, No-Transform")],
                Unzipping::Allowed,
                false,
            ),
            (
                &[("content-encoding", "gzip"), ("cache-control", "no-transform")],
                Unzipping::All,
                true,
            ),
        ] {
            let mut got = headers(lines);
            assert_eq!(which.begin(&mut got), begins, "{lines:?}");
            let is_plain = !got.contains_key(CONTENT_ENCODING) && !got.contains_key(CONTENT_LENGTH);
            assert!(if begins { is_plain } else { got == headers(lines) }, "{lines:?}");
        }
    }

    #[test]
    fn hosts_are_told_what_is_unzipped_here() {
        for (answers, says_accepted, before, after) in [
            (Some(Unzipping::All), true, &[][..], Some("gzip")),
            (Some(Unzipping::All), true, &["br", "x"], Some("br, x, gzip")),
            (Some(Unzipping::All), false, &["br"], Some("br")),
            (None, true, &[], None),
        ] {
            let decompressor = Decompressor {
                requests: None,
                answers,
                says_accepted,
                ratio_max: 100,
            };
            let lines: Vec<_> = before.iter().map(|line| ("accept-encoding", *line)).collect();
            let mut got = headers(&lines);
            assert!(!decompressor.begin_request(&mut got, true));
            let got = got.get(ACCEPT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(got, after, "{answers:?} {says_accepted} {before:?}");
        }
    }

    #[test]
    fn a_part_of_an_answer_stays_as_it_is() {
        let decompressor = Decompressor {
            requests: None,
            answers: Some(Unzipping::All),
            says_accepted: true,
            ratio_max: 100,
        };
        for (status, etag, begins, left) in [
            (200, "\"a\"", true, None),
            (200, "W/\"a\"", true, Some("W/\"a\"")),
            (206, "\"a\"", false, Some("\"a\"")),
        ] {
            let mut got = headers(&[("content-encoding", "gzip"), ("etag", etag)]);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(decompressor.begin_answer(status, &mut got), begins, "{status}");
            assert_eq!(
                got.get(ETAG).map(|etag| etag.to_str().unwrap()),
                left,
                "{status} {etag}"
            );
        }
    }
}
