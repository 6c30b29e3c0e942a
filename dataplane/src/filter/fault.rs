//! `envoy.filters.http.fault`: what goes wrong on purpose.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::{Answer, Verdict};
use crate::balance::Draw;
use crate::config::MILLION;
use crate::exchange::Flag;

/// What Envoy says as well.
const BODY: &[u8] = b"fault filter abort";

/// Each for so many of a million requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) delay: Option<(Duration, u32)>,
    pub(crate) abort: Option<(StatusCode, u32)>,
}

impl Fault {
    pub(super) fn judge(&self, draw: &impl Draw, verdict: &mut Verdict) {
        let happens = |millionths: u32| draw.below(MILLION) < millionths;
        if let Some((delay, _)) = self.delay.filter(|(_, millionths)| happens(*millionths)) {
            verdict.delay += delay;
        }
        if let Some((status, _)) = self.abort.filter(|(_, millionths)| happens(*millionths)) {
            verdict.answer = Some(Answer {
                status,
                code: None,
                flag: Flag::FaultInjected,
                body: Bytes::from_static(BODY),
            });
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Always;

    #[test]
    fn a_share_is_a_part_of_a_million() {
        const TIME: Duration = Duration::from_secs(1);
        for (delayed, aborted, drawn, expected) in [
            (0, 0, 0, (Duration::ZERO, false)),
            (1, 0, 0, (TIME, false)),
            (1, 0, 1, (Duration::ZERO, false)),
            (MILLION, 500_000, 499_999, (TIME, true)),
            (MILLION, 500_000, 500_000, (TIME, false)),
            (MILLION, MILLION, MILLION - 1, (TIME, true)),
        ] {
            let fault = Fault {
                delay: Some((TIME, delayed)),
                abort: Some((StatusCode::IM_A_TEAPOT, aborted)),
            };
            let mut verdict = Verdict::default();
            fault.judge(&Always(drawn), &mut verdict);
            let found = (verdict.delay, verdict.answer.is_some());
            assert_eq!(found, expected, "{delayed} {aborted} {drawn}");
        }
    }
}
