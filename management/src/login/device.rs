//! Letting a command line in (RFC 8628): it shows a person a short code, the person confirms it in a browser where they
//! have a session, and the command line, which asks again and again meanwhile, is given a session of its own.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// For the person to find a browser.
pub(crate) const CODE_TIME: TimeDelta = TimeDelta::minutes(10);
/// Between two questions of a command line, RFC 8628's own; each that comes too early adds as much.
pub(crate) const INTERVAL_S: i32 = 5;
/// However impatient a command line is, it may not wait for ever.
const INTERVAL_S_MAX: i32 = 60;
/// Letters that no word is made of, and that are mistaken for none other (RFC 8628, section 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// 20^8 codes, of which few live at once.
const CODE_LETTERS: usize = 8;

/// What a person reads and types: `BCDF-GHJK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserCode(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code has {CODE_LETTERS} letters, such as BCDF-GHJK")]
pub(crate) struct BadCode;

/// A command line that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) source: String,
    pub(crate) agent: String,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) interval_s: i32,
    pub(crate) polled_at: Option<DateTime<Utc>>,
    pub(crate) state: DeviceState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceState {
    Waiting,
    Granted(Grant),
    Denied,
}

/// Who has let it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) user_uid: Uuid,
    pub(crate) groups: Vec<String>,
    /// The session with which that was done: it ends what comes of it when it is revoked.
    pub(crate) session: Uuid,
}

/// What a command line that asks is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    Pending,
    /// It asks too often, and is to wait so long from now on.
    SlowDown {
        interval_s: i32,
    },
    Granted(Grant),
    Denied,
    Expired,
}

impl Device {
    pub(crate) fn poll(&self, now: DateTime<Utc>) -> Poll {
        if self.expires_at <= now {
            return Poll::Expired;
        }
        let next = |at| at + TimeDelta::seconds(self.interval_s.into());
        match &self.state {
            DeviceState::Denied => Poll::Denied,
            DeviceState::Granted(grant) => Poll::Granted(grant.clone()),
            DeviceState::Waiting if self.polled_at.is_some_and(|at| now < next(at)) => Poll::SlowDown {
                interval_s: (self.interval_s + INTERVAL_S).min(INTERVAL_S_MAX),
            },
            DeviceState::Waiting => Poll::Pending,
        }
    }
}

impl UserCode {
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn generate() -> Result<UserCode, getrandom::Error> {
        let mut letters = String::with_capacity(CODE_LETTERS);
        while letters.len() < CODE_LETTERS {
            let mut byte = [0];
            getrandom::fill(&mut byte)?;
            // Above the last whole multiple of the letters, some would be drawn more often than others.
            let whole = u8::MAX - u8::MAX % 20;
            if byte[0] < whole {
                letters.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
            }
        }
        Ok(UserCode(letters))
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
}

/// However it is written: small, with or without what divides it.
impl FromStr for UserCode {
    type Err = BadCode;

    fn from_str(text: &str) -> Result<UserCode, BadCode> {
        let letters: String = text
            .chars()
            .filter(|letter| !matches!(letter, '-' | ' '))
            .map(|letter| letter.to_ascii_uppercase())
            .collect();
        let valid = letters.len() == CODE_LETTERS && letters.bytes().all(|letter| LETTERS.contains(&letter));
        if valid {
            Ok(UserCode(letters))
        } else {
            Err(BadCode)
        }
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.0.split_at(CODE_LETTERS / 2);
        write!(f, "{first}-{second}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_code_reads_back_however_it_is_typed() {
        let code = UserCode::generate().unwrap();
        let text = code.to_string();
        assert_eq!(text.len(), CODE_LETTERS + 1);
        for typed in [
            text.clone(),
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace('-', " "),
        ] {
            assert_eq!(typed.parse(), Ok(code.clone()), "{typed}");
        }
        for typed in ["", "BCDF", "BCDF-GHJA", "BCDF-GHJKL", "BCDF-GHJ1"] {
            assert_eq!(typed.parse::<UserCode>(), Err(BadCode), "{typed}");
        }
    }

    #[test]
    fn a_command_line_is_told_what_has_become_of_it() {
        let now = Utc::now();
        let seconds = TimeDelta::seconds;
        let uid = Uuid::from_u128(1);
        let grant = Grant {
            user_uid: uid,
            groups: vec!["ops".to_owned()],
            session: Uuid::from_u128(2),
        };
        let (granted, let_in) = (DeviceState::Granted(grant.clone()), Poll::Granted(grant));
        let slow = |interval_s| Poll::SlowDown { interval_s };
        use DeviceState::{Denied, Waiting};
        for (state, interval_s, polled, lives, told) in [
            (Waiting, 5, None, 600, Poll::Pending),
            (Waiting, 5, Some(5), 600, Poll::Pending),
            (Waiting, 5, Some(4), 600, slow(10)),
            (Waiting, 10, Some(9), 600, slow(15)),
            (Waiting, 60, Some(9), 600, slow(60)),
            (Waiting, 5, None, 0, Poll::Expired),
            (Denied, 5, Some(1), 600, Poll::Denied),
            (granted.clone(), 5, Some(1), 600, let_in),
            (granted, 5, None, -1, Poll::Expired),
        ] {
            let device = Device {
                source: String::new(),
                agent: String::new(),
                expires_at: now + seconds(lives),
                interval_s,
                polled_at: polled.map(|ago| now - seconds(ago)),
                state,
            };
            assert_eq!(device.poll(now), told, "{device:?}");
        }
    }
}
