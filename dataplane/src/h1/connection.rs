//! One client's connection: heads are waited for, answered one after the other, and the connection is closed in a way that
//! lets the last answer arrive.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::buffer::Buffer;
use super::encode::{self, KeepAlive};
use super::exchange;
use super::framing::Malformed;
use super::head::{self, Fields, RequestLine};
use super::timer::Timer;
use crate::exchange::{Exchange, Flag};
use crate::limits::ClientLimits;
use crate::listener::{Connection, DRAIN_LINGER};
use crate::stream::Stream;

/// From the first byte of a head to its last, as in nginx.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, a connection that is given up is still read, so that closing it does not take the last
/// answer from a client that is still sending.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// What a client's connection is made of.
pub(crate) struct Client {
    pub(crate) connection: Rc<Connection>,
    pub(crate) stream: Stream,
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
pub(crate) async fn serve(connection: Rc<Connection>, stream: Stream, input: Buffer) {
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
            Ok(None) => return client.stream.say_end(),
            Err(malformed) => {
                client.refuse(malformed).await;
                return client.linger().await;
            }
        };
        match exchange::answer(&mut client, &line, &fields).await {
            Next::Request => {
                client.input.rest();
                let out = std::mem::take(&mut client.out);
                client.connection.worker.buffers.give_out(out);
            }
            Next::Linger => return client.linger().await,
            Next::Close => return,
        }
    }
}

/// What a connection that waits for a head waits with.
struct Waiting {
    since: Instant,
    /// When the first byte was seen, of the head or of an empty line before it.
    begun: Option<Instant>,
    after_empty_line: bool,
    drained: Option<Instant>,
    /// Since when memory is seen to run short.
    shed: Option<Instant>,
    /// Where the last look at the head ended.
    looked: usize,
}

impl Waiting {
    /// Until when it is waited for a head while memory runs short: one that is under way when that begins is answered.
    fn sheds_at(&mut self, sheds: bool) -> Option<Instant> {
        if !sheds {
            self.shed = None;
            return None;
        }
        let shed = *self.shed.get_or_insert_with(Instant::now);
        Some(shed.max(self.since) + DRAIN_LINGER)
    }

    /// Whether more can be said of a head than before.
    fn is_worth_a_look(&mut self, input: &mut Buffer) -> bool {
        if !self.after_empty_line && input.filled().starts_with(b"\r\n") {
            // One empty line, which old clients send after a body (RFC 9112, section 2.2).
            self.after_empty_line = true;
            self.begun.get_or_insert_with(Instant::now);
            input.consume(2);
        }
        match input.filled() {
            b"" => false,
            b"\r" => {
                self.begun.get_or_insert_with(Instant::now);
                false
            }
            // A head that has begun can only end, or turn out malformed, with a line.
            filled => head::is_worth_a_look(filled, self.looked),
        }
    }
}

/// What a client is told when the time for its head is over: nothing, if it has sent no more than an empty line.
fn too_slow(unread: &[u8]) -> Result<Option<RequestLine>, Malformed> {
    if matches!(unread, b"" | b"\r") {
        Ok(None)
    } else {
        Err(Malformed::HeadTooSlow)
    }
}

impl Client {
    /// The next request's head; `None` when there will be none.
    async fn head(
        &mut self,
        fields: &mut Fields,
        mut draining: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<RequestLine>, Malformed> {
        let mut waiting = Waiting {
            since: self.connection.idle_since().unwrap_or_else(Instant::now),
            begun: None,
            after_empty_line: false,
            drained: None,
            shed: None,
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
        let idle = match (waiting.drained, waiting.sheds_at(self.connection.sheds())) {
            (Some(drained), _) => Some(drained.max(waiting.since) + self.connection.listener.linger()),
            (None, Some(shed)) => Some(shed),
            (None, None) => {
                let allowed = self.connection.listener.live().config.idle_timeout;
                allowed.map(|allowed| waiting.since + allowed)
            }
        };
        let slow = waiting.begun.map(|begun| begun + self.limits().head_timeout);
        let ends = self
            .connection
            .ends_at()
            .map(|at| at.max(waiting.since) + DRAIN_LINGER);
        let deadline = [idle, ends, slow].into_iter().flatten().min();
        if self.timer.poll(deadline, cx).is_pending() {
            return Poll::Pending;
        }
        let is_slow = slow.is_some() && deadline == slow;
        Poll::Ready(if is_slow {
            too_slow(self.input.filled())
        } else {
            Ok(None)
        })
    }

    /// Looks at what has come, unless it was looked at before.
    fn look(&mut self, fields: &mut Fields, waiting: &mut Waiting) -> Result<Option<RequestLine>, Malformed> {
        if !waiting.is_worth_a_look(&mut self.input) {
            return self.room(waiting);
        }
        let filled = self.input.filled();
        if let Some(line) = head::read_request(filled, fields)? {
            let limits = self.limits();
            return if line.bytes > limits.head_bytes || fields.len() > limits.fields {
                Err(Malformed::HeadTooLarge)
            } else {
                Ok(Some(line))
            };
        }
        waiting.looked = filled.len();
        waiting.begun.get_or_insert_with(Instant::now);
        self.room(waiting)
    }

    fn limits(&self) -> ClientLimits {
        self.connection.listener.limits()
    }

    /// Makes room for the rest of a head, if it may be that long.
    fn room(&mut self, waiting: &Waiting) -> Result<Option<RequestLine>, Malformed> {
        if self.input.filled().len() >= self.limits().head_bytes {
            let in_first_line = !self.input.filled().contains(&b'\n');
            return Err(if in_first_line {
                Malformed::TargetTooLong
            } else {
                Malformed::HeadTooLarge
            });
        }
        if self.input.is_full() {
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
        let _ = tokio::time::timeout(LINGER, async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        })
        .await;
    }

    /// Closes the connection once the client has, or had the time to.
    async fn linger(mut self) {
        let deadline = Instant::now() + LINGER;
        let mut left = LINGER_BYTES_MAX;
        if !matches!(
            tokio::time::timeout(LINGER, self.stream.shutdown()).await,
            Ok(Ok(()))
        ) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_was_idle_for_long_has_the_time_for_what_is_under_way_when_memory_runs_short() {
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(60)) else {
            return;
        };
        let mut waiting = Waiting {
            since: long_ago,
            begun: None,
            after_empty_line: false,
            drained: None,
            shed: None,
            looked: 0,
        };
        assert_eq!(waiting.sheds_at(false), None);
        let before = Instant::now();
        let first = waiting.sheds_at(true).unwrap();
        assert!(first >= before + DRAIN_LINGER);
        assert_eq!(waiting.sheds_at(true), Some(first), "it is not put off");
        assert_eq!(waiting.sheds_at(false), None);
        assert!(waiting.sheds_at(true).unwrap() >= first, "it has begun anew");
    }
    use crate::h1::Buffers;

    #[tokio::test]
    async fn the_time_for_a_head_begins_with_whatever_comes_first() {
        // Pieces as they come, with whether each is worth a look.
        let cases: [&[(&str, bool)]; 5] = [
            &[("\r", false), ("\n", false), ("G", true)],
            &[("\r\n", false), ("\r", false), ("\n", true)],
            &[("\r\nGET", true), (" / HTTP", false)],
            &[("\n", true)],
            &[("G", true)],
        ];
        for pieces in cases {
            let mut input = Buffer::new(&Rc::new(Buffers::default()));
            let mut waiting = Waiting {
                since: Instant::now(),
                begun: None,
                after_empty_line: false,
                drained: None,
                shed: None,
                looked: 0,
            };
            assert!(!waiting.is_worth_a_look(&mut input));
            assert!(waiting.begun.is_none(), "nothing has come yet");
            for (piece, expected) in pieces {
                let mut from = piece.as_bytes();
                poll_fn(|cx| input.poll_fill(&mut from, cx)).await.unwrap();
                let worth = waiting.is_worth_a_look(&mut input);
                assert_eq!(worth, *expected, "{pieces:?} at {piece:?}");
                if worth {
                    waiting.looked = input.filled().len();
                } else {
                    assert!(
                        waiting.begun.is_some() || waiting.looked > 0,
                        "{pieces:?} at {piece:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn who_has_asked_nothing_is_told_nothing() {
        for (unread, expected) in [("", Ok(())), ("\r", Ok(())), ("G", Err(Malformed::HeadTooSlow))] {
            assert_eq!(too_slow(unread.as_bytes()).map(drop), expected, "{unread:?}");
        }
    }
}
