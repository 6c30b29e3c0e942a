//! Which central's slice is in use, sans I/O. All centrals make the same from the same, and none is asked twice: the
//! edge stays with one while it can be heard, and changes only to what is not older.

use tombolo_proto::frame::Rejection;
use tombolo_proto::held::Version;
use tombolo_proto::session::Applied;

use super::copy::SliceCopy;

/// How long the followed central may be behind another before that one is followed: longer than any two centrals
/// differ while both work, short enough that a central cut off from management does not hold its edges back.
const LAG_TICKS_MAX: u8 = 3;

#[derive(Debug)]
pub(crate) struct Follow {
    centrals: Vec<Central>,
    followed: Option<usize>,
    /// What is in use; at the start, from disk.
    adopted: Option<SliceCopy>,
    lag_ticks: u8,
}

#[derive(Debug)]
struct Central {
    copy: SliceCopy,
    link: Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Down,
    /// Connected; what it has is not all here yet.
    Syncing,
    InSync,
}

#[derive(Clone, Debug)]
pub(crate) enum FollowEvent {
    Connected(usize),
    Applied(usize, Applied),
    InSync(usize),
    Down(usize),
    /// Once per second.
    Tick,
}

/// What an event led to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// For the central that sent them.
    pub(crate) rejections: Vec<Rejection>,
    /// The slice in use has changed.
    pub(crate) adopted: bool,
}

impl Follow {
    pub(crate) fn new(centrals: usize, last_good: Option<SliceCopy>) -> Follow {
        let central = || Central {
            copy: last_good.clone().unwrap_or_default(),
            link: Link::Down,
        };
        Follow {
            centrals: (0..centrals).map(|_| central()).collect(),
            followed: None,
            adopted: last_good,
            lag_ticks: 0,
        }
    }

    pub(crate) fn adopted(&self) -> Option<&SliceCopy> {
        self.adopted.as_ref()
    }

    pub(crate) fn followed(&self) -> Option<usize> {
        self.followed
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (Link, &SliceCopy)> {
        self.centrals.iter().map(|central| (central.link, &central.copy))
    }

    pub(crate) fn on(&mut self, event: FollowEvent) -> Outcome {
        let mut outcome = Outcome::default();
        let mut changed = None;
        match event {
            FollowEvent::Connected(at) => self.centrals[at].link = Link::Syncing,
            FollowEvent::Down(at) => self.centrals[at].link = Link::Down,
            FollowEvent::InSync(at) => self.centrals[at].link = Link::InSync,
            FollowEvent::Applied(at, applied) => {
                outcome.rejections = self.centrals[at].copy.apply(applied);
                changed = Some(at);
            }
            FollowEvent::Tick => {
                let lags = self
                    .followed
                    .is_some_and(|at| self.newest_live() > self.centrals[at].copy.version());
                self.lag_ticks = if lags { self.lag_ticks.saturating_add(1) } else { 0 };
            }
        }
        let before = self.followed;
        self.followed = self.choose();
        if self.followed.is_some() && (self.followed != before || self.followed == changed) {
            outcome.adopted = self.adopt();
        }
        outcome
    }

    fn choose(&self) -> Option<usize> {
        let stays = self.followed.filter(|at| {
            let live = self.centrals[*at].link != Link::Down;
            live && self.lag_ticks < LAG_TICKS_MAX
        });
        stays
            .or_else(|| {
                let usable = (0..self.centrals.len()).filter(|at| self.is_usable(*at));
                // The newest, and of several the first that was given.
                usable.rev().max_by_key(|at| self.centrals[*at].copy.version())
            })
            // Nobody else to follow: what is in use stays, and so does whom it came from.
            .or(self.followed)
    }

    /// Following it goes neither back nor blind.
    fn is_usable(&self, at: usize) -> bool {
        let Central { copy, link } = &self.centrals[at];
        *link == Link::InSync
            && match &self.adopted {
                Some(adopted) => copy.version() >= adopted.version(),
                // Of what is withheld, nothing is known yet: unknown is never empty.
                None => copy.complete,
            }
    }

    fn newest_live(&self) -> Option<Version> {
        let usable = (0..self.centrals.len()).filter(|at| self.is_usable(*at));
        usable.filter_map(|at| self.centrals[at].copy.version()).max()
    }

    fn adopt(&mut self) -> bool {
        let Some(at) = self.followed else { return false };
        let copy = &self.centrals[at].copy;
        let allowed = match &self.adopted {
            Some(adopted) => copy.version() >= adopted.version(),
            None => copy.complete,
        };
        if !allowed {
            return false;
        }
        self.lag_ticks = 0;
        let next = copy.over(self.adopted.as_ref());
        let before = self.adopted.replace(next);
        before != self.adopted
    }
}

#[cfg(test)]
mod tests {
    use super::super::copy::tests::{applied, namespace, stamp};
    use super::*;

    fn put(central: usize, source: &str, revision: u64, workspace: &str) -> FollowEvent {
        let step = applied(
            stamp(source, revision, revision),
            vec![namespace("shop", workspace)],
            &[],
            true,
        );
        FollowEvent::Applied(central, step)
    }

    fn sync(follow: &mut Follow, central: usize, source: &str, revision: u64) -> bool {
        follow.on(FollowEvent::Connected(central));
        let a = follow.on(put(central, source, revision, "w")).adopted;
        let b = follow.on(FollowEvent::InSync(central)).adopted;
        a || b
    }

    fn revision(follow: &Follow) -> Option<u64> {
        follow
            .adopted()
            .and_then(SliceCopy::version)
            .map(|version| version.revision)
    }

    #[test]
    fn one_central_is_followed_while_it_lives() {
        let mut follow = Follow::new(2, None);
        assert!(sync(&mut follow, 1, "b", 5));
        assert!(!sync(&mut follow, 0, "a", 5));
        assert_eq!(follow.followed(), Some(1));
        assert!(
            !follow.on(put(0, "a", 6, "x")).adopted,
            "the other is only remembered"
        );
        assert_eq!(revision(&follow), Some(5));
        assert!(follow.on(FollowEvent::Down(1)).adopted);
        assert_eq!((follow.followed(), revision(&follow)), (Some(0), Some(6)));
    }

    #[test]
    fn invariant_2_following_another_never_goes_back() {
        let mut follow = Follow::new(2, None);
        sync(&mut follow, 0, "a", 7);
        sync(&mut follow, 1, "b", 6);
        assert!(!follow.on(FollowEvent::Down(0)).adopted);
        assert_eq!((follow.followed(), revision(&follow)), (Some(0), Some(7)));
        assert!(follow.on(put(1, "b", 7, "y")).adopted, "it has caught up");
        assert_eq!(follow.followed(), Some(1));
    }

    #[test]
    fn a_central_that_stays_behind_is_left() {
        let mut follow = Follow::new(2, None);
        sync(&mut follow, 0, "a", 7);
        sync(&mut follow, 1, "b", 7);
        follow.on(put(1, "b", 8, "y"));
        for _ in 0..LAG_TICKS_MAX - 1 {
            assert!(!follow.on(FollowEvent::Tick).adopted);
        }
        assert!(follow.on(FollowEvent::Tick).adopted);
        assert_eq!((follow.followed(), revision(&follow)), (Some(1), Some(8)));
    }

    #[test]
    fn invariant_4_everybody_gone_changes_nothing() {
        let mut follow = Follow::new(1, None);
        sync(&mut follow, 0, "a", 7);
        assert!(!follow.on(FollowEvent::Down(0)).adopted);
        assert_eq!(revision(&follow), Some(7));
        let mut again = Follow::new(1, follow.adopted().cloned());
        assert_eq!(revision(&again), Some(7), "from disk");
        assert!(!again.on(FollowEvent::Connected(0)).adopted);
    }

    #[test]
    fn nothing_is_adopted_before_it_is_whole() {
        let mut follow = Follow::new(1, None);
        follow.on(FollowEvent::Connected(0));
        let step = applied(stamp("a", 1, 1), vec![namespace("shop", "w")], &[], false);
        assert!(!follow.on(FollowEvent::Applied(0, step)).adopted);
        assert!(!follow.on(FollowEvent::InSync(0)).adopted);
        let step = applied(stamp("a", 1, 2), vec![], &[], true);
        assert!(follow.on(FollowEvent::Applied(0, step)).adopted);
    }
}
