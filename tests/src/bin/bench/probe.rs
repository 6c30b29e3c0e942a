//! Connections to the proxies, which are asked in turn who answers, on a thread of its own and with blocking I/O: a
//! timer of an event loop is too coarse for what is measured, and a client library takes its share of the cores. One
//! question is on its way at any time, so that the asking leaves the cores to what is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::oneshot;
use tombolo_tests::mesh::Part;

/// A change that takes longer has not arrived.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_micros(50);
const HEAD_BYTES_MAX: usize = 4096;

/// The asking end; the thread ends when it is dropped.
pub(crate) struct Probes {
    questions: mpsc::Sender<Question>,
}

struct Question {
    /// How the name of the instance begins that should answer.
    wanted: String,
    since: Instant,
    answer: oneshot::Sender<Result<Vec<Duration>>>,
}

/// To one proxy.
pub(crate) struct Connection {
    part: Part,
    stream: TcpStream,
    request: String,
    buffer: [u8; HEAD_BYTES_MAX],
}

impl Probes {
    pub(crate) fn start(mut connections: Vec<Connection>) -> Probes {
        let (questions, asked) = mpsc::channel::<Question>();
        thread::spawn(move || {
            for question in asked {
                let answer = arrivals(&mut connections, &question.wanted, question.since);
                // Nobody waits for it any more when the bench has been stopped.
                let _ = question.answer.send(answer);
            }
        });
        Probes { questions }
    }

    /// Asks until each proxy's answer comes from an instance whose name begins so; gives, for each, the time since
    /// then. A proxy is asked when its turn comes, so that a figure can only be too great.
    pub(crate) async fn until(&self, wanted: &str, since: Instant) -> Result<Vec<Duration>> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            wanted: wanted.to_owned(),
            since,
            answer,
        };
        self.questions
            .send(question)
            .ok()
            .context("the probes have ended")?;
        answered.await.context("the probes have ended")?
    }
}

fn arrivals(connections: &mut [Connection], wanted: &str, since: Instant) -> Result<Vec<Duration>> {
    let mut waiting: Vec<&mut Connection> = connections.iter_mut().collect();
    let mut arrivals = Vec::new();
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for connection in waiting {
            let by = connection
                .ask()
                .with_context(|| format!("through {}", connection.part))?;
            let elapsed = since.elapsed();
            if by.starts_with(wanted) {
                arrivals.push(elapsed);
                continue;
            }
            ensure!(
                elapsed < ARRIVAL_TIMEOUT,
                "{} still answers from {by:?} after {elapsed:?}",
                connection.part
            );
            still.push(connection);
            thread::park_timeout(PAUSE);
        }
        waiting = still;
    }
    Ok(arrivals)
}

impl Connection {
    /// `headers` end in CRLF each.
    pub(crate) fn open(part: Part, proxy: SocketAddr, headers: &str) -> Result<Connection> {
        let stream = TcpStream::connect(proxy).with_context(|| format!("cannot connect to {part}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ARRIVAL_TIMEOUT))?;
        Ok(Connection {
            part,
            stream,
            request: format!("GET / HTTP/1.1\r\n{headers}\r\n"),
            buffer: [0; HEAD_BYTES_MAX],
        })
    }

    /// One request; who answered it.
    fn ask(&mut self) -> Result<String> {
        self.stream.write_all(self.request.as_bytes())?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(
                read > 0,
                "the proxy closed the connection, or its answer is too long"
            );
            filled += read;
            if let Some(by) = parse(&self.buffer[..filled])? {
                return Ok(by);
            }
        }
    }
}

/// The instance that gave this answer; `None` while it is not whole.
fn parse(answer: &[u8]) -> Result<Option<String>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("answered {:?}", String::from_utf8_lossy(answer));
    }
    let header = |name: &str| {
        let mut headers = head.split("\r\n").filter_map(|line| line.split_once(": "));
        headers
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let length: usize = header("content-length")
        .context("the answer has no length")?
        .parse()
        .context("the answer's length is not a number")?;
    let by = header("x-answered-by").context("the answer does not say whose it is")?;
    Ok((answer.len() >= end + 4 + length).then(|| by.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Answered-By: a\r\n\r\nhi";
        for cut in [0, 10, 40, whole.len() - 1] {
            assert_eq!(parse(&whole.as_bytes()[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(parse(whole.as_bytes()).unwrap().as_deref(), Some("a"));
        for bad in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-answered-by: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
