//! Rounds, in which those that are compared take turns.

use anyhow::{Context, Result};

use super::contender::Contender;
use crate::Options;
use crate::load::Load;
use crate::report::{Figure, Measured};

/// Of [`cpu_us`].
pub(super) const CPU: Figure<f64> = Figure {
    name: "CPU per request, µs",
    of: |cpu_us| *cpu_us,
};

/// What `measure` finds of each, by name, in as many rounds as are wanted.
pub(super) async fn in_turns<C, R>(
    options: &Options,
    contenders: &[(&str, C)],
    measure: impl AsyncFn(&C) -> Result<R>,
) -> Result<Vec<Measured<R>>> {
    let unmeasured = |(name, _): &(&str, C)| Measured {
        name: (*name).to_owned(),
        rounds: Vec::new(),
    };
    let mut measured: Vec<_> = contenders.iter().map(unmeasured).collect();
    for round in 0..options.rounds {
        for index in turn(round, contenders.len()) {
            let (name, contender) = &contenders[index];
            let found = measure(contender).await;
            measured[index]
                .rounds
                .push(found.with_context(|| format!("through {name}"))?);
        }
        println!("round {} of {}", round + 1, options.rounds);
    }
    Ok(measured)
}

/// In which order they take their turns: each goes first in every other round.
fn turn(round: usize, contenders: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| {
        if round.is_multiple_of(2) {
            place
        } else {
            contenders - 1 - place
        }
    })
}

/// What of the processor's time each of the requests takes.
pub(super) async fn cpu_us(contender: &Contender, load: Load) -> Result<f64> {
    let (outcome, [before, after]) = contender.under(load).await?;
    let requests = outcome.whole()?.latencies.len() as f64;
    Ok(after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / requests)
}
