//! Hedging: when an attempt takes longer than one should, another one begins beside it, and the first good answer is passed on. Which
//! that is, and what becomes of the others, is a pure function; the rest does what it says.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::{Attempts, Failure, Refusal, back_off, report, retry};
use crate::balance::Tried;
use crate::breaker::Retrying;
use crate::deadline::Over;
use crate::exchange::Exchange;
use crate::outlier::Report;
use crate::pool::HostPool;
use crate::retry::{Outcome, RetryPolicy};
use crate::worker::{Chosen, WorkerCluster};

/// Attempts of one request that may be late and not told of yet; who is late beyond that is not replaced.
const LATE_MAX: usize = 16;

/// A request of which several attempts may be under way at once.
pub(crate) trait Hedges: Attempts {
    /// One of them, until the route's time is over; `late` is called once it has taken as long as one should, and it goes on.
    async fn hedged(&self, pool: &Rc<HostPool>, late: impl FnOnce()) -> Result<Self::Answer, Failure>;

    /// Whether another one may begin beside it.
    fn can_hedge(&self) -> bool;

    /// Ready when the route's time is over.
    async fn expired(&self) -> Over;
}

/// What an attempt has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brought {
    /// What is passed on, or nobody's to repeat.
    End,
    /// What the policy repeats.
    Bad,
    /// What it does not repeat, and is no answer.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is what the client gets.
    Take,
    /// Another attempt.
    Again,
    /// The others are waited for.
    Forget,
}

struct Runner {
    pool: Rc<HostPool>,
    host: (usize, usize),
    /// Among those that are told of.
    place: usize,
    retrying: Option<Retrying>,
    is_late: bool,
    /// Another one has begun in its place.
    is_replaced: bool,
}

/// What a race waits for.
enum Event<T> {
    Ended(usize, T),
    Late(usize),
    Begin,
    Over(Over),
}

/// [`until_answered`](super::until_answered), with attempts beside each other.
pub(crate) async fn race<A: Hedges>(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    policy: &RetryPolicy,
    request: &A,
) -> Result<A::Answer, Option<Refusal>> {
    let (tell, mut told) = mpsc::channel(LATE_MAX);
    let mut tried = Tried::default();
    let mut runners: Vec<Runner> = Vec::new();
    let mut chosen = 0;
    let mut under_way = Vec::new();
    let mut waiting: Option<(Pin<Box<Sleep>>, Option<Retrying>)> =
        Some((Box::pin(tokio::time::sleep(Duration::ZERO)), None));
    loop {
        let event = tokio::select! {
            biased;
            (nth, attempted) = ended(&mut under_way) => Event::Ended(nth, attempted),
            Some(nth) = told.recv() => Event::Late(nth),
            () = waited(&mut waiting) => Event::Begin,
            // Those that are under way end by themselves then, and say what their host has to do with it.
            over = request.expired(), if under_way.is_empty() => Event::Over(over),
        };
        match event {
            Event::Over(over) => return Err(Some(over.refusal())),
            Event::Begin => {
                let retrying = waiting.take().and_then(|(_, retrying)| retrying);
                let begun = super::chosen(exchange, cluster, Some(policy), request, &mut tried);
                let place = chosen;
                chosen += usize::from(begun.is_ok());
                let begun = begun.and_then(|begun| allowed(exchange, cluster, begun, place));
                let (pool, host) = match begun {
                    Ok(begun) => begun,
                    Err(_) if !under_way.is_empty() => continue,
                    Err(refusal) => return Err(Some(refusal)),
                };
                let (nth, tell) = (runners.len(), tell.clone());
                runners.push(Runner {
                    pool: Rc::clone(&pool),
                    host,
                    place,
                    retrying,
                    is_late: false,
                    is_replaced: false,
                });
                let late = move || {
                    // Who is late when the race is over is nobody's business.
                    let _ = tell.try_send(nth);
                };
                under_way.push((nth, Box::pin(run(request, pool, late))));
            }
            Event::Late(nth) => {
                let runner = &mut runners[nth];
                runner.is_late = true;
                runner.pool.report(Report::TimedOut);
                exchange.attempt_failed(Outcome::PerTryTimeout);
                if waiting.is_none()
                    && request.can_hedge()
                    && let Some(retrying) = retry(exchange, cluster, policy)
                {
                    runner.is_replaced = true;
                    tried.add(runner.host);
                    waiting = Some(wait(exchange, policy, None, retrying));
                }
            }
            Event::Ended(nth, attempted) => {
                let report = report::<A>(&attempted);
                let runner = &mut runners[nth];
                exchange.attempted(runner.place, report);
                if let Some(report) = report.filter(|_| !runner.is_late) {
                    runner.pool.report(report);
                }
                drop(runner.retrying.take());
                let asked = attempted
                    .as_ref()
                    .ok()
                    .and_then(|answer| request.reset_after(answer, policy));
                let brought = brought(&attempted, request, policy);
                if let Err(Failure::Attempt { outcome, .. }) = &attempted {
                    exchange.attempt_failed(*outcome);
                }
                let others = !under_way.is_empty() || waiting.is_some();
                let mut retrying = None;
                let step = step(brought, runner.is_replaced || waiting.is_some(), others, || {
                    retrying = Some(())
                        .filter(|()| request.can_repeat())
                        .and_then(|()| retry(exchange, cluster, policy));
                    retrying.is_some()
                });
                match (step, retrying) {
                    (Step::Again, Some(retrying)) => {
                        tried.add(runner.host);
                        waiting = Some(wait(exchange, policy, asked, retrying));
                    }
                    (Step::Forget, _) => {}
                    (Step::Take | Step::Again, _) => {
                        exchange.heard(runner.place, runner.pool.host.address);
                        return attempted.map_err(|failure| failure.refusal(exchange));
                    }
                }
            }
        }
    }
}

async fn run<A: Hedges>(request: &A, pool: Rc<HostPool>, late: impl FnOnce()) -> Result<A::Answer, Failure> {
    request.hedged(&pool, late).await
}

/// The first of them that ends. All are woken when one is: what they look at, such as the end of a request, wakes one who waits.
async fn ended<F: Future>(under_way: &mut Vec<(usize, Pin<Box<F>>)>) -> (usize, F::Output) {
    poll_fn(|cx| {
        for at in 0..under_way.len() {
            if let Poll::Ready(output) = under_way[at].1.as_mut().poll(cx) {
                return Poll::Ready((under_way.swap_remove(at).0, output));
            }
        }
        Poll::Pending
    })
    .await
}

/// Unless it is one request more than there may be.
fn allowed(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    chosen: Chosen,
    place: usize,
) -> Result<Chosen, Refusal> {
    if !cluster.allows_request() {
        exchange.request_overflowed();
        exchange.attempted(place, None);
        return Err(Refusal::overflowed());
    }
    Ok(chosen)
}

/// Counts another attempt, and says when it begins.
fn wait(
    exchange: &mut Exchange,
    policy: &RetryPolicy,
    asked: Option<Duration>,
    retrying: Retrying,
) -> (Pin<Box<Sleep>>, Option<Retrying>) {
    let sleep = tokio::time::sleep(back_off(exchange, policy, asked));
    exchange.retry();
    (Box::pin(sleep), Some(retrying))
}

async fn waited(waiting: &mut Option<(Pin<Box<Sleep>>, Option<Retrying>)>) {
    match waiting {
        Some((sleep, _)) => sleep.await,
        None => std::future::pending().await,
    }
}

fn brought<A: Hedges>(attempted: &Result<A::Answer, Failure>, request: &A, policy: &RetryPolicy) -> Brought {
    match attempted {
        Ok(answer) if request.repeats(answer, policy) => Brought::Bad,
        Ok(_) | Err(Failure::Client(_) | Failure::ClientLeft) => Brought::End,
        Err(Failure::Attempt { outcome, .. }) if policy.repeats(*outcome) => Brought::Bad,
        Err(Failure::Attempt { .. } | Failure::Overflow | Failure::Late { .. }) => Brought::Nothing,
    }
}

/// What becomes of an attempt that has ended. As in Envoy, one that was replaced is not repeated, and what is no good is passed on
/// only when nobody else is under way; `retry` is asked for another attempt if there is to be one.
fn step(brought: Brought, is_replaced: bool, others: bool, retry: impl FnOnce() -> bool) -> Step {
    match brought {
        Brought::End => Step::Take,
        Brought::Bad if !is_replaced && retry() => Step::Again,
        Brought::Bad | Brought::Nothing if others => Step::Forget,
        Brought::Bad | Brought::Nothing => Step::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_good_answer_wins() {
        use Brought::{Bad, End, Nothing};
        // What came, if another one had begun in its place, if others are under way, if there may be one more.
        for (brought, is_replaced, others, may, expected) in [
            (End, false, false, true, Step::Take),
            (End, true, true, true, Step::Take),
            (Bad, false, false, true, Step::Again),
            (Bad, false, true, true, Step::Again),
            (Bad, false, true, false, Step::Forget),
            (Bad, false, false, false, Step::Take),
            (Bad, true, true, true, Step::Forget),
            (Bad, true, false, true, Step::Take),
            (Nothing, false, true, true, Step::Forget),
            (Nothing, false, false, true, Step::Take),
        ] {
            let got = step(brought, is_replaced, others, || may);
            assert_eq!(got, expected, "{brought:?} {is_replaced} {others} {may}");
        }
    }
}
