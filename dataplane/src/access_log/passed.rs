//! The record of a connection that is passed on as it is: begun with it, and written when it has ended, however it does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Ended, Log, Logs, Note};
use crate::arrival::Ends;
use crate::config::TcpProxy;
use crate::otlp::Exporter;
use crate::tcp::End;
use crate::worker::Worker;

/// Written when it is dropped.
pub(crate) struct Passed {
    worker: Rc<Worker>,
    proxy: Arc<TcpProxy>,
    note: Box<Note>,
    began: Instant,
    ended: Ended,
}

impl Passed {
    /// Nothing where nobody logs it.
    pub(crate) fn begin(worker: &Rc<Worker>, proxy: &Arc<TcpProxy>, ends: &Ends) -> Option<Self> {
        if worker.logs.own_passed.is_none() && proxy.logs.is_empty() {
            return None;
        }
        let mut note = Box::new(Note::new());
        note.started = SystemTime::now();
        Some(Self {
            worker: Rc::clone(worker),
            proxy: Arc::clone(proxy),
            note,
            began: Instant::now(),
            ended: Ended {
                status: 0,
                // What nobody ends goes with the proxy.
                flags: End::Drained.flags(),
                took: Duration::ZERO,
                retries: 0,
                bytes_received: 0,
                bytes_sent: 0,
                client: ends.client,
                trace: None,
            },
        })
    }

    pub(crate) fn cluster(&mut self, name: &str) {
        self.note.cluster(name);
    }

    /// It is tried there.
    pub(crate) fn host(&mut self, host: SocketAddr) {
        self.ended.retries += u32::from(self.note.host.is_some());
        self.note.host(host);
    }

    /// So many bytes more, up and down.
    pub(crate) fn moved(&mut self, up: u64, down: u64) {
        self.ended.bytes_received += up;
        self.ended.bytes_sent += down;
    }

    pub(crate) fn end(mut self, end: End) {
        self.ended.flags = end.flags();
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.ended.took = self.began.elapsed();
        let worker = &self.worker;
        worker
            .logs
            .write_passed(&self.proxy.logs, &self.note, &self.ended, &worker.exporter);
    }
}

impl Logs {
    fn write_passed(&self, logs: &[Log], note: &Note, ended: &Ended, exporter: &Exporter) {
        self.write_to(self.own_passed.iter().chain(logs), note, ended, exporter);
    }
}
