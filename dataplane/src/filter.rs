//! What a listener's filters say to a request before it is forwarded. A filter is a variant of one closed enum, its decision a
//! pure function, and both ways through the proxy ask the same [`Chain`]. What a listener says of a filter and what routes say of
//! it instead meet here, once for each update, so that a request finds its chain by an index.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
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
use changes::Changed;
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

/// The filters that a route's requests are put to, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chain(Arc<[Filter]>);

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

impl Chain {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks each filter in turn, until one of them answers or has to ask somebody itself.
    pub(crate) fn judge(
        &self,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
        now: impl Fn() -> Instant,
        draw: &impl Draw,
    ) -> Verdict {
        self.judge_from(0, Facts::default(), route, subject, now, draw)
    }

    /// The same of those from `place` on, where those before it have found out `facts`.
    pub(crate) fn judge_from(
        &self,
        place: usize,
        mut facts: Facts,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
        now: impl Fn() -> Instant,
        draw: &impl Draw,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for (place, filter) in self.0.iter().enumerate().skip(place) {
            let asks = if verdict.request.is_empty() {
                filter.judge(route, subject, &mut facts, &mut verdict, &now, draw)
            } else {
                let mut said = std::mem::take(&mut verdict.request);
                let changed = subject.with(Changed::new(&subject.request, &said));
                let asks = filter.judge(route, &changed, &mut facts, &mut verdict, &now, draw);
                said.extend(std::mem::take(&mut verdict.request));
                verdict.request = said;
                asks
            };
            if asks {
                verdict.asks = Some(Box::new(Stop { place, facts }));
                break;
            }
            if verdict.answer.is_some() {
                verdict.by.filter = Some(place);
                self.change_behind(place, &mut verdict.mutations);
                break;
            }
        }
        verdict
    }

    /// What filters behind the one that has answered do to the answer.
    pub(crate) fn change_behind(&self, place: usize, answer: &mut HeaderChanges) {
        for filter in self.0.iter().skip(place + 1) {
            if let Filter::HeaderMutation(mutation) = filter {
                mutation.change(answer);
            }
        }
    }

    pub(crate) fn filter(&self, place: usize) -> Option<&Filter> {
        self.0.get(place)
    }
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

/// Chains that ran until now, with what they were made of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held<'a> {
    pub(crate) chains: &'a [Chain],
    /// Of the routes, if the filters were the same.
    pub(crate) routes: &'a [Levels],
}

/// A chain for each of `routes`; none at all where the listener has no filters, so that no request looks for one. Those that would
/// be the same are those of before, and limits that are in others of them go on with what is left.
pub(crate) fn chains(filters: &[ListenerFilter], routes: &[Levels], held: Held<'_>) -> Arc<[Chain]> {
    if filters.is_empty() {
        return Arc::default();
    }
    let limits = LazyCell::new(|| {
        let filters = held.chains.iter().flat_map(|chain| chain.0.iter());
        let limits = filters.filter_map(Filter::limit);
        limits
            .map(|limit| (limit.place(), limit))
            .collect::<HashMap<_, _>>()
    });
    let kept = |filter| match filter {
        Filter::LocalRateLimit(Some(limit)) => {
            let held = limits.get(limit.place()).filter(|held| ***held == limit);
            Filter::LocalRateLimit(Some(held.map_or(limit, |held| LocalRateLimit::clone(held))))
        }
        other => other,
    };
    let chain = |(place, levels): (usize, &Levels)| {
        let before = held.routes.get(place).filter(|before| is_same(before, levels));
        if let Some(chain) = before.and_then(|_| held.chains.get(place)) {
            return chain.clone();
        }
        let joined = filters.iter().filter_map(|filter| joined(filter, levels));
        Chain(joined.filter(|filter| !filter.is_idle()).map(kept).collect())
    };
    routes.iter().enumerate().map(chain).collect()
}

fn is_same(one: &Levels, other: &Levels) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// A listener's filter as a route has it, if it has. The most specific configuration counts as a whole. One that is meant for
/// another kind of filter is none: the listener and the routes came apart, and neither is to blame for the other.
fn joined(base: &ListenerFilter, levels: &Levels) -> Option<Filter> {
    let said = || levels.iter().filter_map(|level| level.get(&base.name));
    let is_on = match said().next() {
        Some(Override::Off) => false,
        Some(Override::On | Override::Replaced(_) | Override::Adjusted(_)) => true,
        None => base.is_on,
    };
    let replaced = said().find_map(|said| match said {
        Override::Replaced(filter) => Some(filter),
        Override::Off | Override::On | Override::Adjusted(_) => None,
    });
    let adjusted = said().filter_map(|said| match said {
        Override::Adjusted(by) => Some(by),
        Override::Off | Override::On | Override::Replaced(_) => None,
    });
    if !is_on {
        return base.filter.off();
    }
    let filter = replaced.filter(|filter| filter.is_of_the_kind(&base.filter));
    let filter = filter.unwrap_or(&base.filter).clone().within(&base.filter);
    let heard = match filter {
        // Of all places, as in Envoy.
        Filter::HeaderMutation(_) => usize::MAX,
        _ => 1,
    };
    Some(adjusted.take(heard).fold(filter, Filter::adjusted))
}

/// Since 1970.
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::balance::Always;
    use crate::config::MILLION;

    fn abort(status: u16) -> Filter {
        Filter::Fault(Fault {
            abort: Some((
                Abort::Status(StatusCode::from_u16(status).unwrap_or_default()),
                MILLION,
            )),
            ..Fault::default()
        })
    }

    fn answered(chain: &Chain) -> Option<u16> {
        let subject = Subject {
            authority: "a",
            path: "/",
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &http::Request::new(()).into_parts().0,
        };
        let verdict = chain.judge(None, &subject, Instant::now, &Always(0));
        verdict.answer.map(|answer| answer.status.as_u16())
    }

    #[test]
    fn the_most_specific_override_counts() {
        use Override::{Off, On, Replaced};
        let of = |status| Some(Replaced(abort(status)));
        // What the listener has, what the route, its host and its table say, and what a request is answered.
        let cases = [
            ((true, Some(500)), [None, None, None], Some(500)),
            ((true, None), [None, None, None], None),
            ((false, Some(500)), [None, None, None], None),
            ((true, Some(500)), [of(501), of(502), of(503)], Some(501)),
            ((true, Some(500)), [None, of(502), of(503)], Some(502)),
            ((true, Some(500)), [None, None, of(503)], Some(503)),
            ((true, Some(500)), [Some(Off), of(502), None], None),
            ((true, Some(500)), [of(501), Some(Off), None], Some(501)),
            ((false, None), [of(501), None, None], Some(501)),
            ((false, Some(500)), [Some(On), None, None], Some(500)),
            ((false, Some(500)), [Some(On), of(502), None], Some(502)),
            ((true, Some(500)), [Some(On), Some(Off), of(503)], Some(503)),
        ];
        for ((is_on, status), said, expected) in cases {
            let filter = ListenerFilter {
                name: "f".into(),
                is_on,
                filter: status.map_or(Filter::Fault(Fault::default()), abort),
            };
            let level = |said: &Option<Override>| {
                let said = said.iter().map(|said| ("f".into(), said.clone()));
                Arc::new(said.collect::<Overrides>())
            };
            let levels = said.iter().map(level).collect();
            let chains = chains(&[filter], &[levels], Held::default());
            assert_eq!(answered(&chains[0]), expected, "{is_on} {status:?} {said:?}");
        }
    }

    #[test]
    fn an_override_of_another_name_is_nobodys() {
        let filter = ListenerFilter {
            name: "f".into(),
            is_on: true,
            filter: Filter::Fault(Fault::default()),
        };
        let other = Arc::new(Overrides::from([("g".into(), Override::Replaced(abort(501)))]));
        let levels = vec![vec![], vec![other]];
        assert_eq!(
            chains(&[filter], &levels, Held::default())[..],
            [Chain::default(), Chain::default()]
        );
        assert!(
            chains(&[], &levels, Held::default()).is_empty(),
            "nothing to look for"
        );
    }

    #[test]
    fn the_first_that_answers_ends_the_chain() {
        let filters = [500, 501].map(|status| ListenerFilter {
            name: status.to_string().into(),
            is_on: true,
            filter: abort(status),
        });
        let levels = vec![
            vec![],
            vec![Arc::new(Overrides::from([("500".into(), Override::Off)]))],
        ];
        let found: Vec<Option<u16>> = chains(&filters, &levels, Held::default())
            .iter()
            .map(answered)
            .collect();
        assert_eq!(found, [Some(500), Some(501)]);
    }

    #[test]
    fn a_limit_that_stays_keeps_what_is_left_of_it() {
        let filter = ListenerFilter {
            name: "f".into(),
            is_on: true,
            filter: Filter::LocalRateLimit(None),
        };
        let limited = |place: &str, tokens| {
            let limit = LocalRateLimit::new(Limit {
                place: place.into(),
                rate: Rate::new(tokens, 1, Duration::from_secs(3600)),
                asked: MILLION,
                enforced: MILLION,
                status: StatusCode::TOO_MANY_REQUESTS,
                code: None,
                descriptors: None,
                tells: false,
                told: HeaderEdits::default(),
                unenforced: HeaderEdits::default(),
            });
            let limit = Override::Replaced(Filter::LocalRateLimit(Some(limit)));
            vec![Arc::new(Overrides::from([("f".into(), limit)]))]
        };
        let filters = [filter];
        let before = chains(&filters, &[limited("a", 1)], Held::default());
        let held = Held {
            chains: &before,
            routes: &[],
        };
        assert_eq!(answered(&before[0]), None);
        for (place, tokens, expected) in [("a", 1, Some(429)), ("a", 2, None), ("b", 1, None)] {
            let after = chains(&filters, &[vec![], limited(place, tokens)], held);
            assert_eq!(answered(&after[1]), expected, "{place} {tokens}");
        }
    }

    #[test]
    fn a_chain_that_stays_is_made_once() {
        let filters = [ListenerFilter {
            name: "f".into(),
            is_on: true,
            filter: abort(500),
        }];
        let says = |status| {
            vec![Arc::new(Overrides::from([(
                "f".into(),
                Override::Replaced(abort(status)),
            )]))]
        };
        let levels = vec![vec![], says(501), says(502)];
        let before = chains(&filters, &levels, Held::default());
        let mut changed = levels.clone();
        changed[1] = says(503);
        let held = Held {
            chains: &before,
            routes: &levels,
        };
        let after = chains(&filters, &changed, held);
        let answers: Vec<_> = after.iter().map(answered).collect();
        assert_eq!(answers, [Some(500), Some(503), Some(502)]);
        let is_held = |place: usize| Arc::ptr_eq(&before[place].0, &after[place].0);
        assert_eq!([0, 1, 2].map(is_held), [true, false, true]);
        // Other filters make other chains, whatever routes say.
        let others = Held {
            chains: &before,
            routes: &[],
        };
        let after = chains(&filters, &levels, others);
        assert!(!Arc::ptr_eq(&before[0].0, &after[0].0));
    }
}
