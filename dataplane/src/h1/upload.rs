//! A request on its way to one host after the other: what of it can be sent again, and from where.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::framing::Framing;
use super::relay::{Broken, Relay};
use super::stall::Progress;
use crate::upload::KEPT_MAX_BYTES;

#[allow(
    clippy::large_enum_variant,
    reason = "a connection has one at a time, and a box would be memory taken for each body"
)]
pub(crate) enum Upload {
    /// Without a body; it can be sent again.
    Head { out: Vec<u8>, written: usize },
    Body {
        relay: Relay,
        progress: Progress,
        kept: Option<Kept>,
    },
}

/// What was sent of a request, to the letter, so that another host can be sent the same: what comes then continues it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    /// So many of them went over the present connection.
    sent: usize,
    bytes_max: usize,
}

/// Keeps what goes through.
struct Keeping<'a, W> {
    to: &'a mut W,
    kept: &'a mut Option<Kept>,
}

impl Upload {
    pub(crate) fn body(relay: Relay, now: Instant, kept: Option<Kept>) -> Self {
        Self::Body {
            relay,
            progress: Progress::new(0, now),
            kept,
        }
    }

    /// Puts `now` in place of `before`, which nobody but us can have written, before it is sent again.
    pub(crate) fn replace(&mut self, before: &[u8; 16], now: &[u8; 16]) {
        match self {
            Self::Head { out, .. } => replace(out, before, now),
            Self::Body { relay, kept, .. } => {
                replace(relay.ahead_mut(), before, now);
                if let Some(kept) = kept {
                    replace(&mut kept.bytes, before, now);
                }
            }
        }
    }

    /// On a connection that has seen nothing of it.
    pub(crate) fn begin(&mut self) {
        match self {
            Self::Head { written, .. } => *written = 0,
            Self::Body {
                relay,
                progress,
                kept: Some(kept),
            } if kept.sent > 0 => {
                kept.sent = 0;
                *progress = Progress::new(relay.moved(), Instant::now());
            }
            Self::Body { .. } => {}
        }
    }

    /// Whether the present connection has seen nothing of it.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            Self::Head { written, .. } => *written == 0,
            Self::Body { kept: Some(kept), .. } => kept.sent == 0,
            Self::Body { relay, .. } => relay.is_untouched(),
        }
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn can_repeat(&self) -> bool {
        match self {
            Self::Head { .. } | Self::Body { kept: Some(_), .. } => true,
            Self::Body { relay, .. } => relay.is_untouched(),
        }
    }

    /// Ready when all of it has been read and sent.
    pub(crate) fn poll<R, W>(
        &mut self,
        input: &mut Buffer,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match self {
            Self::Head { out, written } => poll_rest(out, written, to, cx),
            Self::Body {
                relay,
                progress,
                kept,
            } => {
                if let Some(kept) = kept {
                    ready!(poll_rest(&kept.bytes, &mut kept.sent, to, cx))?;
                }
                let polled = if kept.is_some() {
                    relay.poll(input, from, &mut Keeping { to, kept }, cx)
                } else {
                    relay.poll(input, from, to, cx)
                };
                if polled.is_pending() {
                    progress.note(relay.moved());
                }
                polled
            }
        }
    }

    /// Bytes of the body that were read.
    pub(crate) fn data(&self) -> u64 {
        match self {
            Self::Head { .. } => 0,
            Self::Body { relay, .. } => relay.data(),
        }
    }

    /// The memory of its head, which is not needed any more.
    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        match self {
            Self::Head { out, .. } => std::mem::take(out),
            Self::Body { relay, .. } => relay.take_ahead(),
        }
    }
}

impl Kept {
    /// For a request with that head; none if it is known to be too large.
    pub(crate) fn of(head: &[u8], framing: Framing) -> Option<Self> {
        let length = match framing {
            Framing::Empty => 0,
            Framing::Length(length) => usize::try_from(length).ok()?,
            // As much as a small body takes.
            Framing::Chunked | Framing::UntilClose => 1024,
        };
        (length <= KEPT_MAX_BYTES).then(|| Self {
            bytes: Vec::with_capacity(head.len() + length),
            sent: 0,
            bytes_max: head.len() + KEPT_MAX_BYTES,
        })
    }
}

/// In each place.
fn replace<const N: usize>(bytes: &mut [u8], before: &[u8; N], now: &[u8; N]) {
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(N).position(|window| window == before) {
        bytes[from + at..from + at + N].copy_from_slice(now);
        from += at + N;
    }
}

fn poll_rest<W: AsyncWrite + Unpin>(
    bytes: &[u8],
    written: &mut usize,
    to: &mut W,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    while *written < bytes.len() {
        match ready!(Pin::new(&mut *to).poll_write(cx, &bytes[*written..])).map_err(Broken::Sink)? {
            0 => return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into()))),
            wrote => *written += wrote,
        }
    }
    Poll::Ready(Ok(()))
}

impl<W: AsyncWrite + Unpin> Keeping<'_, W> {
    fn keep<'a>(&mut self, slices: impl IntoIterator<Item = &'a [u8]>, mut written: usize) {
        let Some(kept) = self.kept else { return };
        if kept.bytes.len() + written > kept.bytes_max {
            *self.kept = None;
            return;
        }
        for slice in slices {
            let of_this = written.min(slice.len());
            kept.bytes.extend_from_slice(&slice[..of_this]);
            written -= of_this;
        }
        kept.sent = kept.bytes.len();
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Keeping<'_, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.to).poll_write(cx, buf))?;
        self.keep([buf], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.to).poll_write_vectored(cx, bufs))?;
        self.keep(bufs.iter().map(|buf| &**buf), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.to.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.to).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;
    use crate::h1::Buffers;
    use crate::h1::chunked::Unfit;

    /// Takes so many bytes, a few at a time, and breaks.
    struct Host {
        taken: Vec<u8>,
        room: usize,
    }

    impl Host {
        fn new(room: usize) -> Self {
            Self {
                taken: Vec::new(),
                room,
            }
        }
    }

    impl AsyncWrite for Host {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.room - self.taken.len()).min(7);
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.taken.extend_from_slice(&buf[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    const HEAD: &[u8] = b"PUT / HTTP/1.1\r\n\r\n";

    fn upload(framing: Framing) -> Upload {
        let kept = Kept::of(HEAD, framing);
        Upload::body(
            Relay::new(HEAD.to_vec(), framing, Unfit::default()),
            Instant::now(),
            kept,
        )
    }

    #[tokio::test]
    async fn what_one_host_took_the_next_one_is_sent_again() {
        for (framing, body) in [
            (Framing::Length(24), "as long as it says it is"),
            (Framing::Chunked, "3\r\nabc\r\n0\r\nx: y\r\n\r\n"),
        ] {
            let whole = [HEAD, body.as_bytes()].concat();
            for first in 0..whole.len() {
                for second in [0, 1, first, whole.len() - 1] {
                    let mut upload = upload(framing);
                    let mut input = Buffer::new(&Rc::new(Buffers::default()));
                    let mut from = body.as_bytes();
                    for room in [first, second] {
                        let mut host = Host::new(room);
                        upload.begin();
                        assert!(upload.is_unsent());
                        let broken = poll_fn(|cx| upload.poll(&mut input, &mut from, &mut host, cx)).await;
                        assert!(matches!(broken, Err(Broken::Sink(_))), "{broken:?}");
                        assert_eq!(host.taken, whole[..room]);
                        assert_eq!(upload.is_unsent(), room == 0);
                        assert!(upload.can_repeat());
                    }
                    let mut host = Host::new(usize::MAX);
                    // Twice: an answer may be worth another attempt when all of the request has been sent.
                    for _ in 0..2 {
                        host.taken.clear();
                        upload.begin();
                        poll_fn(|cx| upload.poll(&mut input, &mut from, &mut host, cx))
                            .await
                            .unwrap();
                        assert_eq!(host.taken, whole, "{framing:?} broken at {first} and at {second}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_sent_once() {
        let large = |bytes: usize| (Framing::Length(bytes as u64), vec![b'x'; bytes]);
        let chunk = |bytes: usize| {
            let text = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
            (Framing::Chunked, text.into_bytes())
        };
        for ((framing, body), expected) in [
            (large(KEPT_MAX_BYTES), true),
            (large(KEPT_MAX_BYTES + 1), false),
            (chunk(KEPT_MAX_BYTES - 13), true),
            (chunk(KEPT_MAX_BYTES - 12), false),
        ] {
            let mut upload = upload(framing);
            let mut input = Buffer::new(&Rc::new(Buffers::default()));
            assert!(upload.can_repeat(), "nothing was sent yet");
            let mut host = Host::new(usize::MAX);
            poll_fn(|cx| upload.poll(&mut input, &mut &body[..], &mut host, cx))
                .await
                .unwrap();
            assert_eq!(host.taken.len(), HEAD.len() + body.len());
            assert_eq!(upload.can_repeat(), expected, "{framing:?} of {}", body.len());
        }
    }
}
