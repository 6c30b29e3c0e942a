//! Metrics as statsd takes them, over UDP and with DogStatsD's tags: what counters have grown by, gauges as they are, and timers of
//! what was added to histograms. The names are those of Prometheus' text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use crate::metrics::{Kind, Metrics, Sink};
use crate::snapshot::Snapshot;

/// As statsd itself flushes.
const INTERVAL: Duration = Duration::from_secs(10);
/// What fits a frame of Ethernet behind the headers of IPv6 and UDP.
const DATAGRAM_BYTES_MAX: usize = 1432;
/// DogStatsD's limit of a tag, which leaves room for several in a datagram.
const TAG_BYTES_MAX: usize = 200;
/// So many datagrams go out at once: an agent's socket has room for more of them.
const BURST_DATAGRAMS: usize = 64;
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Sends metrics until it is told to stop, and then once more.
pub(crate) struct Statsd {
    stop: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

/// What was last said of counters, and what is to be said of them.
#[derive(Default)]
struct Deltas {
    /// By name, tags and bucket, with the round in which it was seen.
    before: HashMap<String, (u64, u64)>,
    round: u64,
    name: String,
    kind: Option<Kind>,
    datagrams: Vec<Datagram>,
}

#[derive(Default)]
struct Datagram {
    text: String,
    /// What has been said of counters once it is sent.
    says: Vec<(String, u64)>,
}

impl Statsd {
    /// `to` is `HOST:PORT`, which may be another host each time.
    pub(crate) fn start(to: String, metrics: Arc<Metrics>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        let stop = Arc::<Notify>::default();
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut deltas = Deltas::default();
            let mut often = tokio::time::interval(INTERVAL);
            // The first tick is at once, when there is nothing to say.
            often.tick().await;
            loop {
                let is_last = tokio::select! {
                    _ = often.tick() => false,
                    () = stopped.notified() => true,
                };
                let datagrams = deltas.take(&metrics, &snapshot.load());
                // Whoever listens may do so only later, and is told all of it then.
                if let Err(error) = send(&to, datagrams, &mut deltas).await {
                    tracing::debug!(%to, error = &error as &dyn std::error::Error, "cannot send metrics to statsd");
                }
                if is_last {
                    return;
                }
            }
        });
        Self { stop, task }
    }

    /// Sends what there is to the end, in `timeout` at most.
    pub(crate) async fn finish(mut self, timeout: Duration) {
        self.stop.notify_one();
        if tokio::time::timeout(timeout, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Deltas {
    fn take(&mut self, metrics: &Metrics, snapshot: &Snapshot) -> Vec<Datagram> {
        self.round += 1;
        metrics.visit(snapshot, self);
        // What is gone begins anew when it comes back.
        let round = self.round;
        self.before.retain(|_, (_, seen)| *seen == round);
        std::mem::take(&mut self.datagrams)
    }

    /// By how much it has grown since that was last said.
    fn delta(&mut self, key: &str, value: u64) -> u64 {
        let (before, seen) = self.before.entry(key.to_owned()).or_default();
        *seen = self.round;
        if value < *before {
            *before = 0;
        }
        value - *before
    }

    fn said(&mut self, datagram: Datagram) {
        for (key, value) in datagram.says {
            if let Some((before, _)) = self.before.get_mut(&key) {
                *before = value;
            }
        }
    }

    fn put(&mut self, line: &str) {
        match self.datagrams.last_mut() {
            Some(last) if last.text.len() + 1 + line.len() <= DATAGRAM_BYTES_MAX => {
                last.text.push('\n');
                last.text.push_str(line);
            }
            _ => self.datagrams.push(Datagram {
                text: line.to_owned(),
                says: Vec::new(),
            }),
        }
    }

    /// A line that says that a counter is `value` now.
    fn count(&mut self, line: &str, key: String, value: u64) {
        self.put(line);
        if let Some(last) = self.datagrams.last_mut() {
            last.says.push((key, value));
        }
    }
}

impl Sink for Deltas {
    fn family(&mut self, name: &'static str, kind: Kind, _: &str) {
        // Timers are in milliseconds.
        name.trim_end_matches("_seconds").clone_into(&mut self.name);
        self.kind = Some(kind);
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let (name, tags) = (&self.name, tags(labels));
        if self.kind == Some(Kind::Gauge) {
            let line = format!("{name}:{value}|g{tags}");
            return self.put(&line);
        }
        let key = format!("{name}{tags}");
        let delta = self.delta(&key, value);
        if delta > 0 {
            let line = format!("{}:{delta}|c{tags}", self.name);
            self.count(&line, key, value);
        }
    }

    /// A timer for each bucket that has grown, of its upper bound, as if one of so many had been sampled.
    fn histogram(&mut self, labels: &[(&str, &str)], bounds_us: &[u64], counts: &[u64], _: u64) {
        let tags = tags(labels);
        // Nothing is known of those above but that they are.
        let last = bounds_us.last();
        let bounds = bounds_us.iter().chain(last);
        for (bucket, (count, bound)) in counts.iter().zip(bounds).enumerate() {
            let key = format!("{}{tags}|{bucket}", self.name);
            let delta = self.delta(&key, *count);
            if delta == 0 {
                continue;
            }
            let ms = *bound as f64 / 1000.0;
            let rate = match delta {
                1 => String::new(),
                more => format!("|@{}", 1.0 / more as f64),
            };
            let line = format!("{}:{ms}|ms{rate}{tags}", self.name);
            self.count(&line, key, *count);
        }
    }
}

/// `|#name:value,name:value`
fn tags(labels: &[(&str, &str)]) -> String {
    let mut shown = String::new();
    for (name, value) in labels {
        let opening = if shown.is_empty() { "|#" } else { "," };
        let value = &value[..value.floor_char_boundary(TAG_BYTES_MAX)];
        let value = value.replace(['|', ',', '#', '@', '\n'], "_");
        // Writing to a string cannot fail.
        let _ = write!(shown, "{opening}{name}:{value}");
    }
    shown
}

/// Notes in `deltas` what was sent.
async fn send(to: &str, datagrams: Vec<Datagram>, deltas: &mut Deltas) -> std::io::Result<()> {
    let mut addresses = tokio::net::lookup_host(to).await?;
    let to = addresses.next().ok_or(std::io::ErrorKind::NotFound)?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Else nobody says that nobody listens there.
    socket.connect(to).await?;
    for (place, datagram) in datagrams.into_iter().enumerate() {
        if place > 0 && place % BURST_DATAGRAMS == 0 {
            tokio::time::sleep(BURST_PAUSE).await;
        }
        socket.send(datagram.text.as_bytes()).await?;
        if let Some(refused) = socket.take_error()? {
            return Err(refused);
        }
        deltas.said(datagram);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is sent of rounds of counts of one counter, one gauge and one histogram of two buckets.
    fn said(rounds: &[(u64, u64, [u64; 2])]) -> Vec<String> {
        let mut deltas = Deltas::default();
        let round = |(counter, gauge, counts): &(u64, u64, [u64; 2])| {
            deltas.round += 1;
            deltas.family("a_total", Kind::Counter, "");
            deltas.sample(&[("listener", "in"), ("cluster", "x|y,z")], *counter);
            deltas.family("b", Kind::Gauge, "");
            deltas.sample(&[], *gauge);
            deltas.family("c_seconds", Kind::Histogram, "");
            deltas.histogram(&[], &[2500], counts, 7);
            let datagrams = std::mem::take(&mut deltas.datagrams);
            let texts: Vec<_> = datagrams.iter().map(|datagram| datagram.text.clone()).collect();
            datagrams.into_iter().for_each(|datagram| deltas.said(datagram));
            texts.join("\n")
        };
        rounds.iter().map(round).collect()
    }

    #[test]
    fn counters_are_sent_as_what_they_grew_by() {
        let got = said(&[(3, 1, [0, 1]), (3, 1, [0, 1]), (5, 0, [4, 3]), (1, 0, [4, 3])]);
        let tags = "|#listener:in,cluster:x_y_z";
        let expected = [
            format!("a_total:3|c{tags}\nb:1|g\nc:2.5|ms"),
            "b:1|g".to_owned(),
            format!("a_total:2|c{tags}\nb:0|g\nc:2.5|ms|@0.25\nc:2.5|ms|@0.5"),
            // It was forgotten, and began anew.
            format!("a_total:1|c{tags}\nb:0|g"),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn no_datagram_is_too_long() {
        let mut deltas = Deltas::default();
        deltas.family("a_total", Kind::Counter, "");
        let long = "ü".repeat(1000);
        for index in 0..100 {
            let name = index.to_string();
            deltas.sample(&[("listener", &*name), ("cluster", &*long)], 1);
        }
        assert!(deltas.datagrams.len() > 10);
        let is_short = |datagram: &Datagram| datagram.text.len() <= DATAGRAM_BYTES_MAX;
        assert!(deltas.datagrams.iter().all(is_short));
        let lines = deltas.datagrams.iter().flat_map(|datagram| datagram.text.lines());
        assert_eq!(lines.count(), 100);
    }

    #[tokio::test]
    async fn what_nobody_got_is_said_again() {
        let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = agent.local_addr().unwrap();
        drop(agent);
        let mut deltas = Deltas::default();
        let count = |deltas: &mut Deltas, value| {
            deltas.family("a_total", Kind::Counter, "");
            deltas.sample(&[], value);
            std::mem::take(&mut deltas.datagrams)
        };
        let datagrams = count(&mut deltas, 3);
        assert!(send(&to.to_string(), datagrams, &mut deltas).await.is_err());
        let datagrams = count(&mut deltas, 5);
        assert!(send("nowhere.invalid:1", datagrams, &mut deltas).await.is_err());
        let agent = UdpSocket::bind(to).await.unwrap();
        for (value, expected) in [(7, "a_total:7|c"), (8, "a_total:1|c")] {
            let datagrams = count(&mut deltas, value);
            send(&to.to_string(), datagrams, &mut deltas).await.unwrap();
            let mut said = [0; 64];
            let read = agent.recv(&mut said).await.unwrap();
            assert_eq!(std::str::from_utf8(&said[..read]), Ok(expected));
        }
    }
}
