//! What a request waits for at a filter that asks somebody (docs/adr/0010). Filters behind it judge the request as it is then, in
//! their order, and may ask in turn.

use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use http::header::HeaderName;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use hyper::body::Body;

use crate::attempt::Refusal;
use crate::body::{ClientBody, ClientError};
use crate::config::Route;
use crate::deadline::delay;
use crate::exchange::{Exchange, Flag};
use crate::filter::{
    ActiveFault, Answer, Begin, By, CHECK, Case, Chain, ExtAuthz, Facts, Filter, RateLimit,
    SHOULD_RATE_LIMIT, Said, Session, Shown, Stop, unfit,
};
use crate::forward::subject;
use crate::grpc_call::{CallError, call};
use crate::h1::{BODY_TIMEOUT, HEAD_BYTES_MAX, Malformed};
use crate::header_changes::HeaderChanges;
use crate::matcher::Subject;
use crate::read_ahead::{ReadAhead, ReadError};
use crate::recode::Recoding;

/// Who asks.
pub(crate) struct Asking<'a> {
    pub(crate) exchange: &'a Exchange,
    /// Of the route.
    pub(crate) chain: Option<&'a Chain>,
    pub(crate) route: Option<&'a Route>,
    pub(crate) authority: &'a str,
    /// So long a filter may make it wait.
    pub(crate) stream_idle: Option<Duration>,
}

/// The request that waits, without what concerns its client's connection only.
pub(crate) struct Waiting {
    pub(crate) parts: Parts,
    pub(crate) target: PathAndQuery,
    pub(crate) body: ClientBody,
    /// What may not stand behind the body.
    pub(crate) unfit: Vec<HeaderName>,
    /// Who has answered it, if it was answered.
    pub(crate) by: By,
    /// Whether a rule that only watches would have turned it away.
    pub(crate) is_shadowed: bool,
    /// What logs are to make of it.
    pub(crate) log_hint: Option<bool>,
    /// What goes wrong with it on purpose.
    pub(crate) faults: Vec<ActiveFault>,
    /// What is done to the answer's head.
    pub(crate) response: HeaderChanges,
    /// Which of the hosts it is for.
    pub(crate) session: Option<Box<Session>>,
    /// What is done to its body and to a host's answer.
    pub(crate) recoding: Recoding,
    /// Of its head.
    pub(crate) fields_max: usize,
    pub(crate) added: Added,
}

/// What was added to a request's head since its client has sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    lines: usize,
    bytes: usize,
}

/// Why a request does not go on.
pub(crate) enum End {
    Answer(Answer),
    Refused(Refusal),
    /// It has lasted as long as it may.
    Over,
}

impl Asking<'_> {
    /// Asks for the filter at which the chain stopped, and goes on with those behind it, at most `until` then.
    pub(crate) async fn ask(
        &self,
        stop: Stop,
        until: Option<Instant>,
        request: &mut Waiting,
    ) -> Result<(), End> {
        let asking = self.ask_all(stop, request);
        match until {
            None => asking.await,
            Some(until) => {
                let asked = tokio::time::timeout_at(until.into(), asking).await;
                asked.unwrap_or(Err(End::Over))
            }
        }
    }

    async fn ask_all(&self, stop: Stop, request: &mut Waiting) -> Result<(), End> {
        // Nobody knows whether it may go on where nobody is to be asked.
        let lost = || End::Answer(unfit());
        let chain = self.chain.ok_or_else(lost)?;
        let mut next = Some(stop);
        while let Some(Stop { place, facts }) = next {
            request.by.filter = Some(place);
            let said = match chain.filter(place) {
                Some(Filter::ExtAuthz(authz)) => self.authorize(authz, request).await,
                Some(Filter::RateLimit(limit)) => self.count(limit, request).await,
                _ => return Err(lost()),
            };
            if let Err(end) = said.and_then(|said| request.heed(said)) {
                let mut behind = HeaderChanges::default();
                chain.change_behind(place, &mut behind);
                request.response.extend(behind);
                return Err(end);
            }
            next = self.judge(chain, place + 1, facts, request).await?;
        }
        Ok(())
    }

    /// Puts the request to the filters from `place` on; returns where the chain stops next.
    async fn judge(
        &self,
        chain: &Chain,
        place: usize,
        facts: Facts,
        request: &mut Waiting,
    ) -> Result<Option<Stop>, End> {
        let random = &self.exchange.connection().worker.random;
        let subject = self.subject(request);
        let verdict = chain.judge_from(place, facts, self.route, &subject, Instant::now, random);
        request.is_shadowed |= verdict.is_shadowed;
        request.log_hint = verdict.log_hint.or(request.log_hint);
        request.by = verdict.by;
        request.faults.extend(verdict.faults);
        request.unfit.extend(verdict.request.edits.names().cloned());
        verdict.request.edits.apply(&mut request.parts.headers);
        request.lead(|target| verdict.request.target(target));
        request.response.extend(verdict.response.into());
        let ahead = std::mem::replace(&mut request.response, verdict.mutations);
        request.response.extend(ahead);
        request.session = verdict.session.or(request.session.take());
        let body = std::mem::replace(&mut request.body, ClientBody::Nothing);
        let body = body.at_most(verdict.body_max);
        request.body = verdict.recoding.read(&mut request.parts.headers, body);
        request.recoding.extend(verdict.recoding);
        if !verdict.delay.is_zero() && delay(verdict.delay, None, self.stream_idle).await.is_err() {
            return Err(End::Refused(Refusal::idle_after(request.body.has_come())));
        }
        match verdict.answer {
            Some(answer) => Err(End::Answer(answer)),
            None => Ok(verdict.asks.map(|stop| *stop)),
        }
    }

    async fn authorize(&self, authz: &ExtAuthz, request: &mut Waiting) -> Result<Said, End> {
        let connection = self.exchange.connection();
        let is_bodiless = request.body.is_end_stream();
        let body = match authz.body().filter(|_| !is_bodiless) {
            Some(shown) => Some(request.begin(shown).await?),
            None => None,
        };
        let case = Case {
            source: connection.ends.client,
            principal: connection.client().channel.principal(),
            destination: connection.ends.to,
            came: SystemTime::now() - self.exchange.started().elapsed(),
            head: &request.parts,
            scheme: connection.scheme(),
            authority: self.authority,
            target: if request.parts.method == Method::CONNECT {
                ""
            } else {
                request.target.as_str()
            },
            is_bodiless,
            body,
        };
        let asked = authz.request(case);
        let answered = call::<CheckResponse>(connection, &authz.service.callee, CHECK, &asked).await;
        Ok(match answered {
            Ok(response) => authz.said(response),
            Err(CallError::TooLarge) => return Err(End::Answer(unfit())),
            Err(error) => {
                tracing::debug!(cluster = %authz.service.callee.cluster, error = &error as &dyn std::error::Error, "nobody says whether a request may go on");
                authz.failed()
            }
        })
    }

    async fn count(&self, limit: &RateLimit, request: &Waiting) -> Result<Said, End> {
        let connection = self.exchange.connection();
        let Some(asked) = limit.request(self.route, &self.subject(request)) else {
            return Ok(Said::default());
        };
        let callee = &limit.service.callee;
        let answered = call::<RateLimitResponse>(connection, callee, SHOULD_RATE_LIMIT, &asked).await;
        Ok(match answered {
            Ok(response) => limit.said(response),
            Err(CallError::TooLarge) => return Err(End::Answer(unfit())),
            Err(error) => {
                tracing::debug!(cluster = %callee.cluster, error = &error as &dyn std::error::Error, "nobody says whether a request is one too many");
                limit.failed()
            }
        })
    }

    fn subject<'a>(&'a self, request: &'a Waiting) -> Subject<'a, &'a Parts> {
        let connection = self.exchange.connection();
        subject(connection, self.authority, &request.target, &request.parts)
    }
}

impl Waiting {
    /// The begin of its body, which goes on with the rest.
    async fn begin(&mut self, shown: Shown) -> Result<Begin, End> {
        let read = ReadAhead::read(&mut self.body, shown.bytes_max, BODY_TIMEOUT).await;
        let read = read.map_err(|error| End::Refused(unread(&error)))?;
        let is_whole = read.is_whole(shown.bytes_max);
        if !is_whole && !shown.partial {
            return Err(End::Refused(Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                flag: Flag::None,
                reason: "Payload Too Large".to_owned(),
            }));
        }
        let bytes = read.begin(shown.bytes_max).to_vec();
        self.body = ClientBody::Read(Box::new(read));
        Ok(Begin { bytes, is_whole })
    }

    /// Does what was said. As much as a client's head may have may be added to it, and to the answer's; more is nothing that can
    /// be done.
    fn heed(&mut self, said: Said) -> Result<(), End> {
        self.response.extend(said.response);
        if self.response.lines() > self.fields_max || self.response.bytes() > HEAD_BYTES_MAX {
            return Err(self.refuse());
        }
        if let Some(answer) = said.answer {
            return Err(End::Answer(answer));
        }
        self.added.lines += said.request.lines();
        self.added.bytes += said.request.bytes();
        if self.added.lines > self.fields_max || self.added.bytes > HEAD_BYTES_MAX {
            return Err(self.refuse());
        }
        self.unfit.extend(said.request.names().cloned());
        said.request.apply(&mut self.parts.headers);
        if !said.query.is_empty() {
            let target = said.query.applied(&self.target).map_err(|_| self.refuse())?;
            self.lead(|_| target);
        }
        Ok(())
    }

    /// Another path or query, which filters see too.
    pub(crate) fn lead(&mut self, changed: impl FnOnce(PathAndQuery) -> PathAndQuery) {
        let target = changed(self.target.clone());
        if target != self.target {
            self.parts.uri = Uri::from(target.clone());
            self.target = target;
        }
    }

    fn refuse(&mut self) -> End {
        self.response = HeaderChanges::default();
        End::Answer(unfit())
    }
}

fn unread(error: &ReadError) -> Refusal {
    match error {
        ReadError::Stalled => Refusal::malformed(Malformed::BodyTooSlow),
        ReadError::Client(ClientError::Http1(malformed)) => Refusal::malformed(*malformed),
        ReadError::Client(ClientError::Http2(_)) => Refusal::broken_off(),
        ReadError::Client(ClientError::Text(error)) => Refusal::bad_request(&error.to_string()),
        ReadError::Client(ClientError::Gunzip(error)) if error.is_too_large() => Refusal::too_large(),
        ReadError::Client(ClientError::Gunzip(error)) => Refusal::bad_request(&error.to_string()),
        ReadError::Client(ClientError::TooLarge) => Refusal::too_large(),
    }
}
