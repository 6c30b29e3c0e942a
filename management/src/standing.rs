//! Whether what somebody identified themselves with still holds, for answers that have no end. One look asks the database
//! about all who listen to this replica, so that many of them cost it no more than one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;
use uuid::Uuid;

use crate::audit;
use crate::caller::Caller;
use crate::store::{Store, StoreError};

/// How much longer whoever listens may do so, once what they came with is revoked on any replica.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Then the listener comes again, and what it comes with is looked at from the beginning. It bounds what a database that
/// does not answer looks would give away.
const LISTENING_TIME_MAX: Duration = Duration::from_secs(60);

/// The credentials of those who listen. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    credentials: Arc<Mutex<BTreeMap<Uuid, watch::Sender<bool>>>>,
}

/// When somebody who listens has to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    ends: Instant,
    /// Nothing for management itself.
    revoked: Option<watch::Receiver<bool>>,
}

impl Standing {
    /// Of one who begins to listen.
    pub(crate) fn stay(&self, caller: &Caller) -> Stay {
        let lasts = caller.credential.and_then(|credential| credential.expires_at);
        let ends = Instant::now() + listening_time(lasts.map(|end| end - audit::now()));
        let revoked = caller.credential.map(|credential| {
            let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = credentials
                .entry(credential.id)
                .or_insert_with(|| watch::Sender::new(false));
            sender.subscribe()
        });
        Stay { ends, revoked }
    }

    pub(crate) async fn run(self, store: Store, mut shutdown: Shutdown) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = shutdown.wait() => return,
            }
            if let Err(error) = self.look(&store).await {
                tracing::debug!(error = chain(&error), "cannot look whether who listens still may");
            }
        }
    }

    async fn look(&self, store: &Store) -> Result<(), StoreError> {
        let held = self.held();
        if held.is_empty() {
            return Ok(());
        }
        let revoked = store.revoked_among(&held).await?;
        let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        for id in revoked {
            if let Some(sender) = credentials.remove(&id) {
                sender.send_replace(true);
            }
        }
        Ok(())
    }

    /// Those with which anybody still listens; the others are forgotten.
    fn held(&self) -> Vec<Uuid> {
        let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        credentials.retain(|_, sender| !sender.is_closed());
        credentials.keys().copied().collect()
    }
}

impl Stay {
    pub(crate) fn is_over(&self) -> bool {
        let is_revoked = self.revoked.as_ref().is_some_and(|revoked| *revoked.borrow());
        is_revoked || Instant::now() >= self.ends
    }

    /// Until it is over.
    pub(crate) async fn wait(&mut self) {
        let revoked = async {
            if let Some(revoked) = &mut self.revoked
                && revoked.wait_for(|is_revoked| *is_revoked).await.is_ok()
            {
                return;
            }
            // The sender goes with the replica, which has its own way to end all that listen.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = revoked => {}
            () = sleep_until(self.ends) => {}
        }
    }
}

/// Of what lasts for so much longer, if it ends by itself.
fn listening_time(lasts: Option<TimeDelta>) -> Duration {
    let lasts = lasts.map_or(LISTENING_TIME_MAX, |lasts| lasts.to_std().unwrap_or_default());
    lasts.min(LISTENING_TIME_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::caller::Credential;

    fn caller(id: u128) -> Caller {
        let credential = Credential {
            id: Uuid::from_u128(id),
            expires_at: None,
        };
        Caller {
            credential: Some(credential),
            ..Caller::system()
        }
    }

    #[test]
    fn who_listens_stays_no_longer_than_what_it_came_with() {
        for (lasts, time_s) in [
            (None, 60),
            (Some(TimeDelta::days(1)), 60),
            (Some(TimeDelta::seconds(7)), 7),
            (Some(TimeDelta::seconds(-1)), 0),
        ] {
            assert_eq!(listening_time(lasts), Duration::from_secs(time_s), "{lasts:?}");
        }
    }

    #[test]
    fn only_those_who_still_listen_are_asked_about() {
        let standing = Standing::default();
        let (one, two) = (standing.stay(&caller(1)), standing.stay(&caller(1)));
        let other = standing.stay(&caller(2));
        assert_eq!(standing.held().len(), 2);
        drop((one, other));
        assert_eq!(standing.held(), [Uuid::from_u128(1)]);
        assert!(!two.is_over());
        drop(two);
        assert!(standing.held().is_empty());
    }
}
