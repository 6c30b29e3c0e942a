#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::channel::{Channel, PLAIN};
use crate::exchange::{Flag, Flags};
use crate::grpc::Code;
use crate::tls::{Cipher, Peer};

#[test]
fn strings_are_escaped_as_json_asks() {
    let cases: [(&[u8], &str); 12] = [
        (b"", ""),
        (b"/plain?x=1", "/plain?x=1"),
        (b"a\"b", "a\\\"b"),
        (b"a\\b", "a\\\\b"),
        (b"\n\r\t", "\\n\\r\\t"),
        (b"\x00\x1f\x7f", "\\u0000\\u001f\\u007f"),
        ("\u{e9}\u{1f600}".as_bytes(), "\u{e9}\u{1f600}"),
        (b"\xff", "\\u00ff"),
        (b"a\xc3", "a\\u00c3"),
        (b"\xe2\x82x", "\\u00e2\\u0082x"),
        (b"\xff\"\xfe", "\\u00ff\\\"\\u00fe"),
        (b"\xc3\xa9\xff", "\\u00c3\\u00a9\\u00ff"),
    ];
    for (value, expected) in cases {
        let mut out = Vec::new();
        escape(&mut out, value);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected, "{value:?}");
        let json = [b"\"", &out[..], b"\""].concat();
        let read: String = serde_json::from_slice(&json).unwrap();
        let bytes = || value.iter().copied().map(char::from).collect();
        let said = str::from_utf8(value).map_or_else(|_| bytes(), str::to_owned);
        assert_eq!(read, said, "{value:?}");
    }
}

#[test]
fn numbers_and_moments_are_written_by_hand() {
    for value in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
        let mut out = Vec::new();
        number(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
    }
    for (ms, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        (1_795_398_127_008, "2026-11-23T01:42:07.008Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        let mut out = Vec::new();
        moment(&mut out, ms);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    for shown in ["127.0.0.1:80", "255.255.255.255:65535", "[::1]:8080"] {
        let mut out = Vec::new();
        address(&mut out, shown.parse().unwrap());
        assert_eq!(String::from_utf8(out).unwrap(), shown);
    }
}

fn header(name: &'static str) -> Field {
    Field::Header(HeaderName::from_static(name))
}

fn request(field: Field, or: Option<Field>, bytes_max: Option<usize>) -> Operator {
    Operator::Request(Request::Field { field, or, bytes_max })
}

/// Who shows a certificate.
fn web() -> Peer {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::DnsName("web.shop".try_into().unwrap()),
        SanType::URI("spiffe://acme/web".try_into().unwrap()),
        SanType::URI("spiffe://acme/w".try_into().unwrap()),
    ];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "web");
    let key = KeyPair::generate().unwrap();
    Peer::of(params.self_signed(&key).unwrap().der())
}

type Row = (Operator, &'static str, &'static str, &'static str, &'static str);

/// Of a connection in TLS, and of one in plain text.
fn of_channel(of: OfChannel, secure: &'static str, plain: &'static str) -> Row {
    let json = |text: &'static str| match text {
        "-" => "null",
        text => format!("\"{text}\"").leak(),
    };
    (Operator::Channel(of), secure, json(secure), plain, json(plain))
}

/// One value of a request that was answered, or of one that was not even read.
fn shown(operator: &Operator, show: Show, is_answered: bool) -> String {
    let format = Format::new(vec![Piece::Value(operator.clone(), show)]);
    let mut note = Note::new();
    let secure = Channel {
        scheme: "https",
        to: "10.0.0.3:443".parse().unwrap(),
        server_name: Some("shop.test".into()),
        peer: Some(Box::new(web())),
        cipher: Some(Cipher(
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        )),
    };
    note.started = SystemTime::UNIX_EPOCH;
    let mut ended = Ended {
        status: 0,
        flags: Flags::of(Flag::BadRequest, Flag::None),
        took: Duration::from_micros(1_002_003),
        retries: 1,
        bytes_received: 3,
        bytes_sent: 5,
        client: "10.0.0.1:5000".parse().unwrap(),
        channel: &PLAIN,
        code: None,
        trace: None,
    };
    if is_answered {
        let mut headers = HeaderMap::new();
        for (name, value) in [("user-agent", "c\"1"), ("x", ""), ("x-forwarded-for", "1.1.1.1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let asked = Requested {
            method: &Method::GET,
            target: b"/a?b=c",
            authority: b"h:80",
            protocol: Version::HTTP_2,
            request_id: b"id",
            peer: Some(b"10.0.0.1"),
            route: "r",
            headers: &headers,
        };
        format.capture_request(&asked, &mut note.asked);
        format.capture_response(&headers, &mut note.answered);
        note.cluster("a");
        note.host("10.0.0.2:80".parse().unwrap());
        note.protocol = Some(Version::HTTP_2);
        ended.status = 200;
        ended.code = Code::read(b"14");
        ended.channel = &secure;
        ended.flags = Flags::of(Flag::None, Flag::None);
    }
    let mut out = Vec::new();
    let (mut asked, mut answered) = (note.asked.cursor(), note.answered.cursor());
    format.write(&mut out, &note, &ended, &mut asked, &mut answered);
    String::from_utf8(out).unwrap()
}

#[test]
fn values_are_there_or_not() {
    use Operator::*;
    let agent = || header("user-agent");
    let cases = [
        (request(Field::Method, None, None), "GET", "\"GET\"", "-", "null"),
        (
            request(Field::Path, None, None),
            "/a?b=c",
            "\"/a?b=c\"",
            "-",
            "null",
        ),
        (
            request(Field::PathWithoutQuery, None, None),
            "/a",
            "\"/a\"",
            "-",
            "null",
        ),
        (
            request(Field::Authority, None, Some(1)),
            "h",
            "\"h\"",
            "-",
            "null",
        ),
        (
            request(Field::Scheme, None, None),
            "http",
            "\"http\"",
            "-",
            "null",
        ),
        (request(agent(), None, None), "c\"1", "\"c\\\"1\"", "-", "null"),
        (request(header("y"), None, None), "-", "null", "-", "null"),
        (
            request(header("y"), Some(agent()), Some(2)),
            "c\"",
            "\"c\\\"\"",
            "-",
            "null",
        ),
        (
            request(agent(), Some(header("y")), None),
            "c\"1",
            "\"c\\\"1\"",
            "-",
            "null",
        ),
        (request(header("x"), None, None), "", "\"\"", "-", "null"),
        (
            request(header("x-request-id"), None, None),
            "id",
            "\"id\"",
            "-",
            "null",
        ),
        (
            request(header("x-forwarded-for"), None, None),
            "1.1.1.1,10.0.0.1",
            "\"1.1.1.1,10.0.0.1\"",
            "-",
            "null",
        ),
        (Request(super::Request::Route), "r", "\"r\"", "-", "null"),
        (Response(agent(), Some(1)), "c", "\"c\"", "-", "null"),
        (Response(Field::Status, None), "200", "\"200\"", "-", "null"),
        (ResponseCode, "200", "200", "0", "0"),
        (ResponseFlags, "-", "\"-\"", "DPE", "\"DPE\""),
        (DurationMs, "1002", "1002", "1002", "1002"),
        (BytesReceived, "3", "3", "3", "3"),
        (BytesSent, "5", "5", "5", "5"),
        (UpstreamHost, "10.0.0.2:80", "\"10.0.0.2:80\"", "-", "null"),
        (UpstreamCluster, "a", "\"a\"", "-", "null"),
        (Protocol, "HTTP/2", "\"HTTP/2\"", "-", "null"),
        (
            StartTime,
            "1970-01-01T00:00:00.000Z",
            "\"1970-01-01T00:00:00.000Z\"",
            "1970-01-01T00:00:00.000Z",
            "\"1970-01-01T00:00:00.000Z\"",
        ),
        (
            RemoteAddress,
            "10.0.0.1:5000",
            "\"10.0.0.1:5000\"",
            "10.0.0.1:5000",
            "\"10.0.0.1:5000\"",
        ),
        (
            RemoteAddressWithoutPort,
            "10.0.0.1",
            "\"10.0.0.1\"",
            "10.0.0.1",
            "\"10.0.0.1\"",
        ),
        (Attempts, "2", "2", "1", "1"),
        of_channel(OfChannel::LocalAddress, "10.0.0.3:443", "10.0.0.2:80"),
        of_channel(OfChannel::LocalAddressWithoutPort, "10.0.0.3", "10.0.0.2"),
        of_channel(OfChannel::ServerName, "shop.test", "-"),
        of_channel(OfChannel::TlsVersion, "TLSv1.3", "-"),
        of_channel(OfChannel::TlsCipher, "TLS_AES_128_GCM_SHA256", "-"),
        of_channel(OfChannel::PeerSubject, "CN=web", "-"),
        of_channel(OfChannel::PeerUris, "spiffe://acme/web,spiffe://acme/w", "-"),
        of_channel(OfChannel::PeerDnsNames, "web.shop", "-"),
        (
            GrpcStatus(CodeStyle::Camel),
            "Unavailable",
            "\"Unavailable\"",
            "-",
            "null",
        ),
        (
            GrpcStatus(CodeStyle::Snake),
            "UNAVAILABLE",
            "\"UNAVAILABLE\"",
            "-",
            "null",
        ),
        (GrpcStatus(CodeStyle::Number), "14", "14", "-", "null"),
        (Own(super::Own::Status), "200", "200", "499", "499"),
        (
            Own(super::Own::DurationMs),
            "1002.003",
            "1002.003",
            "1002.003",
            "1002.003",
        ),
        (Own(super::Own::Flags), "\"\"", "\"\"", "\"DPE\"", "\"DPE\""),
    ];
    for (operator, text, json, no_text, no_json) in cases {
        assert_eq!(shown(&operator, Show::Text, true), text, "{operator:?}");
        assert_eq!(shown(&operator, Show::Json, true), json, "{operator:?}");
        assert_eq!(shown(&operator, Show::Text, false), no_text, "{operator:?}");
        assert_eq!(shown(&operator, Show::Json, false), no_json, "{operator:?}");
    }
}

#[test]
fn what_a_log_leaves_out_is_not_the_next_ones() {
    let of = |names: &[&'static str]| {
        let pieces = names
            .iter()
            .map(|name| Piece::Value(request(header(name), None, None), Show::Text));
        Format::new(pieces.collect())
    };
    let (first, second) = (of(&["user-agent", "y"]), of(&["x"]));
    let mut headers = HeaderMap::new();
    headers.append("user-agent", HeaderValue::from_static("first"));
    headers.append("x", HeaderValue::from_static("second"));
    let asked = Requested {
        method: &Method::GET,
        target: b"/",
        authority: b"h",
        protocol: Version::HTTP_11,
        request_id: b"id",
        peer: Some(b"10.0.0.1"),
        route: "",
        headers: &headers,
    };
    let mut captured = Captured::default();
    first.capture_request(&asked, &mut captured);
    second.capture_request(&asked, &mut captured);
    let mut cursor = captured.cursor();
    cursor.skip(first.asks());
    assert_eq!(cursor.next(), Some(&b"second"[..]));
    assert_eq!(cursor.next(), None);
}
