//! Frames of HTTP/2 made by hand, so that they can be wrong, and a connection to send them on. Headers are literals only, as the
//! shortest encoder of HPACK has them (RFC 7541, section 6.2.2).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy::DEADLINE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The identifiers of SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW: u16 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One end of a connection.
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    sized(payload.len(), kind, flags, stream, payload)
}

/// A frame that says it had so many bytes.
pub(crate) fn sized(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

/// A block of headers, of `name value` between bars.
pub(crate) fn block(fields: &str) -> Vec<u8> {
    let fields = fields.split('|').map(|field| field.split_once(' ').unwrap());
    fields
        .flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes()))
        .collect()
}

pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0], string(name), string(value)].concat()
}

/// Its length in seven bits and more (RFC 7541, section 5.1), and itself.
fn string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if text.len() < 127 {
        out.push(u8::try_from(text.len()).unwrap());
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend_from_slice(text);
    out
}

/// A request that is all in one frame of headers.
pub(crate) fn request(stream: u32, path: &str) -> Vec<u8> {
    let fields = format!(":method GET|:scheme http|:authority h|:path {path}");
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

/// The status that a block of headers begins with.
pub(crate) fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(*indexed - 0x88)],
        // A literal whose name is the eighth of the table, and three digits in Huffman's code (RFC 7541, appendix B).
        [0x08 | 0x48, length, text @ ..] if *length > 0x80 => {
            let bits: String = text[..usize::from(length & 0x7f)]
                .iter()
                .map(|byte| format!("{byte:08b}"))
                .collect();
            let mut rest = bits.as_str();
            let mut status = 0;
            for _ in 0..3 {
                let long = u16::from_str_radix(&rest[..6], 2).unwrap();
                let (digit, taken) = match u16::from_str_radix(&rest[..5], 2).unwrap() {
                    short @ 0..=2 => (short, 5),
                    _ => (long - 0b01_1001 + 3, 6),
                };
                status = status * 10 + digit;
                rest = &rest[taken..];
            }
            status
        }
        _ => panic!("no status: {block:?}"),
    }
}

impl Frame {
    /// The reason that a RST_STREAM or a GOAWAY gives.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Wire {
    /// A connection on which nothing has been said.
    pub(crate) async fn bare(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::of(stream)
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
        }
    }

    /// A connection that has begun well, with these settings.
    pub(crate) async fn open(to: SocketAddr, settings: &[u8]) -> Self {
        let mut wire = Self::bare(to).await;
        wire.send(PREFACE).await;
        wire.send(settings).await;
        wire.send(&frame(SETTINGS, ACK, 0, b"")).await;
        wire
    }

    pub(crate) async fn start(to: SocketAddr) -> Self {
        Self::open(to, &frame(SETTINGS, 0, 0, b"")).await
    }

    /// Whoever is sent away need not listen to all.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Says that nothing more comes.
    pub(crate) async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Takes so many bytes that are no frame; whether they came.
    pub(crate) async fn skip(&mut self, bytes: usize) -> bool {
        while self.input.len() < bytes {
            if !self.fill().await {
                return false;
            }
        }
        self.input.drain(..bytes);
        true
    }

    /// The next frame; `None` when the other side has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, s, t, u, v, rest @ ..] = &self.input[..] {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if rest.len() >= length {
                    let frame = Frame {
                        kind: *kind,
                        flags: *flags,
                        stream: u32::from_be_bytes([*s, *t, *u, *v]),
                        payload: rest[..length].to_vec(),
                    };
                    self.input.drain(..9 + length);
                    return Some(frame);
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next frame that is one of these kinds; `None` when the other side has closed.
    pub(crate) async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// Whether a request on this connection is answered with 200.
    pub(crate) async fn is_answered(&mut self, stream: u32, path: &str) -> bool {
        self.send(&request(stream, path)).await;
        while let Some(frame) = self.next().await {
            if frame.stream == stream && frame.kind != WINDOW_UPDATE {
                return frame.kind == HEADERS && status(&frame.payload) == 200;
            }
        }
        false
    }

    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.input)).await;
        matches!(
            read.expect("something comes, or the connection is closed"),
            Ok(1..)
        )
    }
}
