//! Folds heartbeats into what may be said of a cluster's agent. All history lives here; the passes see plain values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a cluster's edge can be heard. Losing it moves no traffic: peers check the data path themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// It has never been heard since this observer started; what is known comes from disk.
    Unknown,
    Live,
    /// Heard before, silent now: its cluster shows as unmanaged.
    Lost,
}

/// What happened on the link to one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Connected,
    Disconnected,
}

pub fn observe(agent: Agent, signal: Signal) -> Agent {
    match (agent, signal) {
        (_, Signal::Connected) => Agent::Live,
        (Agent::Unknown, Signal::Disconnected) => Agent::Unknown,
        (Agent::Live | Agent::Lost, Signal::Disconnected) => Agent::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_was_heard_can_be_lost() {
        for (before, signal, after) in [
            (Agent::Unknown, Signal::Connected, Agent::Live),
            (Agent::Unknown, Signal::Disconnected, Agent::Unknown),
            (Agent::Live, Signal::Disconnected, Agent::Lost),
            (Agent::Lost, Signal::Connected, Agent::Live),
            (Agent::Lost, Signal::Disconnected, Agent::Lost),
        ] {
            assert_eq!(observe(before, signal), after, "{before:?} {signal:?}");
        }
    }
}
