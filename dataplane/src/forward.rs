//! The path of a request: its route, the host of each attempt, the response. Decisions are made by `router`, `balance` and
//! `retry`; this file does what they say.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body, Incoming};

use crate::access_log::Requested;
use crate::asking::{Asking, End, Waiting};
use crate::attempt::{Attempts, Failure, Hedges, Refusal, race, until_answered};
use crate::balance::Draw;
use crate::body::{ClientBody, HostBody, ResponseBody, UpstreamBody};
use crate::config::{Action, Forward, HeaderEdits, Protocol, Target};
use crate::deadline::{Deadline, RequestEnd, Watch};
use crate::exchange::{Exchange, Flag, REQUEST_ID};
use crate::filter::{Answer, Changes, Session, Verdict};
use crate::grpc::{self, Code, GRPC_TIMEOUT};
use crate::h1::{BODY_TIMEOUT, Malformed};
use crate::hash::{Hashed, hashed};
use crate::header_changes::HeaderChanges;
use crate::listener::Connection;
use crate::matcher::Subject;
use crate::mirror;
use crate::pool::{Freshness, HostPool, Lease, SendFailure};
use crate::recode::{Recoder, Recoding};
use crate::reply::{Reply, lead, refuse};
use crate::retry::{Outcome, RetryPolicy};
use crate::rewrite::{Asked, PathRewrite};
use crate::router::normalize_path;
use crate::snapshot::LiveCluster;
use crate::trace::{Context, Traced};
use crate::tunnel::{self, Becoming, Opening, Tunnel};
use crate::upload::{RequestBody, Upload};
use crate::worker::{Random, WorkerCluster};

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Who the client is, which only this proxy could say.
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Headers that concern one connection only (RFC 9110, section 7.6.1), and `expect`, which hyper has answered.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// What a message keeps even if its `connection` lists it: where it goes, how long it is, and what the proxy says of it.
const END_TO_END: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    REQUEST_ID,
];

/// A request as it is sent upstream, by whichever attempt.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: HeaderValue,
    /// Of what the client asks for, whatever its host is asked in.
    scheme: &'static str,
    pub(crate) headers: HeaderMap,
}

/// The time of a request: when its route's began, and when all of it is over.
struct Time {
    began: Instant,
    until: Option<Instant>,
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

/// Answers one request; `judged` is what the filters of its route have said of it, if they were asked before.
pub(crate) async fn serve(
    connection: Rc<Connection>,
    request: Request<ClientBody>,
    judged: Option<Verdict>,
) -> Response<ResponseBody> {
    let mut exchange = Exchange::begin(connection);
    let (mut parts, mut body) = request.into_parts();
    let asked = tunnel::asked(&mut parts, &exchange.connection().worker.random);
    if asked.is_some() {
        // What the client sends behind it is no request, whatever becomes of it.
        exchange.last();
    }
    // Before anything is matched: it would be the client's word for who it is.
    parts.headers.remove(FORWARDED_CLIENT_CERT);
    exchange.asks(
        &parts.method,
        parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes),
    );
    let live = exchange.connection().listener.live();
    if let Err(malformed) = well_formed(&parts.headers, live.config.limits.fields) {
        return refuse(exchange, Refusal::malformed(malformed));
    }
    let mut target = match target(&parts) {
        Ok(target) => target,
        Err(reason) => return refuse(exchange, Refusal::bad_request(reason)),
    };
    let Ok(authority) = authority(&parts) else {
        return refuse(exchange, Refusal::bad_request("the host is missing or malformed"));
    };
    let worker = Rc::clone(&exchange.connection().worker);
    let shown = authority.to_str().unwrap_or_default();
    let connection = Rc::clone(exchange.connection());
    let subject = subject(&connection, shown, &target, &parts);
    let route = live.routes.route(&subject);
    let is_let = |asked: &Becoming| tunnel::allows(asked, &live.config.upgrades, route);
    let is_forbidden = asked.as_ref().is_some_and(|asked| !is_let(asked));
    let judge = || {
        live.chain(route)
            .map(|chain| chain.judge(route, &subject, Instant::now, &worker.random))
    };
    // Nobody is asked of what is not let through.
    let judged = judged.or_else(|| if is_forbidden { None } else { judge() });
    let mut verdict = judged.unwrap_or_default();
    let hash = |subject: &Subject<'_, &Parts>| match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => hashed(&forward.hash, subject, || worker.random.next()),
        _ => Hashed::default(),
    };
    if !verdict.request.is_empty() {
        // All that comes behind the filters sees what they let go on.
        verdict.request.edits.apply(&mut parts.headers);
        target = verdict.request.target(target);
        parts.uri = Uri::from(target.clone());
    }
    let mut hashed = hash(&self::subject(&connection, shown, &target, &parts));
    // Not before: nothing of ours may be matched.
    add_request_id(&mut parts.headers, &worker.random);
    let trace = exchange.trace(&live, &parts.headers);
    exchange.asked(|| Requested {
        method: &parts.method,
        target: target.as_str().as_bytes(),
        authority: shown.as_bytes(),
        protocol: parts.version,
        request_id: parts
            .headers
            .get(&REQUEST_ID)
            .map_or(&b""[..], HeaderValue::as_bytes),
        peer: connection.peer().as_bytes(),
        route: route.map_or("", |route| &route.name),
        headers: &parts.headers,
    });
    if is_forbidden && (route.is_some() || asked != Some(Becoming::Connect)) {
        return Reply::new(StatusCode::FORBIDDEN, Bytes::new(), Flag::None).send(exchange);
    }
    if asked.is_some() && !body.is_end_stream() {
        // Who reads it as a body, and who as what follows the upgrade?
        return refuse(exchange, Refusal::bad_request("an upgrade has no body"));
    }
    exchange.edits(verdict.response);
    if verdict.is_shadowed {
        exchange.shadowed();
    }
    // Before it is read otherwise: what the client sends counts.
    body = body.at_most(verdict.body_max);
    body = verdict.recoding.read(&mut parts.headers, body);
    if let Some(web) = verdict.recoding.web {
        exchange.of_web(web);
    }
    let duration = match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => {
            let said = parts.headers.get(&GRPC_TIMEOUT);
            let said = said.and_then(|said| grpc::timeout(said.as_bytes()));
            forward.duration.and_then(|duration| duration.of(said))
        }
        _ => None,
    };
    let until = duration.map(|duration| exchange.started() + duration);
    let mut started = exchange.started();
    if !verdict.delay.is_zero() {
        let delayed = Instant::now() + verdict.delay;
        if let Some(until) = until.filter(|until| *until <= delayed) {
            tokio::time::sleep_until(until.into()).await;
            return over(exchange, body.is_end_stream());
        }
        tokio::time::sleep_until(delayed.into()).await;
        // What it was made to wait is not of the route's time.
        started = Instant::now();
    }
    let mut listed = None;
    if let Some(stop) = verdict.asks.take() {
        // What those before it say of the request is done before anybody is asked.
        let said = std::mem::take(&mut verdict.request);
        let unfit = tidy(&mut parts.headers, &said, exchange.connection());
        if let Some(Becoming::Upgrade(protocol)) = &asked {
            // Whoever is asked sees what it is to become.
            tunnel::say(&mut parts.headers, protocol);
        }
        let mut waiting = Waiting {
            parts,
            target,
            body,
            unfit,
            is_shadowed: false,
            response: HeaderChanges::default(),
            session: verdict.session.take(),
            recoding: std::mem::take(&mut verdict.recoding),
            fields_max: live.config.limits.fields,
        };
        let asking = Asking {
            exchange: &exchange,
            chain: live.chain(route),
            route,
            authority: shown,
        };
        let ended = Box::pin(asking.ask(*stop, until, &mut waiting)).await;
        exchange.changes(waiting.response);
        // Behind all that was said of the answer.
        if let Some(web) = waiting.recoding.web {
            exchange.of_web(web);
        }
        if waiting.is_shadowed {
            exchange.shadowed();
        }
        match ended {
            Ok(()) => {}
            Err(End::Answer(answer)) => verdict.answer = Some(answer),
            Err(End::Refused(refusal)) => return refuse(exchange, refusal),
            Err(End::Over) => return over(exchange, waiting.body.is_end_stream()),
        }
        (parts, target, body) = (waiting.parts, waiting.target, waiting.body);
        verdict.session = waiting.session;
        verdict.recoding = waiting.recoding;
        listed = Some(waiting.unfit);
        // It may be another request by now, and its route's time begins only now.
        hashed = hash(&self::subject(&connection, shown, &target, &parts));
        started = Instant::now();
    }
    if let Some(Answer {
        status,
        code,
        flag,
        body,
    }) = verdict.answer
    {
        return Reply::new(status, body, flag).with_code(code).send(exchange);
    }
    let Some(route) = route else {
        return refuse(exchange, Refusal::no_route());
    };
    let forward = match &route.action {
        Action::Forward(forward) => forward,
        Action::Respond { status, body } => {
            return Reply::new(*status, body.clone(), Flag::None).send(exchange);
        }
        Action::Redirect(redirect) => {
            let asked = Asked {
                scheme: exchange.connection().scheme(),
                authority: shown,
                path: target.path(),
                query: target.query(),
            };
            return lead(exchange, redirect.status, &redirect.location(asked));
        }
    };
    let listed = listed.unwrap_or_else(|| tidy(&mut parts.headers, &verdict.request, exchange.connection()));
    let target = match &forward.path {
        Some(rewrite) => match rewritten(rewrite, &target) {
            Ok(target) => target,
            Err(reason) => return refuse(exchange, Refusal::bad_request(reason)),
        },
        None => target,
    };
    let mut head = Head {
        method: parts.method,
        target,
        authority: forward.host.clone().unwrap_or(authority),
        scheme: exchange.connection().scheme(),
        headers: parts.headers,
    };
    if let Some(duration) = duration.filter(|_| exchange.is_call()) {
        head.headers.insert(GRPC_TIMEOUT, grpc::said_timeout(duration));
    }
    let time = Time {
        began: started,
        until,
    };
    let sent = Sent {
        head,
        body,
        unfit: listed,
        key: hashed.key,
        trace,
        session: verdict.session.clone(),
        time,
    };
    let answered = match asked {
        Some(asked) => connect(&mut exchange, forward, &route.edits, sent, asked).await,
        None => forward_to(&mut exchange, forward, &route.edits, sent).await,
    };
    match answered {
        Ok((response, lease, deadline)) => {
            let host = lease.pool().host.address;
            let answered = Answered {
                response,
                lease,
                deadline,
            };
            let mut passed = pass(exchange, answered, &forward.response_edits, &verdict.recoding);
            for cookie in hashed.cookies {
                passed.headers_mut().append(header::SET_COOKIE, cookie);
            }
            if let Some(session) = verdict.session {
                session.tell(host, passed.headers_mut());
            }
            passed
        }
        // Other refusals may come as late, and stay what they are.
        Err(Refusal {
            flag: Flag::UpstreamTimeout,
            ..
        }) if until.is_some_and(|until| until <= Instant::now()) => {
            let has_come = exchange.has_come();
            over(exchange, has_come)
        }
        Err(refusal) => refuse(exchange, refusal),
    }
}

/// What of a request routes and filters go by.
pub(crate) fn subject<'a>(
    connection: &'a Connection,
    authority: &'a str,
    target: &'a PathAndQuery,
    request: &'a Parts,
) -> Subject<'a, &'a Parts> {
    let has_path = request.method != Method::CONNECT;
    Subject {
        authority,
        path: if has_path { target.path() } else { "" },
        client: connection.client(),
        direct: connection.ends.direct,
        request,
    }
}

/// Takes out of a head what concerns one connection only, does once more what filters say, so that a client's `connection` takes
/// none of it out, and adds who is connected; returns what may not
/// stand behind the body, since a host may read that as if it stood before it.
fn tidy(headers: &mut HeaderMap, said: &Changes, connection: &Connection) -> Vec<HeaderName> {
    let mut listed = strip_hop_by_hop(headers);
    listed.extend(said.edits.replaced().cloned());
    said.edits.apply(headers);
    add_forwarded(headers, connection);
    join_cookies(headers);
    listed
}

/// The request has lasted as long as it may.
fn over(exchange: Exchange, has_come: bool) -> Response<ResponseBody> {
    let status = if has_come {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::REQUEST_TIMEOUT
    };
    let body = Bytes::from_static(b"downstream duration timeout");
    Reply::new(status, body, Flag::None)
        .with_code(Some(Code::DEADLINE_EXCEEDED))
        .send(exchange)
}

/// A request as the client sent it.
struct Sent {
    head: Head,
    body: ClientBody,
    /// What may not stand behind the body.
    unfit: Vec<HeaderName>,
    /// What it has in common with those that are to go to the same host.
    key: Option<u64>,
    trace: Option<Context>,
    session: Option<Box<Session>>,
    time: Time,
}

/// Tries hosts until one answers, the policy gives up, or the request's time is over.
async fn forward_to(
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

/// Makes the request a connection with a host.
async fn connect(
    exchange: &mut Exchange,
    forward: &Forward,
    edits: &HeaderEdits,
    mut sent: Sent,
    asked: Becoming,
) -> Result<(Response<HostBody>, Lease, Deadline), Refusal> {
    let (_, cluster) = aimed(exchange, forward, edits, &mut sent.head)?;
    if let Some(trace) = &sent.trace {
        trace.apply(&mut sent.head.headers);
    }
    if matches!(asked, Becoming::Upgrade(_)) && cluster.live.config.protocol == Protocol::Http2 {
        return Err(Refusal::failed(
            Outcome::Reset,
            "an upgrade needs hosts of HTTP/1.1",
        ));
    }
    let opening = Opening {
        asked,
        head: sent.head,
        key: sent.key,
        session: sent.session,
        deadline: Deadline {
            timeout: forward.timeout,
            until: sent.time.until,
            idle: forward
                .retry
                .as_ref()
                .filter(|policy| policy.retries_max > 0)
                .and_then(|policy| policy.per_try_idle),
            request: RequestEnd::At(sent.time.began),
        },
    };
    let (response, lease) = tunnel::open(exchange, &cluster, forward, &opening).await?;
    Ok((response, lease, opening.deadline))
}

/// The cluster that a request goes to, with what is said to it on the way.
fn aimed<'a>(
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

/// A host's answer, with what it comes over and how long it may.
struct Answered {
    response: Response<HostBody>,
    lease: Lease,
    deadline: Deadline,
}

/// Whether an answer is one to a call of gRPC.
fn is_of_call(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|content_type| grpc::is_call(content_type.as_bytes()))
}

/// Passes the response on, and the rest of the exchange to its body.
fn pass(
    mut exchange: Exchange,
    answered: Answered,
    edits: &HeaderEdits,
    recoding: &Recoding,
) -> Response<ResponseBody> {
    let Answered {
        response,
        mut lease,
        deadline,
    } = answered;
    let (mut parts, incoming) = response.into_parts();
    if recoding.web.is_some() && !is_of_call(&parts.headers) {
        // Whoever made the call understands nothing else.
        let reason = Bytes::from_static(b"the host's answer is none of gRPC");
        return Reply::new(parts.status, reason, Flag::None).send(exchange);
    }
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    let mut unfit = strip_hop_by_hop(&mut parts.headers);
    unfit.extend(edits.replaced().cloned());
    edits.apply(&mut parts.headers);
    if exchange.wants_close() {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.respond(parts.status.as_u16());
    let level = match (&recoding.compress, &incoming) {
        (None, _) | (_, HostBody::Switched(_)) => None,
        (Some(compress), _) => compress.begin(
            exchange.is_head() || incoming.is_end_stream(),
            parts.status,
            &mut parts.headers,
        ),
    };
    exchange.edit(&mut parts.headers);
    exchange.answered(&parts.headers);
    if let HostBody::Switched(host) = incoming {
        let tunnel = Tunnel {
            host: *host,
            _lease: lease,
            exchange,
            until: deadline.until,
        };
        return Response::from_parts(parts, ResponseBody::Tunnel(Box::new(tunnel)));
    }
    if incoming.is_end_stream() {
        if deadline.request.has_come() {
            lease.release(Instant::now());
        }
        exchange.end(Flag::None);
        return Response::from_parts(parts, ResponseBody::Full(None));
    }
    let body = UpstreamBody {
        incoming,
        lease: Some(lease),
        exchange: Some(exchange),
        watch: Watch::new(deadline),
        unfit,
        recoder: Recoder::new(recoding.web.map(|web| web.answer), level).map(Box::new),
    };
    Response::from_parts(parts, ResponseBody::Upstream(Box::new(body)))
}

impl Head {
    pub(crate) fn request(
        &self,
        mut headers: HeaderMap,
        body: RequestBody,
        protocol: Protocol,
    ) -> Request<RequestBody> {
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.target.clone());
        match protocol {
            Protocol::Http1 => {
                if headers.contains_key(header::TE) {
                    // It concerns one connection only (RFC 9110, section 10.1.4).
                    headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
                }
                if !body.is_end_stream() && !headers.contains_key(header::CONTENT_LENGTH) {
                    // hyper would leave out the body of a GET.
                    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                headers.insert(header::HOST, self.authority.clone());
            }
            Protocol::Http2 => {
                headers.remove(header::HOST);
                uri.scheme = Scheme::try_from(self.scheme).ok();
                // `authority` was parsed as one before it came here.
                uri.authority = Authority::try_from(self.authority.as_bytes()).ok();
            }
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }
}

/// Refuses what HTTP/2's codec lets through and HTTP/1.1's does not. Cookies count once, however many lines they are in.
pub(crate) fn well_formed(headers: &HeaderMap, fields_max: usize) -> Result<(), Malformed> {
    let lines = |name| headers.get_all(name).iter().count();
    if headers.len() > fields_max && headers.len() - lines(header::COOKIE).saturating_sub(1) > fields_max {
        return Err(Malformed::HeadTooLarge);
    }
    if lines(header::CONTENT_LENGTH) > 1 {
        return Err(Malformed::Length);
    }
    Ok(())
}

/// Where the request goes within its host: the path normalized, the query untouched.
fn target(request: &Parts) -> Result<PathAndQuery, &'static str> {
    let given = request.uri.path_and_query();
    if request.method == Method::CONNECT {
        let to = request.uri.authority();
        let is_whole = to.is_some_and(|to| to.port_u16().is_some()) && given.is_none();
        return is_whole
            .then(|| PathAndQuery::from_static("/"))
            .ok_or("CONNECT is to name a host and a port");
    }
    let given = given.ok_or("the path is missing")?;
    // `OPTIONS *` asks about the server as a whole, which a proxy of many has no answer to.
    let path = normalize_path(given.path())
        .ok_or("the path does not start with a slash, or a % in it escapes nothing")?;
    match path {
        std::borrow::Cow::Borrowed(_) => Ok(given.clone()),
        std::borrow::Cow::Owned(path) => {
            let whole = given
                .query()
                .map_or(path.clone(), |query| format!("{path}?{query}"));
            PathAndQuery::try_from(whole).map_err(|_| "the path is malformed")
        }
    }
}

fn rewritten(rewrite: &PathRewrite, target: &PathAndQuery) -> Result<PathAndQuery, &'static str> {
    let path = rewrite.apply(target.path());
    let whole = match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    PathAndQuery::try_from(whole).map_err(|_| "the rewritten path is malformed")
}

/// The host the client means: of the request's target if it names one, else of the `host` header.
fn authority(request: &Parts) -> Result<HeaderValue, ()> {
    let value = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).map_err(drop)?,
        None => {
            let mut hosts = request.headers.get_all(header::HOST).iter();
            match (hosts.next(), hosts.next()) {
                (Some(only), None) => only.clone(),
                _ => return Err(()),
            }
        }
    };
    let bytes = value.as_bytes();
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']')
    };
    if bytes.is_empty() || !bytes.iter().all(plain) || Authority::try_from(bytes).is_err() {
        return Err(());
    }
    Ok(value)
}

/// Takes out what concerns one connection only; what `connection` lists may not stand behind the body either.
fn strip_hop_by_hop(headers: &mut HeaderMap) -> Vec<HeaderName> {
    // Most heads have none of it, which costs less to see than to look for each.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return Vec::new();
    }
    let named: Vec<HeaderName> = options(headers, &header::CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect();
    // `te: trailers` is what gRPC asks with; any other coding is between us and the client.
    let takes_trailers = options(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().filter(|name| !END_TO_END.contains(name)) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    named
}

/// What the lines of a header list between their commas.
fn options<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn add_forwarded(headers: &mut HeaderMap, connection: &Connection) {
    let peer = connection.peer().clone();
    let value = match joined(headers, &FORWARDED_FOR, b",") {
        None => peer,
        Some(mut before) => {
            before.push(b',');
            before.extend_from_slice(peer.as_bytes());
            HeaderValue::from_bytes(&before).unwrap_or(peer)
        }
    };
    headers.insert(FORWARDED_FOR, value);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(connection.scheme()));
}

/// A browser splits its cookies over several lines in HTTP/2; in HTTP/1.1 they are one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies = joined(headers, &header::COOKIE, b"; ").unwrap_or_default();
    if let Ok(cookies) = HeaderValue::from_bytes(&cookies) {
        headers.insert(header::COOKIE, cookies);
    }
}

/// All lines of a header as one value; `None` when there is none.
fn joined(headers: &HeaderMap, name: &HeaderName, separator: &[u8]) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = lines.next()?.as_bytes().to_vec();
    for line in lines {
        value.extend_from_slice(separator);
        value.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

fn add_request_id(headers: &mut HeaderMap, random: &Random) {
    if !headers.contains_key(&REQUEST_ID) {
        let id = HeaderValue::from_bytes(&uuid(random.next(), random.next()));
        headers.insert(
            REQUEST_ID,
            id.expect("invariant: hexadecimal digits and dashes are a header value"),
        );
    }
}

/// A random UUID (RFC 9562, version 4) as text.
pub(crate) fn uuid(high: u64, low: u64) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Where the two digits of each byte stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    for (byte, place) in bytes.into_iter().zip(PLACES) {
        text[place] = HEX[usize::from(byte >> 4)];
        text[place + 1] = HEX[usize::from(byte & 0xf)];
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::h1::FIELDS_MAX;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let request = hosts
            .iter()
            .fold(Request::get(uri), |request, host| request.header("host", *host));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_is_one_plain_name() {
        let cases: [(&str, &[&str], Option<&str>); 9] = [
            ("/", &["a.b"], Some("a.b")),
            ("/", &["a.b:80"], Some("a.b:80")),
            ("/", &["[::1]:80"], Some("[::1]:80")),
            ("http://target/", &["header"], Some("target")),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["a", "b"], None),
            ("/", &["a/b"], None),
            ("/", &["user@a"], None),
        ];
        for (uri, hosts, expected) in cases {
            let got = authority(&parts(uri, hosts)).ok();
            assert_eq!(
                got,
                expected.map(|host| HeaderValue::from_str(host).unwrap()),
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn a_head_has_so_many_lines_and_one_length() {
        let of = |lines: &[(&'static str, usize)]| {
            let mut headers = HeaderMap::new();
            for (name, times) in lines {
                (0..*times).for_each(|_| {
                    headers.append(*name, HeaderValue::from_static("1"));
                });
            }
            well_formed(&headers, FIELDS_MAX)
        };
        for (lines, expected) in [
            (&[("x", 100)][..], Ok(())),
            (&[("x", 101)], Err(Malformed::HeadTooLarge)),
            (&[("x", 99), ("cookie", 50)], Ok(())),
            (&[("x", 100), ("cookie", 1)], Err(Malformed::HeadTooLarge)),
            (&[("content-length", 1)], Ok(())),
            (&[("content-length", 2)], Err(Malformed::Length)),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_query_is_untouched() {
        let cases = [("/a/../b?x=/../y", "/b?x=/../y"), ("/a?", "/a?"), ("/%61", "/a")];
        for (uri, expected) in cases {
            assert_eq!(target(&parts(uri, &["h"])).unwrap().as_str(), expected, "{uri}");
        }
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "\u{e9}, x-mine, keep-alive, te"),
            ("connection", "x-yours, x-forwarded-for,, content-length"),
            ("x-mine", "1"),
            ("x-yours", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("content-length", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "te", "x-forwarded-for", "x-kept"]);
        for (lines, asked) in [
            (&["gzip"][..], false),
            (&["gzip, trailers"], true),
            (&["gzip", "Trailers"], true),
        ] {
            headers.remove("te");
            for line in lines {
                headers.append("te", HeaderValue::from_static(line));
            }
            strip_hop_by_hop(&mut headers);
            let left: Vec<&HeaderValue> = headers.get_all("te").iter().collect();
            let expected: &[&str] = if asked { &["trailers"] } else { &[] };
            assert_eq!(left, expected, "{lines:?}");
        }
    }

    #[test]
    fn lines_of_one_header_are_joined() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            headers.append("cookie", HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        let cookies: Vec<&HeaderValue> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert_eq!(joined(&headers, &FORWARDED_FOR, b","), None);
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        assert_eq!(&uuid(0, 0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&uuid(u64::MAX, u64::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            &uuid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
            b"01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
