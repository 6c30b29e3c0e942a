//! A plain HTTP client for tests: what was sent is what arrives, nothing is retried, and nothing waits for ever.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any answer that a test waits for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that is kept, as an application keeps it; closed on drop.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    address: SocketAddr,
    io: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub version: Version,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Connection {
    /// # Errors
    /// Nobody listens there, or it does not speak this version.
    pub async fn open(address: SocketAddr, version: Version) -> Result<Connection> {
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            if version == Version::HTTP_2 {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                let io = tokio::spawn(async { drop(connection.await) });
                return Ok((Sender::Http2(sender), io));
            }
            let (sender, connection) = http1::handshake(io).await?;
            let io = tokio::spawn(async { drop(connection.await) });
            anyhow::Ok((Sender::Http1(sender), io))
        };
        let (sender, io) = timeout(REPLY_TIMEOUT, opening)
            .await
            .context("connecting takes too long")?
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Connection { sender, address, io })
    }

    /// Sends a request whose URI is a path; without a `host` header it gets the address.
    ///
    /// # Errors
    /// The connection breaks, or no answer comes within 20 s.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Reply> {
        let host = request.headers_mut().remove(header::HOST).map_or_else(
            || self.address.to_string(),
            |host| String::from_utf8_lossy(host.as_bytes()).into_owned(),
        );
        let exchange = async {
            let response = match &mut self.sender {
                Sender::Http1(sender) => {
                    request.headers_mut().insert(header::HOST, host.parse()?);
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => {
                    let path = request
                        .uri()
                        .path_and_query()
                        .context("the request has no path")?;
                    *request.uri_mut() = format!("http://{host}{path}").parse()?;
                    *request.version_mut() = Version::HTTP_2;
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            Reply::read(response).await
        };
        timeout(REPLY_TIMEOUT, exchange)
            .await
            .context("no answer in time")?
            .with_context(|| format!("no answer from {}", self.address))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.io.abort();
    }
}

impl Reply {
    async fn read(response: Response<Incoming>) -> Result<Reply> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("the body broke off")?;
        Ok(Reply {
            version: head.version,
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when it is absent.
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).map(|value| value.as_bytes());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }

    /// # Errors
    /// The status is another; the text says what was answered.
    pub fn expect(self, status: StatusCode) -> Result<Reply> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As for [`Connection::open`] and [`Connection::send`].
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Reply> {
    let version = request.version();
    Connection::open(address, version).await?.send(request).await
}

/// # Errors
/// As for [`send`].
pub async fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    let request = Request::get(path).body(Full::default()).context("bad path")?;
    send(address, request).await
}
