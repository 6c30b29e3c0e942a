//! The record of a connection that is passed on as it is: begun with it, and written when it has ended, however it does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{Ended, Log, Logs, Note};
use crate::arrival::Ends;
use crate::channel::Channel;
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
    client: SocketAddr,
    channel: Channel,
    end: End,
    retries: u32,
    /// Up and down.
    bytes: (u64, u64),
}

impl Passed {
    /// Nothing where nobody logs it.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        proxy: &Arc<TcpProxy>,
        ends: &Ends,
        channel: impl FnOnce() -> Channel,
    ) -> Option<Self> {
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
            client: ends.client,
            channel: channel(),
            // What nobody ends goes with the proxy.
            end: End::Drained,
            retries: 0,
            bytes: (0, 0),
        })
    }

    pub(crate) fn cluster(&mut self, name: &str) {
        self.note.cluster(name);
    }

    /// It is tried there.
    pub(crate) fn host(&mut self, host: SocketAddr) {
        self.retries += u32::from(self.note.host.is_some());
        self.note.host(host);
    }

    /// So many bytes more, up and down.
    pub(crate) fn moved(&mut self, up: u64, down: u64) {
        self.bytes.0 += up;
        self.bytes.1 += down;
    }

    pub(crate) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        let ended = Ended {
            status: 0,
            flags: self.end.flags(),
            took: self.began.elapsed(),
            retries: self.retries,
            bytes_received: self.bytes.0,
            bytes_sent: self.bytes.1,
            client: self.client,
            channel: &self.channel,
            code: None,
            trace: None,
        };
        let worker = &self.worker;
        worker
            .logs
            .write_passed(&self.proxy.logs, &self.note, &ended, &worker.exporter);
    }
}

impl Logs {
    fn write_passed(&self, logs: &[Log], note: &Note, ended: &Ended<'_>, exporter: &Exporter) {
        self.write_to(self.own_passed.iter().chain(logs), note, ended, exporter);
    }
}
