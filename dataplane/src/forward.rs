//! The path of a request: its route, the host of each attempt, the response. Decisions are made by `router`, `balance` and
//! `retry`; these files do what they say.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Body;

use crate::access_log::Requested;
use crate::asking::{Added, Asking, End, Waiting};
use crate::attempt::Refusal;
use crate::body::{ClientBody, ResponseBody};
use crate::config::Action;
use crate::deadline::{Over, delay};
use crate::exchange::{Exchange, Flag, REQUEST_ID};
use crate::filter::{Answer, By, Verdict};
use crate::grpc::{self, Code, GRPC_TIMEOUT};
use crate::hash::{Hashed, hashed};
use crate::header_changes::HeaderChanges;
use crate::headers;
use crate::listener::Connection;
use crate::matcher::Subject;
use crate::reply::{Reply, lead, refuse};
use crate::rewrite::Asked;
use crate::tunnel::{self, Becoming};
use attempts::{Sent, Time, forward_to};
use head::{add_request_id, authority, rewritten, target, tidy};
use passing::{Answered, pass};

mod attempts;
mod head;
mod passing;
mod tunnels;

pub(crate) use head::{
    FORWARDED_FOR, FORWARDED_PROTO, Head, is_end_to_end, only_http2, options, uuid, well_formed,
};

/// Who the client is, which only this proxy could say.
static FORWARDED_CLIENT_CERT: [HeaderName; 1] = [HeaderName::from_static("x-forwarded-client-cert")];

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
    headers::remove(&mut parts.headers, &FORWARDED_CLIENT_CERT);
    let content_type = headers::first(&parts.headers, &header::CONTENT_TYPE);
    // What asks to become a connection is no call: whether it is one is all in its status.
    let content_type = content_type.filter(|_| asked.is_none());
    exchange.asks(&parts.method, content_type.map(HeaderValue::as_bytes));
    if exchange.connection().sheds() {
        return refuse(exchange, Refusal::overloaded());
    }
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
        peer: Some(connection.peer().as_bytes()),
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
    exchange.changes(std::mem::take(&mut verdict.mutations));
    if verdict.is_shadowed {
        exchange.shadowed();
    }
    exchange.hint(verdict.log_hint);
    // Before it is read otherwise: what the client sends counts.
    body = body.at_most(verdict.body_max);
    body = verdict.recoding.read(&mut parts.headers, body);
    if let Some(web) = verdict.recoding.web {
        exchange.of_web(web);
    }
    let duration = match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => {
            let said = || grpc::timeout(headers::first(&parts.headers, &GRPC_TIMEOUT)?.as_bytes());
            forward.duration.and_then(|duration| duration.of(said()))
        }
        _ => None,
    };
    let until = duration.map(|duration| exchange.started() + duration);
    let stream_idle = match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => forward.idle(live.config.limits.stream_idle),
        _ => live.config.limits.stream_idle,
    };
    let mut started = exchange.started();
    if !verdict.delay.is_zero() {
        match delay(verdict.delay, until, stream_idle).await {
            Ok(()) => {}
            Err(Over::Time) => return over(exchange, body.is_end_stream()),
            Err(Over::Idle) => return refuse(exchange, Refusal::idle_after(body.is_end_stream())),
        }
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
            by: By::default(),
            is_shadowed: false,
            log_hint: None,
            faults: Vec::new(),
            response: HeaderChanges::default(),
            session: verdict.session.take(),
            recoding: std::mem::take(&mut verdict.recoding),
            fields_max: live.config.limits.fields,
            added: Added::default(),
        };
        let asking = Asking {
            exchange: &exchange,
            chain: live.chain(route),
            route,
            authority: shown,
            stream_idle,
        };
        let ended = Box::pin(asking.ask(*stop, until, &mut waiting)).await;
        let Waiting {
            parts: now,
            target: to,
            ..
        } = &waiting;
        exchange.asks_otherwise(|| Requested {
            method: &now.method,
            target: to.as_str().as_bytes(),
            authority: shown.as_bytes(),
            protocol: now.version,
            request_id: now
                .headers
                .get(&REQUEST_ID)
                .map_or(&b""[..], HeaderValue::as_bytes),
            peer: None,
            route: route.map_or("", |route| &route.name),
            headers: &now.headers,
        });
        // What is behind sees the answer first.
        exchange.changes_before(waiting.response);
        // Behind all that was said of the answer.
        if let Some(web) = waiting.recoding.web {
            exchange.of_web(web);
        }
        if waiting.is_shadowed {
            exchange.shadowed();
        }
        exchange.hint(waiting.log_hint);
        match ended {
            Ok(()) => {}
            Err(End::Answer(answer)) => (verdict.answer, verdict.by) = (Some(answer), waiting.by),
            Err(End::Refused(refusal)) => return refuse(exchange, refusal),
            Err(End::Over) => return over(exchange, waiting.body.has_come()),
        }
        (parts, target, body) = (waiting.parts, waiting.target, waiting.body);
        verdict.session = waiting.session;
        verdict.faults.extend(waiting.faults);
        verdict.recoding = waiting.recoding;
        listed = Some(waiting.unfit);
        // It may be another request by now, and its route's time begins only now.
        hashed = hash(&self::subject(&connection, shown, &target, &parts));
        started = Instant::now();
    }
    if let Some(answer) = verdict.answer {
        exchange.decided(|| live.chain(route)?.why(verdict.by, &answer));
        let Answer {
            status,
            code,
            flag,
            body,
        } = answer;
        return Reply::new(status, body, flag).with_code(code).send(exchange);
    }
    let Some(route) = route else {
        return refuse(exchange, Refusal::no_route());
    };
    let forward = match &route.action {
        Action::Forward(forward) => forward,
        Action::Respond { status, body, edits } => {
            let reply = Reply::new(*status, body.clone(), Flag::None);
            return reply.with_edits(edits).send(exchange);
        }
        Action::Redirect(redirect) => {
            let asked = Asked {
                scheme: exchange.connection().scheme(),
                authority: shown,
                path: target.path(),
                query: target.query(),
            };
            return lead(exchange, redirect, &redirect.location(asked));
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
        Some(asked) => {
            // Boxed, since few do.
            Box::pin(tunnels::connect(
                &mut exchange,
                forward,
                &route.edits,
                sent,
                (asked, parts.version),
            ))
            .await
        }
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
