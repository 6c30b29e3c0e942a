//! Bodies in gzip that are passed on as what is in them: a piece at a time, so that little is held whatever there is, and no more than
//! what a body of that length may honestly become.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use hyper::body::{Body, Frame};

/// Of one body. Nobody writes as much by hand, and a host that keeps all of a request is not to be filled by a small one.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

pub(crate) struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// So many bytes come of one at most, of all together.
    ratio_max: u32,
    /// What has come and was not read.
    held: Bytes,
    read: u64,
    written: u64,
    /// Behind the body.
    trailers: Option<HeaderMap>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There may be more to come of what was read.
    Open,
    Waiting,
    Ended,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GunzipError {
    #[error("a body in gzip is malformed")]
    Malformed(#[source] io::Error),
    #[error("a body in gzip has more than {0} times its length in it")]
    Ratio(u32),
    #[error("a body in gzip has more than {BYTES_MAX} bytes in it")]
    Size,
}

impl GunzipError {
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Ratio(_) | Self::Size)
    }
}

impl Gunzip {
    pub(crate) fn new(ratio_max: u32) -> Self {
        Self {
            decoder: MultiGzDecoder::new(Vec::new()),
            ratio_max,
            held: Bytes::new(),
            read: 0,
            written: 0,
            trailers: None,
            state: State::Waiting,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::Ended && self.trailers.is_none()
    }

    fn put(&mut self, data: Bytes) {
        self.held = data;
        self.state = State::Open;
    }

    /// The next piece of what has come, of some 64 KiB at most; nothing where more has to come.
    fn next(&mut self) -> Result<Option<Bytes>, GunzipError> {
        while self.state == State::Open {
            if self.held.is_empty() {
                self.decoder.flush().map_err(GunzipError::Malformed)?;
                self.state = State::Waiting;
            } else {
                let read = self.decoder.write(&self.held).map_err(GunzipError::Malformed)?;
                self.held.advance(read);
                self.read += read as u64;
            }
            let piece = self.written()?;
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    /// All has come.
    fn end(&mut self) -> Result<Option<Bytes>, GunzipError> {
        self.state = State::Ended;
        self.decoder.try_finish().map_err(GunzipError::Malformed)?;
        self.written()
    }

    fn written(&mut self) -> Result<Option<Bytes>, GunzipError> {
        let piece = std::mem::take(self.decoder.get_mut());
        self.written += piece.len() as u64;
        if self.written > self.read.saturating_mul(self.ratio_max.into()) {
            return Err(GunzipError::Ratio(self.ratio_max));
        }
        if self.written > BYTES_MAX {
            return Err(GunzipError::Size);
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    /// What is in the next pieces of `body`.
    pub(crate) fn poll<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: From<GunzipError>,
    {
        loop {
            if self.state == State::Ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if let Some(piece) = self.next()? {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)?);
            let ended = match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    self.put(data);
                    continue;
                }
                Some(Err(frame)) => {
                    self.trailers = frame.into_trailers().ok();
                    self.end()?
                }
                None => self.end()?,
            };
            if let Some(piece) = ended {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(9));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes of pieces of that length, and the longest of those that come.
    fn unzipped(zipped: &[u8], step: usize, ratio_max: u32) -> Result<(Vec<u8>, usize), String> {
        let mut gunzip = Gunzip::new(ratio_max);
        let (mut all, mut longest) = (Vec::new(), 0);
        let mut take = |piece: Option<Bytes>| {
            let piece = piece.unwrap_or_default();
            longest = longest.max(piece.len());
            all.extend_from_slice(&piece);
            !piece.is_empty()
        };
        for piece in zipped.chunks(step) {
            gunzip.put(Bytes::copy_from_slice(piece));
            while take(gunzip.next().map_err(|error| error.to_string())?) {}
        }
        take(gunzip.end().map_err(|error| error.to_string())?);
        Ok((all, longest))
    }

    #[test]
    fn a_body_is_what_was_in_it_however_it_comes() {
        let text: Vec<u8> = (0..200_000u32)
            .flat_map(|nth| nth.wrapping_mul(nth).to_le_bytes())
            .collect();
        let twice = [zipped(b"ab"), zipped(b"cd")].concat();
        for step in [1, 7, 4096, usize::MAX >> 1] {
            assert_eq!(unzipped(&zipped(&text), step, 100).unwrap().0, text, "{step}");
            assert_eq!(unzipped(&twice, step, 100).unwrap().0, b"abcd", "{step}");
        }
    }

    #[test]
    fn what_is_no_whole_gzip_is_refused() {
        let mut wrong = zipped(b"some text");
        let whole = wrong.clone();
        *wrong.iter_mut().rev().nth(5).unwrap() ^= 1;
        for bytes in [
            &wrong[..],
            &whole[..whole.len() - 1],
            &whole[..12],
            b"no gzip at all",
        ] {
            let refused = unzipped(bytes, 5, 100).unwrap_err();
            assert_eq!(refused, "a body in gzip is malformed", "{bytes:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let bomb = zipped(&vec![0; 50_000_000]);
        let refused = unzipped(&bomb, usize::MAX >> 1, 100).unwrap_err();
        assert_eq!(refused, "a body in gzip has more than 100 times its length in it");
        let (all, longest) = unzipped(&bomb, usize::MAX >> 1, 1100).unwrap();
        assert_eq!(all.len(), 50_000_000);
        assert!(longest <= 128 * 1024, "{longest} bytes at once");
    }

    #[test]
    fn no_body_is_larger_than_what_one_may_be() {
        let mut gunzip = Gunzip::new(u32::MAX);
        gunzip.read = 1;
        gunzip.written = BYTES_MAX;
        assert!(gunzip.written().is_ok());
        gunzip.decoder.get_mut().push(0);
        assert!(matches!(gunzip.written(), Err(GunzipError::Size)));
    }
}
