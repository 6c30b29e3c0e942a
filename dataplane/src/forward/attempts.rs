//! A request that goes to hosts over hyper's connections, until one has answered.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderName, Request, Response};
use hyper::body::{Body, Incoming};

use super::head::Head;
use crate::attempt::{Attempts, Failure, Hedges, Refusal, race, until_answered};
use crate::balance::Draw;
use crate::body::{ClientBody, HostBody};
use crate::config::{Forward, HeaderEdits, Target};
use crate::deadline::{Deadline, RequestEnd};
use crate::exchange::Exchange;
use crate::filter::Session;
use crate::h1::{BODY_TIMEOUT, Malformed};
use crate::mirror;
use crate::pool::{Freshness, HostPool, Lease, SendFailure};
use crate::retry::{Outcome, RetryPolicy};
use crate::snapshot::LiveCluster;
use crate::trace::{Context, Traced};
use crate::upload::{RequestBody, Upload};
use crate::worker::WorkerCluster;

/// A request as the client sent it.
pub(super) struct Sent {
    pub(super) head: Head,
    pub(super) body: ClientBody,
    /// What may not stand behind the body.
    pub(super) unfit: Vec<HeaderName>,
    /// What it has in common with those that are to go to the same host.
    pub(super) key: Option<u64>,
    pub(super) trace: Option<Context>,
    pub(super) session: Option<Box<Session>>,
    pub(super) time: Time,
}

/// The time of a request: when its route's began, and when all of it is over.
pub(super) struct Time {
    pub(super) began: Instant,
    pub(super) until: Option<Instant>,
}

/// A request on its way over hyper's connections.
struct Sending<'a> {
    cluster: &'a LiveCluster,
    key: Option<u64>,
    traced: Option<Rc<Traced>>,
    session: Option<Box<Session>>,
    head: Head,
    upload: Option<Rc<Upload>>,
    deadline: Deadline,
    per_try: Option<Duration>,
}

/// Tries hosts until one answers, the policy gives up, or the request's time is over.
pub(super) async fn forward_to(
    exchange: &mut Exchange,
    forward: &Forward,
    edits: &HeaderEdits,
    sent: Sent,
) -> Result<(Response<HostBody>, Lease, Deadline), Refusal> {
    let Sent {
        mut head,
        body,
        mut unfit,
        key,
        trace,
        session,
        time,
    } = sent;
    let worker = Rc::clone(&exchange.connection().worker);
    let (target, cluster) = aimed(exchange, forward, edits, &mut head)?;
    if let Some(trace) = &trace {
        trace.apply(&mut head.headers);
    }

    let policy = forward.retry.as_ref().filter(|policy| policy.retries_max > 0);
    let mirrors = mirror::drawn(&forward.mirrors, &worker.random);
    let upload = if body.is_end_stream() {
        None
    } else {
        unfit.extend(target.edits.replaced().chain(edits.replaced()).cloned());
        Some(Upload::new(body, policy.is_some() || !mirrors.is_empty(), unfit))
    };
    if let Some(upload) = &upload {
        exchange.uploads(Rc::clone(upload));
    }
    mirror::send(&worker, &mirrors, &head, upload.as_ref(), forward.timeout);
    let request_end = upload.as_ref().map_or_else(
        || RequestEnd::At(time.began),
        |u| RequestEnd::WhenUploaded(Rc::clone(u)),
    );
    let deadline = Deadline {
        timeout: forward.timeout,
        until: time.until,
        idle: policy.and_then(|policy| policy.per_try_idle),
        request: request_end,
    };
    let mut sending = Sending {
        cluster: &cluster.live,
        key,
        traced: exchange.traced(),
        session,
        head,
        upload,
        deadline,
        per_try: policy.and_then(|policy| policy.per_try_timeout),
    };
    let answered = match policy.filter(|policy| policy.hedges) {
        Some(policy) => race(exchange, &cluster, policy, &sending).await,
        None => until_answered(exchange, &cluster, policy, &mut sending).await,
    };
    let (response, lease) = answered
        // hyper drops this future when the client leaves.
        .map_err(|refusal| refusal.unwrap_or_else(Refusal::broken_off))?;
    Ok((response.map(HostBody::Hyper), lease, sending.deadline))
}

/// The cluster that a request goes to, with what is said to it on the way.
pub(super) fn aimed<'a>(
    exchange: &mut Exchange,
    forward: &'a Forward,
    edits: &HeaderEdits,
    head: &mut Head,
) -> Result<(&'a Target, Rc<WorkerCluster>), Refusal> {
    let worker = Rc::clone(&exchange.connection().worker);
    let target = match forward.targets.as_slice() {
        [only] => only,
        _ => forward.target(worker.random.below(forward.total_weight)),
    };
    let Some(cluster) = worker.view().cluster(&target.cluster) else {
        return Err(Refusal::no_healthy_upstream(format!(
            "unknown cluster {}",
            target.cluster
        )));
    };
    exchange.cluster(
        &cluster.live.name,
        cluster.counters(&worker, &exchange.connection().listener.name),
    );
    target.edits.apply(&mut head.headers);
    edits.apply(&mut head.headers);
    Ok((target, cluster))
}

impl Sending<'_> {
    /// Ready once one try has taken so long. That there is a connection is looked at after the attempt whenever that gets on, so that
    /// nobody needs to be woken.
    async fn taken(&self, time: Option<Duration>, connected: &Cell<bool>) {
        let Some(timeout) = time else {
            return std::future::pending().await;
        };
        poll_fn(|_| {
            if connected.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self.deadline.request.come().await;
        tokio::time::sleep(timeout).await;
    }
}

impl Hedges for Sending<'_> {
    async fn hedged(&self, pool: &Rc<HostPool>, late: impl FnOnce()) -> Result<Self::Answer, Failure> {
        let body = match &self.upload {
            None => RequestBody::Empty,
            Some(upload) => upload.whole().unwrap_or_else(|| upload.attempt()),
        };
        let mut headers = self.head.headers.clone();
        if let Some(traced) = &self.traced {
            traced.told().apply(&mut headers);
        }
        let request = self.head.request(headers, body, self.cluster.config.protocol);
        let connected = Cell::new(false);
        let mut attempt = pin!(attempt(
            pool,
            self.cluster,
            request,
            self.upload.as_ref(),
            &connected
        ));
        let mut idle = pin!(self.taken(self.deadline.idle, &connected));
        tokio::select! {
            biased;
            result = &mut attempt => return result,
            () = &mut idle => return Err(Failure::too_long()),
            () = self.taken(self.per_try, &connected) => late(),
            () = stalled(self.upload.as_ref()) => {
                return Err(Failure::Client(Refusal::malformed(Malformed::BodyTooSlow)));
            }
        }
        tokio::select! {
            biased;
            result = &mut attempt => result,
            () = &mut idle => Err(Failure::too_long()),
        }
    }

    fn can_hedge(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_whole())
    }
}

impl Attempts for Sending<'_> {
    type Answer = (Response<Incoming>, Lease);

    /// Within the route's time and its own.
    async fn attempt(&mut self, pool: &Rc<HostPool>, repeatable: bool) -> Result<Self::Answer, Failure> {
        let mut headers = if repeatable {
            self.head.headers.clone()
        } else {
            std::mem::take(&mut self.head.headers)
        };
        if let Some(traced) = self.traced.as_ref().filter(|traced| traced.renewed().is_some()) {
            traced.told().apply(&mut headers);
        }
        let body = self.upload.as_ref().map_or(RequestBody::Empty, Upload::attempt);
        let request = self.head.request(headers, body, self.cluster.config.protocol);
        let connected = Cell::new(false);
        tokio::select! {
            biased;
            result = attempt(pool, self.cluster, request, self.upload.as_ref(), &connected) => result,
            () = self.deadline.expired() => Err(Failure::Late { connected: connected.get() }),
            () = stalled(self.upload.as_ref()) => {
                Err(Failure::Client(Refusal::malformed(Malformed::BodyTooSlow)))
            }
            () = self.taken(self.per_try, &connected) => Err(Failure::too_long()),
            () = self.taken(self.deadline.idle, &connected) => Err(Failure::too_long()),
        }
    }

    fn status((response, _): &Self::Answer) -> u16 {
        response.status().as_u16()
    }

    fn repeats(&self, answer: &Self::Answer, policy: &RetryPolicy) -> bool {
        policy.repeats_answer(Self::status(answer), answer.0.headers())
    }

    fn reset_after(&self, answer: &Self::Answer, policy: &RetryPolicy) -> Option<Duration> {
        policy.reset_after(answer.0.headers())
    }

    fn key(&self) -> Option<u64> {
        self.key
    }

    fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    fn can_repeat(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.can_repeat())
    }

    async fn expired(&self) {
        self.deadline.expired().await;
    }
}

/// Ready once nothing of a body has moved for long, be it that the client sends none or that the host takes none.
async fn stalled(upload: Option<&Rc<Upload>>) {
    match upload {
        Some(upload) => upload.stalled(BODY_TIMEOUT).await,
        None => std::future::pending().await,
    }
}

/// Sends a request to a host, on another connection if the first one had been closed; says when there is a connection.
pub(crate) async fn attempt(
    pool: &Rc<HostPool>,
    cluster: &LiveCluster,
    mut request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
    connected: &Cell<bool>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut lease = pool.lease();
    loop {
        let config = &cluster.config;
        let (mut sender, freshness) = lease
            .pool()
            .sender(config)
            .await
            .map_err(|error| Failure::unconnected(&error))?;
        connected.set(true);
        let SendFailure { error, unsent } = match sender.send(request).await {
            // hyper takes a 101 for the answer, though nobody has asked for another protocol.
            Ok(response) if response.status().is_informational() => {
                return Err(Failure::reset("the host's interim responses lead nowhere"));
            }
            Ok(response) => {
                lease.hold(sender);
                return Ok((response, lease));
            }
            Err(failure) => failure,
        };
        match unsent {
            // The host had closed the connection while it waited; that is no news about the host.
            Some(unsent) if freshness == Freshness::Reused => request = unsent,
            unsent => {
                if let Some(refusal) = upload.and_then(|upload| upload.refusal()) {
                    return Err(Failure::Client(refusal));
                }
                let outcome = if unsent.is_some() || was_refused(&error) {
                    Outcome::RefusedStream
                } else {
                    Outcome::Reset
                };
                return Err(Failure::terminated(outcome, &error.to_string()));
            }
        }
    }
}

/// Whether an HTTP/2 host said that it had not looked at the request: by refusing it, or by a GOAWAY that names an earlier one as
/// the last.
fn was_refused(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM) || (h2.is_go_away() && h2.is_remote());
        }
        cause = error.source();
    }
    false
}
