//! One JSON line per request, written by a thread of its own: a worker never waits for a disk or a pipe. When the writer is
//! behind, lines are dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use serde::Serialize;

use crate::metrics::Metrics;

/// Lines that may wait for the writer; about 4 MB.
const QUEUE_LINES: usize = 8192;

/// Where access is logged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    /// Appended to.
    File(PathBuf),
}

/// A worker's end of the log.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogger {
    lines: SyncSender<Vec<u8>>,
    metrics: Arc<Metrics>,
}

/// One request.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// When the request's head was read, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) status: u16,
    pub(crate) duration_ms: f64,
    pub(crate) upstream_host: Option<String>,
    pub(crate) cluster: Option<&'a str>,
    pub(crate) retries: u32,
    pub(crate) request_id: &'a str,
    pub(crate) bytes_sent: u64,
    /// Why it went wrong, in Envoy's words: DPE NR UH UF UR UT DC FI UO URX, two of them with a comma.
    pub(crate) flags: &'a str,
}

/// Opens the log, or says why it cannot; `None` when it is off.
pub(crate) fn open(log: &AccessLog, metrics: &Arc<Metrics>) -> std::io::Result<Option<AccessLogger>> {
    let sink: Box<dyn Write + Send> = match log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(std::io::stdout()),
        AccessLog::File(path) => Box::new(append(path)?),
    };
    let (lines, queue) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write(&queue, sink))?;
    Ok(Some(AccessLogger {
        lines,
        metrics: Arc::clone(metrics),
    }))
}

impl AccessLogger {
    pub(crate) fn log(&self, entry: &Entry<'_>) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(line) {
            self.metrics.access_log_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn append(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes what is queued, and flushes whenever the queue is empty. Ends when every worker is gone.
fn write(queue: &Receiver<Vec<u8>>, sink: Box<dyn Write + Send>) {
    let mut sink = BufWriter::new(sink);
    while let Ok(first) = queue.recv() {
        let written = sink.write_all(&first).and_then(|()| {
            queue.try_iter().try_for_each(|line| sink.write_all(&line))?;
            sink.flush()
        });
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot write the access log"
            );
        }
    }
}
