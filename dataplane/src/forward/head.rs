//! The head of a request on its way: what of it a host is sent, and what is refused.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri};
use hyper::body::Body;

use crate::config::HeaderEdits;
use crate::exchange::REQUEST_ID;
use crate::filter::Changes;
use crate::h1::{self, Lines, Malformed, Outgoing, content_length};
use crate::headers;
use crate::listener::Connection;
use crate::rewrite::PathRewrite;
use crate::router::normalize_path;
use crate::upload::RequestBody;
use crate::worker::Random;

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers that concern one connection only (RFC 9110, section 7.6.1), and `expect`, which was answered.
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// What a message keeps even if its `connection` lists it: where it goes, how long it is, and what the proxy says of it.
static END_TO_END: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    REQUEST_ID,
];

/// Room for most heads.
const HEAD_BYTES: usize = 1024;

/// A request as it is sent upstream, by whichever attempt.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: HeaderValue,
    /// Of what the client asks for, whatever its host is asked in.
    pub(super) scheme: &'static str,
    pub(crate) headers: HeaderMap,
}

impl Head {
    /// With those lines.
    pub(crate) fn over_http1(&self, headers: &HeaderMap, body: RequestBody) -> Outgoing {
        let (head, length) = self.written(headers, !body.is_end_stream());
        Outgoing::new(&self.method, head, length, body)
    }

    /// As it is sent over HTTP/1.1, and how long its body is if that was said.
    fn written(&self, headers: &HeaderMap, has_body: bool) -> (Vec<u8>, Option<u64>) {
        let said = headers::first(headers, &header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let length = said.and_then(|said| content_length(Lines::One(said)).ok());
        // Whoever sends nothing must not promise anything.
        let length = length.filter(|length| has_body || *length == 0);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        for part in [self.method.as_str(), " ", self.target.as_str(), " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        h1::push(&mut head, "host", &[self.authority.as_bytes()]);
        for (name, value) in headers {
            // What frames the message is said below, once, whoever wrote these lines.
            let is_ours = *name == header::HOST || *name == header::CONTENT_LENGTH;
            if is_ours || *name != header::TE && HOP_BY_HOP.contains(name) {
                continue;
            }
            h1::push(&mut head, name.as_str(), &[value.as_bytes()]);
            if *name == header::TE {
                // It concerns one connection only (RFC 9110, section 10.1.4).
                h1::push(&mut head, "connection", &[b"te"]);
            }
        }
        match (length, said) {
            (Some(_), Some(said)) => h1::push(&mut head, "content-length", &[said]),
            _ if has_body => h1::push(&mut head, "transfer-encoding", &[b"chunked"]),
            _ => {}
        }
        head.extend_from_slice(b"\r\n");
        (head, length)
    }

    /// With those lines.
    pub(crate) fn over_http2(&self, mut headers: HeaderMap, body: RequestBody) -> Request<RequestBody> {
        headers::remove(&mut headers, &[header::HOST]);
        only_http2(&mut headers);
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.target.clone());
        uri.scheme = Scheme::try_from(self.scheme).ok();
        // `authority` was parsed as one before it came here.
        uri.authority = Authority::try_from(self.authority.as_bytes()).ok();
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }
}

/// Takes out what HTTP/2 has no place for (RFC 9113, section 8.2.2), which would not be sent, and be taken for a host's failure.
pub(crate) fn only_http2(headers: &mut HeaderMap) {
    // Most heads have none of it but what gRPC asks with.
    let is_unfit = |(name, value): (&HeaderName, &HeaderValue)| {
        HOP_BY_HOP.contains(name) && (*name != header::TE || value != "trailers")
    };
    if headers.iter().any(is_unfit) {
        strip_hop_by_hop(headers);
    }
}

/// Takes out of a head what concerns one connection only, says again what filters say of it, so that a client's `connection` takes
/// none of that out, and adds who is connected; returns what may not
/// stand behind the body, since a host may read that as if it stood before it.
pub(super) fn tidy(headers: &mut HeaderMap, said: &Changes, connection: &Connection) -> Vec<HeaderName> {
    let mut listed = strip_hop_by_hop(headers);
    say_again(headers, &said.edits, &listed);
    listed.extend(said.edits.names().cloned());
    add_forwarded(headers, connection);
    join_cookies(headers);
    listed
}

/// What was said of lines that `listed` has taken out; all else is there.
fn say_again(headers: &mut HeaderMap, said: &HeaderEdits, listed: &[HeaderName]) {
    let is_lost = |line: &&(HeaderName, HeaderValue)| listed.contains(&line.0) && !is_end_to_end(&line.0);
    for (name, value) in said.set.iter().filter(is_lost) {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in said.add.iter().filter(is_lost) {
        headers.append(name.clone(), value.clone());
    }
}

/// Refuses what HTTP/2's codec lets through and HTTP/1.1's does not. Cookies count once, however many lines they are in.
pub(crate) fn well_formed(headers: &HeaderMap, fields_max: usize) -> Result<(), Malformed> {
    if let Some(length) = headers::first(headers, &header::CONTENT_LENGTH) {
        content_length(Lines::One(length.as_bytes()))?;
    }
    if headers.len() <= fields_max && !headers::are_any_repeated(headers) {
        return Ok(());
    }
    let lines = |name| headers.get_all(name).iter().count();
    if headers.len() > fields_max && headers.len() - lines(header::COOKIE).saturating_sub(1) > fields_max {
        return Err(Malformed::HeadTooLarge);
    }
    if lines(header::CONTENT_LENGTH) > 1 {
        return Err(Malformed::Length);
    }
    Ok(())
}

/// Where the request goes within its host: the path normalized, the query untouched.
pub(super) fn target(request: &Parts) -> Result<PathAndQuery, &'static str> {
    let given = request.uri.path_and_query();
    if request.method == Method::CONNECT {
        let to = request.uri.authority();
        let is_whole = to.is_some_and(|to| to.port_u16().is_some()) && given.is_none();
        return is_whole
            .then(|| PathAndQuery::from_static("/"))
            .ok_or("CONNECT is to name a host and a port");
    }
    let given = given.ok_or("the path is missing")?;
    // `OPTIONS *` asks about the server as a whole, which a proxy of many has no answer to.
    let path = normalize_path(given.path())
        .ok_or("the path does not start with a slash, or a % in it escapes nothing")?;
    match path {
        std::borrow::Cow::Borrowed(_) => Ok(given.clone()),
        std::borrow::Cow::Owned(path) => {
            let whole = given
                .query()
                .map_or(path.clone(), |query| format!("{path}?{query}"));
            PathAndQuery::try_from(whole).map_err(|_| "the path is malformed")
        }
    }
}

pub(super) fn rewritten(rewrite: &PathRewrite, target: &PathAndQuery) -> Result<PathAndQuery, &'static str> {
    let path = rewrite.apply(target.path());
    let whole = match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    PathAndQuery::try_from(whole).map_err(|_| "the rewritten path is malformed")
}

/// The host the client means: of the request's target if it names one, else of the `host` header.
pub(super) fn authority(request: &Parts) -> Result<HeaderValue, ()> {
    let value = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).map_err(drop)?,
        None => {
            let mut hosts = request.headers.get_all(header::HOST).iter();
            match (hosts.next(), hosts.next()) {
                (Some(only), None) if Authority::try_from(only.as_bytes()).is_ok() => only.clone(),
                _ => return Err(()),
            }
        }
    };
    let bytes = value.as_bytes();
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']')
    };
    if bytes.is_empty() || !bytes.iter().all(plain) {
        return Err(());
    }
    Ok(value)
}

/// Takes out what concerns one connection only; what `connection` lists may not stand behind the body either.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Vec<HeaderName> {
    // Most heads have none of it, which costs less to see than to look for each.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return Vec::new();
    }
    let named: Vec<HeaderName> = options(headers, &header::CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect();
    // `te: trailers` is what gRPC asks with; any other coding is between us and the client.
    let takes_trailers = options(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().filter(|name| !is_end_to_end(name)) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    named
}

/// Whether a message keeps it even if its `connection` lists it.
pub(crate) fn is_end_to_end(name: &HeaderName) -> bool {
    END_TO_END.contains(name)
}

/// What the lines of a header list between their commas.
pub(crate) fn options<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn add_forwarded(headers: &mut HeaderMap, connection: &Connection) {
    let peer = connection.peer().clone();
    let before = headers::has(headers, &FORWARDED_FOR).then(|| joined(headers, &FORWARDED_FOR, b","));
    let value = match before.flatten() {
        None => peer,
        Some(mut before) => {
            before.push(b',');
            before.extend_from_slice(peer.as_bytes());
            HeaderValue::from_bytes(&before).unwrap_or(peer)
        }
    };
    headers.insert(FORWARDED_FOR, value);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(connection.scheme()));
}

/// A browser splits its cookies over several lines in HTTP/2; in HTTP/1.1 they are one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if !headers::are_any_repeated(headers) || headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies = joined(headers, &header::COOKIE, b"; ").unwrap_or_default();
    if let Ok(cookies) = HeaderValue::from_bytes(&cookies) {
        headers.insert(header::COOKIE, cookies);
    }
}

/// All lines of a header as one value; `None` when there is none.
fn joined(headers: &HeaderMap, name: &HeaderName, separator: &[u8]) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = lines.next()?.as_bytes().to_vec();
    for line in lines {
        value.extend_from_slice(separator);
        value.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

pub(super) fn add_request_id(headers: &mut HeaderMap, random: &Random) {
    if !headers::has(headers, &REQUEST_ID) {
        let id = HeaderValue::from_bytes(&uuid(random.next(), random.next()));
        headers.insert(
            REQUEST_ID,
            id.expect("invariant: hexadecimal digits and dashes are a header value"),
        );
    }
}

/// A random UUID (RFC 9562, version 4) as text.
pub(crate) fn uuid(high: u64, low: u64) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Where the two digits of each byte stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    for (byte, place) in bytes.into_iter().zip(PLACES) {
        text[place] = HEX[usize::from(byte >> 4)];
        text[place + 1] = HEX[usize::from(byte & 0xf)];
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::h1::FIELDS_MAX;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let request = hosts
            .iter()
            .fold(Request::get(uri), |request, host| request.header("host", *host));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_is_one_plain_name() {
        let cases: [(&str, &[&str], Option<&str>); 9] = [
            ("/", &["a.b"], Some("a.b")),
            ("/", &["a.b:80"], Some("a.b:80")),
            ("/", &["[::1]:80"], Some("[::1]:80")),
            ("http://target/", &["header"], Some("target")),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["a", "b"], None),
            ("/", &["a/b"], None),
            ("/", &["user@a"], None),
        ];
        for (uri, hosts, expected) in cases {
            let got = authority(&parts(uri, hosts)).ok();
            assert_eq!(
                got,
                expected.map(|host| HeaderValue::from_str(host).unwrap()),
                "{uri} {hosts:?}"
            );
        }
    }

    fn lines(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn no_line_but_ours_frames_what_a_host_is_sent() {
        let head = Head {
            method: Method::POST,
            target: PathAndQuery::from_static("/"),
            authority: HeaderValue::from_static("h"),
            scheme: "http",
            headers: HeaderMap::new(),
        };
        let (five, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        for (given, has_body, expected) in [
            (&[][..], false, ""),
            (&[], true, "transfer-encoding: chunked\r\n"),
            (&[five], true, "content-length: 5\r\n"),
            (&[five], false, ""),
            (&[("content-length", "0")], false, "content-length: 0\r\n"),
            (&[five, chunked], true, "content-length: 5\r\n"),
            (&[five, ("content-length", "6")], true, "content-length: 5\r\n"),
            (
                &[("content-length", "05")],
                true,
                "transfer-encoding: chunked\r\n",
            ),
            (
                &[("content-length", "+5")],
                true,
                "transfer-encoding: chunked\r\n",
            ),
            (&[chunked, chunked], false, ""),
            (
                &[
                    ("connection", "close"),
                    ("keep-alive", "1"),
                    ("proxy-connection", "a"),
                ],
                false,
                "",
            ),
            (
                &[("upgrade", "a"), ("expect", "100-continue"), ("host", "b")],
                false,
                "",
            ),
            (
                &[("te", "trailers"), ("x", "y")],
                false,
                "te: trailers\r\nconnection: te\r\nx: y\r\n",
            ),
        ] {
            let (got, _) = head.written(&lines(given), has_body);
            assert_eq!(
                String::from_utf8(got).unwrap(),
                format!("POST / HTTP/1.1\r\nhost: h\r\n{expected}\r\n"),
                "{given:?} {has_body}"
            );
        }
    }

    #[test]
    fn a_host_of_http2_is_sent_what_http2_has_a_place_for() {
        for (given, expected) in [
            (&[("x", "y"), ("te", "trailers")][..], "te x"),
            (&[("te", "gzip"), ("x", "y")], "x"),
            (&[("te", "gzip, trailers")], "te"),
            (&[("connection", "close"), ("x", "y")], "x"),
            (&[("keep-alive", "1"), ("proxy-connection", "a"), ("x", "y")], "x"),
            (
                &[("transfer-encoding", "chunked"), ("upgrade", "a"), ("x", "y")],
                "x",
            ),
        ] {
            let mut headers = lines(given);
            only_http2(&mut headers);
            let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
            left.sort_unstable();
            assert_eq!(left.join(" "), expected, "{given:?}");
            let te = headers.get("te");
            assert!(te.is_none_or(|te| te == "trailers"), "{given:?}");
        }
    }

    #[test]
    fn a_head_has_so_many_lines_and_one_length() {
        let of = |lines: &[(&'static str, usize)]| {
            let mut headers = HeaderMap::new();
            for (name, times) in lines {
                (0..*times).for_each(|_| {
                    headers.append(*name, HeaderValue::from_static("1"));
                });
            }
            well_formed(&headers, FIELDS_MAX)
        };
        for (lines, expected) in [
            (&[("x", 100)][..], Ok(())),
            (&[("x", 101)], Err(Malformed::HeadTooLarge)),
            (&[("x", 99), ("cookie", 50)], Ok(())),
            (&[("x", 100), ("cookie", 1)], Err(Malformed::HeadTooLarge)),
            (&[("content-length", 1)], Ok(())),
            (&[("content-length", 2)], Err(Malformed::Length)),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
        for (length, expected) in [
            ("0", Ok(())),
            ("50", Ok(())),
            ("", Err(Malformed::Length)),
            ("00", Err(Malformed::Length)),
            ("05", Err(Malformed::Length)),
        ] {
            let head = lines(&[("content-length", length)]);
            assert_eq!(well_formed(&head, FIELDS_MAX), expected, "{length:?}");
        }
    }

    #[test]
    fn the_query_is_untouched() {
        let cases = [("/a/../b?x=/../y", "/b?x=/../y"), ("/a?", "/a?"), ("/%61", "/a")];
        for (uri, expected) in cases {
            assert_eq!(target(&parts(uri, &["h"])).unwrap().as_str(), expected, "{uri}");
        }
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "\u{e9}, x-mine, keep-alive, te"),
            ("connection", "x-yours, x-forwarded-for,, content-length"),
            ("x-mine", "1"),
            ("x-yours", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("content-length", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "te", "x-forwarded-for", "x-kept"]);
        for (lines, asked) in [
            (&["gzip"][..], false),
            (&["gzip, trailers"], true),
            (&["gzip", "Trailers"], true),
        ] {
            headers.remove("te");
            for line in lines {
                headers.append("te", HeaderValue::from_static(line));
            }
            strip_hop_by_hop(&mut headers);
            let left: Vec<&HeaderValue> = headers.get_all("te").iter().collect();
            let expected: &[&str] = if asked { &["trailers"] } else { &[] };
            assert_eq!(left, expected, "{lines:?}");
        }
    }

    #[test]
    fn lines_of_one_header_are_joined() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            headers.append("cookie", HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        let cookies: Vec<&HeaderValue> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert_eq!(joined(&headers, &FORWARDED_FOR, b","), None);
    }

    #[test]
    fn what_filters_say_is_said_once_and_no_client_takes_it_out() {
        for (listed, expected) in [
            ("", ["1", "client 2", "3 4"]),
            ("x-set, x-added, x-both", ["1", "2", "3 4"]),
            ("x-added", ["1", "2", "3 4"]),
        ] {
            let line = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
            let said = HeaderEdits {
                set: vec![line("x-set", "1"), line("x-both", "3")],
                add: vec![line("x-added", "2"), line("x-both", "4")],
                ..HeaderEdits::default()
            };
            let mut headers = HeaderMap::new();
            headers.insert("connection", HeaderValue::from_str(listed).unwrap());
            headers.insert("x-added", HeaderValue::from_static("client"));
            said.apply(&mut headers);
            let stripped = strip_hop_by_hop(&mut headers);
            say_again(&mut headers, &said, &stripped);
            let found = ["x-set", "x-added", "x-both"].map(|name| {
                let lines = headers.get_all(name).iter();
                let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
                lines.join(" ")
            });
            assert_eq!(found, expected, "{listed:?}");
        }
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        assert_eq!(&uuid(0, 0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&uuid(u64::MAX, u64::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            &uuid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
            b"01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
