//! How a listener ends, as its connections see it.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;

/// How long an idle HTTP/1.1 connection of a draining listener is kept, so that a request that is already under way is
/// answered, with `connection: close`, instead of cut off.
pub(crate) const DRAIN_LINGER: Duration = Duration::from_millis(500);
/// The same where another process has taken over and nothing hurries: long enough that its next request comes on most of them,
/// and takes leave of it.
const RELIEVED_LINGER: Duration = Duration::from_secs(5);

/// A one-way switch that tasks of one thread can wait for.
#[derive(Default)]
pub(crate) struct Drain {
    begun: Cell<Option<Leaving>>,
    notify: Notify,
}

/// How a listener ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Nobody of us listens there any more.
    Closing,
    /// Another process does.
    Relieved,
}

impl Drain {
    pub(super) fn begin(&self, leaving: Leaving) {
        self.begun.set(Some(leaving));
        self.notify.notify_waiters();
    }

    /// Has all that wait for it look about them.
    pub(super) fn rouse(&self) {
        self.notify.notify_waiters();
    }

    pub(super) fn leaving(&self) -> Option<Leaving> {
        self.begun.get()
    }

    pub(crate) async fn begun(&self) {
        loop {
            let notified = self.notify.notified();
            if self.begun.get().is_some() {
                return;
            }
            notified.await;
        }
    }

    /// How long an idle connection is kept once it has begun.
    pub(super) fn linger(&self) -> Duration {
        match self.begun.get() {
            Some(Leaving::Relieved) => RELIEVED_LINGER,
            Some(Leaving::Closing) | None => DRAIN_LINGER,
        }
    }
}

/// Ready a while after draining has begun: a connection that has sent nothing until then will not.
pub(super) async fn lingered(drain: &Drain) {
    drain.begun().await;
    tokio::time::sleep(drain.linger()).await;
}
