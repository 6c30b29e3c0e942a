//! A request that goes to one host after the other, until one has answered.

use std::borrow::Cow;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderName, Response, StatusCode};
use hyper::body::Body;

use super::head::Head;
use crate::attempt::{Attempts, Failure, Hedges, Refusal, race, until_answered};
use crate::balance::{Draw, Labels};
use crate::body::{ClientBody, HostBody};
use crate::config::{Forward, HeaderEdits, Target};
use crate::deadline::{Deadline, Over, RequestEnd, patience};
use crate::exchange::Exchange;
use crate::filter::Session;
use crate::h1::Buffers;
use crate::mirror;
use crate::pool::{HostPool, Lease};
use crate::retry::RetryPolicy;
use crate::snapshot::LiveCluster;
use crate::trace::{Context, Traced};
use crate::upload::{RequestBody, Upload};
use crate::upstream::{Attempt, once_connected};
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

/// A request on its way to one host after the other.
struct Sending<'a> {
    buffers: &'a Rc<Buffers>,
    cluster: &'a LiveCluster,
    key: Option<u64>,
    labels: Option<&'a Labels>,
    traced: Option<Rc<Traced>>,
    session: Option<Box<Session>>,
    head: Head,
    upload: Option<Rc<Upload>>,
    deadline: Deadline,
    per_try: Option<Duration>,
    /// When all of the request has to have come.
    come_until: Option<Instant>,
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
    let live = exchange.connection().listener.live();
    let (target, cluster) = aimed(exchange, forward, edits, &mut head)?;
    if let Some(trace) = &trace {
        trace.apply(&mut head.headers);
    }

    let policy = forward.retry.as_ref();
    let is_kept = policy.is_some_and(|policy| policy.retries_max > 0);
    let mirrors = mirror::drawn(&forward.mirrors, &worker.random);
    let upload = if body.is_end_stream() {
        None
    } else {
        unfit.extend(target.edits.names().chain(edits.names()).cloned());
        Some(Upload::new(body, is_kept || !mirrors.is_empty(), unfit))
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
        stream_idle: forward.idle(live.config.limits.stream_idle),
        request: request_end,
    };
    let mut sending = Sending {
        buffers: &worker.buffers,
        cluster: &cluster.live,
        key,
        labels: target.labels.as_deref(),
        traced: exchange.traced(),
        session,
        head,
        upload,
        deadline,
        per_try: policy.and_then(|policy| policy.per_try_timeout),
        come_until: live
            .config
            .limits
            .request_timeout
            .map(|timeout| exchange.started() + timeout),
    };
    let answered = match policy.filter(|policy| policy.hedges) {
        // Boxed, since few are.
        Some(policy) => Box::pin(race(exchange, &cluster, policy, &sending)).await,
        None => until_answered(exchange, &cluster, policy, &mut sending).await,
    };
    let (response, lease) = answered
        // This future is dropped when the client leaves.
        .map_err(|refusal| refusal.unwrap_or_else(Refusal::broken_off))?;
    Ok((response, lease, sending.deadline))
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
    fn once<'a>(&'a self, connected: &'a Cell<bool>) -> Attempt<'a> {
        Attempt {
            config: &self.cluster.config,
            buffers: self.buffers,
            upload: self.upload.as_deref(),
            connected,
        }
    }

    /// Ready once one try has taken so long, from its connection on.
    async fn taken(&self, time: Option<Duration>, connected: &Cell<bool>) {
        let Some(timeout) = time else {
            return std::future::pending().await;
        };
        once_connected(connected).await;
        self.deadline.request.come().await;
        tokio::time::sleep(timeout).await;
    }

    /// Ready once nothing of a body has moved for long, be it that the client sends none or that the host takes none, or it has not
    /// all come in its time.
    async fn stalled(&self) -> Refusal {
        let Some(upload) = &self.upload else {
            return std::future::pending().await;
        };
        let late = async {
            match self.come_until {
                Some(until) => upload.late(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = upload.stalled(patience(self.deadline.stream_idle)) => Refusal::idle(StatusCode::REQUEST_TIMEOUT),
            () = late => Refusal::too_slow(),
        }
    }
}

impl Hedges for Sending<'_> {
    async fn hedged(&self, pool: &Rc<HostPool>, late: impl FnOnce()) -> Result<Self::Answer, Failure> {
        let body = match &self.upload {
            None => RequestBody::Empty,
            Some(upload) => upload.whole().unwrap_or_else(|| upload.attempt()),
        };
        let mut headers = Cow::Borrowed(&self.head.headers);
        if let Some(traced) = &self.traced {
            traced.told().apply(headers.to_mut());
        }
        let connected = Cell::new(false);
        let mut attempt = pin!(self.once(&connected).send(pool, &self.head, headers, body));
        let mut idle = pin!(self.taken(self.deadline.idle, &connected));
        let mut expired = pin!(self.deadline.expired());
        tokio::select! {
            biased;
            result = &mut attempt => return result,
            over = &mut expired => return Err(over.failure(connected.get())),
            () = &mut idle => return Err(Failure::too_long()),
            () = self.taken(self.per_try, &connected) => late(),
            refusal = self.stalled() => return Err(Failure::Client(refusal)),
        }
        tokio::select! {
            biased;
            result = &mut attempt => result,
            over = &mut expired => Err(over.failure(connected.get())),
            () = &mut idle => Err(Failure::too_long()),
        }
    }

    fn can_hedge(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_whole())
    }

    async fn expired(&self) -> Over {
        self.deadline.expired().await
    }
}

impl Attempts for Sending<'_> {
    type Answer = (Response<HostBody>, Lease);

    /// Within the route's time and its own.
    async fn attempt(&mut self, pool: &Rc<HostPool>, repeatable: bool) -> Result<Self::Answer, Failure> {
        let mut headers = if repeatable {
            Cow::Borrowed(&self.head.headers)
        } else {
            Cow::Owned(std::mem::take(&mut self.head.headers))
        };
        if let Some(traced) = self.traced.as_ref().filter(|traced| traced.renewed().is_some()) {
            traced.told().apply(headers.to_mut());
        }
        let body = self.upload.as_ref().map_or(RequestBody::Empty, Upload::attempt);
        let connected = Cell::new(false);
        tokio::select! {
            biased;
            result = self.once(&connected).send(pool, &self.head, headers, body) => result,
            over = self.deadline.expired() => Err(over.failure(connected.get())),
            refusal = self.stalled() => Err(Failure::Client(refusal)),
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

    fn labels(&self) -> Option<&Labels> {
        self.labels
    }

    fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    fn can_repeat(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.can_repeat())
    }

    /// Who waits here is dropped when the client leaves.
    async fn given_up(&mut self) -> Failure {
        self.deadline.expired().await.failure(false)
    }
}
