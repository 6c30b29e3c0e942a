//! Where a message's body ends (RFC 9112, section 6): one decision from the lines of its head. What two readers could decide
//! in two ways is malformed.

use http::StatusCode;

use super::chunked::Chunked;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, whatever the head says.
    Empty,
    Length(u64),
    Chunked,
    /// By the end of the connection; responses only.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// The lines of one header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lines<'a> {
    #[default]
    None,
    One(&'a [u8]),
    Many,
}

/// What the head of a message says about its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) version: Version,
    pub(crate) length: Lines<'a>,
    pub(crate) coding: Lines<'a>,
}

/// Why a message is not read; the words are for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the head is malformed")]
    Head,
    #[error("a line of the head does not end in CR LF")]
    LineEnd,
    #[error("the version of HTTP is not supported: use HTTP/1.1")]
    Version,
    #[error("the head has too many lines or bytes")]
    HeadTooLarge,
    #[error("the target is too long")]
    TargetTooLong,
    #[error("the head did not end in time")]
    HeadTooSlow,
    #[error("content-length must be one line with one number")]
    Length,
    #[error("transfer-encoding must be one line that says chunked")]
    Coding,
    #[error("transfer-encoding needs HTTP/1.1")]
    CodingVersion,
    #[error("content-length and transfer-encoding exclude each other")]
    LengthAndCoding,
    #[error("the host is missing or malformed")]
    Host,
    #[error("the host and the target disagree")]
    HostAndTarget,
    #[error("the target is malformed")]
    Target,
    #[error("CONNECT has no body")]
    Connect,
    #[error("connection lists too much")]
    Options,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the extensions or trailers of the chunks are too long")]
    ChunkTooLarge,
    #[error("the request broke off")]
    Truncated,
    #[error("the request's body did not come in time")]
    BodyTooSlow,
}

/// Follows a body through its pieces.
#[derive(Debug)]
pub(crate) enum Decoder {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// What a piece of input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// So many bytes at its front may be passed on as they are.
    pub(crate) pass: usize,
    /// So many belong to the message; not less than `pass`.
    pub(crate) taken: usize,
    /// So many of those passed are the body's own.
    pub(crate) data: usize,
    pub(crate) ended: bool,
}

impl Malformed {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge | Self::Options => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooSlow | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// How a request's body ends.
pub(crate) fn of_request(said: Said<'_>) -> Result<Framing, Malformed> {
    match (said.coding, said.length) {
        (Lines::None, Lines::None) => Ok(Framing::Empty),
        (Lines::None, length) => content_length(length).map(Framing::Length),
        (coding, Lines::None) => coded(said.version, coding),
        _ => Err(Malformed::LengthAndCoding),
    }
}

/// How the body of a response with `status` ends, to a request that was `HEAD` or not.
pub(crate) fn of_response(is_head: bool, status: u16, said: Said<'_>) -> Result<Framing, Malformed> {
    let framing = match (said.coding, said.length) {
        (Lines::None, Lines::None) => Framing::UntilClose,
        (Lines::None, length) => Framing::Length(content_length(length)?),
        (coding, Lines::None) => coded(said.version, coding)?,
        _ => return Err(Malformed::LengthAndCoding),
    };
    let bodiless = is_head || matches!(status, 100..=199 | 204 | 304);
    Ok(if bodiless { Framing::Empty } else { framing })
}

fn coded(version: Version, coding: Lines<'_>) -> Result<Framing, Malformed> {
    match coding {
        _ if version == Version::Http10 => Err(Malformed::CodingVersion),
        Lines::One(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(Malformed::Coding),
    }
}

pub(crate) fn content_length(lines: Lines<'_>) -> Result<u64, Malformed> {
    let Lines::One(value) = lines else {
        return Err(Malformed::Length);
    };
    // 18 digits always fit 64 bits with room to add; nobody sends an exabyte. Some readers take a leading zero for octal.
    let is_padded = value.len() > 1 && value[0] == b'0';
    if value.is_empty() || value.len() > 18 || is_padded || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    Ok(value
        .iter()
        .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Looks at what has come: at all of it that belongs to the message.
    pub(crate) fn look(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        match self {
            Self::Length(left) => {
                let pass = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= pass as u64;
                Ok(Piece {
                    pass,
                    taken: pass,
                    data: pass,
                    ended: *left == 0,
                })
            }
            Self::Chunked(chunked) => chunked.look(input),
            Self::UntilClose => Ok(Piece {
                pass: input.len(),
                taken: input.len(),
                data: input.len(),
                ended: false,
            }),
        }
    }

    /// The next run of the body's own bytes: where it starts and how long it is, and whether the body ends after it.
    pub(crate) fn data(&mut self, input: &[u8]) -> Result<Run, Malformed> {
        match self {
            Self::Chunked(chunked) => chunked.data(input),
            Self::Length(_) | Self::UntilClose => self.look(input).map(|piece| Run {
                skipped: 0,
                data: piece.data,
                ended: piece.ended,
            }),
        }
    }

    /// Lines behind the body, once it has ended.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        match self {
            Self::Chunked(chunked) => chunked.take_trailers(),
            Self::Length(_) | Self::UntilClose => Vec::new(),
        }
    }

    /// Whether the end of the connection ends the body.
    pub(crate) fn ends_by_close(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

/// Bytes of the framing, then bytes of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) skipped: usize,
    pub(crate) data: usize,
    pub(crate) ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(given: &[&'a str]) -> Lines<'a> {
        match given {
            [] => Lines::None,
            [one] => Lines::One(one.as_bytes()),
            _ => Lines::Many,
        }
    }

    #[test]
    fn a_requests_body_ends_in_one_way() {
        use Malformed::{Coding, CodingVersion, Length, LengthAndCoding};
        type Case<'a> = (&'a [&'a str], &'a [&'a str], Result<Framing, Malformed>);
        let cases: &[Case<'_>] = &[
            (&[], &[], Ok(Framing::Empty)),
            (&["0"], &[], Ok(Framing::Length(0))),
            (&["42"], &[], Ok(Framing::Length(42))),
            (&["007"], &[], Err(Length)),
            (&["00"], &[], Err(Length)),
            (
                &["999999999999999999"],
                &[],
                Ok(Framing::Length(999_999_999_999_999_999)),
            ),
            (&["18446744073709551616"], &[], Err(Length)),
            (&[""], &[], Err(Length)),
            (&["+1"], &[], Err(Length)),
            (&["-1"], &[], Err(Length)),
            (&["1 "], &[], Err(Length)),
            (&["1,1"], &[], Err(Length)),
            (&["0x10"], &[], Err(Length)),
            (&["1_000"], &[], Err(Length)),
            (&["5", "5"], &[], Err(Length)),
            (&["5", "6"], &[], Err(Length)),
            (&[], &["chunked"], Ok(Framing::Chunked)),
            (&[], &["Chunked"], Ok(Framing::Chunked)),
            (&[], &["gzip"], Err(Coding)),
            (&[], &["gzip, chunked"], Err(Coding)),
            (&[], &["chunked, chunked"], Err(Coding)),
            (&[], &["chunked, identity"], Err(Coding)),
            (&[], &["identity"], Err(Coding)),
            (&[], &[""], Err(Coding)),
            (&[], &["\x0bchunked"], Err(Coding)),
            (&[], &["chunked;a=b"], Err(Coding)),
            (&[], &["\"chunked\""], Err(Coding)),
            (&[], &["chunked", "chunked"], Err(Coding)),
            (&[], &["chunked", "identity"], Err(Coding)),
            (&["5"], &["chunked"], Err(LengthAndCoding)),
            (&["x"], &["identity"], Err(LengthAndCoding)),
            (&["5", "5"], &["chunked"], Err(LengthAndCoding)),
        ];
        for (length, coding, expected) in cases {
            let said = |version| Said {
                version,
                length: lines(length),
                coding: lines(coding),
            };
            assert_eq!(
                of_request(said(Version::Http11)),
                *expected,
                "{length:?} {coding:?}"
            );
            let old = match (coding, length) {
                ([], _) | (_, [_, ..]) => *expected,
                _ => Err(CodingVersion),
            };
            assert_eq!(
                of_request(said(Version::Http10)),
                old,
                "HTTP/1.0 {length:?} {coding:?}"
            );
        }
    }

    #[test]
    fn a_responses_body_depends_on_its_request() {
        type Case<'a> = (
            bool,
            u16,
            &'a [&'a str],
            &'a [&'a str],
            Result<Framing, Malformed>,
        );
        let cases: &[Case<'_>] = &[
            (false, 200, &[], &[], Ok(Framing::UntilClose)),
            (false, 200, &["5"], &[], Ok(Framing::Length(5))),
            (false, 200, &[], &["chunked"], Ok(Framing::Chunked)),
            (false, 200, &["5"], &["chunked"], Err(Malformed::LengthAndCoding)),
            (false, 200, &["5", "5"], &[], Err(Malformed::Length)),
            (false, 200, &[], &["gzip"], Err(Malformed::Coding)),
            (true, 200, &["5"], &[], Ok(Framing::Empty)),
            (true, 200, &[], &["chunked"], Ok(Framing::Empty)),
            (true, 200, &["5", "6"], &[], Err(Malformed::Length)),
            (false, 204, &["5"], &[], Ok(Framing::Empty)),
            (false, 304, &["5"], &[], Ok(Framing::Empty)),
            (false, 100, &[], &[], Ok(Framing::Empty)),
            (false, 103, &["5"], &[], Ok(Framing::Empty)),
            (false, 205, &["0"], &[], Ok(Framing::Length(0))),
        ];
        for (is_head, status, length, coding, expected) in cases {
            let said = Said {
                version: Version::Http11,
                length: lines(length),
                coding: lines(coding),
            };
            assert_eq!(
                of_response(*is_head, *status, said),
                *expected,
                "{status} {length:?} {coding:?}"
            );
        }
    }

    #[test]
    fn a_length_is_followed_to_its_end() {
        let mut decoder = Decoder::new(Framing::Length(5));
        let first = decoder.look(b"abc").ok().map(|piece| (piece.pass, piece.ended));
        let second = decoder
            .look(b"deGET /")
            .ok()
            .map(|piece| (piece.pass, piece.taken, piece.ended));
        assert_eq!((first, second), (Some((3, false)), Some((2, 2, true))));
    }
}
