//! One request and its answer over HTTP/1.1 on both sides: the head rewritten once, the body relayed as it comes, in bounded
//! memory. What needs more than that is left to the bridge.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Method, Response, StatusCode};

use super::answer::{Asked, Reading};
use super::bridge::{self, ClientLeft, To};
use super::buffer::Buffer;
use super::chunked::Unfit;
use super::connection::{Client, LINGER, Next};
use super::encode::{self, KeepAlive};
use super::framing::{Framing, Malformed, Version};
use super::head::{Fields, Head, Known, RequestLine, StatusLine};
use super::plan::{Expects, Plan, Terms, Way, plan, terms};
use super::relay::{Broken, Relay};
use super::stall::Progress;
use super::tunnel;
use super::upload::{Kept, Upload};
use crate::access_log::{Edited, Requested};
use crate::attempt::{Attempts, Failure, Refusal, until_answered};
use crate::balance::Labels;
use crate::body::{ClientBody, ResponseBody};
use crate::config::Forward;
use crate::deadline::{Over, first, patience};
use crate::exchange::{Exchange, Flag};
use crate::filter::Verdict;
use crate::forward;
use crate::io::BreakableIo;
use crate::pool::{Freshness, HostPool, Lease};
use crate::reply;
use crate::retry::{Outcome, RetryPolicy};
use crate::trace::{Context as TraceContext, Traced};
use crate::worker::WorkerCluster;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Answers one request, whose head is at the front of what has come.
pub(crate) async fn answer(client: &mut Client, line: &RequestLine, fields: &Fields) -> Next {
    let worker = Rc::clone(&client.connection.worker);
    let live = client.connection.listener.live();
    let head = fields.of(&client.input.filled()[..line.bytes]);
    let terms = match terms(line, head) {
        Ok(terms) => terms,
        Err(malformed) => return Box::pin(refuse(client, line, fields, malformed)).await,
    };
    if worker.pressure.sheds() {
        return Box::pin(bridged(client, line, fields, terms, None)).await;
    }
    let way = plan(
        line,
        head,
        terms,
        (client.connection.client(), client.connection.ends.direct),
        &live,
        worker.view(),
        &worker.random,
    );
    let plan = match way {
        Way::Straight(plan) => plan,
        Way::Bridged(judged) => {
            let judged = judged.map(|judged| *judged);
            return Box::pin(bridged(client, line, fields, terms, judged)).await;
        }
    };
    let mut exchange = Exchange::begin(Rc::clone(&client.connection));
    let trace = exchange.trace(&live, &head);
    let out = open(
        &mut exchange,
        worker.buffers.out(),
        line,
        head,
        terms,
        &plan,
        trace.as_ref(),
    );
    let edits = [&plan.target.edits, &plan.route.edits];
    let unfit = Unfit::of(head, terms.framing, &edits);
    client.input.consume(line.bytes);
    exchange.cluster(
        &plan.cluster.live.name,
        plan.cluster.counters(&worker, &client.connection.listener.name),
    );
    let policy = plan.forward.retry.as_ref();
    let started = exchange.started();
    let (upload, came) = if matches!(terms.framing, Framing::Empty | Framing::Length(0)) {
        (Upload::Head { out, written: 0 }, Some(started))
    } else {
        let kept = policy
            .filter(|policy| policy.repeats_what_was_sent())
            .and_then(|_| Kept::of(&out, terms.framing));
        let relay = Relay::new(out, terms.framing, unfit);
        (Upload::body(relay, started, kept), None)
    };
    let mut sending = Sending {
        client,
        cluster: &plan.cluster,
        key: plan.key,
        labels: plan.target.labels.as_deref(),
        upload,
        traced: exchange.traced(),
        came,
        ended: None,
        started,
        timeout: plan.forward.timeout,
        idle: plan.forward.idle(live.config.limits.stream_idle),
        per_try: policy.and_then(|policy| policy.per_try_timeout),
        request_timeout: live.config.limits.request_timeout,
        is_head: line.method == Method::HEAD,
        is_idempotent: line.method.is_idempotent(),
        expects: terms.expects,
    };
    match until_answered(&mut exchange, &plan.cluster, policy, &mut sending).await {
        Ok(mut answer) => {
            let (next, connection) = sending
                .pass(&mut answer, &mut exchange, terms.keep_alive, plan.forward)
                .await;
            // Notes when it was over, which is since when the host's connection is idle as well.
            drop(exchange);
            if connection == Afterwards::Kept {
                let since = sending.client.connection.idle_since();
                let pool = answer.lease.pool();
                pool.keep_h1(answer.io, since.unwrap_or_else(Instant::now));
            }
            next
        }
        Err(None) => {
            exchange.received(sending.upload.data());
            Next::Close
        }
        Err(Some(refusal)) => {
            let keep_alive = if sending.came.is_some() {
                terms.keep_alive
            } else {
                KeepAlive::No
            };
            sending.client.out = sending.upload.take_out();
            exchange.received(sending.upload.data());
            let to = To {
                is_head: line.method == Method::HEAD,
                version: line.version,
                keep_alive,
            };
            let response = reply::refuse(exchange, refusal);
            Box::pin(write(client, response, to)).await
        }
    }
}

/// Begins the record of the exchange, and writes the head for the host.
fn open(
    exchange: &mut Exchange,
    mut out: Vec<u8>,
    line: &RequestLine,
    head: Head<'_>,
    terms: Terms,
    plan: &Plan<'_>,
    trace: Option<&TraceContext>,
) -> Vec<u8> {
    let connection = Rc::clone(exchange.connection());
    exchange.asks(&line.method, head.values(Known::ContentType).next());
    let random = &connection.worker.random;
    let given = head.values(Known::RequestId).next();
    let made = given
        .is_none()
        .then(|| forward::uuid(random.next(), random.next()));
    let target = &head.bytes[line.target.clone()];
    out.clear();
    encode::Request {
        head,
        method: &line.method,
        target,
        framing: terms.framing,
        host: plan.forward.host.as_ref(),
        peer: connection.peer(),
        scheme: connection.scheme(),
        request_id: made.as_ref().map(|id| &id[..]),
        edits: [&plan.target.edits, &plan.route.edits],
        trace,
    }
    .write(&mut out);
    exchange.asked(|| Requested {
        method: &line.method,
        target,
        authority: head.values(Known::Host).next().unwrap_or_default(),
        protocol: http::Version::HTTP_11,
        request_id: given.or(made.as_ref().map(|id| &id[..])).unwrap_or_default(),
        peer: Some(connection.peer().as_bytes()),
        route: &plan.route.name,
        headers: &head,
    });
    out
}

/// A request on its way to one host after the other.
struct Sending<'a> {
    client: &'a mut Client,
    cluster: &'a WorkerCluster,
    key: Option<u64>,
    labels: Option<&'a Labels>,
    upload: Upload,
    traced: Option<Rc<Traced>>,
    /// When the last byte of the client's request was read.
    came: Option<Instant>,
    /// The same, once the present connection has been sent all of it.
    ended: Option<Instant>,
    started: Instant,
    timeout: Option<Duration>,
    /// So long nothing may move.
    idle: Option<Duration>,
    per_try: Option<Duration>,
    /// Of the client's request.
    request_timeout: Option<Duration>,
    is_head: bool,
    is_idempotent: bool,
    expects: Expects,
}

/// A host's response, of which the head was read.
struct Answer {
    io: BreakableIo,
    input: Buffer,
    line: StatusLine,
    framing: Framing,
    lease: Lease,
}

/// A response on its way to the client.
struct Passing {
    relay: Relay,
    /// Since when nothing more is sent to the host.
    uploaded: Option<Instant>,
    /// Once it had to wait.
    progress: Option<Progress>,
}

/// What becomes of a host's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Kept,
    Closed,
}

/// Why a connection brought no response.
enum Unanswered {
    /// Nothing of the request was sent.
    Unsent(String),
    /// The connection ended without a byte of an answer.
    Unheard(String),
    Failure(Failure),
}

impl Attempts for Sending<'_> {
    type Answer = Answer;

    /// On another connection if the first one had been closed while it waited, or may have been: that is no news about the
    /// host, and what may be repeated (RFC 9110, section 9.2.2) is.
    async fn attempt(&mut self, pool: &Rc<HostPool>, _: bool) -> Result<Answer, Failure> {
        let lease = pool.lease();
        if let Some((before, now)) = self.traced.as_ref().and_then(|traced| traced.renewed()) {
            self.upload.replace(&before, &now);
        }
        let mut wanted = Freshness::Reused;
        loop {
            let (mut io, freshness) = self.connection(pool, wanted).await?;
            let mut input = Buffer::new(&self.client.connection.worker.buffers);
            let mut receiving = Receiving {
                io: &mut io,
                input: &mut input,
                reading: Reading::default(),
                broken: None,
                began: Instant::now(),
            };
            self.upload.begin();
            self.ended = None;
            match poll_fn(|cx| self.poll_answer(&mut receiving, cx)).await {
                Ok((line, framing)) => {
                    return Ok(Answer {
                        io,
                        input,
                        line,
                        framing,
                        lease,
                    });
                }
                Err(Unanswered::Unsent(_)) if freshness == Freshness::Reused => {}
                // Once only: a request that ends the host's process must not end all of its processes.
                Err(Unanswered::Unheard(_))
                    if freshness == Freshness::Reused && self.is_repeatable() && !io.is_broken() =>
                {
                    wanted = Freshness::New;
                }
                Err(Unanswered::Unsent(detail) | Unanswered::Unheard(detail)) => {
                    return Err(Failure::reset(&detail));
                }
                Err(Unanswered::Failure(failure)) => return Err(failure),
            }
        }
    }

    fn status(answer: &Answer) -> u16 {
        answer.line.status
    }

    fn repeats(&self, answer: &Answer, policy: &RetryPolicy) -> bool {
        let head = self
            .client
            .answered
            .of(&answer.input.filled()[..answer.line.bytes]);
        policy.repeats_answer(Self::status(answer), &head)
    }

    fn reset_after(&self, answer: &Answer, policy: &RetryPolicy) -> Option<Duration> {
        let head = &answer.input.filled()[..answer.line.bytes];
        policy.reset_after(&self.client.answered.of(head))
    }

    fn key(&self) -> Option<u64> {
        self.key
    }

    fn labels(&self) -> Option<&Labels> {
        self.labels
    }

    fn can_repeat(&self) -> bool {
        self.upload.can_repeat()
    }

    async fn given_up(&mut self) -> Failure {
        let over = self.over();
        poll_fn(|cx| {
            if poll_left(self.client, cx).is_ready() {
                return Poll::Ready(Failure::ClientLeft);
            }
            let late = self.client.timer.poll(over.map(|(at, _)| at), cx);
            late.map(|()| over.map_or(Over::Time, |(_, over)| over).failure(false))
        })
        .await
    }
}

/// What an attempt reads into.
struct Receiving<'a> {
    io: &'a mut BreakableIo,
    input: &'a mut Buffer,
    reading: Reading,
    /// The host takes no more of the request; it may have answered all the same.
    broken: Option<String>,
    /// Since when there is the connection.
    began: Instant,
}

impl Sending<'_> {
    /// Whether it may be sent again on our own account.
    fn is_repeatable(&self) -> bool {
        self.is_idempotent && matches!(self.upload, Upload::Head { .. })
    }

    /// When there is no time for an answer any more; not known before the client's request has ended.
    fn over(&self) -> Option<(Instant, Over)> {
        let (time, over) = first(self.timeout, self.idle)?;
        Some((self.came? + time, over))
    }

    async fn connection(
        &mut self,
        pool: &Rc<HostPool>,
        wanted: Freshness,
    ) -> Result<(BreakableIo, Freshness), Failure> {
        if wanted == Freshness::Reused
            && let Some(io) = pool.idle_h1()
        {
            return Ok((io, Freshness::Reused));
        }
        // Where nothing of a body was read yet, what waits may not wait for ever either.
        let idle = match self.came {
            Some(_) => self.idle,
            None => Some(patience(self.idle)),
        };
        let since = self.came.unwrap_or(self.started);
        let over = first(self.timeout, idle).map(|(time, over)| (since + time, over));
        // Boxed, since most requests need no new connection, and all connections have room for what theirs may need.
        let mut connecting = Box::pin(pool.connect_h1(&self.cluster.live.config, wanted));
        poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(connected.map_err(|error| Failure::unconnected(&error)));
            }
            if poll_left(self.client, cx).is_ready() {
                return Poll::Ready(Err(Failure::ClientLeft));
            }
            let late = self.client.timer.poll(over.map(|(at, _)| at), cx);
            late.map(|()| Err(over.map_or(Over::Time, |(_, over)| over).failure(false)))
        })
        .await
    }

    fn poll_answer(
        &mut self,
        receiving: &mut Receiving<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(StatusLine, Framing), Unanswered>> {
        if self.ended.is_none() && receiving.broken.is_none() {
            if self.invite().is_err() {
                return Poll::Ready(Err(Unanswered::Failure(Failure::ClientLeft)));
            }
            match self.poll_upload(receiving.io, cx) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Broken::Sink(error))) if self.upload.is_unsent() => {
                    return Poll::Ready(Err(Unanswered::Unsent(error.to_string())));
                }
                Poll::Ready(Err(Broken::Sink(error))) => receiving.broken = Some(error.to_string()),
                Poll::Ready(Err(broken)) => {
                    let refusal = match broken {
                        Broken::Malformed(malformed) => Refusal::malformed(malformed),
                        Broken::Source | Broken::Sink(_) => Refusal::broken_off(),
                    };
                    return Poll::Ready(Err(Unanswered::Failure(Failure::Client(refusal))));
                }
            }
        }
        if let Poll::Ready(answered) = self.poll_head(receiving, cx) {
            return Poll::Ready(answered);
        }
        if self.came.is_some() && poll_left(self.client, cx).is_ready() {
            return Poll::Ready(Err(Unanswered::Failure(Failure::ClientLeft)));
        }
        let (deadline, failure) = self.deadline(receiving.began);
        self.client
            .timer
            .poll(deadline, cx)
            .map(|()| Err(Unanswered::Failure(failure())))
    }

    /// Tells a client that waits to be told to send its body.
    fn invite(&mut self) -> Result<(), HalfSaid> {
        let expected = std::mem::replace(&mut self.expects, Expects::Nothing);
        if expected == Expects::Continue && self.client.input.is_empty() {
            return say_continue(&self.client.stream.try_write(CONTINUE));
        }
        Ok(())
    }

    /// Sends what there is of the request.
    fn poll_upload(&mut self, host: &mut BreakableIo, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let client = &mut *self.client;
        ready!(self.upload.poll(&mut client.input, &mut client.stream, host, cx))?;
        self.ended = Some(*self.came.get_or_insert_with(Instant::now));
        Poll::Ready(Ok(()))
    }

    /// Reads the response's head.
    fn poll_head(
        &mut self,
        receiving: &mut Receiving<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(StatusLine, Framing), Unanswered>> {
        let asked = Asked {
            is_head: self.is_head,
            may_switch: false,
        };
        loop {
            let ended = match receiving.input.poll_fill(receiving.io, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => "the host closed the connection".to_owned(),
                Poll::Ready(Ok(_)) => {
                    match receiving
                        .reading
                        .read(receiving.input, &mut self.client.answered, asked)
                    {
                        Ok(None) => continue,
                        Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                        Err(detail) => return Poll::Ready(Err(Unanswered::Failure(Failure::reset(&detail)))),
                    }
                }
                Poll::Ready(Err(error)) => error.to_string(),
            };
            let detail = receiving.broken.take().unwrap_or(ended);
            return Poll::Ready(Err(if receiving.reading.is_silent(receiving.input) {
                Unanswered::Unheard(detail)
            } else {
                Unanswered::Failure(Failure::reset(&detail))
            }));
        }
    }

    /// The next moment at which it is too late, and for what.
    fn deadline(&self, began: Instant) -> (Option<Instant>, fn() -> Failure) {
        let came = match (self.came, &self.upload) {
            (None, Upload::Body { progress, .. }) => {
                let stalled = progress.at() + patience(self.idle);
                let until = self.request_timeout.map(|timeout| self.started + timeout);
                if let Some(until) = until.filter(|until| *until < stalled) {
                    return (Some(until), || Failure::Client(Refusal::too_slow()));
                }
                return (Some(stalled), || {
                    Failure::Client(Refusal::idle(StatusCode::REQUEST_TIMEOUT))
                });
            }
            (came, _) => came.unwrap_or(self.started),
        };
        let over = first(self.timeout, self.idle).map(|(time, over)| (came + time, over));
        let this = self.per_try.map(|timeout| came.max(began) + timeout);
        match (over, this) {
            (_, Some(this)) if over.is_none_or(|(at, _)| this < at) => (Some(this), || Failure::Attempt {
                outcome: Outcome::PerTryTimeout,
                detail: "per try timeout".to_owned(),
            }),
            (Some((at, Over::Idle)), _) => (Some(at), || Over::Idle.failure(true)),
            (over, _) => (over.map(|(at, _)| at), || Over::Time.failure(true)),
        }
    }

    /// Passes the response on.
    async fn pass(
        &mut self,
        answer: &mut Answer,
        exchange: &mut Exchange,
        asked: KeepAlive,
        forward: &Forward,
    ) -> (Next, Afterwards) {
        let (line, framing) = (answer.line, answer.framing);
        let head = self.client.answered.of(&answer.input.filled()[..line.bytes]);
        let reusable =
            line.version == Version::Http11 && framing != Framing::UntilClose && !head.has_option("close");
        let told = exchange.wants_close();
        // Nobody knows whether the rest of the request will come in time for another one behind it.
        let early = self.ended.is_none();
        let keep_alive = if told || early { KeepAlive::No } else { asked };
        let mut out = if early {
            std::mem::take(&mut self.client.out)
        } else {
            self.upload.take_out()
        };
        out.clear();
        encode::Response {
            head,
            status: line.status,
            framing,
            edits: &forward.response_edits,
            keep_alive,
        }
        .write(&mut out);
        let unfit = Unfit::of(head, framing, &[&forward.response_edits]);
        exchange.answered(&Edited {
            head,
            edits: &forward.response_edits,
        });
        answer.input.consume(line.bytes);
        exchange.respond(line.status);
        let mut passing = Passing {
            relay: Relay::new(out, framing, unfit),
            uploaded: self.ended,
            progress: None,
        };
        let passed = poll_fn(|cx| self.poll_pass(&mut passing, answer, cx)).await;
        exchange.sent(passing.relay.data());
        exchange.received(self.upload.data());
        self.client.out = passing.relay.take_ahead();
        match passed {
            Ok(()) => {
                exchange.end(Flag::None);
                let is_over = self.ended.is_some() && reusable && answer.input.is_empty();
                let next = match keep_alive {
                    KeepAlive::Yes => Next::Request,
                    KeepAlive::No => Next::Linger,
                };
                (
                    next,
                    if is_over {
                        Afterwards::Kept
                    } else {
                        Afterwards::Closed
                    },
                )
            }
            Err(flag) => {
                exchange.end(flag);
                (Next::Close, Afterwards::Closed)
            }
        }
    }

    fn poll_pass(
        &mut self,
        passing: &mut Passing,
        answer: &mut Answer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Flag>> {
        let Passing {
            relay,
            uploaded,
            progress,
        } = passing;
        let passed = relay.poll(&mut answer.input, &mut answer.io, &mut self.client.stream, cx);
        match passed {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(Broken::Sink(_))) => return Poll::Ready(Err(Flag::ClientGone)),
            Poll::Ready(Err(Broken::Source | Broken::Malformed(_))) => {
                return Poll::Ready(Err(Flag::UpstreamReset));
            }
            Poll::Pending => {}
        }
        // A host that answers early may not want the rest; then nobody reads it.
        if uploaded.is_none() && self.poll_upload(&mut answer.io, cx).is_ready() {
            *uploaded = Some(self.ended.unwrap_or_else(Instant::now));
        }
        if uploaded.is_some() && poll_left(self.client, cx).is_ready() {
            return Poll::Ready(Err(Flag::ClientGone));
        }
        let progress = progress.get_or_insert_with(|| Progress::new(relay.moved(), Instant::now()));
        progress.note(relay.moved());
        let (deadline, flag) = match (*uploaded, &self.upload) {
            (None, Upload::Body { progress: sent, .. }) => {
                let moved = sent.at().max(progress.at());
                (Some(moved + patience(self.idle)), Flag::StreamIdle)
            }
            (uploaded, _) => {
                let since = uploaded.unwrap_or(self.started);
                let idle = if relay.waits_for_sink() {
                    Some(patience(self.idle))
                } else {
                    self.idle
                };
                let route = self.timeout.map(|timeout| since + timeout);
                sooner(route, idle.map(|idle| progress.at() + idle), Flag::StreamIdle)
            }
        };
        self.client.timer.poll(deadline, cx).map(|()| Err(flag))
    }
}

/// When a response's body is given up: the route's time is over, or it stands still, which is called `flag`.
pub(crate) fn sooner(
    route: Option<Instant>,
    stalled: Option<Instant>,
    flag: Flag,
) -> (Option<Instant>, Flag) {
    match (route, stalled) {
        (Some(route), stalled) if stalled.is_none_or(|stalled| route <= stalled) => {
            (Some(route), Flag::UpstreamTimeout)
        }
        (_, stalled) => (stalled, flag),
    }
}

/// Ready when the client has closed its connection; what it sends meanwhile is kept for later, as far as there is room.
fn poll_left(client: &mut Client, cx: &mut Context<'_>) -> Poll<ClientLeft> {
    while !client.input.is_full() {
        match client.input.poll_fill(&mut client.stream, cx) {
            Poll::Ready(Ok(read)) if read > 0 => {}
            Poll::Ready(_) => return Poll::Ready(ClientLeft),
            Poll::Pending => {
                client.input.rest();
                break;
            }
        }
    }
    Poll::Pending
}

/// A line of ours went out in part, so that whatever follows it would be misread.
struct HalfSaid;

/// Tells a client to send its body. Where the socket has no room, the client sends after a while without being told.
fn say_continue(written: &io::Result<usize>) -> Result<(), HalfSaid> {
    match written {
        Ok(written) if *written != CONTINUE.len() => Err(HalfSaid),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Refuses a request whose head could be read but not understood; nothing behind it can be trusted.
async fn refuse(client: &mut Client, line: &RequestLine, fields: &Fields, malformed: Malformed) -> Next {
    let head = fields.of(&client.input.filled()[..line.bytes]);
    let mut exchange = Exchange::begin(Rc::clone(&client.connection));
    exchange.asks(&line.method, head.values(Known::ContentType).next());
    let response = reply::refuse(exchange, Refusal::malformed(malformed));
    let to = To {
        is_head: line.method == Method::HEAD,
        version: line.version,
        keep_alive: KeepAlive::No,
    };
    // Whoever does not read it is not served any worse.
    let written = tokio::time::timeout(LINGER, write(client, response, to)).await;
    written.unwrap_or(Next::Close)
}

async fn write(client: &mut Client, response: Response<ResponseBody>, to: To) -> Next {
    match bridge::write(response, to, &mut client.stream).await {
        Ok(KeepAlive::Yes) => Next::Request,
        Ok(KeepAlive::No) => Next::Linger,
        Err(_) => Next::Close,
    }
}

/// Answers a request the way those of HTTP/2 are answered.
async fn bridged(
    client: &mut Client,
    line: &RequestLine,
    fields: &Fields,
    terms: Terms,
    judged: Option<Verdict>,
) -> Next {
    let (body, mut feed) = bridge::body(terms.framing);
    let head = fields.of(&client.input.filled()[..line.bytes]);
    let request = match bridge::request(line, head, ClientBody::Http1(body)) {
        Ok(request) => request,
        Err(malformed) => return refuse(client, line, fields, malformed).await,
    };
    client.input.consume(line.bytes);
    let (mut reader, mut writer) = client.stream.split();
    let timer = &mut client.timer;
    let mut serving = pin!(forward::serve(Rc::clone(&client.connection), request, judged));
    let mut expects = terms.expects;
    let served = poll_fn(|cx| {
        if let Poll::Ready(response) = serving.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        if expects == Expects::Continue && feed.is_wanted() {
            expects = Expects::Nothing;
            if client.input.is_empty() && say_continue(&writer.try_write(CONTINUE)).is_err() {
                return Poll::Ready(None);
            }
        }
        feed.poll(&mut client.input, &mut reader, timer, cx)
            .map(|ClientLeft| None)
    });
    let Some(response) = served.await else {
        return Next::Close;
    };
    let (parts, body) = response.into_parts();
    let response = match body {
        ResponseBody::Tunnel(tunnel) => return tunnel::pass(client, &parts, tunnel).await,
        body => Response::from_parts(parts, body),
    };
    feed.discard(&mut client.input);
    let to = To {
        is_head: line.method == Method::HEAD,
        version: line.version,
        keep_alive: if feed.is_complete() {
            terms.keep_alive
        } else {
            KeepAlive::No
        },
    };
    let written = {
        let mut writing = pin!(bridge::write(response, to, &mut writer));
        poll_fn(|cx| {
            if let Poll::Ready(written) = writing.as_mut().poll(cx) {
                return Poll::Ready(written.ok());
            }
            feed.poll(&mut client.input, &mut reader, timer, cx)
                .map(|ClientLeft| None)
        })
        .await
    };
    match written {
        Some(KeepAlive::Yes) => Next::Request,
        Some(KeepAlive::No) => Next::Linger,
        None => {
            if line.version == Version::Http10 {
                // The end of the connection may be that of the body: only a reset says that this one is not. Where there is no
                // connection any more, there is nothing to say.
                let _ = client.stream.set_zero_linger();
            }
            Next::Close
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_with_its_routes_time_or_when_it_stands_still() {
        let now = Instant::now();
        let at = |secs| now + Duration::from_secs(secs);
        for (route, stalled, end, flag) in [
            (None, Some(300), Some(300), Flag::StreamIdle),
            (Some(15), Some(300), Some(15), Flag::UpstreamTimeout),
            (Some(300), Some(300), Some(300), Flag::UpstreamTimeout),
            (Some(900), Some(300), Some(300), Flag::StreamIdle),
            (Some(900), None, Some(900), Flag::UpstreamTimeout),
            (None, None, None, Flag::StreamIdle),
        ] {
            let got = sooner(route.map(at), stalled.map(at), Flag::StreamIdle);
            assert_eq!(got, (end.map(at), flag), "{route:?} {stalled:?}");
        }
    }
}
