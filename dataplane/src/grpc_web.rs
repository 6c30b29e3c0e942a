//! gRPC for those who cannot see trailers, as browsers cannot (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>):
//! trailers are the last message of the body, and all of that may be base64. Pure; what comes in pieces may be cut anywhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};

use crate::grpc;

/// What Envoy tells hosts of a browser.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The first byte of a message that is made of trailers.
const TRAILERS: u8 = 0x80;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Binary,
    /// In base64.
    Text,
}

/// A call, and how its answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WebCall {
    pub(crate) request: Form,
    pub(crate) answer: Form,
}

/// Base64 in pieces, in which each group of four stands for itself.
#[derive(Debug, Default)]
pub(crate) struct Text {
    group: [u8; 4],
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not base64")]
pub(crate) struct NotText;

impl Form {
    /// Of a body with that content type, if it is a call's.
    fn of(content_type: &[u8]) -> Option<Self> {
        match content_type {
            b"application/grpc-web" | b"application/grpc-web+proto" => Some(Self::Binary),
            b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(Self::Text),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        })
    }

    /// A piece of an answer as it is written. Padded, so that nothing waits for what comes behind it.
    pub(crate) fn written(self, piece: Bytes) -> Bytes {
        match self {
            Self::Binary => piece,
            Self::Text => STANDARD.encode(piece).into(),
        }
    }

    /// The trailers of an answer as they are written.
    pub(crate) fn trailers(self, trailers: &HeaderMap) -> Bytes {
        let mut lines = BytesMut::new();
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
                lines.put_slice(part);
            }
        }
        let mut message = BytesMut::with_capacity(lines.len() + 5);
        message.put_u8(TRAILERS);
        // A codec has bounded them by far less.
        message.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        message.put_slice(&lines);
        self.written(message.freeze())
    }
}

impl WebCall {
    /// The call that a request is, if it is one: by its only content type, and by what it accepts.
    pub(crate) fn of<'a>(
        mut content_types: impl Iterator<Item = &'a [u8]>,
        mut accepted: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let (Some(content_type), None) = (content_types.next(), content_types.next()) else {
            return None;
        };
        Some(Self {
            request: Form::of(content_type)?,
            answer: accepted.next().and_then(Form::of).unwrap_or(Form::Binary),
        })
    }

    /// What makes the request's head that of a call.
    pub(crate) const LINES: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, grpc::CONTENT_TYPE),
        (TE, HeaderValue::from_static("trailers")),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity,deflate,gzip")),
    ];

    /// What the answer says of itself.
    pub(crate) fn line(self) -> (HeaderName, HeaderValue) {
        (CONTENT_TYPE, self.answer.content_type())
    }
}

impl Text {
    pub(crate) fn read(&mut self, piece: &[u8]) -> Result<Bytes, NotText> {
        let mut out = BytesMut::with_capacity(piece.len() / 4 * 3 + 3);
        for byte in piece {
            self.group[self.filled] = *byte;
            self.filled += 1;
            if self.filled == self.group.len() {
                let mut read = [0; 3];
                let length = STANDARD
                    .decode_slice(self.group, &mut read)
                    .map_err(|_| NotText)?;
                out.put_slice(&read[..length]);
                self.filled = 0;
            }
        }
        Ok(out.freeze())
    }

    /// To be asked when nothing follows.
    pub(crate) fn end(&self) -> Result<(), NotText> {
        if self.filled == 0 { Ok(()) } else { Err(NotText) }
    }
}

/// The lines that a call is known by.
pub(crate) const KNOWN_BY: [HeaderName; 2] = [CONTENT_TYPE, ACCEPT];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_what_it_says() {
        use Form::{Binary, Text};
        for (content_types, accepted, expected) in [
            (&["application/grpc-web"][..], &[][..], Some((Binary, Binary))),
            (&["application/grpc-web+proto"], &["*/*"], Some((Binary, Binary))),
            (
                &["application/grpc-web-text"],
                &["application/grpc-web-text"],
                Some((Text, Text)),
            ),
            (&["application/grpc-web-text+proto"], &[], Some((Text, Binary))),
            (
                &["application/grpc-web"],
                &["application/grpc-web-text+proto"],
                Some((Binary, Text)),
            ),
            (&["application/grpc"], &[], None),
            (&["application/grpc-web+json"], &[], None),
            (&["application/grpc-web; charset=utf-8"], &[], None),
            (&["application/grpc-web", "text/plain"], &[], None),
            (&[], &["application/grpc-web-text"], None),
        ] {
            let lines = |lines: &'static [&'static str]| lines.iter().map(|line| line.as_bytes());
            let expected = expected.map(|(request, answer)| WebCall { request, answer });
            let found = WebCall::of(lines(content_types), lines(accepted));
            assert_eq!(found, expected, "{content_types:?} {accepted:?}");
        }
    }

    #[test]
    fn text_may_be_cut_anywhere() {
        // Each message by itself, as browsers send them, and all at once.
        let text = [
            STANDARD.encode(b"first"),
            STANDARD.encode(b"second"),
            STANDARD.encode(b""),
        ]
        .concat();
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let mut read = Text::default();
                let pieces = [&text[..cut], &text[cut..other], &text[other..]];
                let read_all = pieces.map(|piece| read.read(piece.as_bytes()).unwrap());
                assert_eq!(read_all.concat(), b"firstsecond", "{cut} {other}");
                assert_eq!(read.end(), Ok(()));
            }
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (text, is_refused) in [
            ("", false),
            ("YQ==", false),
            ("YQ==YQ==", false),
            ("YQ", true),
            ("YQ=", true),
            ("YQ==Y", true),
            ("Y Q=", true),
            ("\r\n\r\n", true),
            ("====", true),
            ("Y===", true),
            ("-_-_", true),
        ] {
            let mut read = Text::default();
            let found = read.read(text.as_bytes()).and_then(|_| read.end());
            assert_eq!(found.is_err(), is_refused, "{text:?}");
        }
    }

    #[test]
    fn trailers_are_a_message() {
        let mut trailers = HeaderMap::new();
        trailers.append("grpc-status", HeaderValue::from_static("0"));
        trailers.append("x", HeaderValue::from_static("y"));
        let message = b"\x80\0\0\0\x14grpc-status:0\r\nx:y\r\n";
        assert_eq!(Form::Binary.trailers(&trailers), &message[..]);
        assert_eq!(Form::Text.trailers(&trailers), STANDARD.encode(message));
    }
}
