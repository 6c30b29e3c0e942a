//! One direction of an exchange: what was written down (a head) first, then a body as it comes, each read written before the
//! next one. The memory is one buffer, however large the body.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::chunked::Unfit;
use super::framing::{Decoder, Framing, Malformed};

/// So much of a body is copied behind what goes ahead of it: by itself it costs the kernel less than in a list of slices, by more
/// than the copy.
pub(crate) const GATHERED_BYTES_MAX: usize = 4 * 1024;

/// How a body is written, where that differs from how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    AsItCame,
    /// It came until the end of its connection.
    Chunk,
}

pub(crate) struct Relay {
    /// Written before what is in the buffer.
    ahead: Vec<u8>,
    written: usize,
    /// Written after it.
    behind: Cow<'static, [u8]>,
    behind_written: usize,
    decoder: Decoder,
    coding: Coding,
    /// Bytes at the buffer's front that are still to be written, and those behind them that are not.
    pass: usize,
    skip: usize,
    ended: bool,
    /// All is written, and some of it may still be held by the sink.
    flushing: bool,
    untouched: bool,
    data: u64,
    /// Bytes that were read or written, of whatever kind.
    moved: u64,
    unfit: Unfit,
}

/// Why a body did not get through.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Its source ended, or failed.
    Source,
    Malformed(Malformed),
    /// Whoever it was written to.
    Sink(io::Error),
}

impl Relay {
    /// `ahead` is written first, in one go with the start of the body; trailers that are unfit are left out.
    pub(crate) fn new(ahead: Vec<u8>, framing: Framing, unfit: Unfit) -> Self {
        Self {
            ahead,
            written: 0,
            behind: Cow::Borrowed(b""),
            behind_written: 0,
            decoder: Decoder::new(framing),
            coding: if framing == Framing::UntilClose {
                Coding::Chunk
            } else {
                Coding::AsItCame
            },
            pass: 0,
            skip: 0,
            ended: matches!(framing, Framing::Empty | Framing::Length(0)),
            flushing: false,
            untouched: true,
            data: 0,
            moved: 0,
            unfit,
        }
    }

    /// The memory of what was written ahead, for the next one.
    pub(crate) fn take_ahead(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ahead)
    }

    /// What is written ahead, if it has not been.
    pub(crate) fn ahead_mut(&mut self) -> &mut [u8] {
        &mut self.ahead
    }

    /// Whether nothing was written yet, so that all of it can be written elsewhere.
    pub(crate) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Bytes of the body that were read.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// What says whether anything moves.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether it waits for whoever it writes to.
    pub(crate) fn waits_for_sink(&self) -> bool {
        self.flushing
            || self.pass > 0
            || self.written < self.ahead.len()
            || self.behind_written < self.behind.len()
    }

    /// Ready when all has been written. A source that has brought nothing new keeps it waiting, and so does a sink that takes
    /// nothing.
    pub(crate) fn poll<R, W>(
        &mut self,
        buffer: &mut Buffer,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.pass == 0 && self.skip == 0 && !self.ended && !buffer.is_empty() {
                self.look(buffer.filled())?;
            }
            ready!(self.poll_write(buffer, to, cx))?;
            if self.ended {
                self.flushing = true;
                return Pin::new(to).poll_flush(cx).map_err(Broken::Sink);
            }
            let Poll::Ready(read) = buffer.poll_fill(from, cx) else {
                // What the sink has taken and holds itself goes on meanwhile.
                return match Pin::new(to).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Sink(error))),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            };
            let read = read.map_err(|_| Broken::Source)?;
            self.moved += read as u64;
            if read == 0 {
                if !self.decoder.ends_by_close() {
                    return Poll::Ready(Err(Broken::Source));
                }
                self.behind = Cow::Borrowed(b"0\r\n\r\n");
                self.ended = true;
            }
        }
    }

    fn look(&mut self, input: &[u8]) -> Result<(), Broken> {
        let piece = self.decoder.look(input).map_err(Broken::Malformed)?;
        self.pass = piece.pass;
        self.skip = piece.taken - piece.pass;
        self.data += piece.data as u64;
        self.ended = piece.ended;
        if self.coding == Coding::Chunk {
            use std::io::Write;
            // Writing to memory cannot fail.
            let _ = write!(self.ahead, "{:x}\r\n", piece.pass);
            self.behind = Cow::Borrowed(b"\r\n");
        } else if piece.ended && matches!(self.decoder, Decoder::Chunked(_)) {
            let mut trailers = self.unfit.without(self.decoder.take_trailers());
            self.behind = if trailers.is_empty() {
                Cow::Borrowed(b"\r\n")
            } else {
                trailers.extend_from_slice(b"\r\n");
                Cow::Owned(trailers)
            };
        }
        Ok(())
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        buffer: &mut Buffer,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        self.gather(buffer);
        loop {
            let ahead = &self.ahead[self.written..];
            let behind = &self.behind[self.behind_written..];
            if ahead.is_empty() && self.pass == 0 && behind.is_empty() {
                break;
            }
            let body = &buffer.filled()[..self.pass];
            let to = Pin::new(&mut *to);
            let written = match (ahead, body, behind) {
                (only, [], []) | ([], only, []) => to.poll_write(cx, only),
                _ => to.poll_write_vectored(cx, &[ahead, body, behind].map(IoSlice::new)),
            };
            let written = ready!(written).map_err(Broken::Sink)?;
            if written == 0 {
                return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into())));
            }
            self.advance(buffer, written);
        }
        self.ahead.clear();
        self.written = 0;
        self.behind = Cow::Borrowed(b"");
        self.behind_written = 0;
        buffer.consume(std::mem::take(&mut self.skip));
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, buffer: &mut Buffer) {
        let ahead = self.ahead.len() - self.written;
        let more = self.pass + self.behind.len();
        if ahead == 0 || more == 0 || ahead + more > GATHERED_BYTES_MAX || self.behind_written > 0 {
            return;
        }
        self.ahead.extend_from_slice(&buffer.filled()[..self.pass]);
        buffer.consume(std::mem::take(&mut self.pass));
        if !self.behind.is_empty() {
            self.ahead.extend_from_slice(&self.behind);
            self.behind = Cow::Borrowed(b"");
        }
    }

    fn advance(&mut self, buffer: &mut Buffer, written: usize) {
        let ahead = written.min(self.ahead.len() - self.written);
        self.untouched = false;
        self.moved += written as u64;
        self.written += ahead;
        let passed = (written - ahead).min(self.pass);
        buffer.consume(passed);
        self.pass -= passed;
        self.behind_written += written - ahead - passed;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::h1::Buffers;

    /// Takes everything, and tells of how many slices each write was.
    #[derive(Default)]
    pub(in crate::h1) struct Sink(pub(in crate::h1) Vec<usize>);

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(1);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bufs.iter().filter(|buf| !buf.is_empty()).count());
            Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_short_body_is_written_with_its_head() {
        for (bytes, expected) in [
            (100, vec![1]),
            (GATHERED_BYTES_MAX - "HEAD ".len(), vec![1]),
            (GATHERED_BYTES_MAX, vec![2]),
        ] {
            let body = vec![b'b'; bytes];
            let mut from = &body[..];
            let mut to = Sink::default();
            let mut buffer = Buffer::new(&Rc::new(Buffers::default()));
            let mut relay = Relay::new(b"HEAD ".to_vec(), Framing::Length(bytes as u64), Unfit::default());
            poll_fn(|cx| buffer.poll_fill(&mut from, cx)).await.unwrap();
            let relayed = poll_fn(|cx| relay.poll(&mut buffer, &mut from, &mut to, cx)).await;
            relayed.map_err(|broken| format!("{broken:?}")).unwrap();
            assert_eq!(to.0, expected, "{bytes}");
        }
    }

    /// What arrives of `input` when it is read and written `step` bytes at a time, and what is left of it.
    async fn relayed(input: &[u8], framing: Framing, step: usize) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (mut source, mut from) = tokio::io::duplex(step);
        let (mut to, mut sink) = tokio::io::duplex(step);
        let mut buffer = Buffer::new(&Rc::new(Buffers::default()));
        let mut relay = Relay::new(b"HEAD ".to_vec(), framing, Unfit::default());
        let input = input.to_vec();
        let sent = async move {
            // A body that ends early leaves the rest unread.
            let _ = source.write_all(&input).await;
        };
        let relayed = async {
            let passed = poll_fn(|cx| relay.poll(&mut buffer, &mut from, &mut to, cx)).await;
            drop((from, to));
            passed.map_err(|broken| format!("{broken:?}"))
        };
        let mut arrived = Vec::new();
        let ((), passed, _) = tokio::join!(sent, relayed, sink.read_to_end(&mut arrived));
        passed?;
        Ok((arrived, buffer.filled().to_vec()))
    }

    #[tokio::test]
    async fn a_body_goes_through_in_pieces_of_any_size() {
        let cases: [(&str, Framing, &str); 6] = [
            ("", Framing::Empty, "HEAD "),
            ("", Framing::Length(0), "HEAD "),
            ("12345", Framing::Length(5), "HEAD 12345"),
            (
                "3\r\nabc\r\n0\r\n\r\n",
                Framing::Chunked,
                "HEAD 3\r\nabc\r\n0\r\n\r\n",
            ),
            (
                "3;x\r\nabc\r\n0\r\na: b\r\nhost: h\r\n\r\n",
                Framing::Chunked,
                "HEAD 3;x\r\nabc\r\n0\r\na: b\r\n\r\n",
            ),
            ("", Framing::UntilClose, "HEAD 0\r\n\r\n"),
        ];
        for (input, framing, expected) in cases {
            for step in 1..=expected.len() {
                let (arrived, left) = relayed(input.as_bytes(), framing, step).await.unwrap();
                assert_eq!(
                    (arrived, left),
                    (expected.as_bytes().to_vec(), Vec::new()),
                    "{input:?} by {step}"
                );
            }
        }
        let (arrived, left) = relayed(b"12GET /", Framing::Length(2), 64).await.unwrap();
        assert_eq!((arrived, left), (b"HEAD 12".to_vec(), b"GET /".to_vec()));
        let (arrived, _) = relayed(b"abc", Framing::UntilClose, 64).await.unwrap();
        assert_eq!(arrived, b"HEAD 3\r\nabc\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn it_is_known_who_is_waited_for() {
        let (mut source, mut from) = tokio::io::duplex(64);
        let (mut to, mut sink) = tokio::io::duplex(4);
        let mut buffer = Buffer::new(&Rc::new(Buffers::default()));
        let mut relay = Relay::new(b"HEAD ".to_vec(), Framing::Length(8), Unfit::default());
        let mut poll = async || {
            let polled = poll_fn(|cx| Poll::Ready(relay.poll(&mut buffer, &mut from, &mut to, cx))).await;
            (polled.is_ready(), relay.waits_for_sink(), relay.moved())
        };
        assert_eq!(poll().await, (false, true, 4));
        assert_eq!(poll().await, (false, true, 4), "nothing has moved");
        let mut taken = [0; 4];
        sink.read_exact(&mut taken).await.unwrap();
        assert_eq!(poll().await, (false, false, 5));
        source.write_all(b"1234").await.unwrap();
        assert_eq!(poll().await, (false, true, 5 + 4 + 3));
        sink.read_exact(&mut taken).await.unwrap();
        assert_eq!(poll().await, (false, false, 5 + 4 + 4));
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_broken() {
        for (input, framing) in [
            ("1234", Framing::Length(5)),
            ("3\r\nabc\r\n", Framing::Chunked),
            ("0\r\n\r", Framing::Chunked),
        ] {
            assert_eq!(
                relayed(input.as_bytes(), framing, 64).await,
                Err("Source".to_owned()),
                "{input}"
            );
        }
    }
}
