//! Looks at memory once a second, has workers shed when it runs short, and says so.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{MissedTickBehavior, interval};

use super::memory::{self, Share};
use super::{LOOK_INTERVAL, Level, Shared, tell};
use crate::orders::Remote;

/// So many looks without anybody turned away, and it is over.
const QUIET_LOOKS: u32 = 5;

/// What is known of memory: what the last look saw that saw it, for one that fails, as it does for want of descriptors, says nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    used: Option<u64>,
    of_groups: Option<Share>,
}

/// Who was turned away for want of descriptors, from look to look.
#[derive(Debug, Default)]
struct Crowd {
    seen: u64,
    /// How many before this crowd, and for how many looks nobody more was; nothing where there is no crowd.
    since: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    None,
    Begun,
    /// So many were turned away.
    Over(u64),
}

/// Looks until dropped; `limit` is what the process may have by itself.
pub(crate) async fn watch(shared: Arc<Shared>, workers: Vec<Remote>, limit: Option<u64>) -> Infallible {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut level, mut sight, mut crowd) = (Level::Calm, Sight::default(), Crowd::default());
    loop {
        look.tick().await;
        let used = memory::used();
        let of_groups = memory::of_groups(used.as_ref().map_or(0, |used| *used));
        sight = sight.after(used, of_groups);
        let next = judge(&shared, level, sight, limit);
        if next != level {
            level = next;
            tell(&workers, level).await;
        }
        match crowd.look(shared.turned_away()) {
            News::None => {}
            News::Begun => tracing::warn!(
                descriptors = shared.descriptors(),
                connections_max = shared.connections_max,
                "connections are turned away: raise the limit of file descriptors, or run more proxies"
            ),
            News::Over(turned_away) => {
                tracing::info!(turned_away, "connections are accepted again");
            }
        }
    }
}

fn judge(shared: &Shared, before: Level, sight: Sight, limit: Option<u64>) -> Level {
    let gauges = &shared.gauges;
    let Sight { used, of_groups } = sight;
    for (gauge, value) in [
        (&gauges.memory_bytes, used),
        (&gauges.memory_limit_bytes, limit),
        (&gauges.group_memory_bytes, of_groups.map(|share| share.used)),
        (
            &gauges.group_memory_limit_bytes,
            of_groups.map(|share| share.limit),
        ),
    ] {
        gauge.store(value.unwrap_or(0), Ordering::Relaxed);
    }
    let own = used.zip(limit).map(|(used, limit)| Share { used, limit });
    let shares = own.into_iter().chain(of_groups);
    let nearest = shares.reduce(|one, other| if other.is_nearer(one) { other } else { one });
    let Some(Share {
        used: used_bytes,
        limit: limit_bytes,
    }) = nearest
    else {
        gauges.level.store(Level::Calm as u64, Ordering::Relaxed);
        return Level::Calm;
    };
    let level = before.next(used_bytes, limit_bytes);
    gauges.level.store(level as u64, Ordering::Relaxed);
    match (before, level) {
        (before, level) if before == level => {}
        (_, Level::Shedding) if before == Level::Calm => {
            tracing::warn!(used_bytes, limit_bytes, "memory runs short: requests are refused");
        }
        (_, Level::Shedding) => {
            tracing::warn!(
                used_bytes,
                limit_bytes,
                "memory runs short: connections are accepted again, requests refused"
            );
        }
        (_, Level::Closed) => {
            tracing::warn!(
                used_bytes,
                limit_bytes,
                "memory runs short: no connection is accepted"
            );
        }
        (_, Level::Calm) => {
            tracing::info!(
                used_bytes,
                limit_bytes,
                "there is memory again: requests are served"
            );
        }
    }
    level
}

impl Sight {
    fn after(self, used: io::Result<u64>, of_groups: io::Result<Option<Share>>) -> Self {
        Self {
            used: used.ok().or(self.used),
            of_groups: of_groups.unwrap_or(self.of_groups),
        }
    }
}

impl Crowd {
    fn look(&mut self, turned_away: u64) -> News {
        let before = std::mem::replace(&mut self.seen, turned_away);
        let had_more = turned_away > before;
        match &mut self.since {
            None if had_more => {
                self.since = Some((before, 0));
                News::Begun
            }
            None => News::None,
            Some((_, quiet)) if had_more => {
                *quiet = 0;
                News::None
            }
            Some((first, quiet)) => {
                *quiet += 1;
                if *quiet < QUIET_LOOKS {
                    return News::None;
                }
                let over = News::Over(turned_away - *first);
                self.since = None;
                over
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_fails_changes_nothing() {
        use Level::{Calm, Closed, Shedding};
        let shared = Shared::new(1, 1024);
        let failed = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let (mut level, mut sight) = (Calm, Sight::default());
        let share = |used| Some(Share { used, limit: 1000 });
        // What is used of the own limit of 100, and of the groups', where they can be read.
        for (used, of_groups, expected) in [
            (None, None, Calm),
            (Some(80), None, Calm),
            (Some(92), None, Shedding),
            (None, Some(share(10)), Shedding),
            (None, None, Shedding),
            (Some(97), None, Closed),
            (None, None, Closed),
            (None, Some(None), Closed),
            (Some(10), None, Calm),
            // What shares the group has nearly all of it.
            (None, Some(share(920)), Shedding),
            (None, None, Shedding),
            (Some(20), Some(share(960)), Closed),
            (Some(20), Some(share(100)), Calm),
        ] {
            sight = sight.after(used.ok_or_else(failed), of_groups.ok_or_else(failed));
            level = judge(&shared, level, sight, Some(100));
            assert_eq!(level, expected, "{used:?} of {of_groups:?}");
            assert_eq!(shared.figures().sheds_requests, level >= Shedding);
        }
    }

    #[test]
    fn without_a_limit_nothing_is_shed() {
        let shared = Shared::new(1, 1024);
        let sight = Sight::default().after(Ok(1 << 40), Ok(None));
        assert_eq!(judge(&shared, Level::Calm, sight, None), Level::Calm);
        assert_eq!(shared.figures().memory_bytes, 1 << 40);
    }

    #[test]
    fn a_crowd_is_told_once_and_so_is_its_end() {
        let mut crowd = Crowd::default();
        for (turned_away, expected) in [
            (0, News::None),
            (3, News::Begun),
            (9, News::None),
            (9, News::None),
            (10, News::None),
            (10, News::None),
            (10, News::None),
            (10, News::None),
            (10, News::None),
            (10, News::Over(10)),
            (10, News::None),
            (11, News::Begun),
        ] {
            assert_eq!(crowd.look(turned_away), expected, "{crowd:?}");
        }
    }
}
