//! The chain of filters that a route has: who judges its requests, and how it follows from what the listener, the table, the host
//! and the route say.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::changes::Changed;
use super::{Facts, Filter, Levels, ListenerFilter, LocalRateLimit, Override, Stop, Verdict};
use crate::balance::Draw;
use crate::config::Route;
use crate::header_changes::HeaderChanges;
use crate::matcher::{RequestView, Subject};

/// The filters that a route's requests are put to, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chain(pub(super) Arc<[Filter]>);

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
