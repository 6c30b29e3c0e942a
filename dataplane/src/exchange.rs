//! The record of one request, from its head to the last byte of its response; counted and logged when dropped, however it
//! ends.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, Method};

use crate::access_log::{self, Entry};
use crate::listener::Connection;
use crate::metrics::RouteCounters;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Status of a request whose client left before there was a response, as nginx records it.
const CLIENT_GONE: u16 = 499;

pub(crate) struct Exchange {
    connection: Rc<Connection>,
    started: Instant,
    status: u16,
    flag: Flag,
    /// What kept it from another attempt.
    limit: Flag,
    retries: u32,
    counters: Option<Arc<RouteCounters>>,
    trace: Option<Box<Trace>>,
}

/// Why a request went wrong, in the words of Envoy's access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    None,
    BadRequest,
    NoRoute,
    NoHealthyUpstream,
    ConnectFailure,
    UpstreamReset,
    UpstreamTimeout,
    ClientGone,
    FaultInjected,
    Overflow,
    RetriesUsedUp,
    RateLimited,
}

/// What only the access log needs; absent when it is off.
struct Trace {
    time_ms: u64,
    method: Method,
    path: String,
    authority: String,
    request_id: String,
    cluster: Option<Arc<str>>,
    host: Option<SocketAddr>,
    bytes_sent: u64,
}

impl Exchange {
    pub(crate) fn begin(connection: Rc<Connection>) -> Self {
        connection.begin();
        Self {
            connection,
            started: Instant::now(),
            status: CLIENT_GONE,
            flag: Flag::ClientGone,
            limit: Flag::None,
            retries: 0,
            counters: None,
            trace: None,
        }
    }

    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Remembers the head for the access log, if there is one.
    pub(crate) fn head(&mut self, method: &Method, path: &str, authority: &str, request_id: &[u8]) {
        if self.connection.worker.access_log.is_none() {
            return;
        }
        self.trace = Some(Box::new(Trace {
            time_ms: access_log::now_ms(),
            method: method.clone(),
            path: path.to_owned(),
            authority: authority.to_owned(),
            request_id: std::str::from_utf8(request_id).unwrap_or_default().to_owned(),
            cluster: None,
            host: None,
            bytes_sent: 0,
        }));
    }

    pub(crate) fn cluster(&mut self, cluster: &Arc<str>, counters: Arc<RouteCounters>) {
        self.counters = Some(counters);
        if let Some(trace) = &mut self.trace {
            trace.cluster = Some(Arc::clone(cluster));
        }
    }

    pub(crate) fn host(&mut self, host: SocketAddr) {
        if let Some(trace) = &mut self.trace {
            trace.host = Some(host);
        }
    }

    pub(crate) fn retry(&mut self) {
        self.retries += 1;
        if let Some(counters) = &self.counters {
            counters.retries.add(1);
        }
    }

    /// There were as many attempts as the policy has.
    pub(crate) fn retries_used_up(&mut self) {
        self.limit = Flag::RetriesUsedUp;
    }

    /// There are as many retries as the cluster takes.
    pub(crate) fn retry_overflowed(&mut self) {
        self.limit = Flag::Overflow;
        if let Some(counters) = &self.counters {
            counters.retry_overflows.add(1);
        }
    }

    /// There are as many requests as the cluster takes.
    pub(crate) fn request_overflowed(&self) {
        if let Some(counters) = &self.counters {
            counters.request_overflows.add(1);
        }
    }

    pub(crate) fn connect_failed(&self) {
        if let Some(counters) = &self.counters {
            counters.connect_failures.add(1);
        }
    }

    /// The status that the client sees. Until the response ends, the client may still leave.
    pub(crate) fn respond(&mut self, status: u16) {
        self.status = status;
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        if let Some(trace) = &mut self.trace {
            trace.bytes_sent += bytes;
        }
    }

    /// The exchange ended by itself.
    pub(crate) fn end(&mut self, flag: Flag) {
        self.flag = flag;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.end(now);
        let took = now - self.started;
        let counters = self
            .counters
            .as_deref()
            .unwrap_or(&self.connection.listener.unrouted);
        counters.request(self.status, took);
        let (Some(log), Some(trace)) = (&self.connection.worker.access_log, &self.trace) else {
            return;
        };
        log.log(&Entry {
            time_ms: trace.time_ms,
            method: trace.method.as_str(),
            path: &trace.path,
            authority: &trace.authority,
            status: self.status,
            duration_ms: took.as_secs_f64() * 1000.0,
            upstream_host: trace.host.map(|host| host.to_string()),
            cluster: trace.cluster.as_deref(),
            retries: self.retries,
            request_id: &trace.request_id,
            bytes_sent: trace.bytes_sent,
            flags: &words(self.flag, self.limit),
        });
    }
}

impl Flag {
    fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::BadRequest => "DPE",
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::ConnectFailure => "UF",
            Self::UpstreamReset => "UR",
            Self::UpstreamTimeout => "UT",
            Self::ClientGone => "DC",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
            Self::Overflow => "UO",
            Self::RetriesUsedUp => "URX",
        }
    }
}

/// As Envoy lists them: what came first.
fn words(flag: Flag, limit: Flag) -> Cow<'static, str> {
    match (flag.word(), limit.word()) {
        (one, "") | ("", one) => one.into(),
        (flag, limit) if flag == limit => flag.into(),
        (flag, limit) => format!("{limit},{flag}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_have_gone_wrong_in_two_ways() {
        for (flag, limit, expected) in [
            (Flag::None, Flag::None, ""),
            (Flag::Overflow, Flag::None, "UO"),
            (Flag::None, Flag::RetriesUsedUp, "URX"),
            (Flag::ConnectFailure, Flag::RetriesUsedUp, "URX,UF"),
            (Flag::ConnectFailure, Flag::Overflow, "UO,UF"),
            (Flag::Overflow, Flag::Overflow, "UO"),
        ] {
            assert_eq!(words(flag, limit), expected, "{flag:?} {limit:?}");
        }
    }
}
