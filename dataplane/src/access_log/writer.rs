//! Where lines go. A worker gathers them in a buffer of its own for each destination, and hands the buffer to the destination's
//! thread when it is full or a second old. When that thread is behind, whole buffers are dropped, and their lines counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::take;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// A buffer is handed on when it has so much: the writer's calls are few, and what waits is soon written.
const BATCH_BYTES: usize = 64 * 1024;
/// Buffers that may wait for a writer; about 4 MB.
const QUEUE_BATCHES: usize = 64;
/// How long a line may lie in its buffer.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// A destination that got nothing for so many intervals is let go, with its thread and its file: configurations come and go.
const IDLE_INTERVALS_MAX: u32 = 60;
/// How long the end of a process waits for all writers.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    Stdout,
    Stderr,
    /// Appended to.
    File(Arc<Path>),
}

impl Destination {
    /// Of a file, or of an output by one of its file names: opened a second time, it would have two writers that mix their lines.
    pub(crate) fn of_path(path: &Path) -> Self {
        match path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Self::Stdout,
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Self::Stderr,
            _ => Self::File(path.into()),
        }
    }
}

/// All destinations of a process.
#[derive(Debug)]
pub(crate) struct Process {
    own: Option<Destination>,
    metrics: Arc<Metrics>,
    writers: Mutex<BTreeMap<Destination, Arc<Writer>>>,
}

/// The way to a destination's thread, which ends when this does.
#[derive(Debug)]
struct Writer {
    orders: SyncSender<Order>,
    /// Memory of buffers that were written.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    is_writing: Arc<AtomicBool>,
    /// Lines that were handed on and are neither written nor dropped.
    waiting: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// A writer's thread, as it sees it.
struct Thread {
    destination: Destination,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    is_writing: Arc<AtomicBool>,
    waiting: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

enum Order {
    Write(Batch),
    /// Answer when all before this is written.
    Finish(SyncSender<()>),
}

/// Whole lines.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

/// A worker's buffers.
pub(super) struct Sinks {
    process: Arc<Process>,
    sinks: Rc<RefCell<Vec<Rc<Sink>>>>,
}

struct Sink {
    destination: Destination,
    writer: Arc<Writer>,
    batch: RefCell<Batch>,
    /// Since something was last written, in intervals.
    idle: Cell<u32>,
}

impl Process {
    /// Finds out whether the own destination can be had.
    pub(super) fn start(own: Option<Destination>, metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        if let Some(Destination::File(path)) = &own {
            append(path)?;
        }
        Ok(Arc::new(Self {
            own,
            metrics,
            writers: Mutex::default(),
        }))
    }

    pub(super) fn own(&self) -> Option<Destination> {
        self.own.clone()
    }

    fn writer(&self, destination: &Destination) -> Arc<Writer> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let started = || Writer::start(destination.clone(), &self.metrics);
        Arc::clone(writers.entry(destination.clone()).or_insert_with(started))
    }

    /// Lets go of those that no worker uses. One that stands still would keep its thread all the same, and whoever comes next
    /// would start another one to stand beside it.
    fn tidy(&self) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers
            .retain(|_, writer| Arc::strong_count(writer) > 1 || writer.is_writing.load(Ordering::Relaxed));
    }

    /// Waits until what was handed on is written, for a moment, and says what is not by then: its thread may stand still for ever.
    pub(crate) fn finish(&self) {
        let writers = take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + FINISH_TIMEOUT;
        let asked: Vec<_> = writers
            .iter()
            .map(|(to, writer)| (to, writer, writer.ask()))
            .collect();
        for (destination, writer, is_written) in asked {
            let left = until.saturating_duration_since(Instant::now());
            let is_written = is_written.is_some_and(|is_written| is_written.recv_timeout(left).is_ok());
            let lines = writer.waiting.load(Ordering::Relaxed);
            if !is_written && lines > 0 {
                self.metrics
                    .access_log_dropped
                    .fetch_add(lines, Ordering::Relaxed);
                tracing::error!(
                    ?destination,
                    lines,
                    "lines of the access log are lost: what they are written to takes none; check its disk, or who reads it"
                );
            }
        }
    }
}

impl Writer {
    fn start(destination: Destination, metrics: &Arc<Metrics>) -> Arc<Self> {
        let (orders, queue) = sync_channel(QUEUE_BATCHES);
        let writer = Arc::new(Self {
            orders,
            spare: Arc::default(),
            is_writing: Arc::default(),
            waiting: Arc::default(),
            metrics: Arc::clone(metrics),
        });
        let thread = Thread {
            destination,
            spare: Arc::clone(&writer.spare),
            is_writing: Arc::clone(&writer.is_writing),
            waiting: Arc::clone(&writer.waiting),
            metrics: Arc::clone(metrics),
        };
        let started = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || thread.write(&queue));
        if let Err(error) = started {
            // Without it the queue is closed, and what is sent to it is counted.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot start a writer of the access log"
            );
        }
        writer
    }

    /// Hands a batch on, and leaves an empty one.
    fn take(&self, batch: &mut Batch) {
        let full = take(batch);
        if full.lines == 0 {
            return;
        }
        let lines = full.lines;
        self.waiting.fetch_add(lines, Ordering::Relaxed);
        if self.orders.try_send(Order::Write(full)).is_err() {
            self.waiting.fetch_sub(lines, Ordering::Relaxed);
            self.metrics
                .access_log_dropped
                .fetch_add(lines, Ordering::Relaxed);
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        batch.bytes = spare.pop().unwrap_or_default();
    }

    /// Is answered when all that was handed on is written; `None` where there is no place to ask.
    fn ask(&self) -> Option<Receiver<()>> {
        let (written, is_written) = sync_channel(1);
        let asked = self.orders.try_send(Order::Finish(written));
        asked.is_ok().then_some(is_written)
    }
}

impl Sinks {
    pub(super) fn new(process: Arc<Process>) -> Self {
        Self {
            process,
            sinks: Rc::default(),
        }
    }

    /// A line for `destination`, which `line` writes to the end of what it is given.
    pub(super) fn write(&self, destination: &Destination, line: impl FnOnce(&mut Vec<u8>)) {
        let sinks = self.sinks.borrow();
        if let Some(sink) = sinks.iter().find(|sink| sink.destination == *destination) {
            return sink.write(line);
        }
        drop(sinks);
        let sink = Rc::new(Sink {
            destination: destination.clone(),
            writer: self.process.writer(destination),
            batch: RefCell::default(),
            idle: Cell::new(0),
        });
        sink.write(line);
        self.sinks.borrow_mut().push(Rc::clone(&sink));
        tokio::task::spawn_local(flush(sink, Rc::clone(&self.sinks), Arc::clone(&self.process)));
    }

    pub(super) fn flush(&self) {
        self.sinks.borrow().iter().for_each(|sink| sink.flush());
    }
}

impl Sink {
    fn write(&self, line: impl FnOnce(&mut Vec<u8>)) {
        let mut batch = self.batch.borrow_mut();
        line(&mut batch.bytes);
        batch.lines += 1;
        if batch.bytes.len() >= BATCH_BYTES {
            self.idle.set(0);
            self.writer.take(&mut batch);
        }
    }

    fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.lines > 0 {
            self.idle.set(0);
        }
        self.writer.take(&mut batch);
    }
}

/// Flushes a sink for as long as it is in use.
async fn flush(sink: Rc<Sink>, all: Rc<RefCell<Vec<Rc<Sink>>>>, process: Arc<Process>) {
    while sink.idle.get() < IDLE_INTERVALS_MAX {
        sink.idle.set(sink.idle.get() + 1);
        tokio::time::sleep(FLUSH_INTERVAL).await;
        sink.flush();
    }
    all.borrow_mut().retain(|other| !Rc::ptr_eq(other, &sink));
    drop(sink);
    process.tidy();
}

impl Thread {
    /// Writes what is queued, until every worker has let go of it. A destination that cannot be had is tried again with each
    /// batch.
    fn write(&self, queue: &Receiver<Order>) {
        let mut outlet = Outlet::default();
        let mut failing = false;
        while let Ok(order) = queue.recv() {
            let mut batch = match order {
                Order::Write(batch) => batch,
                Order::Finish(written) => {
                    // Who asked may have gone.
                    let _ = written.try_send(());
                    continue;
                }
            };
            self.is_writing.store(true, Ordering::Relaxed);
            let written = outlet.put(&self.destination, &batch.bytes);
            self.is_writing.store(false, Ordering::Relaxed);
            self.waiting.fetch_sub(batch.lines, Ordering::Relaxed);
            match written {
                Ok(()) => failing = false,
                Err(Failed { written, error }) => {
                    outlet.file = None;
                    self.metrics
                        .access_log_dropped
                        .fetch_add(lost(&batch, written), Ordering::Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            destination = ?self.destination,
                            error = &error as &dyn std::error::Error,
                            "cannot write the access log: check its folder, permissions and space"
                        );
                    }
                }
            }
            batch.bytes.clear();
            // One that grew for a long line is not kept.
            if batch.bytes.capacity() <= 2 * BATCH_BYTES {
                let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
                if spare.len() < QUEUE_BATCHES {
                    spare.push(batch.bytes);
                }
            }
        }
    }
}

/// A destination, as what was last written has left it.
#[derive(Default)]
struct Outlet {
    file: Option<File>,
    /// The last line broke off.
    torn: bool,
}

/// So many bytes went out before this.
struct Failed {
    written: usize,
    error: io::Error,
}

impl Outlet {
    fn put(&mut self, destination: &Destination, bytes: &[u8]) -> Result<(), Failed> {
        let Self { file, torn } = self;
        match (destination, file) {
            (Destination::Stdout, _) => put(&mut io::stdout().lock(), torn, bytes),
            (Destination::Stderr, _) => put(&mut io::stderr().lock(), torn, bytes),
            (Destination::File(_), Some(file)) => put(file, torn, bytes),
            (Destination::File(path), none) => {
                let file = append(path).map_err(|error| Failed { written: 0, error })?;
                put(none.insert(file), torn, bytes)
            }
        }
    }
}

/// Writes whole lines, behind the end of one that broke off.
fn put(out: &mut impl Write, torn: &mut bool, bytes: &[u8]) -> Result<(), Failed> {
    if *torn {
        put_all(out, b"\n").map_err(|failed| Failed { written: 0, ..failed })?;
        *torn = false;
    }
    put_all(out, bytes).inspect_err(|failed| {
        let last = bytes[..failed.written].last();
        *torn = last.is_some_and(|last| *last != b'\n');
    })
}

fn put_all(out: &mut impl Write, bytes: &[u8]) -> Result<(), Failed> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => {
                let error = io::ErrorKind::WriteZero.into();
                return Err(Failed { written, error });
            }
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failed { written, error }),
        }
    }
    out.flush().map_err(|error| Failed { written, error })
}

/// How many lines did not go out whole; a format may have several ends of a line, or none.
fn lost(batch: &Batch, written: usize) -> u64 {
    let ends = batch.bytes[..written].iter().filter(|byte| **byte == b'\n');
    batch.lines.saturating_sub(ends.count() as u64).max(1)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sinks(path: &Path) -> (Sinks, Destination, Arc<Process>) {
        let destination = Destination::File(path.into());
        let process = Process::start(None, Arc::default()).unwrap();
        (Sinks::new(Arc::clone(&process)), destination, process)
    }

    fn dropped(process: &Process) -> u64 {
        process.metrics.access_log_dropped.load(Ordering::Relaxed)
    }

    async fn local<T>(test: impl Future<Output = T>) -> T {
        tokio::task::LocalSet::new().run_until(test).await
    }

    #[tokio::test]
    async fn lines_are_written_when_they_are_many_or_old_or_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let read = || std::fs::read(&path).unwrap_or_default().len();
        let written = async |bytes: usize| {
            let began = Instant::now();
            while read() != bytes {
                assert!(began.elapsed() < Duration::from_secs(10), "{} of {bytes}", read());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        local(async {
            let (sinks, destination, process) = sinks(&path);
            let line = |out: &mut Vec<u8>| out.extend_from_slice(&[b'x'; 1024]);
            sinks.write(&destination, line);
            assert_eq!(read(), 0, "one line is not worth a call");
            for _ in 1..64 {
                sinks.write(&destination, line);
            }
            written(64 * 1024).await;
            sinks.write(&destination, line);
            written(65 * 1024).await;
            sinks.write(&destination, line);
            sinks.flush();
            process.finish();
            assert_eq!(read(), 66 * 1024);
            assert_eq!(dropped(&process), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_writer_cannot_take_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let fifo = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(fifo.success());
        local(async {
            // Nobody reads: the writer stands still with its first batch in hand.
            let (sinks, destination, process) = sinks(&path);
            let batches = u64::try_from(QUEUE_BATCHES).unwrap() + 10;
            let began = Instant::now();
            for _ in 0..batches {
                sinks.write(&destination, |out| out.extend_from_slice(&[b'x'; BATCH_BYTES]));
            }
            assert!(began.elapsed() < Duration::from_secs(5), "nobody waits");
            // One may have left the queue.
            assert!(matches!(dropped(&process), 9 | 10), "{}", dropped(&process));
            // All of the queue, and what is in hand, is lost, and the end of the process does not wait for it.
            let began = Instant::now();
            process.finish();
            assert!(began.elapsed() < 2 * FINISH_TIMEOUT);
            assert_eq!(dropped(&process), batches);
            // Lets the writer go on to its end.
            File::open(path).unwrap();
        })
        .await;
    }

    /// Takes so many bytes, then fails.
    struct Full {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_broke_off_tears_no_other() {
        let lines = b"one\ntwo\n";
        for (room, lines_lost, expected) in [
            (0, 2, "one\ntwo\n"),
            (2, 2, "on\none\ntwo\n"),
            (4, 1, "one\none\ntwo\n"),
            (7, 1, "one\ntwo\none\ntwo\n"),
        ] {
            let mut out = Full {
                taken: Vec::new(),
                room,
            };
            let mut torn = false;
            let failed = put(&mut out, &mut torn, lines).err().unwrap();
            let batch = Batch {
                bytes: lines.to_vec(),
                lines: 2,
            };
            assert_eq!(lost(&batch, failed.written), lines_lost, "{room}");
            // Still full: what is torn stays it.
            assert_eq!(put(&mut out, &mut torn, lines).err().unwrap().written, 0);
            out.room = 100;
            assert!(put(&mut out, &mut torn, lines).is_ok());
            assert_eq!(String::from_utf8(out.taken).unwrap(), expected, "{room}");
        }
    }

    #[tokio::test]
    async fn a_writer_that_stands_still_is_handed_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let fifo = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(fifo.success());
        let process = Process::start(None, Arc::default()).unwrap();
        let held = || process.writers.lock().unwrap().len();
        let destination = Destination::File(path.as_path().into());
        let writer = process.writer(&destination);
        writer.take(&mut Batch {
            bytes: b"line\n".to_vec(),
            lines: 1,
        });
        let is_writing = Arc::clone(&writer.is_writing);
        let until = async |expected| {
            let changed = async {
                while is_writing.load(Ordering::Relaxed) != expected {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), changed)
                .await
                .unwrap();
        };
        until(true).await;
        drop(writer);
        process.tidy();
        assert_eq!(held(), 1);
        // Whoever reads lets it go on.
        let _reader = File::open(&path).unwrap();
        until(false).await;
        process.tidy();
        assert_eq!(held(), 0);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_had_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/log");
        local(async {
            let (sinks, destination, process) = sinks(&path);
            let line = |out: &mut Vec<u8>| out.extend_from_slice(b"line\n");
            sinks.write(&destination, line);
            sinks.write(&destination, line);
            sinks.flush();
            process.writer(&destination);
            process.finish();
            assert_eq!(dropped(&process), 2);
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            sinks.write(&destination, line);
            sinks.flush();
            let began = Instant::now();
            while std::fs::read(&path).unwrap_or_default() != b"line\n" {
                assert!(began.elapsed() < Duration::from_secs(10));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}
