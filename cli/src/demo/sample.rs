//! The sample application: says who it is, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Serves the demo's sample application.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  tombolo sample --name reviews --version-label v1 --cluster us-east --listen 127.0.1.11:9000")]
pub(crate) struct SampleArgs {
    #[arg(long, env = "TOMBOLO_SAMPLE_NAME")]
    name: String,
    #[arg(long = "version-label", env = "TOMBOLO_SAMPLE_VERSION")]
    version: String,
    #[arg(long, env = "TOMBOLO_SAMPLE_CLUSTER")]
    cluster: String,
    #[arg(long, env = "TOMBOLO_SAMPLE_LISTEN")]
    listen: SocketAddr,
}

/// What it answers to every request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) service: String,
    pub(super) version: String,
    pub(super) cluster: String,
}

pub(crate) async fn run(args: SampleArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}", args.listen))?;
    let answer = Answer {
        service: args.name,
        version: args.version,
        cluster: args.cluster,
    };
    let body = Bytes::from(serde_json::to_vec(&answer).context("write the answer")?);
    loop {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        let body = body.clone();
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let response = Response::builder()
                    .header("content-type", "application/json")
                    .body(Full::new(body.clone()));
                async move { Ok::<_, Infallible>(response.expect("invariant: a constant header is valid")) }
            });
            // A connection that breaks is its client's affair.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
