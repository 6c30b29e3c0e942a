//! Requests that need more than a head and a body passed on - mirrors, HTTP/2 to the host, rewrites, answers of our own - go
//! the way of HTTP/2's: as an `http::Request`, with the body read when it is wanted.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::buffer::Buffer;
use super::chunked::may_trail;
use super::encode::{self, KeepAlive};
use super::framing::{Decoder, Framing, Malformed, Version};
use super::head::{Head, RequestLine};
use super::stall::{BODY_TIMEOUT, TimeoutWriter};
use super::timer::Timer;
use crate::body::{ClientBody, ResponseBody};

/// A request's body for whoever forwards it.
pub(crate) struct StreamedBody {
    pipe: Rc<Pipe>,
}

/// One piece of a body between the client's connection and whoever forwards it, which may be another task.
#[derive(Default)]
struct Pipe {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    piece: Option<Bytes>,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), Malformed>>,
    /// Since when somebody waits for the body, and nothing of it is there.
    wanted: Option<Instant>,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// The client's side of a [`StreamedBody`].
pub(crate) struct Feed {
    pipe: Rc<Pipe>,
    decoder: Decoder,
}

/// What an answer depends on besides itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    pub(crate) is_head: bool,
    pub(crate) version: Version,
    pub(crate) keep_alive: KeepAlive,
}

/// The client has closed its connection.
pub(crate) struct ClientLeft;

/// The request as the rest of the proxy knows requests.
pub(crate) fn request(
    line: &RequestLine,
    head: Head<'_>,
    body: ClientBody,
) -> Result<http::Request<ClientBody>, Malformed> {
    let mut request = http::Request::new(body);
    let target = &head.bytes[line.target.clone()];
    if target.contains(&b'#') {
        // A fragment is the client's own; who would cut it off, and who would not?
        return Err(Malformed::Target);
    }
    if line.version == Version::Http10 {
        *request.version_mut() = http::Version::HTTP_10;
    }
    *request.method_mut() = line.method.clone();
    *request.uri_mut() = Uri::try_from(target).map_err(|_| Malformed::Target)?;
    let headers = request.headers_mut();
    headers.reserve(head.fields().len());
    for field in head.fields() {
        let name = HeaderName::from_bytes(head.name(field)).map_err(|_| Malformed::Head)?;
        let value = HeaderValue::from_bytes(head.value(field)).map_err(|_| Malformed::Head)?;
        headers.append(name, value);
    }
    Ok(request)
}

/// A body and its other end.
pub(crate) fn body(framing: Framing) -> (StreamedBody, Feed) {
    let pipe = Rc::new(Pipe::default());
    if matches!(framing, Framing::Empty | Framing::Length(0)) {
        pipe.state.borrow_mut().end = Some(Ok(()));
    }
    let feed = Feed {
        pipe: Rc::clone(&pipe),
        decoder: Decoder::new(framing),
    };
    (StreamedBody { pipe }, feed)
}

impl StreamedBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Malformed>>> {
        let mut state = self.pipe.state.borrow_mut();
        if let Some(piece) = state.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(
                state
                    .trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            Some(Err(malformed)) => Poll::Ready(Some(Err(malformed))),
            None => {
                state.wanted.get_or_insert_with(Instant::now);
                state.reader = Some(cx.waker().clone());
                if let Some(feeder) = state.feeder.take() {
                    feeder.wake();
                }
                Poll::Pending
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        let state = self.pipe.state.borrow();
        state.piece.is_none() && state.trailers.is_none() && matches!(state.end, Some(Ok(())))
    }
}

impl Feed {
    /// Whether all of the body was read.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.pipe.state.borrow().end, Some(Ok(())))
    }

    /// Drops what has come of a body that nobody will read: whoever was answered without it sends its next request behind it.
    pub(crate) fn discard(&mut self, input: &mut Buffer) {
        while self.is_abandoned() && !input.is_empty() {
            match self.decoder.data(input.filled()) {
                Ok(run) => {
                    input.consume(run.skipped + run.data);
                    if run.ended {
                        self.pipe.state.borrow_mut().finish(Ok(()));
                    }
                }
                Err(malformed) => self.pipe.state.borrow_mut().finish(Err(malformed)),
            }
        }
    }

    /// Whether there is more of the body, and nobody who would read it.
    fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.pipe) == 1 && self.pipe.state.borrow().end.is_none()
    }

    /// Whether somebody waits for the body, and nothing of it is there.
    pub(crate) fn is_wanted(&self) -> bool {
        self.pipe.state.borrow().wanted.is_some()
    }

    /// Reads what is wanted, if it comes in time, and else watches whether the client leaves.
    pub(crate) fn poll<R: AsyncRead + Unpin>(
        &mut self,
        input: &mut Buffer,
        from: &mut R,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<ClientLeft> {
        loop {
            let mut state = self.pipe.state.borrow_mut();
            state.feeder = Some(cx.waker().clone());
            if state.end.is_none() && state.wanted.is_some() && !input.is_empty() {
                if let Err(malformed) = feed(&mut state, &mut self.decoder, input) {
                    state.finish(Err(malformed));
                }
                continue;
            }
            let ended = state.end.is_some();
            let deadline = state.wanted.map(|since| since + BODY_TIMEOUT);
            drop(state);
            if input.is_full() {
                return Poll::Pending;
            }
            match input.poll_fill(from, cx) {
                Poll::Pending => {
                    if timer.poll(deadline, cx).is_ready() {
                        self.pipe.state.borrow_mut().finish(Err(Malformed::BodyTooSlow));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(read)) if read > 0 => {}
                Poll::Ready(_) if ended => return Poll::Ready(ClientLeft),
                Poll::Ready(_) => self.pipe.state.borrow_mut().finish(Err(Malformed::Truncated)),
            }
        }
    }
}

/// Hands over the next run of the body, if all that came is not framing.
fn feed(state: &mut State, decoder: &mut Decoder, input: &mut Buffer) -> Result<(), Malformed> {
    let run = decoder.data(input.filled())?;
    if run.data > 0 {
        state.piece = Some(Bytes::copy_from_slice(
            &input.filled()[run.skipped..run.skipped + run.data],
        ));
        state.wanted = None;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
    input.consume(run.skipped + run.data);
    if run.ended {
        state.trailers = trailers(&decoder.take_trailers());
        state.finish(Ok(()));
    }
    Ok(())
}

pub(super) fn trailers(lines: &[u8]) -> Option<HeaderMap> {
    let lines = lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((name, value))
    });
    let mut trailers = HeaderMap::new();
    for (name, value) in lines {
        trailers.append(name, value);
    }
    (!trailers.is_empty()).then_some(trailers)
}

impl State {
    fn finish(&mut self, end: Result<(), Malformed>) {
        self.end = Some(end);
        self.wanted = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Writes a response, unless it takes too long; says whether the connection takes another request after it.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    response: Response<ResponseBody>,
    to: To,
    writer: &mut W,
) -> io::Result<KeepAlive> {
    let Some(watch) = response.body().watch() else {
        return write_all(response, to, writer).await;
    };
    tokio::select! {
        biased;
        written = write_all(response, to, writer) => written,
        () = watch.over() => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    response: Response<ResponseBody>,
    to: To,
    writer: &mut W,
) -> io::Result<KeepAlive> {
    let mut writer = TimeoutWriter::new(writer, BODY_TIMEOUT);
    let (parts, mut body) = response.into_parts();
    let status = parts.status.as_u16();
    let bodiless = to.is_head || matches!(status, 204 | 304);
    let length = body.size_hint().exact();
    let (ending, keep_alive) = match (length, to.version) {
        _ if bodiless => (Ending::Known, to.keep_alive),
        (Some(_), _) => (Ending::Known, to.keep_alive),
        (None, Version::Http11) => (Ending::Chunked, to.keep_alive),
        (None, Version::Http10) => (Ending::Close, KeepAlive::No),
    };
    let told = parts
        .headers
        .get(header::CONNECTION)
        .is_some_and(|option| option == "close");
    let keep_alive = if told { KeepAlive::No } else { keep_alive };
    let mut head = Vec::with_capacity(1024);
    encode::status_line(&mut head, status);
    write_lines(&mut head, &parts.headers);
    let said = parts.headers.get(header::CONTENT_LENGTH);
    match (length, said) {
        _ if status == 204 => {}
        // What a GET would bring, where that is known.
        (_, Some(said)) if bodiless => encode::push(&mut head, "content-length", &[said.as_bytes()]),
        (Some(length), None) if to.is_head && length > 0 => {
            encode::push(&mut head, "content-length", &[length.to_string().as_bytes()]);
        }
        (Some(length), _) if !bodiless => {
            encode::push(&mut head, "content-length", &[length.to_string().as_bytes()]);
        }
        _ => {}
    }
    if ending == Ending::Chunked {
        encode::push(&mut head, "transfer-encoding", &[b"chunked"]);
    }
    encode::end(&mut head, keep_alive);
    if bodiless {
        writer.write_all(&head).await?;
        writer.flush().await?;
        // It ends the exchange, whatever the host says.
        while let Some(Ok(_)) = body.frame().await {}
        return Ok(keep_alive);
    }
    // In one go with the head, if it is there already.
    let mut next = body.frame().now_or_never();
    if next.is_none() {
        writer.write_all(&head).await?;
        writer.flush().await?;
        head.clear();
    }
    let mut ended_by: Option<HeaderMap> = None;
    loop {
        let frame = match next.take() {
            Some(frame) => frame,
            None => body.frame().await,
        };
        let Some(frame) = frame else { break };
        let data = match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) => data,
            Err(frame) => {
                ended_by = frame.into_trailers().ok();
                continue;
            }
        };
        if data.is_empty() {
            continue;
        }
        let behind: &[u8] = if ending == Ending::Chunked {
            head.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            b"\r\n"
        } else {
            b""
        };
        writer
            .write_all_buf(&mut (&head[..]).chain(data).chain(behind))
            .await?;
        writer.flush().await?;
        head.clear();
    }
    if ending == Ending::Chunked {
        head.extend_from_slice(b"0\r\n");
        for (name, value) in ended_by.iter().flatten() {
            if may_trail(name.as_str().as_bytes()) {
                encode::push(&mut head, name.as_str(), &[value.as_bytes()]);
            }
        }
        head.extend_from_slice(b"\r\n");
    }
    writer.write_all(&head).await?;
    writer.flush().await?;
    Ok(keep_alive)
}

/// How a response's end is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Known,
    Chunked,
    Close,
}

/// All but what says how the message ends.
pub(super) fn write_lines(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        let ours = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ];
        if !ours.contains(name) {
            encode::push(out, name.as_str(), &[value.as_bytes()]);
        }
    }
    if !headers.contains_key(header::DATE) {
        encode::date(out);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::upload::Upload;

    async fn has_ended(upload: &Upload) -> bool {
        poll_fn(|cx| Poll::Ready(upload.poll_ended(cx).is_ready())).await
    }

    #[tokio::test]
    async fn an_upload_that_nobody_reads_has_ended() {
        let (body, _feed) = body(Framing::Length(5));
        let upload = Upload::new(ClientBody::Http1(body), true, vec![]);
        let first = upload.attempt();
        assert!(!has_ended(&upload).await);
        drop(first);
        assert!(has_ended(&upload).await);
        assert_eq!(
            upload.completed_at(),
            None,
            "half a request is on that connection"
        );
        assert!(upload.can_repeat());
        let second = upload.attempt();
        assert!(!has_ended(&upload).await, "another attempt reads it");
        let third = upload.attempt();
        drop(second);
        assert!(!has_ended(&upload).await, "the last one counts");
        drop(third);
        assert!(has_ended(&upload).await);
    }

    #[tokio::test]
    async fn an_upload_may_not_stand_still() {
        let (open, _feed) = body(Framing::Length(5));
        let upload = Upload::new(ClientBody::Http1(open), true, vec![]);
        let attempt = upload.attempt();
        assert!(pin!(upload.stalled(BODY_TIMEOUT)).now_or_never().is_none());
        upload.stalled(Duration::ZERO).await;
        drop(attempt);
        let stalled = upload.stalled(Duration::ZERO).now_or_never();
        assert!(stalled.is_none(), "what has ended stands still by right");
    }
}
