//! Attempts at one request: hosts are asked in turn until one answers, the route's policy gives up, or its time is over. What is
//! sent, and how, is the business of who asks.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;

use crate::balance::{Labels, Tried};
use crate::breaker::Retrying;
use crate::exchange::{Exchange, Flag};
use crate::filter::{Session, TOO_LARGE};
use crate::h1::Malformed;
use crate::outlier::Report;
use crate::pool::{ConnectError, HostPool};
use crate::retry::{Outcome, RetryPolicy};
use crate::worker::{Chosen, WorkerCluster};

mod hedge;

pub(crate) use hedge::{Hedges, race};

/// A request that can be sent to one host after the other.
pub(crate) trait Attempts {
    type Answer;

    /// Sends it to a host; `repeatable` says whether another attempt may follow.
    async fn attempt(&mut self, pool: &Rc<HostPool>, repeatable: bool) -> Result<Self::Answer, Failure>;

    fn status(answer: &Self::Answer) -> u16;

    /// Whether an answer is worth another attempt.
    fn repeats(&self, answer: &Self::Answer, policy: &RetryPolicy) -> bool;

    /// How long a host that answers so wants not to be asked.
    fn reset_after(&self, answer: &Self::Answer, policy: &RetryPolicy) -> Option<Duration>;

    /// What it has in common with those that are to go to the same host.
    fn key(&self) -> Option<u64>;

    /// What is to be said of its host, where hosts are told apart by that.
    fn labels(&self) -> Option<&Labels>;

    /// The session that it is of.
    fn session(&self) -> Option<&Session> {
        None
    }

    /// Whether another attempt would send the same bytes.
    fn can_repeat(&self) -> bool;

    /// Ready when nobody waits for another attempt any more, with why.
    async fn given_up(&mut self) -> Failure;
}

/// Why an attempt brought no response.
pub(crate) enum Failure {
    /// The route's policy decides.
    Attempt { outcome: Outcome, detail: String },
    /// As many requests wait for a connection as may.
    Overflow,
    /// The route's timeout is over; a host to which there was no connection yet is not to blame.
    Late { connected: bool },
    /// The client broke off its request, or sent what is none, or what this host does not do.
    Client(Refusal),
    /// The client has closed its connection.
    ClientLeft,
}

/// A request to be answered without any host.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) flag: Flag,
    pub(crate) reason: String,
}

/// Tries hosts of `cluster` until one answers; without a refusal there is nobody left to be refused.
pub(crate) async fn until_answered<A: Attempts>(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    policy: Option<&RetryPolicy>,
    attempts: &mut A,
) -> Result<A::Answer, Option<Refusal>> {
    let mut tried = Tried::default();
    let mut retrying = None;
    loop {
        let (pool, host) = chosen(exchange, cluster, policy, attempts, &mut tried).map_err(Some)?;
        if !cluster.allows_request() {
            exchange.request_overflowed();
            return Err(Some(Refusal::overflowed()));
        }
        let repeatable = policy.is_some_and(|policy| exchange.retries() < policy.retries_max);
        let attempted = attempts.attempt(&pool, repeatable).await;
        let report = report::<A>(&attempted);
        exchange.attempted(exchange.retries() as usize, report);
        if let Some(report) = report {
            pool.report(report);
        }
        // What it brought ends the retry that it was.
        drop(retrying.take());
        let mut again = |attempts: &A, is_worth: &dyn Fn(&RetryPolicy) -> bool| {
            let policy = policy.filter(|policy| is_worth(policy) && attempts.can_repeat());
            retrying = policy.and_then(|policy| retry(exchange, cluster, policy));
            retrying.is_some()
        };
        let mut asked = None;
        match attempted {
            Ok(answer) if again(attempts, &|policy| attempts.repeats(&answer, policy)) => {
                asked = policy.and_then(|policy| attempts.reset_after(&answer, policy));
            }
            Ok(answer) => return Ok(answer),
            Err(failure) => {
                let outcome = match &failure {
                    Failure::Attempt { outcome, .. } => Some(*outcome),
                    _ => None,
                };
                let again = outcome.is_some_and(|outcome| again(attempts, &|policy| policy.repeats(outcome)));
                outcome
                    .into_iter()
                    .for_each(|outcome| exchange.attempt_failed(outcome));
                if !again {
                    return Err(failure.refusal(exchange));
                }
            }
        }
        tried.add(host);
        let back_off = policy.map_or(Duration::ZERO, |policy| back_off(exchange, policy, asked));
        exchange.retry();
        tokio::select! {
            () = tokio::time::sleep(back_off) => {}
            failure = attempts.given_up() => return Err(failure.refusal(exchange)),
        }
    }
}

/// The host of the next attempt. The first of a session is the session's.
fn chosen<A: Attempts>(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    policy: Option<&RetryPolicy>,
    attempts: &A,
    tried: &mut Tried,
) -> Result<Chosen, Refusal> {
    let connection = exchange.connection();
    let (random, client) = (&connection.worker.random, Some(&connection.ends));
    let is_first = exchange.retries() == 0;
    if is_first && let Some(flag) = cluster.drops(random) {
        return Err(Refusal::dropped(flag));
    }
    let kept = match attempts.session() {
        Some(session) if is_first => cluster.keep(session, client)?,
        _ => None,
    };
    let (key, labels) = (attempts.key(), attempts.labels());
    let chosen = kept.or_else(|| cluster.choose(random, tried, policy, key, labels, client));
    let (pool, host) = chosen.ok_or_else(|| Refusal::nobody(StatusCode::SERVICE_UNAVAILABLE))?;
    exchange.host(pool.host.address);
    Ok((pool, host))
}

/// How long to wait before another attempt: as long as was asked for and up to half as long again, or as the policy says.
fn back_off(exchange: &Exchange, policy: &RetryPolicy, asked: Option<Duration>) -> Duration {
    let share = exchange.connection().worker.random.share();
    match asked {
        Some(asked) => asked.mul_f64(1.0 + share / 2.0),
        None => policy.back_off.wait(exchange.retries(), share),
    }
}

/// What an attempt says of its host, if anything.
fn report<A: Attempts>(attempted: &Result<A::Answer, Failure>) -> Option<Report> {
    match attempted {
        Ok(answer) => Some(Report::Status(A::status(answer))),
        Err(failure) => blamed(failure),
    }
}

/// What a failure says of the host; nothing where it was the client that ended it, or nobody was asked.
pub(crate) fn blamed(failure: &Failure) -> Option<Report> {
    let outcome = match failure {
        Failure::Late { connected: true } => return Some(Report::TimedOut),
        Failure::Late { connected: false } | Failure::Overflow | Failure::Client(_) | Failure::ClientLeft => {
            return None;
        }
        Failure::Attempt { outcome, .. } => outcome,
    };
    Some(match outcome {
        Outcome::NoSocket => return None,
        Outcome::ConnectFailure => Report::NoConnection,
        Outcome::RefusedStream | Outcome::Reset => Report::Broken,
        Outcome::PerTryTimeout => Report::TimedOut,
        Outcome::Status(status) => Report::Status(*status),
    })
}

/// Another attempt, unless there were as many as the policy has, or are as many as the cluster takes.
fn retry(exchange: &mut Exchange, cluster: &WorkerCluster, policy: &RetryPolicy) -> Option<Retrying> {
    if exchange.retries() >= policy.retries_max {
        exchange.retries_used_up();
        return None;
    }
    let retrying = cluster.retry();
    if retrying.is_none() {
        exchange.retry_overflowed();
    }
    retrying
}

impl Failure {
    /// There is no connection to the host.
    pub(crate) fn unconnected(error: &ConnectError) -> Self {
        match error {
            ConnectError::Overflow => Self::Overflow,
            ConnectError::Connect(_) | ConnectError::Timeout | ConnectError::Handshake(_) => Self::Attempt {
                outcome: if error.is_own() {
                    Outcome::NoSocket
                } else {
                    Outcome::ConnectFailure
                },
                detail: error.to_string(),
            },
        }
    }

    /// What the client is told; nothing where there is none.
    fn refusal(self, exchange: &Exchange) -> Option<Refusal> {
        Some(match self {
            Self::Attempt { outcome, detail } => Refusal::failed(outcome, &detail),
            Self::Overflow => {
                exchange.pending_overflowed();
                Refusal::overflowed()
            }
            Self::Late { .. } => Refusal::timed_out(),
            Self::Client(refusal) => refusal,
            Self::ClientLeft => return None,
        })
    }

    /// The host has taken more than its time.
    pub(crate) fn too_long() -> Self {
        Self::Attempt {
            outcome: Outcome::PerTryTimeout,
            detail: "per try timeout".to_owned(),
        }
    }

    /// The connection to the host ended, or had to.
    pub(crate) fn reset(detail: &str) -> Self {
        Self::terminated(Outcome::Reset, detail)
    }

    pub(crate) fn terminated(outcome: Outcome, detail: &str) -> Self {
        Self::Attempt {
            outcome,
            detail: format!("connection termination: {detail}"),
        }
    }
}

impl Refusal {
    pub(crate) fn malformed(malformed: Malformed) -> Self {
        Self {
            status: malformed.status(),
            ..Self::bad_request(&malformed.to_string())
        }
    }

    pub(crate) fn bad_request(reason: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            flag: Flag::BadRequest,
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn broken_off() -> Self {
        Self {
            flag: Flag::ClientGone,
            ..Self::bad_request("the request broke off")
        }
    }

    /// Not all of the request has come in the time that its listener gives it.
    pub(crate) fn too_slow() -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            flag: Flag::None,
            reason: "request timeout".to_owned(),
        }
    }

    /// Nothing of it, or of its answer, has moved for long: in Envoy's words.
    pub(crate) fn idle(status: StatusCode) -> Self {
        Self {
            status,
            flag: Flag::StreamIdle,
            reason: "stream timeout".to_owned(),
        }
    }

    /// The same, by whether all of it has come.
    pub(crate) fn idle_after(has_come: bool) -> Self {
        Self::idle(if has_come {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        })
    }

    pub(crate) fn too_large() -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            flag: Flag::None,
            reason: TOO_LARGE.to_owned(),
        }
    }

    /// In Envoy's words.
    pub(crate) fn overloaded() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flag: Flag::Overloaded,
            reason: "overloaded".to_owned(),
        }
    }

    pub(crate) fn no_route() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            flag: Flag::NoRoute,
            reason: "no route".to_owned(),
        }
    }

    /// There is no host that may have it.
    pub(crate) fn nobody(status: StatusCode) -> Self {
        Self {
            status,
            ..Self::no_healthy_upstream("no healthy upstream".to_owned())
        }
    }

    pub(crate) fn no_healthy_upstream(reason: String) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flag: Flag::NoHealthyUpstream,
            reason,
        }
    }

    fn dropped(flag: Flag) -> Self {
        let reason = if flag == Flag::AllDropped {
            "unconditional drop overload"
        } else {
            "drop overload"
        };
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flag,
            reason: reason.to_owned(),
        }
    }

    fn overflowed() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flag: Flag::Overflow,
            reason: "upstream connect error or disconnect/reset before headers. reset reason: overflow"
                .to_owned(),
        }
    }

    pub(crate) fn timed_out() -> Self {
        Self {
            status: StatusCode::GATEWAY_TIMEOUT,
            flag: Flag::UpstreamTimeout,
            reason: "upstream request timeout".to_owned(),
        }
    }

    pub(crate) fn failed(outcome: Outcome, detail: &str) -> Self {
        let flag = match outcome {
            Outcome::PerTryTimeout => return Self::timed_out(),
            Outcome::ConnectFailure | Outcome::NoSocket => Flag::ConnectFailure,
            Outcome::RefusedStream | Outcome::Reset | Outcome::Status(_) => Flag::UpstreamReset,
        };
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flag,
            reason: format!("upstream connect error or disconnect/reset before headers: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_host_is_not_blamed_for_what_is_wanting_here() {
        let connect = |errno: Errno| ConnectError::Connect(Arc::new(io::Error::from(errno)));
        for (error, expected) in [
            (connect(Errno::CONNREFUSED), Some(Report::NoConnection)),
            (ConnectError::Timeout, Some(Report::NoConnection)),
            (ConnectError::Overflow, None),
            (connect(Errno::MFILE), None),
            (connect(Errno::NOBUFS), None),
        ] {
            assert_eq!(blamed(&Failure::unconnected(&error)), expected, "{error}");
        }
    }
}
