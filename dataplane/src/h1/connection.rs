//! One client's connection: heads are waited for, answered one after the other, and the connection is closed in a way that
//! lets the last answer arrive.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::buffer::Buffer;
use super::encode::{self, KeepAlive};
use super::exchange;
use super::framing::Malformed;
use super::head::{self, Fields, HEAD_BYTES_MAX, RequestLine};
use super::timer::Timer;
use crate::exchange::{Exchange, Flag};
use crate::listener::{Connection, DRAIN_LINGER};

/// From the first byte of a head to its last, as in nginx.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, a connection that is given up is still read, so that closing it does not take the last
/// answer from a client that is still sending.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// What a client's connection is made of.
pub(crate) struct Client {
    pub(crate) connection: Rc<Connection>,
    pub(crate) stream: TcpStream,
    pub(crate) input: Buffer,
    pub(crate) timer: Timer,
    /// Heads are written here, and sent from here.
    pub(crate) out: Vec<u8>,
    /// Lines of the response.
    pub(crate) answered: Fields,
}

/// What becomes of a connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Request,
    /// The client may still be sending.
    Linger,
    /// There is nobody to tell anything.
    Close,
}

/// Serves a client until either of them has enough; `input` is what it has sent already.
pub(crate) async fn serve(connection: Rc<Connection>, stream: TcpStream, input: Buffer) {
    let listener = Rc::clone(&connection.listener);
    let mut draining = pin!(listener.drained());
    let mut client = Client {
        input,
        connection,
        stream,
        timer: Timer::new(),
        out: Vec::new(),
        answered: Fields::default(),
    };
    let mut fields = Fields::default();
    loop {
        let line = match client.head(&mut fields, draining.as_mut()).await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(malformed) => {
                client.refuse(malformed).await;
                return client.linger().await;
            }
        };
        match exchange::answer(&mut client, &line, &fields).await {
            Next::Request => client.input.rest(),
            Next::Linger => return client.linger().await,
            Next::Close => return,
        }
    }
}

/// What a connection that waits for a head waits with.
struct Waiting {
    since: Instant,
    /// When the first byte of the head was seen.
    begun: Option<Instant>,
    drained: Option<Instant>,
    /// Where the last look at the head ended.
    looked: usize,
}

impl Client {
    /// The next request's head; `None` when there will be none.
    async fn head(
        &mut self,
        fields: &mut Fields,
        mut draining: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<RequestLine>, Malformed> {
        let mut waiting = Waiting {
            since: Instant::now(),
            begun: None,
            drained: None,
            looked: 0,
        };
        poll_fn(|cx| self.poll_head(fields, &mut waiting, draining.as_mut(), cx)).await
    }

    fn poll_head(
        &mut self,
        fields: &mut Fields,
        waiting: &mut Waiting,
        draining: Pin<&mut impl Future<Output = ()>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<RequestLine>, Malformed>> {
        loop {
            match self.look(fields, waiting) {
                Ok(None) => {}
                decided => return Poll::Ready(decided),
            }
            // Memory is for those who have sent something.
            if !self.input.has_memory() && self.stream.poll_read_ready(cx).is_pending() {
                break;
            }
            match self.input.poll_fill(&mut self.stream, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        self.input.rest();
        // A future that is over must not be asked again.
        let known = self.connection.listener.is_draining();
        if waiting.drained.is_none() && (known || draining.poll(cx).is_ready()) {
            waiting.drained = Some(Instant::now());
        }
        let idle = match waiting.drained {
            Some(drained) => Some(drained.max(waiting.since) + DRAIN_LINGER),
            None => {
                let allowed = self.connection.listener.live().config.idle_timeout;
                allowed.map(|allowed| waiting.since + allowed)
            }
        };
        let slow = waiting.begun.map(|begun| begun + HEAD_TIMEOUT);
        let deadline = [idle, slow].into_iter().flatten().min();
        if self.timer.poll(deadline, cx).is_pending() {
            return Poll::Pending;
        }
        let too_slow = slow.is_some() && deadline == slow;
        Poll::Ready(if too_slow {
            Err(Malformed::HeadTooSlow)
        } else {
            Ok(None)
        })
    }

    /// Looks at what has come, unless it was looked at before.
    fn look(&mut self, fields: &mut Fields, waiting: &mut Waiting) -> Result<Option<RequestLine>, Malformed> {
        if waiting.begun.is_none() && self.input.filled().starts_with(b"\r\n") {
            // One empty line, which old clients send after a body (RFC 9112, section 2.2).
            waiting.begun = Some(Instant::now());
            self.input.consume(2);
        }
        let filled = self.input.filled();
        // A head that has begun can only end, or turn out malformed, with a line.
        let new = &filled[waiting.looked..];
        let worth = waiting.looked == 0 || new.contains(&b'\n');
        if filled.is_empty() || filled == b"\r" || !worth {
            return self.room(waiting);
        }
        if let Some(line) = head::read_request(filled, fields)? {
            return if line.bytes > HEAD_BYTES_MAX {
                Err(Malformed::HeadTooLarge)
            } else {
                Ok(Some(line))
            };
        }
        waiting.looked = filled.len();
        waiting.begun.get_or_insert_with(Instant::now);
        self.room(waiting)
    }

    /// Makes room for the rest of a head, if it may be that long.
    fn room(&mut self, waiting: &Waiting) -> Result<Option<RequestLine>, Malformed> {
        if self.input.is_full() {
            if self.input.filled().len() >= HEAD_BYTES_MAX {
                let in_first_line = !self.input.filled().contains(&b'\n');
                return Err(if in_first_line {
                    Malformed::TargetTooLong
                } else {
                    Malformed::HeadTooLarge
                });
            }
            debug_assert!(waiting.begun.is_some());
            self.input.grow();
        }
        Ok(None)
    }

    /// Answers what could not be read, as far as the client listens.
    async fn refuse(&mut self, malformed: Malformed) {
        let mut exchange = Exchange::begin(Rc::clone(&self.connection));
        let status = malformed.status().as_u16();
        exchange.respond(status);
        exchange.end(Flag::BadRequest);
        let reason = malformed.to_string();
        self.out.clear();
        encode::status_line(&mut self.out, status);
        encode::push(&mut self.out, "content-type", &[b"text/plain"]);
        encode::push(
            &mut self.out,
            "content-length",
            &[reason.len().to_string().as_bytes()],
        );
        encode::date(&mut self.out);
        encode::end(&mut self.out, KeepAlive::No);
        self.out.extend_from_slice(reason.as_bytes());
        exchange.sent(reason.len() as u64);
        // Whoever does not read it is not served any worse.
        let _ = self.stream.write_all(&self.out).await;
    }

    /// Closes the connection once the client has, or had the time to.
    async fn linger(mut self) {
        let deadline = Instant::now() + LINGER;
        let mut left = LINGER_BYTES_MAX;
        if self.stream.shutdown().await.is_err() {
            return;
        }
        poll_fn(|cx| {
            loop {
                self.input.consume(self.input.filled().len());
                match self.input.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(read)) if read > 0 && read <= left => left -= read,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(Some(deadline), cx),
                }
            }
        })
        .await;
    }
}
