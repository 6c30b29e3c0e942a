//! Which version of HTTP a connection speaks, by what it begins with.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use crate::h1::Buffer;
use crate::stream::Stream;

/// How a connection that speaks HTTP/2 with prior knowledge starts (RFC 9113, section 3.4); no HTTP/1.1 method does.
const PREFACE_START: &[u8] = b"PRI ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Http1,
    Http2,
}

/// Reads until the first bytes say which protocol they begin. Memory is for those who have sent something.
pub(super) async fn sniff(stream: &mut Stream, input: &mut Buffer, timeout: Duration) -> io::Result<Codec> {
    // Some of it may have been looked at before.
    if input.is_empty() {
        poll_fn(|cx| stream.poll_read_ready(cx)).await?;
    }
    let decided = async {
        loop {
            if let Some(codec) = spoken(input.filled()) {
                return Ok(codec);
            }
            if poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(timeout, decided).await?
}

/// What a connection that begins like this speaks, if that can be said yet.
fn spoken(first: &[u8]) -> Option<Codec> {
    let seen = first.len().min(PREFACE_START.len());
    if first[..seen] != PREFACE_START[..seen] {
        Some(Codec::Http1)
    } else if seen == PREFACE_START.len() {
        Some(Codec::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_decides() {
        for (first, expected) in [
            ("", None),
            ("P", None),
            ("PRI", None),
            ("PRI ", Some(Codec::Http2)),
            ("PRI * HTTP/2.0\r\n", Some(Codec::Http2)),
            ("PO", Some(Codec::Http1)),
            ("PU", Some(Codec::Http1)),
            ("PRIX", Some(Codec::Http1)),
            ("G", Some(Codec::Http1)),
            ("\r\n", Some(Codec::Http1)),
        ] {
            assert_eq!(spoken(first.as_bytes()), expected, "{first:?}");
        }
    }
}
