//! What a listener's filters say to a request before it is forwarded. A filter is a variant of one closed enum, its decision a
//! pure function, and both ways through the proxy ask the same [`Chain`]. What a listener says of a filter and what routes say of
//! it instead meet here, once for each update, so that a request finds its chain by an index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;

use crate::balance::Draw;
use crate::config::{self, HeaderEdits, Route};
use crate::exchange::Flag;
use crate::grpc::Code;
use crate::grpc_web::{KNOWN_BY, WebCall};
use crate::header_changes::HeaderChanges;
use crate::jwks::RemoteKeys;
use crate::matcher::{RequestView, Subject};
use crate::recode::Recoding;

mod body_limit;
mod by;
mod chain;
mod changes;
mod compressor;
mod cors;
mod decompressor;
mod descriptor;
mod ext_authz;
mod facts;
mod fault;
mod header_mutation;
mod jwt;
mod local_ratelimit;
mod quota;
mod rate_limit;
mod rbac;
mod session;

pub(crate) use body_limit::{BodyLimit, TOO_LARGE};
pub(crate) use by::By;
pub(crate) use chain::{Chain, Held, chains};
pub(crate) use changes::Changes;
pub(crate) use compressor::{Compress, Compressor, TYPES};
pub(crate) use cors::Cors;
pub(crate) use decompressor::{Decompressor, Unzipping};
pub(crate) use descriptor::{Action as DescribingAction, Described, Entry, Outer, RouteLimits, of_name};
pub(crate) use ext_authz::{
    Authorizer, Begin, Case, CheckSettings, ExtAuthz, OnError, PATH as CHECK, RouteBody, Said, Shown, unfit,
};
pub(crate) use facts::{ClaimMatcher, Facts, JWT_NAMESPACE, NumberMatcher, ValueMatcher};
pub(crate) use fault::{Abort, ActiveFault, ActiveFaults, Delay, Fault};
pub(crate) use header_mutation::{HeaderMutation, Mutations};
#[cfg(test)]
pub(crate) use jwt::Unproven;
pub(crate) use jwt::{
    Asks, Audiences, Authentication, ClaimHeader, Expiration, Jwt, Keys, PayloadHeader, Place, Provider,
    Requirement,
};
pub(crate) use local_ratelimit::{DescribedLimit, Descriptors, Limit, LocalRateLimit, Rate};
pub(crate) use quota::{IdParts, IdValue, QuotaLimit, QuotaService, QuotaSettings, RateLimitQuota};
pub(crate) use rate_limit::{LimitSettings, Limiter, PATH as SHOULD_RATE_LIMIT, RateLimit};
pub(crate) use rbac::{Action, AddressBlock, Policy, Rbac, Rule, Rules};
pub(crate) use session::{Carrier, Session, StatefulSession, Wanted};

/// One filter with all that it does by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Filter {
    /// Without a limit on routes that have none.
    BodyLimit(Option<BodyLimit>),
    /// Without one where it is off.
    Compressor(Option<Arc<Compressor>>),
    /// Without a policy where only routes have some.
    Cors(Option<Arc<Cors>>),
    /// Without one where it is off.
    Decompressor(Option<Arc<Decompressor>>),
    /// Somebody else judges.
    ExtAuthz(ExtAuthz),
    Fault(Fault),
    GrpcWeb,
    HeaderMutation(HeaderMutation),
    Jwt(Jwt),
    /// Without a limit where only routes have some.
    LocalRateLimit(Option<LocalRateLimit>),
    /// Somebody else has said how much there is.
    Quota(RateLimitQuota),
    /// Somebody else counts.
    RateLimit(RateLimit),
    /// Without rules where only routes have some.
    Rbac(Option<Arc<Rbac>>),
    /// Without a state where only routes have some.
    Session(Option<Arc<StatefulSession>>),
}

/// A filter of a listener.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerFilter {
    /// By which routes speak of it.
    pub(crate) name: Arc<str>,
    /// Whether it is asked where no route speaks of it.
    pub(crate) is_on: bool,
    pub(crate) filter: Filter,
}

/// What a route, its host or its table says of a filter of that name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Override {
    Off,
    /// As the next less specific one has it, also where the listener has it off.
    On,
    Replaced(Filter),
    /// In a part of what it does by.
    Adjusted(Adjustment),
}

/// What a route says to a filter that is its listener's in all else.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Adjustment {
    ExtAuthz(Arc<CheckSettings>),
    /// Beside what less specific places say.
    HeaderMutation(Arc<Mutations>),
    Quota(Arc<QuotaSettings>),
    RateLimit(Arc<LimitSettings>),
}

/// By a filter's name.
pub(crate) type Overrides = BTreeMap<Arc<str>, Override>;

/// Those that concern one route, the most specific first.
pub(crate) type Levels = Vec<Arc<Overrides>>;

/// What all of a chain says to one request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// To be waited before anything else is done.
    pub(crate) delay: Duration,
    /// Of those that are counted, until it is answered.
    pub(crate) faults: Vec<ActiveFault>,
    /// In place of what the route says.
    pub(crate) answer: Option<Answer>,
    /// Whose that is.
    pub(crate) by: By,
    /// Whether rules that are only tried would have refused it.
    pub(crate) is_shadowed: bool,
    /// What logs are to make of it, where rules say something of that.
    pub(crate) log_hint: Option<bool>,
    /// What the request says otherwise when it goes on.
    pub(crate) request: Changes,
    /// What the answer says besides, whoever gives it.
    pub(crate) response: HeaderEdits,
    /// Behind that.
    pub(crate) mutations: HeaderChanges,
    /// Of a body whose length nobody has said.
    pub(crate) body_max: Option<u64>,
    /// Which of the hosts it is for.
    pub(crate) session: Option<Box<Session>>,
    /// What is done to its body and to a host's answer.
    pub(crate) recoding: Recoding,
    /// At a filter that has to ask somebody; those behind it have not judged yet.
    pub(crate) asks: Option<Box<Stop>>,
}

/// Where a chain stopped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stop {
    pub(crate) place: usize,
    /// What is known to those behind it.
    pub(crate) facts: Facts,
}

/// An answer of a filter's own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// For calls of gRPC, where it is not what the status means.
    pub(crate) code: Option<Code>,
    pub(crate) flag: Flag,
    pub(crate) body: Bytes,
}

impl Verdict {
    /// Whether the request goes its way as if nobody had been asked.
    pub(crate) fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

impl Filter {
    /// Returns whether it has to ask somebody instead.
    fn judge(
        &self,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
        facts: &mut Facts,
        verdict: &mut Verdict,
        now: &impl Fn() -> Instant,
        draw: &impl Draw,
    ) -> bool {
        let is_forwarded = || route.is_some_and(|route| matches!(route.action, config::Action::Forward(_)));
        match self {
            Self::BodyLimit(Some(limit)) => limit.judge(&subject.request, verdict),
            Self::Compressor(Some(compressor)) => compressor.judge(&subject.request, verdict),
            Self::Cors(Some(cors)) if is_forwarded() => cors.judge(&subject.request, verdict),
            Self::Decompressor(Some(decompressor)) => decompressor.judge(verdict),
            Self::Fault(fault) => fault.judge(subject, draw, verdict),
            Self::GrpcWeb => web_call(&subject.request, verdict),
            Self::HeaderMutation(mutation) => mutation.judge(&subject.request, verdict),
            Self::Jwt(jwt) => jwt.judge(subject, unix_seconds(), facts, verdict),
            Self::LocalRateLimit(Some(limit)) => limit.judge(route, subject, now(), draw, verdict),
            Self::Quota(quota) => quota.judge(subject, now, draw, verdict),
            Self::Rbac(Some(rbac)) => rbac.judge(subject, facts, verdict),
            Self::Session(Some(session)) if is_forwarded() => session.judge(subject, verdict),
            Self::ExtAuthz(_) => return route.is_some(),
            Self::RateLimit(limit) => return limit.concerns(route),
            Self::BodyLimit(None)
            | Self::Compressor(None)
            | Self::Cors(_)
            | Self::Decompressor(None)
            | Self::LocalRateLimit(None)
            | Self::Rbac(None)
            | Self::Session(_) => {}
        }
        false
    }

    /// What stays of it where it is off: nobody but tokens says what tokens say.
    fn off(&self) -> Option<Self> {
        match self {
            Self::Jwt(jwt) => Some(Self::Jwt(Jwt {
                asks: Asks::Nothing,
                ..jwt.clone()
            })),
            _ => None,
        }
    }

    /// Whether it does nothing to any request.
    fn is_idle(&self) -> bool {
        match self {
            Self::BodyLimit(limit) => limit.is_none(),
            Self::Compressor(compressor) => compressor.is_none(),
            Self::Cors(cors) => cors.is_none(),
            Self::Decompressor(decompressor) => decompressor.is_none(),
            Self::ExtAuthz(_) | Self::GrpcWeb | Self::RateLimit(_) => false,
            Self::Fault(fault) => fault.is_idle(),
            Self::HeaderMutation(mutation) => mutation.is_idle(),
            Self::Jwt(jwt) => jwt.is_idle(),
            Self::LocalRateLimit(limit) => limit.as_ref().is_none_or(LocalRateLimit::is_idle),
            Self::Quota(quota) => quota.is_idle(),
            Self::Rbac(rbac) => rbac.is_none(),
            Self::Session(session) => session.is_none(),
        }
    }

    fn limit(&self) -> Option<&LocalRateLimit> {
        match self {
            Self::LocalRateLimit(limit) => limit.as_ref(),
            Self::BodyLimit(_)
            | Self::Compressor(_)
            | Self::Cors(_)
            | Self::Decompressor(_)
            | Self::ExtAuthz(_)
            | Self::Fault(_)
            | Self::GrpcWeb
            | Self::HeaderMutation(_)
            | Self::Jwt(_)
            | Self::Quota(_)
            | Self::RateLimit(_)
            | Self::Rbac(_)
            | Self::Session(_) => None,
        }
    }

    /// The keys of others that it goes by.
    pub(crate) fn remote_keys(&self) -> impl Iterator<Item = &RemoteKeys> {
        let jwt = match self {
            Self::Jwt(jwt) => Some(jwt),
            _ => None,
        };
        jwt.into_iter().flat_map(Jwt::remote_keys)
    }

    fn adjusted(self, by: &Adjustment) -> Self {
        match (self, by) {
            (Self::ExtAuthz(asked), Adjustment::ExtAuthz(settings)) => Self::ExtAuthz(ExtAuthz {
                settings: Some(Arc::clone(settings)),
                ..asked
            }),
            (Self::HeaderMutation(mutation), Adjustment::HeaderMutation(more)) => {
                Self::HeaderMutation(mutation.with(more))
            }
            (Self::Quota(quota), Adjustment::Quota(settings)) => Self::Quota(quota.adjusted(settings)),
            (Self::RateLimit(counted), Adjustment::RateLimit(settings)) => Self::RateLimit(RateLimit {
                settings: Some(Arc::clone(settings)),
                ..counted
            }),
            (other, _) => other,
        }
    }

    /// What routes say of it, where the rest of it is the listener's.
    fn within(self, base: &Self) -> Self {
        match (self, base) {
            (Self::Fault(said), Self::Fault(base)) => Self::Fault(said.within(base)),
            (Self::Jwt(said), Self::Jwt(base)) => Self::Jwt(said.within(base)),
            (said, _) => said,
        }
    }

    fn is_of_the_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// `envoy.filters.http.grpc_web`: whether a request is a call of a browser.
fn web_call(request: &impl RequestView, verdict: &mut Verdict) {
    let [content_type, accepted] = &KNOWN_BY;
    if let Some(call) = WebCall::of(request.lines(content_type), request.lines(accepted)) {
        verdict.request.edits.set.extend(WebCall::LINES);
        verdict.recoding.web = Some(call);
    }
}

/// Since 1970.
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
