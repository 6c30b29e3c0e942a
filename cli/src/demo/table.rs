//! The live table of who answers whom, on a terminal only.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::measure::{Tally, who_answered};
use super::topology::CLUSTERS;
use super::traffic::{Ledger, Sample};

const REFRESH: Duration = Duration::from_millis(500);
/// What the table looks back on.
const WINDOW: Duration = Duration::from_secs(1);

/// Redraws one block of lines in place until it is dropped.
pub(super) struct LiveTable(Option<JoinHandle<()>>);

impl LiveTable {
    pub(super) fn start(ledger: Ledger) -> LiveTable {
        if !std::io::stdout().is_terminal() {
            return LiveTable(None);
        }
        LiveTable(Some(tokio::spawn(async move {
            let mut ticks = interval(REFRESH);
            loop {
                ticks.tick().await;
                let from = Instant::now().checked_sub(WINDOW).unwrap_or_else(Instant::now);
                let text = render(&ledger.since(from));
                // Below what was printed, then back up, so that whatever is printed next overwrites the table; going up by
                // lines also holds when the terminal has scrolled.
                print!("\x1b[J{text}\x1b[{}A", text.lines().count());
                // A closed terminal is no reason to stop the mesh.
                let _ = std::io::stdout().flush();
            }
        })))
    }
}

impl Drop for LiveTable {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            print!("\x1b[J");
        }
    }
}

fn render(samples: &[Sample]) -> String {
    let rows = CLUSTERS.iter().map(|cluster| {
        let own: Vec<Sample> = samples
            .iter()
            .filter(|sample| sample.cluster == cluster.name)
            .cloned()
            .collect();
        let Tally { requests, failed, .. } = Tally::of(&own);
        format!(
            "    {:<12} {requests:>4} req/s {failed:>3} failed   answered by {}\n",
            cluster.name,
            who_answered(&own)
        )
    });
    rows.collect()
}
