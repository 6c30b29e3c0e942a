//! The head of a message, parsed where it lies: names, values and lines are ranges of the buffer that it came in. Stricter
//! than the parser underneath, which takes a bare LF for the end of a line.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::{HeaderName, Method};

use super::framing::{Lines, Malformed, Said, Version};
use crate::matcher::{Headers, RequestView};

/// Bytes of a head; Envoy takes 60 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Lines of a head, as in Envoy.
pub(crate) const FIELDS_MAX: usize = 100;
/// What `connection` may list in all: nobody has use for more than a few, and each is looked for among all lines.
const OPTIONS_MAX: usize = 32;
/// What follows the target in a request's first line: a space and the version.
const VERSION_BYTES: usize = " HTTP/1.1".len();

/// Headers that the proxy itself has something to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    ForwardedClientCert,
    ForwardedFor,
    ForwardedProto,
    Host,
    KeepAlive,
    ProxyConnection,
    RequestId,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Other,
}

/// One line of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) known: Known,
    start: usize,
    name_end: usize,
    value_start: usize,
    value_end: usize,
    end: usize,
}

/// The lines of a head, as ranges of its bytes; kept and filled again.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    fields: Vec<Field>,
    held: KnownSet,
}

/// Which of the known headers a head has, and which in several lines: most requests have few of those that are looked for.
#[derive(Clone, Copy, Debug, Default)]
struct KnownSet {
    held: u32,
    repeated: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct RequestLine {
    pub(crate) method: Method,
    pub(crate) target: Range<usize>,
    pub(crate) version: Version,
    /// Of the whole head.
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusLine {
    pub(crate) status: u16,
    pub(crate) version: Version,
    /// Of the whole head.
    pub(crate) bytes: usize,
}

/// The lines of a head with the bytes that they are ranges of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) bytes: &'a [u8],
    fields: &'a [Field],
    held: KnownSet,
}

/// A request as the router sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) method: &'a Method,
    pub(crate) query: Option<&'a str>,
}

/// Reads the head of a request; `None` when it has not all come.
pub(crate) fn read_request(bytes: &[u8], fields: &mut Fields) -> Result<Option<RequestLine>, Malformed> {
    // One empty line may stand before a request (RFC 9112, section 2.2); the parser would skip any.
    if bytes.first().is_some_and(|first| matches!(first, b'\r' | b'\n')) {
        return Err(Malformed::Head);
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request
        .parse_with_uninit_headers(bytes, &mut lines)
        .map_err(malformed)?
    {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Malformed::Head);
    };
    // One space parts them, or the parser would have refused.
    let target_start = method.len() + 1;
    let target = target_start..target_start + target.len();
    let first_end = line_end(bytes, target.end + VERSION_BYTES)?;
    fields.place(bytes, first_end, request.headers, length)?;
    Ok(Some(RequestLine {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Head)?,
        target,
        version: version(minor),
        bytes: length,
    }))
}

/// Reads the head of a response; `None` when it has not all come.
pub(crate) fn read_response(bytes: &[u8], fields: &mut Fields) -> Result<Option<StatusLine>, Malformed> {
    if bytes.first().is_some_and(|first| *first != b'H') {
        return Err(Malformed::Head);
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut lines,
    );
    let length = match parsed.map_err(malformed)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Malformed::Head);
    };
    let reason = bytes.get("HTTP/1.1 200".len()..).unwrap_or_default();
    let feed = reason
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or(Malformed::Head)?;
    let first_end = line_end(bytes, bytes.len() - reason.len() + feed.saturating_sub(1))?;
    fields.place(bytes, first_end, response.headers, length)?;
    if status < 100 {
        return Err(Malformed::Head);
    }
    Ok(Some(StatusLine {
        status,
        version: version(minor),
        bytes: length,
    }))
}

/// Whether more can be said of a head than when it had `looked` bytes: it ends, or turns out malformed, with a line only.
pub(crate) fn is_worth_a_look(filled: &[u8], looked: usize) -> bool {
    looked == 0 || filled[looked..].contains(&b'\n')
}

fn version(minor: u8) -> Version {
    if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    }
}

fn malformed(error: httparse::Error) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => Malformed::HeadTooLarge,
        httparse::Error::Version => Malformed::Version,
        _ => Malformed::Head,
    }
}

/// The end of the line whose text ends at `at`, perhaps with spaces behind it.
fn line_end(bytes: &[u8], mut at: usize) -> Result<usize, Malformed> {
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    match bytes.get(at..at + 2) {
        Some(b"\r\n") => Ok(at + 2),
        _ => Err(Malformed::LineEnd),
    }
}

impl Fields {
    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// Notes where the lines lie: each begins where the one before ended, or something stood between them.
    fn place(
        &mut self,
        bytes: &[u8],
        first: usize,
        parsed: &[httparse::Header<'_>],
        length: usize,
    ) -> Result<(), Malformed> {
        self.fields.clear();
        self.held = KnownSet::default();
        let mut start = first;
        for line in parsed {
            let name_end = start + line.name.len();
            let mut value_start = name_end + 1;
            while matches!(bytes.get(value_start), Some(b' ' | b'\t')) {
                value_start += 1;
            }
            let value_end = value_start + line.value.len();
            // An empty value may be followed by nothing but the spaces that were just skipped.
            let end = line_end(bytes, value_end)?;
            if bytes.get(name_end) != Some(&b':') {
                return Err(Malformed::LineEnd);
            }
            let known = known(line.name.as_bytes());
            self.held.add(known);
            self.fields.push(Field {
                known,
                start,
                name_end,
                value_start,
                value_end,
                end,
            });
            start = end;
        }
        if line_end(bytes, start)? == length && bytes.get(start) == Some(&b'\r') {
            Ok(())
        } else {
            Err(Malformed::LineEnd)
        }
    }

    pub(crate) fn of<'a>(&'a self, bytes: &'a [u8]) -> Head<'a> {
        Head {
            bytes,
            fields: &self.fields,
            held: self.held,
        }
    }
}

impl KnownSet {
    fn add(&mut self, known: Known) {
        let it = 1 << known as u32;
        self.repeated |= self.held & it;
        self.held |= it;
    }

    fn has(self, known: Known) -> bool {
        self.held & 1 << known as u32 != 0
    }

    fn repeats(self, known: Known) -> bool {
        self.repeated & 1 << known as u32 != 0
    }
}

impl<'a> Head<'a> {
    pub(crate) fn fields(self) -> &'a [Field] {
        self.fields
    }

    pub(crate) fn name(self, field: &Field) -> &'a [u8] {
        &self.bytes[field.start..field.name_end]
    }

    pub(crate) fn value(self, field: &Field) -> &'a [u8] {
        &self.bytes[self.value_range(field)]
    }

    pub(crate) fn value_range(self, field: &Field) -> Range<usize> {
        field.value_start..field.value_end
    }

    /// The line's range if it stands there as we would write it, else nothing.
    pub(crate) fn plain_line(self, field: &Field) -> Option<Range<usize>> {
        let plain = field.value_start == field.name_end + 2
            && self.bytes[field.name_end + 1] == b' '
            && field.end == field.value_end + 2;
        plain.then_some(field.start..field.end)
    }

    pub(crate) fn lines(self, known: Known) -> Lines<'a> {
        if self.held.repeats(known) {
            return Lines::Many;
        }
        self.values(known).next().map_or(Lines::None, Lines::One)
    }

    pub(crate) fn values(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        let fields = if self.held.has(known) { self.fields } else { &[] };
        let of_it = fields.iter().filter(move |field| field.known == known);
        of_it.map(move |field| self.value(field))
    }

    /// The values of the lines of that name, be it known or not. Who a client is said to be by itself is nobody's to see.
    pub(crate) fn named(self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let is_named = move |field: &&Field| {
            self.name(field).eq_ignore_ascii_case(name) && field.known != Known::ForwardedClientCert
        };
        let of_it = self.fields.iter().filter(is_named);
        of_it.map(move |field| self.value(field))
    }

    pub(crate) fn has(self, known: Known) -> bool {
        self.held.has(known)
    }

    /// What the head says about the body behind it.
    pub(crate) fn said(self, version: Version) -> Said<'a> {
        Said {
            version,
            length: self.lines(Known::ContentLength),
            coding: self.lines(Known::TransferEncoding),
        }
    }

    /// The names that `connection` lists.
    pub(crate) fn options(self) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.values(Known::Connection);
        lines
            .flat_map(|line| line.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|option| !option.is_empty())
    }

    pub(crate) fn check_options(self) -> Result<(), Malformed> {
        if self.has(Known::Connection) && self.options().nth(OPTIONS_MAX).is_some() {
            return Err(Malformed::Options);
        }
        Ok(())
    }

    /// Whether whoever sends it takes trailers in the answer.
    pub(crate) fn takes_trailers(self) -> bool {
        let mut codings = self
            .values(Known::Te)
            .flat_map(|line| line.split(|byte| *byte == b','));
        self.has(Known::Te) && codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    }

    pub(crate) fn has_option(self, option: &str) -> bool {
        self.has(Known::Connection)
            && self
                .options()
                .any(|given| given.eq_ignore_ascii_case(option.as_bytes()))
    }
}

impl RequestView for View<'_> {
    fn method(&self) -> &Method {
        self.method
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn is_open_ended(&self) -> bool {
        self.head.values(Known::TransferEncoding).next().is_some()
    }

    fn lines<'b>(&'b self, name: &'b HeaderName) -> impl Iterator<Item = &'b [u8]> {
        self.head.named(name.as_str().as_bytes())
    }

    fn names(&self, show: &mut dyn FnMut(&[u8])) {
        Headers::each(&self.head, &mut |name, _| show(name));
    }
}

pub(crate) fn known(name: &[u8]) -> Known {
    let is = |wanted: &str, known: Known| {
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            known
        } else {
            Known::Other
        }
    };
    let either = |one: Known, other: Known| if one == Known::Other { other } else { one };
    match name.len() {
        2 => is("te", Known::Te),
        4 => either(is("host", Known::Host), is("date", Known::Date)),
        6 => either(is("cookie", Known::Cookie), is("expect", Known::Expect)),
        7 => either(is("upgrade", Known::Upgrade), is("trailer", Known::Trailer)),
        10 => either(
            is("connection", Known::Connection),
            is("keep-alive", Known::KeepAlive),
        ),
        12 => either(
            is("x-request-id", Known::RequestId),
            is("content-type", Known::ContentType),
        ),
        14 => is("content-length", Known::ContentLength),
        15 => is("x-forwarded-for", Known::ForwardedFor),
        16 => is("proxy-connection", Known::ProxyConnection),
        17 => either(
            is("transfer-encoding", Known::TransferEncoding),
            is("x-forwarded-proto", Known::ForwardedProto),
        ),
        23 => is("x-forwarded-client-cert", Known::ForwardedClientCert),
        _ => Known::Other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Option<RequestLine>, Malformed> {
        read_request(text.as_bytes(), &mut Fields::default())
    }

    #[test]
    fn lines_are_ranges_of_their_bytes() {
        let text = b"GET /a?b HTTP/1.1\r\nHost: h\r\nx-a:1\r\nX-Empty:\r\nx-spaces: \t v \t \r\n\r\nrest";
        let mut fields = Fields::default();
        let line = read_request(text, &mut fields).unwrap().unwrap();
        assert_eq!(
            (line.method.as_str(), &text[line.target.clone()]),
            ("GET", &b"/a?b"[..])
        );
        assert_eq!(&text[line.bytes..], b"rest");
        let head = fields.of(text);
        let shown: Vec<(&[u8], &[u8], bool)> = head
            .fields()
            .iter()
            .map(|field| {
                (
                    head.name(field),
                    head.value(field),
                    head.plain_line(field).is_some(),
                )
            })
            .collect();
        let expected: [(&[u8], &[u8], bool); 4] = [
            (b"Host", b"h", true),
            (b"x-a", b"1", false),
            (b"X-Empty", b"", false),
            (b"x-spaces", b"v", false),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_head_is_read_in_one_way_or_refused() {
        use Malformed::{Head, LineEnd, Version};
        let cases = [
            ("GET / HTTP/1.1\nhost: h\r\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: h\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: h\r\n\n", LineEnd),
            ("GET / HTTP/1.1\r\nhost: h\n\n", LineEnd),
            ("GET / HTTP/1.1\r\na:\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\na: b\rc\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\n a: b\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na: b\r\n\tc\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na(b: c\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na\u{e9}: c\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na: \0\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na: \x01\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na: \x7f\r\n\r\n", Head),
            ("GET / HTTP/1.1\r\na\0: b\r\n\r\n", Head),
            ("\r\nGET / HTTP/1.1\r\n\r\n", Head),
            ("\nGET / HTTP/1.1\r\n\r\n", Head),
            (" GET / HTTP/1.1\r\n\r\n", Head),
            ("GET  / HTTP/1.1\r\n\r\n", Head),
            ("GET /a b HTTP/1.1\r\n\r\n", Version),
            ("GET / HTTP/1.1 \r\n\r\n", Head),
            ("GET\t/ HTTP/1.1\r\n\r\n", Head),
            ("G(T / HTTP/1.1\r\n\r\n", Head),
            ("GET /\x01 HTTP/1.1\r\n\r\n", Head),
            ("GET / HTTP/2.0\r\n\r\n", Version),
            ("GET / HTTP/1.2\r\n\r\n", Version),
            ("GET / http/1.1\r\n\r\n", Version),
            ("GET /\r\n\r\n", Head),
            ("nonsense\r\n\r\n", Head),
        ];
        for (text, expected) in cases {
            match request(text) {
                // Which of them it is says the parser underneath.
                Err(Head | Version) if matches!(expected, Head | Version) => {}
                got => assert_eq!(got.map(drop), Err(expected), "{text:?}"),
            }
        }
    }

    #[test]
    fn a_head_that_has_not_all_come_is_waited_for() {
        let text = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
        for end in 0..text.len() {
            assert!(matches!(request(&text[..end]), Ok(None)), "{:?}", &text[..end]);
        }
        assert!(matches!(request(text), Ok(Some(_))));
    }

    #[test]
    fn a_head_is_looked_at_once_per_line() {
        let text = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n";
        let mut looked = 0;
        let looks = (1..=text.len()).filter(|end| {
            let worth = is_worth_a_look(&text[..*end], looked);
            if worth {
                looked = *end;
            }
            worth
        });
        assert_eq!(looks.count(), 4, "at its first byte and at the end of each line");
    }

    #[test]
    fn options_are_counted() {
        for (listed, expected) in [
            ("a,".repeat(OPTIONS_MAX), Ok(())),
            (",".repeat(10_000), Ok(())),
            ("a,".repeat(OPTIONS_MAX + 1), Err(Malformed::Options)),
        ] {
            let text = format!("GET / HTTP/1.1\r\nconnection: {listed}\r\n\r\n");
            let mut fields = Fields::default();
            read_request(text.as_bytes(), &mut fields).unwrap();
            assert_eq!(fields.of(text.as_bytes()).check_options(), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let of = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(matches!(request(&of(FIELDS_MAX)), Ok(Some(_))));
        assert_eq!(
            request(&of(FIELDS_MAX + 1)).map(drop),
            Err(Malformed::HeadTooLarge)
        );
    }

    #[test]
    fn responses_are_as_strict() {
        let read = |text: &str| read_response(text.as_bytes(), &mut Fields::default());
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 \r\na: b\r\n\r\n",
            "HTTP/1.0 404 Not Found\r\n\r\n",
        ] {
            assert!(matches!(read(text), Ok(Some(_))), "{text:?}");
        }
        for text in [
            "HTTP/1.1 200 OK\n\r\n",
            "HTTP/1.1 200\na: b\r\n\r\n",
            "HTTP/1.1 200 \na: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn options_of_the_connection_are_a_list() {
        let text = b"GET / HTTP/1.1\r\nConnection: a ,Close, ,\r\nconnection:\tb\r\n\r\n";
        let mut fields = Fields::default();
        read_request(text, &mut fields).unwrap();
        let head = fields.of(text);
        let options: Vec<&[u8]> = head.options().collect();
        assert_eq!(options, [&b"a"[..], b"Close", b"b"]);
        assert!(head.has_option("close") && !head.has_option("keep-alive"));
    }
}
