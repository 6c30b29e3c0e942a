//! One timer per connection, for whatever is waited for. It is set back lazily: a deadline that moves away, as that of each
//! next request does, costs nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// When there is nothing to wait for: far enough not to be noticed.
const NEVER: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: Instant,
}

impl Timer {
    pub(crate) fn new() -> Self {
        let armed = Instant::now() + NEVER;
        Self {
            sleep: Box::pin(tokio::time::sleep_until(armed.into())),
            armed,
        }
    }

    /// Ready once `deadline` is over; never without one.
    pub(crate) fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        if deadline < self.armed {
            self.arm(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if deadline <= self.armed {
                return Poll::Ready(());
            }
            self.arm(deadline);
        }
    }

    fn arm(&mut self, deadline: Instant) {
        self.armed = deadline;
        self.sleep.as_mut().reset(deadline.into());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn the_last_deadline_counts() {
        let mut timer = Timer::new();
        let start = Instant::now();
        let (near, far) = (
            start + Duration::from_millis(5),
            start + Duration::from_millis(20),
        );
        poll_fn(|cx| {
            assert!(timer.poll(Some(near), cx).is_pending() || Instant::now() >= near);
            assert!(timer.poll(None, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll(Some(far), cx)).await;
        assert!(Instant::now() >= far);
        // What is over stays over, and what comes next is waited for.
        poll_fn(|cx| timer.poll(Some(near), cx)).await;
        let next = Instant::now() + Duration::from_millis(5);
        poll_fn(|cx| timer.poll(Some(next), cx)).await;
        assert!(Instant::now() >= next);
    }
}
