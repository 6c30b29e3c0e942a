//! `envoy.filters.http.rate_limit_quota`: what a service has assigned to this proxy of a limit over all of them. Which bucket a
//! request is of is found here; who keeps the buckets is `quota`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::{Answer, Chain, Filter, Verdict};
use crate::balance::Draw;
use crate::config::{HeaderEdits, MILLION};
use crate::exchange::Flag;
use crate::grpc::Code;
use crate::grpc_call::Callee;
use crate::matcher::{Of, RequestView, Subject};
use crate::quota::{Bucket, BucketId, Buckets, Expired, KEY_BYTES_MAX, Key, Strategy, Terms};

/// What stands for the values of headers in the id of the bucket that those share for whom there is none.
const OTHERS: &str = "*";

/// A limit, and what is assigned of it. Two are equal when their limits are.
#[derive(Clone, Debug)]
pub(crate) struct RateLimitQuota {
    pub(crate) service: Arc<QuotaService>,
    /// Of a route, in place of the service's.
    pub(crate) domain: Option<Box<str>>,
    /// Without one where only routes have some.
    pub(crate) limit: Option<Arc<QuotaLimit>>,
    /// Nobody keeps them until the configuration runs.
    live: OnceLock<Live>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct QuotaService {
    pub(crate) callee: Callee,
    pub(crate) domain: Box<str>,
    /// So many of a million requests count.
    pub(crate) asked: u32,
    /// So many of a million that are too many are answered for it.
    pub(crate) enforced: u32,
    /// What the others say that go on.
    pub(crate) unenforced: HeaderEdits,
}

#[derive(Debug, PartialEq)]
pub(crate) struct QuotaLimit {
    /// In the order of their names, of which there is one at least.
    pub(crate) id: IdParts,
    pub(crate) interval: Duration,
    pub(crate) unassigned: Strategy,
    pub(crate) expired: Expired,
    pub(crate) status: StatusCode,
    /// For calls of gRPC.
    pub(crate) code: Code,
    pub(crate) body: Bytes,
    /// What is said to one too many.
    pub(crate) told: HeaderEdits,
}

pub(crate) type IdParts = Box<[(Box<str>, IdValue)]>;

#[derive(Debug, PartialEq)]
pub(crate) enum IdValue {
    Text(Box<str>),
    /// All lines of a header, with commas between them.
    Request(Of),
}

/// What a route says to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QuotaSettings {
    pub(crate) domain: Option<Box<str>>,
    pub(crate) limit: Option<Arc<QuotaLimit>>,
}

#[derive(Clone, Debug)]
struct Live {
    buckets: Arc<Buckets>,
    /// The only one, or the one of all that have none.
    bucket: Arc<Bucket>,
}

/// How a request is called by what makes its bucket.
enum Called<'a> {
    By(Key<'a>),
    /// In a way that no bucket is.
    Unfit,
    /// Not at all.
    Not,
}

impl Chain {
    /// Limits of which this proxy has parts.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = &RateLimitQuota> {
        self.0.iter().filter_map(|filter| match filter {
            Filter::Quota(quota) => Some(quota),
            _ => None,
        })
    }
}

impl RateLimitQuota {
    pub(crate) fn new(service: Arc<QuotaService>, limit: Option<Arc<QuotaLimit>>) -> Self {
        Self {
            service,
            domain: None,
            limit,
            live: OnceLock::new(),
        }
    }

    pub(super) fn adjusted(self, settings: &QuotaSettings) -> Self {
        Self {
            domain: settings.domain.clone().or(self.domain),
            limit: settings.limit.clone().or(self.limit),
            ..self
        }
    }

    /// Those that it has, once the configuration runs.
    pub(crate) fn buckets(&self) -> Option<&Arc<Buckets>> {
        self.live.get().map(|live| &live.buckets)
    }

    /// Has it know its bucket.
    pub(crate) fn attach(&self, buckets: impl FnOnce(Terms) -> Arc<Buckets>) {
        let Some(limit) = &self.limit else { return };
        self.live.get_or_init(|| {
            let buckets = buckets(Terms {
                callee: self.service.callee.clone(),
                domain: self.domain.as_ref().unwrap_or(&self.service.domain).clone(),
                interval: limit.interval,
                unassigned: limit.unassigned,
                expired: limit.expired,
            });
            let bucket = buckets.named(&limit.shared_id());
            Live { buckets, bucket }
        });
    }

    pub(super) fn judge(
        &self,
        subject: &Subject<'_, impl RequestView>,
        now: &impl Fn() -> Instant,
        draw: &impl Draw,
        verdict: &mut Verdict,
    ) {
        let happens = |millionths: u32| millionths == MILLION || draw.below(MILLION) < millionths;
        let (Some(limit), Some(live)) = (&self.limit, self.live.get()) else {
            return;
        };
        if !happens(self.service.asked) || live.allows(limit, subject, now) {
            return;
        }
        add(&mut verdict.response, &limit.told);
        if happens(self.service.enforced) {
            verdict.answer = Some(Answer {
                status: limit.status,
                code: Some(limit.code),
                flag: Flag::RateLimited,
                body: limit.body.clone(),
            });
        } else {
            add(&mut verdict.request.edits, &self.service.unenforced);
        }
    }

    /// Whether no request is of a bucket.
    pub(super) fn is_idle(&self) -> bool {
        self.limit.is_none() || self.service.asked == 0
    }
}

impl Live {
    fn allows(
        &self,
        limit: &QuotaLimit,
        subject: &Subject<'_, impl RequestView>,
        now: &impl Fn() -> Instant,
    ) -> bool {
        if limit.is_named() {
            return self.buckets.take(&self.bucket, now());
        }
        match limit.called(subject, &mut [0; KEY_BYTES_MAX]) {
            Called::By(key) => self.buckets.take_at(&key, &self.bucket, now()),
            Called::Unfit => self.buckets.take(&self.bucket, now()),
            Called::Not => true,
        }
    }
}

impl QuotaLimit {
    /// Whether all its requests are of one bucket.
    fn is_named(&self) -> bool {
        self.id.iter().all(|(_, value)| matches!(value, IdValue::Text(_)))
    }

    fn shared_id(&self) -> BucketId {
        let value = |value: &IdValue| match value {
            IdValue::Text(text) => text.clone(),
            IdValue::Request(_) => OTHERS.into(),
        };
        let parts = self.id.iter();
        parts.map(|(name, said)| (name.clone(), value(said))).collect()
    }

    fn called<'a>(
        &self,
        subject: &Subject<'_, impl RequestView>,
        space: &'a mut [u8; KEY_BYTES_MAX],
    ) -> Called<'a> {
        if self.id.iter().any(|(_, value)| value.is_missing(subject)) {
            return Called::Not;
        }
        let mut key = Key::new(space);
        match self.write(subject, &mut key) {
            Some(()) => Called::By(key),
            None => Called::Unfit,
        }
    }

    fn write(&self, subject: &Subject<'_, impl RequestView>, key: &mut Key<'_>) -> Option<()> {
        for (name, value) in &self.id {
            key.push(name.as_bytes())?;
            key.end()?;
            match value {
                IdValue::Text(text) => key.push(text.as_bytes())?,
                IdValue::Request(Of::Header(name)) => {
                    // A value that is empty is none to the service.
                    if subject.request.lines(name).all(<[u8]>::is_empty) {
                        return None;
                    }
                    for (nth, line) in subject.request.lines(name).enumerate() {
                        if nth > 0 {
                            key.push(b",")?;
                        }
                        key.push(line)?;
                    }
                }
                IdValue::Request(of) => key.push(&of.first(subject)?)?,
            }
            key.end()?;
        }
        Some(())
    }
}

impl IdValue {
    fn is_missing(&self, subject: &Subject<'_, impl RequestView>) -> bool {
        match self {
            Self::Request(Of::Header(name)) => subject.request.lines(name).next().is_none(),
            Self::Request(Of::Method | Of::Authority | Of::Target | Of::Scheme) | Self::Text(_) => false,
        }
    }
}

/// Nothing is removed by them.
pub(super) fn add(edits: &mut HeaderEdits, more: &HeaderEdits) {
    edits.set.extend(more.set.iter().cloned());
    edits.add.extend(more.add.iter().cloned());
}

impl PartialEq for RateLimitQuota {
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service && self.domain == other.domain && self.limit == other.limit
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;
    use http::header::{HeaderName, HeaderValue};
    use http::uri::Authority;

    use super::*;
    use crate::balance::Always;

    fn text(text: &str) -> IdValue {
        IdValue::Text(text.into())
    }

    fn header(name: &'static str) -> IdValue {
        IdValue::Request(Of::Header(HeaderName::from_static(name)))
    }

    fn one_line(name: &'static str) -> HeaderEdits {
        HeaderEdits {
            set: vec![(HeaderName::from_static(name), HeaderValue::from_static("1"))],
            ..HeaderEdits::default()
        }
    }

    /// In a bucket that lets through as many as `unassigned` does.
    fn quota(id: Vec<(&str, IdValue)>, unassigned: Strategy, enforced: u32) -> RateLimitQuota {
        let id = id.into_iter().map(|(name, value)| (name.into(), value));
        let service = QuotaService {
            callee: Callee {
                cluster: "edge".into(),
                authority: Authority::from_static("edge"),
                timeout: Duration::from_secs(1),
                headers: Vec::new(),
            },
            domain: "shop".into(),
            asked: MILLION,
            enforced,
            unenforced: one_line("x-over"),
        };
        let limit = QuotaLimit {
            id: id.collect(),
            interval: Duration::from_secs(1),
            unassigned,
            expired: Expired::OnceMore,
            status: StatusCode::TOO_MANY_REQUESTS,
            code: Code::UNAVAILABLE,
            body: Bytes::from_static(b"no"),
            told: one_line("x-told"),
        };
        RateLimitQuota::new(Arc::new(service), Some(Arc::new(limit)))
    }

    fn judged(quota: &RateLimitQuota, lines: &[(&str, &[u8])]) -> Verdict {
        let mut request = Request::get("/p?q");
        for (name, value) in lines {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let subject = Subject {
            authority: "a",
            path: "/p",
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &request.body(()).unwrap().into_parts().0,
        };
        let mut verdict = Verdict::default();
        quota.judge(&subject, &Instant::now, &Always(0), &mut verdict);
        verdict
    }

    #[test]
    fn requests_of_one_bucket_share_what_it_has() {
        let once = Strategy::Rate(crate::filter::Rate::new(1, 1, Duration::from_secs(3600)));
        let long = vec![b'a'; KEY_BYTES_MAX];
        // What makes the bucket, a request, and another one that has nothing left if it is of the same.
        let user = || vec![("name", text("n")), ("user", header("x-user"))];
        for (id, first, second, is_same) in [
            (
                vec![("name", text("n"))],
                vec![],
                vec![("x-user", &b"b"[..])],
                true,
            ),
            (
                user(),
                vec![("x-user", &b"a"[..])],
                vec![("x-user", &b"a"[..])],
                true,
            ),
            (user(), vec![("x-user", b"a")], vec![("x-user", b"b")], false),
            (
                user(),
                vec![("x-user", b"a"), ("x-user", b"b")],
                vec![("x-user", b"a,b")],
                true,
            ),
            // Who does not say it is not counted, as in an Envoy.
            (user(), vec![], vec![], false),
            // What can be no id is one of the others.
            (user(), vec![("x-user", b"")], vec![("x-user", &long)], true),
            (user(), vec![("x-user", &long)], vec![("x-user", b"\xfe")], true),
            (user(), vec![("x-user", b"a\xff")], vec![("x-user", &long)], true),
            (
                user(),
                vec![("x-user", b"a\xffb\xffc")],
                vec![("x-user", b"a")],
                false,
            ),
            (
                vec![("path", IdValue::Request(Of::Target))],
                vec![],
                vec![("x-user", b"b")],
                true,
            ),
        ] {
            let quota = quota(id, once, MILLION);
            assert!(judged(&quota, &first).is_silent(), "nobody keeps it yet");
            quota.attach(|terms| Arc::new(Buckets::new(terms)));
            assert!(judged(&quota, &first).is_silent(), "{first:?}");
            let second = judged(&quota, &second);
            assert_eq!(second.answer.is_some(), is_same, "{first:?} {quota:?}");
        }
    }

    #[test]
    fn one_too_many_is_answered_or_marked() {
        let id = || vec![("name", text("n"))];
        for (enforced, status, marked) in [(MILLION, Some(429), 0), (0, None, 1)] {
            let quota = quota(id(), Strategy::DenyAll, enforced);
            quota.attach(|terms| Arc::new(Buckets::new(terms)));
            let verdict = judged(&quota, &[]);
            let answer = verdict.answer.as_ref();
            assert_eq!(answer.map(|answer| answer.status.as_u16()), status);
            assert_eq!(verdict.request.edits.set.len(), marked);
            assert_eq!(verdict.response.set.len(), 1);
        }
    }

    #[test]
    fn what_a_route_leaves_out_is_the_listeners() {
        let base = quota(vec![("name", text("n"))], Strategy::DenyAll, MILLION);
        let other = quota(vec![("name", text("m"))], Strategy::DenyAll, MILLION);
        for (domain, limit) in [
            (None, None),
            (Some("d"), None),
            (None, other.limit.clone()),
            (Some("d"), other.limit.clone()),
        ] {
            let settings = QuotaSettings {
                domain: domain.map(Box::from),
                limit: limit.clone(),
            };
            let adjusted = base.clone().adjusted(&settings);
            assert_eq!(adjusted.limit, limit.or(base.limit.clone()));
            let mut kept = None;
            adjusted.attach(|terms| {
                kept = Some(terms.domain.clone());
                Arc::new(Buckets::new(terms))
            });
            assert_eq!(kept.as_deref(), Some(domain.unwrap_or("shop")));
        }
    }
}
