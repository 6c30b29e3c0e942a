//! Bodies that are written to the client otherwise than they came from the host: trailers as a message of gRPC-Web, and gzip.
//! What has come goes on when nothing else has, so that nothing slow is held back; only what the compressor has not written yet is
//! kept, in memory of a fixed size (about 300 KiB an answer).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, header};
use hyper::body::{Body, Frame};

use crate::body::ClientBody;
use crate::filter::{Compress, Decompressor};
use crate::grpc_web::{Form, Text, WebCall};
use crate::gunzip::Gunzip;

/// What filters do to a request's body and to a host's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recoding {
    /// The request is a call of gRPC-Web.
    pub(crate) web: Option<WebCall>,
    pub(crate) compress: Option<Compress>,
    pub(crate) decompress: Option<Arc<Decompressor>>,
}

pub(crate) struct Recoder {
    web: Option<Form>,
    gzip: Option<Gzip>,
    /// Written and not taken yet: what one frame of the host has become.
    out: VecDeque<Frame<Bytes>>,
    has_ended: bool,
}

struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    /// Something was written that may not have come out.
    holds: bool,
}

impl Recoding {
    /// What a host is sent of a request, whose body is read as it is meant.
    pub(crate) fn read(&self, headers: &mut HeaderMap, body: ClientBody) -> ClientBody {
        if self
            .compress
            .as_ref()
            .is_some_and(|compress| compress.by.hides_accepted)
        {
            headers.remove(header::ACCEPT_ENCODING);
        }
        let body = self.unzipped(headers, body);
        if self.web.is_none_or(|web| web.request == Form::Binary) || body.is_end_stream() {
            return body;
        }
        headers.remove(header::CONTENT_LENGTH);
        ClientBody::Text(Box::new(body), Text::default())
    }

    fn unzipped(&self, headers: &mut HeaderMap, body: ClientBody) -> ClientBody {
        match &self.decompress {
            Some(by) if by.begin_request(headers, !body.is_end_stream()) => {
                ClientBody::Zipped(Box::new((body, Gunzip::new(by.ratio_max))))
            }
            Some(_) | None => body,
        }
    }

    /// What was said later is said instead.
    pub(crate) fn extend(&mut self, later: Self) {
        self.web = later.web.or(self.web);
        self.compress = later.compress.or(self.compress.take());
        self.decompress = later.decompress.or(self.decompress.take());
    }
}

impl Recoder {
    /// With a level for gzip; none where there is nothing to be done.
    pub(crate) fn new(web: Option<Form>, level: Option<u32>) -> Option<Self> {
        let gzip = level.map(|level| Gzip {
            encoder: GzEncoder::new(Vec::new(), Compression::new(level)),
            holds: false,
        });
        (web.is_some() || gzip.is_some()).then(|| Self {
            web,
            gzip,
            out: VecDeque::new(),
            has_ended: false,
        })
    }

    /// What is next for the client.
    pub(crate) fn take(&mut self) -> Option<Frame<Bytes>> {
        self.out.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended && self.out.is_empty()
    }

    /// The host has sent this.
    pub(crate) fn put(&mut self, frame: Frame<Bytes>) -> io::Result<()> {
        match frame.into_data() {
            Ok(data) => {
                let data = self.web.map_or(data.clone(), |form| form.written(data));
                self.write(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.trailers(trailers),
                Err(_) => Ok(()),
            },
        }
    }

    fn trailers(&mut self, trailers: HeaderMap) -> io::Result<()> {
        if let Some(form) = self.web {
            return self.write(form.trailers(&trailers));
        }
        self.end()?;
        self.out.push_back(Frame::trailers(trailers));
        Ok(())
    }

    /// The host has sent all.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        if let Some(gzip) = &mut self.gzip {
            gzip.encoder.try_finish()?;
        }
        self.fetch();
        Ok(())
    }

    /// Nothing more has come yet: what is held goes on.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(gzip) = self.gzip.as_mut().filter(|gzip| gzip.holds && !self.has_ended) {
            gzip.holds = false;
            gzip.encoder.flush()?;
        }
        self.fetch();
        Ok(())
    }

    fn write(&mut self, data: Bytes) -> io::Result<()> {
        match &mut self.gzip {
            None => self.push(data),
            Some(gzip) => {
                gzip.holds = true;
                gzip.encoder.write_all(&data)?;
                self.fetch();
            }
        }
        Ok(())
    }

    fn fetch(&mut self) {
        if let Some(gzip) = &mut self.gzip {
            let written = std::mem::take(gzip.encoder.get_mut());
            self.push(written.into());
        }
    }

    fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.out.push_back(Frame::data(data));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;
    use http::HeaderValue;

    use super::*;

    fn taken(recoder: &mut Recoder) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = recoder.take() {
            all.extend_from_slice(&frame.into_data().unwrap());
        }
        all
    }

    fn unzipped(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // What was flushed is readable, whether it has ended or not.
        let _ = MultiGzDecoder::new(bytes).read_to_end(&mut out);
        out
    }

    #[test]
    fn what_has_come_goes_on_at_once() {
        let mut recoder = Recoder::new(None, Some(6)).unwrap();
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for piece in ["a", "bb", "ccc", &"d".repeat(100_000)] {
            expected.extend_from_slice(piece.as_bytes());
            recoder.put(Frame::data(Bytes::from(piece.to_owned()))).unwrap();
            recoder.flush().unwrap();
            sent.extend(taken(&mut recoder));
            assert_eq!(unzipped(&sent), expected);
            let before = sent.len();
            recoder.flush().unwrap();
            sent.extend(taken(&mut recoder));
            assert_eq!(sent.len(), before, "nothing is said of nothing");
        }
        assert!(sent.len() < 1000, "{} bytes of {}", sent.len(), expected.len());
        recoder.end().unwrap();
        assert!(!recoder.has_ended(), "the end is still to be taken");
        sent.extend(taken(&mut recoder));
        assert!(recoder.has_ended());
        let mut whole = Vec::new();
        MultiGzDecoder::new(&sent[..]).read_to_end(&mut whole).unwrap();
        assert_eq!(whole, expected);
    }

    #[test]
    fn trailers_come_last_or_within() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut recoder = Recoder::new(None, Some(1)).unwrap();
        recoder.put(Frame::data(Bytes::from_static(b"ab"))).unwrap();
        recoder.put(Frame::trailers(trailers.clone())).unwrap();
        recoder.end().unwrap();
        let mut frames: Vec<_> = std::iter::from_fn(|| recoder.take()).collect();
        assert_eq!(frames.pop().unwrap().into_trailers().unwrap(), trailers);
        let data = frames.into_iter().flat_map(|frame| frame.into_data().unwrap());
        assert_eq!(unzipped(&data.collect::<Vec<u8>>()), b"ab");

        let mut recoder = Recoder::new(Some(Form::Text), None).unwrap();
        recoder.put(Frame::data(Bytes::from_static(b"ab"))).unwrap();
        recoder.put(Frame::trailers(trailers)).unwrap();
        recoder.end().unwrap();
        assert_eq!(taken(&mut recoder), b"YWI=gAAAAA9ncnBjLXN0YXR1czowDQo=");
    }
}
