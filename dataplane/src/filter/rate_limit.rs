//! `envoy.filters.http.ratelimit`: a service that counts requests for all proxies and is asked whether there may be one more. What
//! it is told and what its answer means is here; who asks it is `asking`.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry as PbEntry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code as PbCode, DescriptorStatus};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::descriptor::{Described, Entry, Outer};
use super::{Answer, Said};
use crate::config::{Action, Forward, Route};
use crate::exchange::Flag;
use crate::grpc::Code;
use crate::grpc_call::Callee;
use crate::header_changes::{HeaderChanges, Of, Unfit};
use crate::matcher::{RequestView, Subject};

pub(crate) const PATH: PathAndQuery =
    PathAndQuery::from_static("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
const LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// A service, and what routes say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateLimit {
    pub(crate) service: Arc<Limiter>,
    pub(crate) settings: Option<Arc<LimitSettings>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limiter {
    pub(crate) callee: Callee,
    pub(crate) domain: Box<str>,
    pub(crate) stage: u32,
    /// To a request of which the service says nothing; it goes on where there is none.
    pub(crate) on_error: Option<StatusCode>,
    /// To one too many.
    pub(crate) status: StatusCode,
    /// For calls of gRPC, where it is not what the status means.
    pub(crate) code: Option<Code>,
    /// Whether the client is told by `x-envoy-ratelimited`.
    pub(crate) says_limited: bool,
    /// Whether it is told by `x-ratelimit-` what it has left.
    pub(crate) says_limits: bool,
}

/// What a route says to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LimitSettings {
    pub(crate) domain: Option<Box<str>>,
    pub(crate) outer: Outer,
    /// In place of all that routes and hosts have, unless there are none.
    pub(crate) limits: Vec<Described>,
}

impl RateLimit {
    /// Whether requests of `route` count at all.
    pub(super) fn concerns(&self, route: Option<&Route>) -> bool {
        forward(route).is_some_and(|forward| self.descriptors(forward).next().is_some())
    }

    fn descriptors<'a>(&'a self, forward: &'a Forward) -> impl Iterator<Item = &'a Described> {
        let settings = self.settings.as_deref();
        let own = settings.map_or(&[][..], |settings| &settings.limits);
        let outer = settings.map_or(Outer::Default, |settings| settings.outer);
        let stage = self.service.stage;
        let of_route = forward.limits.as_ref().filter(|_| own.is_empty());
        let own = own.iter().filter(move |described| described.stage == stage);
        own.chain(
            of_route
                .into_iter()
                .flat_map(move |limits| limits.of(stage, outer)),
        )
    }

    /// What the service is asked, if the request is one of those that count.
    pub(crate) fn request(
        &self,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
    ) -> Option<RateLimitRequest> {
        let forward = forward(route)?;
        let described = self.descriptors(forward);
        let described = described.filter_map(|described| described.entries(subject, Some(forward)));
        let descriptors: Vec<RateLimitDescriptor> = described.map(descriptor).collect();
        let own = self
            .settings
            .as_ref()
            .and_then(|settings| settings.domain.as_ref());
        (!descriptors.is_empty()).then(|| RateLimitRequest {
            domain: own.unwrap_or(&self.service.domain).to_string(),
            descriptors,
            ..RateLimitRequest::default()
        })
    }

    /// What an answer means.
    pub(crate) fn said(&self, response: RateLimitResponse) -> Said {
        // A client may be told less than was meant; whether it is one too many stays what it is.
        let is_limited = response.overall_code == PbCode::OverLimit as i32;
        if !is_limited && response.overall_code != PbCode::Ok as i32 {
            return self.failed();
        }
        let mut said = Said::default();
        if self.service.says_limits {
            limits(&response.statuses, &mut said.response);
        }
        let of = if is_limited { Of::Refusal } else { Of::Answer };
        let told = said.response.add(response.response_headers_to_add, of);
        let told = told.and_then(|()| {
            if is_limited {
                return Ok(());
            }
            said.request.add(response.request_headers_to_add, Of::Request)
        });
        if is_limited {
            if self.service.says_limited {
                said.response.set(LIMITED, HeaderValue::from_static("true"));
            }
            said.answer = Some(Answer {
                status: self.service.status,
                code: self.service.code,
                flag: Flag::RateLimited,
                body: response.raw_body.into(),
            });
        }
        match told {
            Ok(()) => said,
            Err(Unfit::Malformed | Unfit::Target) if is_limited => Said {
                response: HeaderChanges::default(),
                ..said
            },
            Err(Unfit::Malformed | Unfit::Target) => self.failed(),
        }
    }

    /// What becomes of a request if there was no answer.
    pub(crate) fn failed(&self) -> Said {
        let refused = |status| Answer {
            status,
            code: None,
            flag: Flag::LimiterFailed,
            body: Bytes::new(),
        };
        Said {
            answer: self.service.on_error.map(refused),
            ..Said::default()
        }
    }
}

fn forward(route: Option<&Route>) -> Option<&Forward> {
    match &route?.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond { .. } => None,
    }
}

fn descriptor(entries: Vec<Entry>) -> RateLimitDescriptor {
    let entry = |entry: Entry| PbEntry {
        key: entry.key.into(),
        value: entry.value.into(),
    };
    RateLimitDescriptor {
        entries: entries.into_iter().map(entry).collect(),
        ..RateLimitDescriptor::default()
    }
}

/// Tells of the limit that is nearest, and what all of them are
/// (<https://datatracker.ietf.org/doc/html/draft-polli-ratelimit-headers-03>).
fn limits(statuses: &[DescriptorStatus], changes: &mut HeaderChanges) {
    let limited = || {
        statuses
            .iter()
            .filter_map(|status| Some((status, status.current_limit.as_ref()?)))
    };
    let Some((nearest, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
        return;
    };
    let mut told = limit.requests_per_unit.to_string();
    for (_, limit) in limited() {
        if let Some(window_s) = window_s(limit.unit) {
            told.push_str(&format!(", {};w={window_s}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                told.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let reset_s = nearest
        .duration_until_reset
        .as_ref()
        .map_or(0, |reset| reset.seconds);
    // The name may be one that no header can have.
    if let Ok(told) = HeaderValue::try_from(told) {
        changes.set(LIMIT, told);
    }
    changes.set(REMAINING, nearest.limit_remaining.into());
    changes.set(RESET, reset_s.into());
}

fn window_s(unit: i32) -> Option<u32> {
    const DAY_S: u32 = 24 * 3600;
    match Unit::try_from(unit).ok()? {
        Unit::Unknown => None,
        Unit::Second => Some(1),
        Unit::Minute => Some(60),
        Unit::Hour => Some(3600),
        Unit::Day => Some(DAY_S),
        Unit::Week => Some(7 * DAY_S),
        Unit::Month => Some(30 * DAY_S),
        Unit::Year => Some(365 * DAY_S),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
