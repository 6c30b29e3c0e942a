//! Callers of an API on HTTP/1.1 keep-alive connections, each on its own errand, all on a thread of their own.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Longer than any answer over loopback takes, also on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What one client does, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    token: String,
    name: String,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    /// With the ETag that the one before was answered with.
    Write {
        etag: String,
        times: u64,
    },
    Read,
    /// A write that the caller has no right to.
    Denied,
}

/// One client for each errand.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    errands: Vec<Errand>,
    /// Between two requests of one client; as fast as it is answered without.
    pace: Option<Duration>,
}

impl Errand {
    pub(crate) fn write(token: &str, name: String) -> Errand {
        let etag = "*".to_owned();
        Errand::new(token, name, Act::Write { etag, times: 0 })
    }

    pub(crate) fn read(token: &str, name: String) -> Errand {
        Errand::new(token, name, Act::Read)
    }

    pub(crate) fn denied(token: &str, name: String) -> Errand {
        Errand::new(token, name, Act::Denied)
    }

    fn new(token: &str, name: String, act: Act) -> Errand {
        Errand {
            token: token.to_owned(),
            name,
            act,
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .uri(format!("/v1/{}", self.name))
            .header(header::HOST, "management")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        let (etag, times) = match &self.act {
            Act::Read => return Ok(request.body(Full::default())?),
            Act::Write { etag, times } => (etag.as_str(), *times),
            Act::Denied => ("*", 0),
        };
        let body = serde_json::json!({"name": self.name, "description": format!("written {times} times")});
        let request = request
            .method(Method::PUT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::IF_MATCH, etag);
        Ok(request.body(Full::from(body.to_string()))?)
    }

    async fn answered(&mut self, response: Response<Incoming>) -> Result<()> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let expected = match self.act {
            Act::Denied => StatusCode::FORBIDDEN,
            Act::Read | Act::Write { .. } => StatusCode::OK,
        };
        ensure!(
            parts.status == expected,
            "answered {}: {}",
            parts.status,
            String::from_utf8_lossy(&body)
        );
        match &mut self.act {
            Act::Write { etag, times } => {
                let next = parts
                    .headers
                    .get(header::ETAG)
                    .context("a write without its ETag")?;
                next.to_str()?.clone_into(etag);
                *times += 1;
            }
            Act::Read => {
                let name = format!("\"name\":\"{}\"", self.name);
                let found = body.windows(name.len()).any(|window| window == name.as_bytes());
                ensure!(found, "answered another row: {}", String::from_utf8_lossy(&body));
            }
            Act::Denied => {}
        }
        Ok(())
    }
}

impl Clients {
    pub(crate) fn each(errands: impl Iterator<Item = Errand>) -> Clients {
        Clients {
            errands: errands.collect(),
            pace: None,
        }
    }

    /// All of them together send at most so many requests per second.
    pub(crate) fn paced(mut self, per_second: u32) -> Clients {
        let clients = u32::try_from(self.errands.len()).unwrap_or(1);
        self.pace = Some(Duration::from_secs(1) * clients / per_second);
        self
    }

    /// Answers per second.
    ///
    /// # Errors
    /// Any request fails or is answered with what it should not be.
    pub(crate) async fn run(self, addr: SocketAddr, during: Duration) -> Result<f64> {
        let (done, outcome) = oneshot::channel();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let ran = runtime
                .context("cannot build a runtime")
                .and_then(|runtime| LocalSet::new().block_on(&runtime, self.run_all(addr, during)));
            drop(done.send(ran));
        });
        outcome.await.context("the clients' thread has ended")?
    }

    async fn run_all(self, addr: SocketAddr, during: Duration) -> Result<f64> {
        let mut senders = Vec::new();
        for errand in self.errands {
            senders.push((connect(addr).await?, errand));
        }
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for (sender, errand) in senders {
            clients.spawn_local(run_errand(sender, errand, self.pace, start + during));
        }
        let mut answers = 0;
        while let Some(ended) = clients.join_next().await {
            answers += ended.context("a client's task panicked")??;
        }
        Ok(answers as f64 / start.elapsed().as_secs_f64())
    }
}

async fn connect(addr: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(addr)
        .await
        .with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// How many answers it has had by `end`.
async fn run_errand(
    mut sender: SendRequest<Full<Bytes>>,
    mut errand: Errand,
    pace: Option<Duration>,
    end: Instant,
) -> Result<u64> {
    let mut ticks = pace.map(interval);
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    let mut answers = 0;
    while Instant::now() < end {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        sender.ready().await?;
        let request = errand.request()?;
        let answering = timeout(REPLY_TIMEOUT, sender.send_request(request));
        let response = answering.await.context("no answer in time")??;
        errand.answered(response).await?;
        answers += 1;
    }
    Ok(answers)
}
