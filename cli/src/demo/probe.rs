//! One request on a connection of its own: is it there, and what does it say?

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The status of `GET path`.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    timeout(TIMEOUT, exchange(address, path))
        .await
        .context("no answer within a second")?
}

async fn exchange(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let exchange = async { anyhow::Ok(sender.send_request(request).await?.status().as_u16()) };
    tokio::select! {
        status = exchange => status,
        ended = connection => Err(ended.err().map_or_else(|| anyhow::anyhow!("closed without an answer"), Into::into)),
    }
}
