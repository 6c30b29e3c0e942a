//! `envoy.filters.http.compressor`: which answers are compressed for whom. What is said here is decided from heads alone; how bytes
//! are compressed is the business of `recode`.

use std::sync::Arc;

use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, VARY,
};

use super::Verdict;
use crate::matcher::RequestView;

/// What is compressed where nothing else is said, as in Envoy.
pub(crate) const TYPES: [&str; 18] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
];

/// By gzip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compressor {
    /// 1 to 9.
    pub(crate) level: u32,
    pub(crate) bytes_min: u64,
    pub(crate) types: Box<[Box<str>]>,
    /// Leaves those alone that have one.
    pub(crate) spares_etags: bool,
    /// From hosts: what a client accepts.
    pub(crate) hides_accepted: bool,
}

/// What is to be done to a request's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compress {
    pub(crate) by: Arc<Compressor>,
    pub(crate) is_accepted: bool,
}

impl Compressor {
    pub(super) fn judge(self: &Arc<Self>, request: &impl RequestView, verdict: &mut Verdict) {
        verdict.recoding.compress = Some(Compress {
            by: Arc::clone(self),
            is_accepted: accepts_gzip(request.lines(&ACCEPT_ENCODING)),
        });
    }
}

impl Compress {
    /// Makes the head of an answer that of a compressed one, if it is to be that: its level.
    pub(crate) fn begin(&self, is_head: bool, status: StatusCode, headers: &mut HeaderMap) -> Option<u32> {
        if !self.by.is_fit(status, headers) {
            return None;
        }
        // Also where it is not compressed for this client: a cache is not to give it to all.
        vary(headers);
        let has_body = !is_head && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !self.is_accepted || !has_body {
            return None;
        }
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        // Other bytes are no longer the same entity to the letter.
        if headers
            .get(ETAG)
            .is_some_and(|etag| !etag.as_bytes().starts_with(b"W/"))
        {
            headers.remove(ETAG);
        }
        Some(self.by.level)
    }
}

impl Compressor {
    fn is_fit(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let says = |value: &HeaderValue, word: &str| {
            let mut words = value.as_bytes().split(|byte| *byte == b',');
            words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        let is_spared = self.spares_etags && headers.contains_key(ETAG);
        length.is_none_or(|length| length >= self.bytes_min)
            && !headers.contains_key(CONTENT_ENCODING)
            // A part of the compressed whole is another one than a compressed part.
            && status != StatusCode::PARTIAL_CONTENT
            && !headers.contains_key(CONTENT_RANGE)
            && !is_spared
            && !headers.get_all(CACHE_CONTROL).iter().any(|value| says(value, "no-transform"))
            && headers.get(CONTENT_TYPE).is_none_or(|value| self.takes(value.as_bytes()))
    }

    fn takes(&self, content_type: &[u8]) -> bool {
        let name = content_type
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        self.types
            .iter()
            .any(|taken| taken.as_bytes().eq_ignore_ascii_case(name))
    }
}

fn vary(headers: &mut HeaderMap) {
    let says = |value: &HeaderValue| {
        let mut names = value
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
    };
    if !headers.get_all(VARY).iter().any(says) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Whether gzip is what a client likes best of what there is: of those with the greatest `q`, the first (RFC 9110, section 12.5.3).
fn accepts_gzip<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let codings = lines.flat_map(|line| line.split(|byte| *byte == b','));
    let (mut gzip, mut any, mut best) = (None, None, (0, false));
    for coding in codings
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty())
    {
        let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let Some(q) = parts.next().map_or(Some(1000), quality) else {
            continue;
        };
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        if is(b"gzip") || is(b"x-gzip") {
            gzip = Some(q);
        } else if is(b"*") {
            any = Some(q);
        }
        let offers = [&b"gzip"[..], b"x-gzip", b"*"].into_iter().any(is);
        if (offers || is(b"identity")) && q > best.0 {
            best = (q, offers);
        }
    }
    best.1 && gzip.or(any).is_some_and(|q| q > 0)
}

/// In thousandths.
fn quality(parameter: &[u8]) -> Option<u32> {
    let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
    let value = value.trim();
    let is_quality = name.trim().eq_ignore_ascii_case("q")
        && value.len() <= 5
        && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value: f64 = value.parse().ok().filter(|_| is_quality)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000"
    )]
    (0.0..=1.0).contains(&value).then_some((value * 1000.0) as u32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_like_it_best() {
        for (lines, expected) in [
            (&[][..], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZIP"], true),
            (&["x-gzip"], true),
            (&["deflate, gzip, br"], true),
            (&["deflate", "gzip"], true),
            (&["br"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip;q=0.001"], true),
            (&["gzip ; q=1.0"], true),
            (&["gzip;q=0.5, identity"], false),
            (&["identity;q=0.5, gzip;q=0.8"], true),
            (&["gzip, identity"], true),
            (&["identity, gzip"], false),
            (&["identity;q=0"], false),
            (&["gzip;q=2"], false),
            (&["gzip;q=-1"], false),
            (&["gzip;q=x"], false),
            (&["gzip;level=9"], false),
            (&["gzipped"], false),
        ] {
            let lines_of = lines.iter().map(|line: &&str| line.as_bytes());
            assert_eq!(accepts_gzip(lines_of), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_answer_is_compressed_or_left_alone() {
        type Lines = &'static [(&'static str, &'static str)];
        const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
        // Status and head of an answer, whether it is compressed, and whether it may be for others.
        let cases: &[(u16, Lines, bool, bool)] = &[
            (200, &[TEXT], true, true),
            (200, &[], true, true),
            (404, &[TEXT], true, true),
            (200, &[TEXT, ("content-length", "30")], true, true),
            (200, &[TEXT, ("content-length", "29")], false, false),
            (200, &[("content-type", "image/png")], false, false),
            (200, &[("content-type", "Text/HTML")], true, true),
            (200, &[TEXT, ("content-encoding", "br")], false, false),
            (200, &[TEXT, ("content-encoding", "identity")], false, false),
            (
                200,
                &[TEXT, ("cache-control", "public, No-Transform")],
                false,
                false,
            ),
            (200, &[TEXT, ("cache-control", "public")], true, true),
            (206, &[TEXT, ("content-range", "bytes 0-9/100")], false, false),
            (206, &[TEXT], false, false),
            (204, &[], false, true),
            (304, &[("etag", "\"a\"")], false, true),
        ];
        let by = Arc::new(Compressor {
            level: 6,
            bytes_min: 30,
            types: TYPES.map(Box::from).into(),
            spares_etags: false,
            hides_accepted: false,
        });
        for (status, lines, compressed, varies) in cases {
            for is_accepted in [true, false] {
                for is_head in [true, false] {
                    let mut headers: HeaderMap = lines
                        .iter()
                        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                        .collect();
                    let before = headers.clone();
                    let compress = Compress {
                        by: Arc::clone(&by),
                        is_accepted,
                    };
                    let level = compress.begin(is_head, StatusCode::from_u16(*status).unwrap(), &mut headers);
                    let expected = *compressed && is_accepted && !is_head;
                    assert_eq!(
                        level.is_some(),
                        expected,
                        "{status} {lines:?} {is_accepted} {is_head}"
                    );
                    assert_eq!(headers.remove(VARY).is_some(), *varies, "{status} {lines:?}");
                    if expected {
                        assert_eq!(headers[CONTENT_ENCODING], "gzip");
                        assert!(!headers.contains_key(CONTENT_LENGTH), "{lines:?}");
                    } else {
                        assert_eq!(headers, before, "{status} {lines:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_etag_is_of_the_same_bytes_only() {
        for (etag, spares, compressed, left) in [
            ("\"a\"", false, true, None),
            ("W/\"a\"", false, true, Some("W/\"a\"")),
            ("\"a\"", true, false, Some("\"a\"")),
            ("W/\"a\"", true, false, Some("W/\"a\"")),
        ] {
            let by = Compressor {
                level: 6,
                bytes_min: 30,
                types: Box::default(),
                spares_etags: spares,
                hides_accepted: false,
            };
            let compress = Compress {
                by: Arc::new(by),
                is_accepted: true,
            };
            let mut headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static(etag))]);
            let level = compress.begin(false, StatusCode::OK, &mut headers);
            assert_eq!(level.is_some(), compressed, "{etag} {spares}");
            let found = headers.get(ETAG).map(|etag| etag.to_str().unwrap());
            assert_eq!(found, left, "{etag} {spares}");
        }
    }

    #[test]
    fn what_caches_are_told_is_told_once() {
        for (lines, expected) in [
            (&[][..], &["Accept-Encoding"][..]),
            (&["Origin"], &["Origin", "Accept-Encoding"]),
            (&["accept-encoding, origin"], &["accept-encoding, origin"]),
            (&["*"], &["*"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(VARY, HeaderValue::from_static(line));
            }
            vary(&mut headers);
            let found: Vec<&str> = headers
                .get_all(VARY)
                .iter()
                .map(|line| line.to_str().unwrap())
                .collect();
            assert_eq!(found, expected, "{lines:?}");
        }
    }
}
