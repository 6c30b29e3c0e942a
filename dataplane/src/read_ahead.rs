//! The begin of a request's body, read before it is known whether the request goes on.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::time::timeout;

use crate::body::{ClientBody, ClientError};

/// What is passed on of it at once: whoever watches whether a host takes anything sees it move.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// What was read, and what is still to come.
pub(crate) struct ReadAhead {
    /// Copied together: a piece of one byte would keep all that it was read with.
    begin: Bytes,
    trailers: Option<HeaderMap>,
    /// `None` once all has come.
    rest: Option<ClientBody>,
}

/// Why a body could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Client(ClientError),
    /// It did not come in time.
    Stalled,
}

/// How reading ended.
struct End {
    has_come: bool,
    trailers: Option<HeaderMap>,
}

impl ReadAhead {
    /// Reads until all of `body` has come or it is more than `bytes_max`, which is to be so `within` that time. While it reads, and
    /// where it fails, `body` is what has not come; then nothing is left of it.
    pub(crate) async fn read(
        body: &mut ClientBody,
        bytes_max: usize,
        within: Duration,
    ) -> Result<Self, ReadError> {
        let mut begin = BytesMut::new();
        let filled = timeout(within, fill(&mut begin, body, bytes_max)).await;
        let end = filled.map_err(|_| ReadError::Stalled)?;
        let End { has_come, trailers } = end.map_err(ReadError::Client)?;
        let rest = std::mem::replace(body, ClientBody::Nothing);
        Ok(Self {
            begin: begin.freeze(),
            trailers,
            rest: (!has_come).then_some(rest),
        })
    }

    /// Whether all has come, and is no more than `bytes_max`.
    pub(crate) fn is_whole(&self, bytes_max: usize) -> bool {
        self.rest.is_none() && self.begin.len() <= bytes_max
    }

    /// What was read, of it the first `bytes_max`.
    pub(crate) fn begin(&self, bytes_max: usize) -> &[u8] {
        &self.begin[..self.begin.len().min(bytes_max)]
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        if !self.begin.is_empty() {
            let piece = self.begin.split_to(self.begin.len().min(PIECE_BYTES_MAX));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut self.rest {
            Some(rest) => std::pin::Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    /// Whether all has come, and was passed on.
    pub(crate) fn has_ended(&self) -> bool {
        let is_over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        self.begin.is_empty() && self.trailers.is_none() && is_over
    }

    /// Whether all has come.
    pub(crate) fn has_come(&self) -> bool {
        self.rest.as_ref().is_none_or(ClientBody::has_come)
    }
}

async fn fill(begin: &mut BytesMut, body: &mut ClientBody, bytes_max: usize) -> Result<End, ClientError> {
    let ended = |trailers| End {
        has_come: true,
        trailers,
    };
    while begin.len() <= bytes_max {
        let Some(frame) = body.frame().await else {
            return Ok(ended(None));
        };
        match frame?.into_data() {
            Ok(piece) => {
                begin.extend_from_slice(&piece);
                if body.is_end_stream() {
                    return Ok(ended(None));
                }
            }
            Err(frame) => return Ok(ended(frame.into_trailers().ok())),
        }
    }
    Ok(End {
        has_come: false,
        trailers: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::h1::fuzzing::{Framing, body};
    use crate::h1::{Buffer, Timer};

    const LONG: Duration = Duration::from_secs(60);

    /// Reads the begin of a chunked body of which so much has come, with a pause before each of the pieces, and no more comes.
    async fn read(
        sent: &[&[u8]],
        pause: Duration,
        bytes_max: usize,
        within: Duration,
    ) -> (Result<ReadAhead, ReadError>, ClientBody) {
        let (streamed, mut feed) = body(Framing::Chunked);
        let mut body = ClientBody::Http1(streamed);
        let (mut client, mut server) = duplex(1024);
        let mut input = Buffer::new(&Rc::default());
        let mut timer = Timer::new();
        let feeding = poll_fn(|cx| feed.poll(&mut input, &mut server, &mut timer, cx));
        let sending = async {
            for piece in sent {
                tokio::time::sleep(pause).await;
                client.write_all(piece).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let read = tokio::select! {
            read = ReadAhead::read(&mut body, bytes_max, within) => read,
            _ = feeding => unreachable!("the client stays"),
            () = sending => unreachable!("the client stays"),
        };
        (read, body)
    }

    async fn frames(read: ReadAhead) -> Vec<Frame<Bytes>> {
        let mut body = ClientBody::Read(Box::new(read));
        let mut frames = Vec::new();
        while !body.is_end_stream() {
            frames.push(body.frame().await.unwrap().unwrap());
        }
        frames
    }

    #[tokio::test]
    async fn small_pieces_are_kept_as_one() {
        let bytes = 70_000;
        let sent = "1\r\na\r\n".repeat(bytes) + "0\r\nx-end: 1\r\n\r\n";
        let (read, _) = read(&[sent.as_bytes()], Duration::ZERO, bytes, LONG).await;
        let read = read.unwrap();
        assert!(read.is_whole(bytes) && read.has_come() && !read.has_ended());
        assert_eq!(read.begin(5), b"aaaaa");
        assert_eq!(read.begin(usize::MAX).len(), bytes);
        let frames = frames(read).await;
        let of = |frame: &Frame<Bytes>| frame.data_ref().map(Bytes::len);
        let lengths: Vec<_> = frames.iter().map(of).collect();
        assert_eq!(
            lengths,
            [Some(PIECE_BYTES_MAX), Some(bytes - PIECE_BYTES_MAX), None]
        );
        assert_eq!(frames[2].trailers_ref().unwrap()["x-end"], "1");
    }

    #[tokio::test]
    async fn no_more_is_read_than_is_to_be_shown() {
        let sent: &[u8] = b"3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n";
        for (bytes_max, begin) in [(2, "abc"), (3, "abcdef"), (4, "abcdef")] {
            let (read, _) = read(&[sent], Duration::ZERO, bytes_max, LONG).await;
            let read = read.unwrap();
            assert_eq!(read.begin(usize::MAX), begin.as_bytes(), "{bytes_max}");
            assert!(!read.is_whole(bytes_max) && !read.has_come());
        }
    }

    /// Who sends a byte now and then would be waited for as long as it has some.
    #[tokio::test]
    async fn all_of_what_is_shown_comes_in_time() {
        let pieces: [&[u8]; 100] = [b"1\r\na\r\n"; 100];
        let pause = Duration::from_millis(50);
        let (read, body) = read(&pieces, pause, 100, 10 * pause).await;
        assert!(matches!(read, Err(ReadError::Stalled)));
        assert!(!body.has_come(), "the rest of it is still to come");
    }
}
