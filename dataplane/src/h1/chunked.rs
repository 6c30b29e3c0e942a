//! The chunked coding (RFC 9112, section 7.1), checked while it passes through: strict about line ends and sizes, bounded in
//! extensions and trailers. Extensions are passed on as they are; trailers are kept until the end, without those that would
//! mean something in a head.

use http::HeaderName;

use super::framing::{Framing, Malformed, Piece, Run};
use super::head::{Head, Known, known};
use crate::config::HeaderEdits;

/// Of all extensions and trailers of one message: a few checksums and a status, as of gRPC-Web.
const ASIDE_BYTES_MAX: usize = 8 * 1024;
/// Hexadecimal digits of a chunk's size: more than any chunk has, and no overflow of 64 bits.
const SIZE_DIGITS_MAX: u8 = 15;

#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// The size that is read, then what is left of the chunk.
    size: u64,
    digits: u8,
    /// Bytes of extensions and trailers so far.
    aside: usize,
    /// Lines, as they came.
    trailers: Vec<u8>,
    /// Where the last of them begins.
    trailer: usize,
}

/// Names that may not stand behind one body: those that its head's `connection` lists, and those that edits take out of the head
/// or set there.
#[derive(Debug, Default)]
pub(crate) struct Unfit(Option<Box<[HeaderName]>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    Trailers,
    TrailerName,
    TrailerValue,
    /// Of a trailer that is left out.
    UnfitValue,
    TrailerLf,
    EndLf,
    Ended,
}

impl Chunked {
    /// All of `input` that belongs to the message. What follows the line of the last chunk is taken, not passed: whoever
    /// passes the message on writes [`Self::take_trailers`] and an empty line.
    pub(crate) fn look(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        let mut piece = Piece {
            pass: 0,
            taken: 0,
            data: 0,
            ended: false,
        };
        while piece.taken < input.len() && self.state != State::Ended {
            let rest = &input[piece.taken..];
            if self.state == State::Data {
                let run = self.run(rest);
                piece.taken += run;
                piece.pass += run;
                piece.data += run;
                continue;
            }
            let passes = !self.is_after_last();
            self.step(rest[0])?;
            piece.taken += 1;
            piece.pass += usize::from(passes);
        }
        piece.ended = self.state == State::Ended;
        Ok(piece)
    }

    /// The next run of data.
    pub(crate) fn data(&mut self, input: &[u8]) -> Result<Run, Malformed> {
        let mut skipped = 0;
        while skipped < input.len() && !matches!(self.state, State::Data | State::Ended) {
            self.step(input[skipped])?;
            skipped += 1;
        }
        let data = if self.state == State::Data {
            self.run(&input[skipped..])
        } else {
            0
        };
        Ok(Run {
            skipped,
            data,
            ended: self.state == State::Ended,
        })
    }

    /// The lines of the trailers that may be passed on, once the body has ended.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }

    fn run(&mut self, rest: &[u8]) -> usize {
        let run = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
        self.size -= run as u64;
        if self.size == 0 {
            self.state = State::DataCr;
        }
        run
    }

    /// Whether what comes is behind the line of the last chunk.
    fn is_after_last(&self) -> bool {
        matches!(
            self.state,
            State::Trailers
                | State::TrailerName
                | State::TrailerValue
                | State::UnfitValue
                | State::TrailerLf
                | State::EndLf
        )
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, digit) => {
                let value = char::from(digit).to_digit(16).ok_or(Malformed::Chunk)?;
                if self.digits == SIZE_DIGITS_MAX {
                    return Err(Malformed::Chunk);
                }
                self.digits += 1;
                self.size = self.size << 4 | u64::from(value);
                State::Size
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, text) => {
                self.set_aside(text)?;
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                if self.size == 0 {
                    State::Trailers
                } else {
                    State::Data
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Trailers, b'\r') => State::EndLf,
            (state @ (State::Trailers | State::TrailerName), name) if is_token(name) => {
                if state == State::Trailers {
                    self.trailer = self.trailers.len();
                }
                self.set_aside(name)?;
                self.trailers.push(name);
                State::TrailerName
            }
            (State::TrailerName, b':') => {
                if may_trail(&self.trailers[self.trailer..]) {
                    self.trailers.push(b':');
                    State::TrailerValue
                } else {
                    self.trailers.truncate(self.trailer);
                    State::UnfitValue
                }
            }
            (state @ (State::TrailerValue | State::UnfitValue), b'\r') => {
                if state == State::TrailerValue {
                    self.trailers.extend_from_slice(b"\r\n");
                }
                State::TrailerLf
            }
            (state @ (State::TrailerValue | State::UnfitValue), text) => {
                self.set_aside(text)?;
                if state == State::TrailerValue {
                    self.trailers.push(text);
                }
                state
            }
            (State::TrailerLf, b'\n') => State::Trailers,
            (State::EndLf, b'\n') => State::Ended,
            _ => return Err(Malformed::Chunk),
        };
        Ok(())
    }

    /// Counts a byte of an extension or a trailer, which is text.
    fn set_aside(&mut self, byte: u8) -> Result<(), Malformed> {
        if !matches!(byte, b'\t' | b' '..=b'~' | 0x80..) {
            return Err(Malformed::Chunk);
        }
        self.aside += 1;
        if self.aside > ASIDE_BYTES_MAX {
            return Err(Malformed::ChunkTooLarge);
        }
        Ok(())
    }
}

impl Unfit {
    pub(crate) fn of(head: Head<'_>, framing: Framing, edits: &[&HeaderEdits]) -> Self {
        if framing != Framing::Chunked {
            return Self::default();
        }
        let listed = head
            .options()
            .filter_map(|option| HeaderName::from_bytes(option).ok());
        let edited = edits.iter().flat_map(|edits| edits.names()).cloned();
        Self(Some(listed.chain(edited).collect()))
    }

    /// The lines whose names are others.
    pub(crate) fn without(&self, lines: Vec<u8>) -> Vec<u8> {
        let unfit = match &self.0 {
            Some(unfit) if !unfit.is_empty() && !lines.is_empty() => unfit,
            _ => return lines,
        };
        let fits = |line: &&[u8]| {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            !unfit
                .iter()
                .any(|unfit| name.eq_ignore_ascii_case(unfit.as_str().as_bytes()))
        };
        let lines = lines.split_inclusive(|byte| *byte == b'\n').filter(fits);
        lines.flatten().copied().collect()
    }
}

/// Whether a header may stand behind a body: not if it says where the message ends, where it goes, who sends it or how it is
/// read (RFC 9110, section 6.5.1), since some receivers merge what stands there into the head.
pub(crate) fn may_trail(name: &[u8]) -> bool {
    const OF_A_HEAD: [&str; 10] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "set-cookie",
        "www-authenticate",
    ];
    let belongs = |wanted: &&str| name.eq_ignore_ascii_case(wanted.as_bytes());
    known(name) == Known::Other && !OF_A_HEAD.iter().any(belongs)
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::h1::head::{Fields, read_request};

    /// What is passed of a whole body with what follows it, its data, and how much is left.
    fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, usize), Malformed> {
        let (mut looked, mut decoded) = (Chunked::default(), Chunked::default());
        let (mut passed, mut data) = (Vec::new(), Vec::new());
        let mut rest = input;
        loop {
            let given = &rest[..step.min(rest.len())];
            let piece = looked.look(given)?;
            passed.extend_from_slice(&given[..piece.pass]);
            let mut undecoded = &given[..piece.taken];
            while !undecoded.is_empty() {
                let run = decoded.data(undecoded)?;
                data.extend_from_slice(&undecoded[run.skipped..run.skipped + run.data]);
                undecoded = &undecoded[run.skipped + run.data..];
            }
            rest = &rest[piece.taken..];
            if piece.ended {
                return Ok((passed, data, rest.len()));
            }
            if rest.is_empty() {
                return Err(Malformed::Truncated);
            }
        }
    }

    #[test]
    fn chunks_pass_as_they_are_however_they_come() {
        let cases: [(&str, &str, &str, usize); 7] = [
            ("0\r\n\r\n", "0\r\n", "", 0),
            ("5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n", "hello", 0),
            (
                "A\r\n0123456789\r\n000\r\n\r\nGET /",
                "A\r\n0123456789\r\n000\r\n",
                "0123456789",
                5,
            ),
            ("1;a=b\r\nx\r\n0;c\r\n\r\n", "1;a=b\r\nx\r\n0;c\r\n", "x", 0),
            (
                "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
                "1\r\n\r\r\n1\r\n\n\r\n0\r\n",
                "\r\n",
                0,
            ),
            ("0\r\nx-sum: 1\r\nb:\r\n\r\n", "0\r\n", "", 0),
            ("1\r\na\r\n0\r\nx: y\r\n\r\nPOST", "1\r\na\r\n0\r\n", "a", 4),
        ];
        for (input, passed, data, left) in cases {
            for step in 1..=input.len() {
                let got = read(input.as_bytes(), step);
                let expected = (passed.as_bytes().to_vec(), data.as_bytes().to_vec(), left);
                assert_eq!(got, Ok(expected), "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn trailers_are_kept_but_for_those_of_a_head() {
        let cases = [
            ("0\r\n\r\n", ""),
            ("0\r\nx-sum: 1\r\nb:\r\n\r\n", "x-sum: 1\r\nb:\r\n"),
            ("1\r\na\r\n0\r\nX: y z\r\n\r\n", "X: y z\r\n"),
            ("0\r\nContent-Length: 5\r\n\r\n", ""),
            (
                "0\r\na: 1\r\nTransfer-Encoding: chunked\r\nhost: h\r\nb: 2\r\nset-cookie: c\r\n\r\n",
                "a: 1\r\nb: 2\r\n",
            ),
        ];
        for (input, expected) in cases {
            let mut chunked = Chunked::default();
            let piece = chunked.look(input.as_bytes());
            assert!(piece.is_ok_and(|piece| piece.ended), "{input:?}");
            assert_eq!(chunked.take_trailers(), expected.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn what_is_taken_out_of_a_head_does_not_come_behind_its_body() {
        let text = b"GET / HTTP/1.1\r\nconnection: te, X-Mine\r\n\r\n";
        let mut fields = Fields::default();
        assert!(read_request(text, &mut fields).is_ok());
        let head = fields.of(text);
        let edits = HeaderEdits {
            remove: vec![HeaderName::from_static("x-gone")],
            set: vec![(HeaderName::from_static("x-set"), HeaderValue::from_static("1"))],
            add: vec![(HeaderName::from_static("x-added"), HeaderValue::from_static("1"))],
        };
        let lines = b"x-mine: 1\r\nX-Gone: 1\r\nx-kept: x-gone: 1\r\nx-set: 2\r\nX-Added: 2\r\n".to_vec();
        let unfit = Unfit::of(head, Framing::Chunked, &[&HeaderEdits::default(), &edits]);
        assert_eq!(unfit.without(lines.clone()), b"x-kept: x-gone: 1\r\n");
        assert_eq!(Unfit::default().without(lines.clone()), lines);
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        let cases = [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n",
            "1\r\na0\r\n\r\n",
            "1\rx\na\r\n",
            "1;a\nb\r\na\r\n",
            "1;a\0\r\na\r\n",
            "1;a\rb\r\na\r\n",
            ";a\r\n",
            "0000000000000001\r\na\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\n \r\n",
            "0\r\nx\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nx : y\r\n\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\nx: y\r\n folded\r\n\r\n",
            "0\r\nx: \0\r\n\r\n",
            "0\r\nx: y\rz\r\n\r\n",
        ];
        for input in cases {
            for step in [1, input.len()] {
                assert_eq!(
                    read(input.as_bytes(), step),
                    Err(Malformed::Chunk),
                    "{input:?} by {step}"
                );
            }
        }
    }

    #[test]
    fn what_stands_aside_is_bounded() {
        let many = "1;a=bcdef\r\nx\r\n".repeat(ASIDE_BYTES_MAX / 7 + 1);
        let long = format!("1;{}\r\n", "a".repeat(ASIDE_BYTES_MAX + 1));
        let trailers = format!("0\r\n{}", "x: yyyyy\r\n".repeat(ASIDE_BYTES_MAX / 7 + 1));
        for input in [many, long, trailers] {
            assert_eq!(read(input.as_bytes(), input.len()), Err(Malformed::ChunkTooLarge));
        }
    }
}
