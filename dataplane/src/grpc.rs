//! What calls of gRPC know besides HTTP: their statuses, and how a call that no host answered is told of it
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Pure.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// One byte that says whether a message is compressed, four of its length.
const PREFIX_BYTES: usize = 5;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(u8);

impl Code {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(crate) const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const ABORTED: Self = Self(10);
    pub(crate) const OUT_OF_RANGE: Self = Self(11);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);
    pub(crate) const DATA_LOSS: Self = Self(15);
    pub(crate) const UNAUTHENTICATED: Self = Self(16);

    /// What an answer of HTTP is to a call, as gRPC and Envoy have it.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        std::str::from_utf8(value).ok()?.parse().ok().map(Self)
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }

    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from(u16::from(self.0))
    }
}

impl TryFrom<u64> for Code {
    type Error = std::num::TryFromIntError;

    fn try_from(code: u64) -> Result<Self, Self::Error> {
        u8::try_from(code).map(Self)
    }
}

/// Whether a request with that content type is a call.
pub(crate) fn is_call(content_type: &[u8]) -> bool {
    let rest = content_type
        .split_at_checked(CONTENT_TYPE.len())
        .filter(|(start, _)| *start == CONTENT_TYPE.as_bytes());
    rest.is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(b"+"))
}

/// A text as `grpc-message` carries it.
pub(crate) fn message(text: &[u8]) -> HeaderValue {
    let mut encoded = BytesMut::with_capacity(text.len());
    for byte in text {
        if (b' '..b'~').contains(byte) && *byte != b'%' {
            encoded.put_u8(*byte);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |half: u8| HEX[usize::from(half)];
            encoded.put_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
    HeaderValue::from_maybe_shared(encoded.freeze()).expect("invariant: printable ASCII is a header value")
}

/// The time that a caller gives its call: at most eight digits and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A time as calls are given it, in the smallest unit from milliseconds on that has room for it.
pub(crate) fn said_timeout(timeout: Duration) -> HeaderValue {
    /// Eight digits.
    const COUNT_MAX: u128 = 99_999_999;
    let ms = timeout.as_millis();
    let units = [(1, 'm'), (1000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fitting = units.into_iter().find(|(unit, _)| ms / unit <= COUNT_MAX);
    let (count, unit) = fitting.map_or((COUNT_MAX, 'H'), |(ms_each, unit)| (ms / ms_each, unit));
    HeaderValue::from_maybe_shared(Bytes::from(format!("{count}{unit}")))
        .expect("invariant: digits and a letter are a header value")
}

/// A message as it is sent, not compressed.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // Those that we send are names.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The only message of a body, if it is that and not compressed.
pub(crate) fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [0, length @ ..] = *prefix else {
        return None;
    };
    (usize::try_from(u32::from_be_bytes(length)).ok()? == message.len()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc+", true),
            ("application/grpc-web", false),
            ("application/grpc;x", false),
            ("Application/Grpc", false),
            ("application/grp", false),
            ("", false),
        ] {
            assert_eq!(is_call(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn statuses_are_mapped_as_envoy_does() {
        for (status, expected) in [
            (200, 2),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (408, 2),
            (413, 2),
            (429, 14),
            (500, 2),
            (502, 14),
            (503, 14),
            (504, 14),
        ] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            assert_eq!(Code::of(status), Code(expected), "{status}");
        }
        for (value, expected) in [
            ("0", Some(Code::OK)),
            ("14", Some(Code::UNAVAILABLE)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(Code::read(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        for (text, expected) in [
            ("no route", "no route"),
            ("100%", "100%25"),
            ("a\r\nb", "a%0D%0Ab"),
            ("~\u{e9}}", "%7E%C3%A9}"),
            ("", ""),
        ] {
            assert_eq!(message(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("4m", Some(4000)),
            ("5u", Some(5)),
            ("6000n", Some(6)),
            ("99999999S", Some(99_999_999_000_000)),
            ("123456789S", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("", None),
        ] {
            assert_eq!(
                timeout(value.as_bytes()),
                expected.map(Duration::from_micros),
                "{value}"
            );
        }
    }

    #[test]
    fn timeouts_are_said_in_a_unit_that_has_room_for_them() {
        for (ms, expected) in [
            (0, "0m"),
            (1500, "1500m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (100_000_000_000, "1666666M"),
            (6_000_000_000_000, "1666666H"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(said_timeout(Duration::from_millis(ms)), expected, "{ms}");
        }
    }

    #[test]
    fn a_body_is_one_whole_message() {
        assert_eq!(framed(b"ab"), &b"\0\0\0\0\x02ab"[..]);
        for (body, expected) in [
            (&b"\0\0\0\0\x02ab"[..], Some(&b"ab"[..])),
            (b"\0\0\0\0\0", Some(b"")),
            (b"\0\0\0\0\x02a", None),
            (b"\0\0\0\0\x02abc", None),
            (b"\x01\0\0\0\x02ab", None),
            (b"\0\0\0\0", None),
            (b"", None),
        ] {
            assert_eq!(unframed(body), expected, "{body:?}");
        }
    }
}
