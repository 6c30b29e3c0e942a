//! How a connection begins: whose it is, which filter chain it has found, and TLS if that wants it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::drain::{Drain, lingered};
use super::{Counted, HANDSHAKE_TIMEOUT, Serving, WorkerListener};
use crate::arrival::{Arrival, Ends};
use crate::h1::Buffer;
use crate::original_dst::Redirected;
use crate::sni::{self, Hello, Seen};
use crate::stream::Stream;
use crate::tls::LiveTls;
use crate::worker::Worker;

/// A connection that has found its filter chain, and speaks TLS by now if it is to.
pub(super) struct Begun {
    pub(super) serving: Serving,
    pub(super) stream: Stream,
    pub(super) input: Buffer,
    pub(super) ends: Ends,
    /// What was asked for in TLS, where that was looked at.
    pub(super) server_name: Option<Box<str>>,
    pub(super) counted: Counted,
}

/// Nothing where a connection ends before it is known what serves it.
pub(super) async fn begin(
    worker: &Rc<Worker>,
    mut listener: Rc<WorkerListener>,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<Begun> {
    let mut counted = Counted::new(&listener.counters);
    let (address, mut arrival) = listener.running.borrow().arrival();
    let ends = stream
        .set_nodelay(true)
        .and_then(|()| Ends::new(&stream, peer, address));
    let mut ends = match ends {
        Ok(ends) => ends,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "connection ended before it began"
            );
            return None;
        }
    };
    let mut input = Buffer::new(&worker.buffers);
    let mut arrived = None;
    while let Some(arrives) = arrival.take() {
        let learning = learn(&listener.drain, &arrives, &mut ends, &mut stream, &mut input);
        arrived = Some(Instant::now());
        if Box::pin(learning).await.is_none() {
            listener.counters.unfit.add(1);
            return None;
        }
        if arrives.redirected == Redirected::HandedOver
            && ends.is_redirected
            && let Some(other) = worker
                .listener_at(ends.to)
                .filter(|other| !Rc::ptr_eq(other, &listener))
        {
            counted = Counted::new(&other.counters);
            listener = other;
            // What it was redirected from is known, and it is handed over once.
            let others = listener.running.borrow().arrival().1;
            arrival = others
                .filter(|others| others.proxy.is_some())
                .map(|others| Arrival {
                    redirected: Redirected::Unknown,
                    ..others
                });
        }
    }
    let first = listener.running.borrow().first_look(ends.to.port());
    let mut hello = None;
    if let Some(timeout) = first {
        let spent = arrived.map_or(Duration::ZERO, |since| since.elapsed());
        let timeout = timeout.map(|timeout| timeout.saturating_sub(spent));
        let looked = look(&listener.drain, timeout, &mut stream, &mut input);
        let Some(seen) = Box::pin(looked).await else {
            listener.counters.unfit.add(1);
            return None;
        };
        hello = seen;
    }
    // What has changed since it came is so for whoever begins only now.
    let chain = listener
        .running
        .borrow()
        .chosen(ends.to.port(), hello.as_ref())
        .cloned();
    let Some(chain) = chain else {
        listener.counters.unserved.add(1);
        return None;
    };
    let stream = match &chain.live.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let first = std::mem::replace(&mut input, Buffer::new(&worker.buffers));
            match Box::pin(answer_tls(chain.serving.drain(), tls, first, stream)).await {
                Ok(stream) => stream,
                Err(error) => {
                    listener.counters.unfit.add(1);
                    tracing::debug!(listener = %listener.name, error = &error as &dyn std::error::Error, "no TLS with a client");
                    return None;
                }
            }
        }
    };
    Some(Begun {
        serving: chain.serving.clone(),
        stream,
        input,
        ends,
        server_name: hello.and_then(|hello| hello.server_name),
        counted,
    })
}

/// Whose a connection is, and where it was to go.
async fn learn(
    drain: &Drain,
    arrival: &Arrival,
    ends: &mut Ends,
    stream: &mut TcpStream,
    input: &mut Buffer,
) -> Option<()> {
    tokio::select! {
        learnt = arrival.learn(ends, stream, input) => learnt,
        () = tokio::time::sleep(arrival.timeout.unwrap_or(Duration::MAX)) => None,
        () = lingered(drain) => None,
    }
}

/// What a connection begins with, left in `input`; `None` if it ends before that can be said, or takes too long.
async fn look(
    drain: &Drain,
    timeout: Option<Duration>,
    stream: &mut TcpStream,
    input: &mut Buffer,
) -> Option<Option<Hello>> {
    let looking = async {
        // Some of it may have come behind what it arrived with.
        if input.is_empty() {
            stream.readable().await.ok()?;
        }
        loop {
            match sni::look(input.filled()) {
                Seen::Part => {}
                Seen::Malformed => return None,
                Seen::Plain => return Some(None),
                Seen::Hello(hello) => return Some(Some(hello)),
            }
            if poll_fn(|cx| input.poll_fill(stream, cx)).await.ok()? == 0 {
                return None;
            }
        }
    };
    tokio::select! {
        looked = looking => looked,
        () = tokio::time::sleep(timeout.unwrap_or(Duration::MAX)) => None,
        () = lingered(drain) => None,
    }
}

async fn answer_tls(drain: &Drain, tls: &LiveTls, first: Buffer, stream: TcpStream) -> io::Result<Stream> {
    tokio::select! {
        answered = Stream::answer_tls(tls, first, stream) => answered,
        () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        () = lingered(drain) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}
