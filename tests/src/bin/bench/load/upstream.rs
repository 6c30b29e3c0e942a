//! What the proxies of a bench forward to, on a thread of its own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{BODY, local};

/// Answers every request with what it carries, or with a kilobyte if that is nothing; gone on drop.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Upstream {
    /// One that speaks this version only.
    pub(crate) fn start(version: Version) -> Result<Upstream> {
        let (bound, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            local(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                // Nobody waits for the address any more when the bench has ended already.
                let _ = bound.send(listener.local_addr()?);
                tokio::select! {
                    served = serve(&listener, version) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Upstream {
            address: address.recv().context("the upstream cannot listen")?,
            _stop: stop,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: &TcpListener, version: Version) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let service = service_fn(answer);
        // A connection that breaks shows up at the client.
        if version == Version::HTTP_2 {
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
            tokio::task::spawn_local(connection);
        } else {
            tokio::task::spawn_local(http1::Builder::new().serve_connection(io, service));
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let grpc = request.headers().get(header::CONTENT_TYPE).cloned();
    let carried = request.into_body().collect().await?.to_bytes();
    let body = Full::new(if carried.is_empty() {
        Bytes::from_static(BODY)
    } else {
        carried
    });
    let Some(grpc) = grpc else {
        return Ok(Response::new(body.boxed()));
    };
    let mut ok = HeaderMap::new();
    ok.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(body.with_trailers(async move { Some(Ok(ok)) }).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    Ok(response)
}
