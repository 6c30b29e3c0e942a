//! Lives of a plane's state: each is told from all before it by a greater number.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::last_good::{self, LastGoodError};
use crate::telemetry::chain;

/// The number of this life: the time in milliseconds, or one more than the last when the clock went back. A file that
/// cannot be read is as none. Blocking.
///
/// # Errors
/// When it cannot be written, without which the next life could not be told from this one.
pub fn next(path: &Path) -> Result<u64, LastGoodError> {
    let stored = last_good::load(path).unwrap_or_else(|error| {
        tracing::error!(
            error = chain(&error),
            "cannot tell the number of the last life; the clock must do"
        );
        None
    });
    let before = stored.and_then(|bytes| String::from_utf8(bytes).ok()?.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let next = now_ms.max(before.map_or(0, |before| before.saturating_add(1)));
    last_good::save(path, next.to_string().as_bytes())?;
    Ok(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_grows_although_the_clock_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation");
        let first = next(&path).unwrap();
        assert!(first > 0);
        assert!(next(&path).unwrap() > first);
        let ahead = u64::MAX / 2;
        last_good::save(&path, ahead.to_string().as_bytes()).unwrap();
        assert_eq!(next(&path).unwrap(), ahead + 1);
        std::fs::write(&path, "nonsense").unwrap();
        assert!(next(&path).unwrap() >= first);
    }
}
