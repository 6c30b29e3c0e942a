//! Tiny applications behind the proxies: they do what the request says, tell what they have seen, and can be taken down
//! and brought back at the same address.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// The header that tells an application what to do; see [`Wish`].
pub const WISH: &str = "x-wish";
/// Names a request through all its tries.
pub const KEY: &str = "x-key";

/// Piece by piece, so that a proxy that buffers whole bodies is seen to.
const PIECE_BYTES: usize = 64 * 1024;

/// Applications that share a memory.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    seen: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

/// One instance of a service, answering HTTP/1.1 and HTTP/2; gone on drop.
#[derive(Debug)]
pub struct Application {
    name: String,
    address: SocketAddr,
    applications: Applications,
    serving: Option<JoinHandle<()>>,
}

/// What a request asks of the application. Without a wish it is answered with 200 and a JSON document of what
/// arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Tell,
    /// `status=N`: answer so.
    Status(u16),
    /// `first=N`: answer so on the first try, and tell on those that follow.
    First(u16),
    /// `limited=N`: the same, as what another proxy has limited.
    Limited(u16),
    /// `call=N`: a call's failure with that status on the first try, and tell on those that follow.
    Call(u8),
    /// `bytes=N`: a body of so many bytes.
    Bytes(usize),
    /// `echo`: the request's body, as it comes in.
    Echo,
    /// `trailers`: tell, and end with a trailer.
    Trailers,
    /// `cors`: tell, and let pages of any origin read it.
    Cors,
    /// `grpc`: the messages of the request, as a call that went well.
    Grpc,
    /// `switch`: to the protocol that the request asks for, which is spoken no more than that.
    Switch,
    /// `hang`: never answer.
    Hang,
}

type Body = BoxBody<Bytes, hyper::Error>;

impl Applications {
    /// Starts an instance; `name` is how it signs its answers.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(&self, name: &str, address: SocketAddr) -> Result<Application> {
        let mut application = Application {
            name: name.to_owned(),
            address,
            applications: self.clone(),
            serving: None,
        };
        application.bring_up().await?;
        Ok(application)
    }

    /// The names of the instances that a request has reached, try by try.
    pub fn tries(&self, key: &str) -> Vec<String> {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Notes a try and tells which it was, from 1. What has no key is not counted.
    fn note(&self, key: Option<&str>, name: &str) -> usize {
        let Some(key) = key else { return 1 };
        let mut seen = self.lock();
        let tries = seen.entry(key.to_owned()).or_default();
        tries.push(name.to_owned());
        tries.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Application {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Closes its port and every connection, as a process that dies does.
    pub async fn take_down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Its port is free once the task is gone.
            let _ = serving.await;
        }
    }

    /// Listens again.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn bring_up(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("cannot listen on {}", self.address))?;
        let (name, applications) = (self.name.clone(), self.applications.clone());
        self.serving = Some(tokio::spawn(serve(listener, name, applications)));
        Ok(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// Connections end with this future, as they are in its set.
async fn serve(listener: TcpListener, name: String, applications: Applications) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let _ = stream.set_nodelay(true);
        let (name, applications) = (name.clone(), applications.clone());
        let answer = service_fn(move |request| {
            let (name, applications) = (name.clone(), applications.clone());
            async move { Ok::<_, Infallible>(answer(request, &name, &applications).await) }
        });
        connections.spawn(async move {
            // A connection that breaks shows up at the client.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), answer)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, name: &str, applications: &Applications) -> Response<Body> {
    let text = |header: &str| {
        request
            .headers()
            .get(header)
            .and_then(|value| value.to_str().ok())
    };
    let attempt = applications.note(text(KEY), name);
    let wish = Wish::parse(text(WISH).unwrap_or_default());
    let mut response = match wish {
        Some(Wish::First(status)) if attempt == 1 => plain(status),
        Some(Wish::Limited(status)) if attempt == 1 => {
            with_header(plain(status), "x-envoy-ratelimited", "true")
        }
        Some(Wish::Call(code)) if attempt == 1 => {
            let call = with_header(
                Response::new(full(String::new())),
                "content-type",
                "application/grpc",
            );
            with_header(call, "grpc-status", &code.to_string())
        }
        Some(Wish::Tell | Wish::First(_) | Wish::Limited(_) | Wish::Call(_)) => tell(request, name).await,
        Some(Wish::Status(status)) => plain(status),
        Some(Wish::Bytes(count)) => Response::new(bytes(count)),
        Some(Wish::Echo) => Response::new(request.into_body().boxed()),
        Some(Wish::Trailers) => {
            let mut response = tell(request, name).await;
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = ended(body, "x-end", "yes");
            response
        }
        Some(Wish::Grpc) => {
            let body = ended(request.into_body(), "grpc-status", "0");
            with_header(Response::new(body), "content-type", "application/grpc")
        }
        Some(Wish::Switch) => {
            let protocol = text("upgrade").unwrap_or_default().to_owned();
            let mut response = with_header(Response::new(full(String::new())), "connection", "upgrade");
            response = with_header(response, "upgrade", &protocol);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
        }
        Some(Wish::Cors) => {
            let mut response = tell(request, name).await;
            for (name, value) in [
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
            ] {
                let value = http::HeaderValue::from_static(value);
                response.headers_mut().insert(name, value);
            }
            response
        }
        Some(Wish::Hang) => std::future::pending().await,
        None => plain(400),
    };
    if let Ok(name) = name.parse() {
        response.headers_mut().insert("x-answered-by", name);
    }
    response
}

impl Wish {
    fn parse(text: &str) -> Option<Wish> {
        let (verb, value) = text.split_once('=').unwrap_or((text, ""));
        match verb {
            "" => Some(Wish::Tell),
            "status" => value.parse().ok().map(Wish::Status),
            "first" => value.parse().ok().map(Wish::First),
            "limited" => value.parse().ok().map(Wish::Limited),
            "call" => value.parse().ok().map(Wish::Call),
            "bytes" => value.parse().ok().map(Wish::Bytes),
            "echo" => Some(Wish::Echo),
            "trailers" => Some(Wish::Trailers),
            "cors" => Some(Wish::Cors),
            "grpc" => Some(Wish::Grpc),
            "switch" => Some(Wish::Switch),
            "hang" => Some(Wish::Hang),
            _ => None,
        }
    }
}

/// What arrived, as JSON.
async fn tell(request: Request<Incoming>, name: &str) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in &head.headers {
        let line = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            // Several lines of one header are one value (RFC 9110, section 5.3).
            .and_modify(|lines| *lines = format!("{lines},{line}"))
            .or_insert_with(|| line.into_owned());
    }
    let host = head.uri.authority().map(ToString::to_string);
    let document = json!({
        "by": name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "host": host.or_else(|| headers.get("host").cloned()),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Response::new(full(document.to_string()))
}

fn plain(status: u16) -> Response<Body> {
    let mut response = Response::new(full(format!("status {status} as wished")));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    response
}

fn with_header(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed()
}

/// With a trailer at its end.
fn ended<B>(body: B, name: &'static str, value: &'static str) -> Body
where
    B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + Sync + 'static,
{
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static(name),
        http::HeaderValue::from_static(value),
    )]);
    body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()
}

fn bytes(count: usize) -> Body {
    let pieces = (0..count.div_ceil(PIECE_BYTES)).map(move |at| {
        let length = PIECE_BYTES.min(count - at * PIECE_BYTES);
        Ok(Frame::data(Bytes::from(vec![b'x'; length])))
    });
    StreamBody::new(stream::iter(pieces)).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        for (text, wish) in [
            ("", Some(Wish::Tell)),
            ("status=503", Some(Wish::Status(503))),
            ("first=503", Some(Wish::First(503))),
            ("limited=429", Some(Wish::Limited(429))),
            ("call=14", Some(Wish::Call(14))),
            ("bytes=10", Some(Wish::Bytes(10))),
            ("echo", Some(Wish::Echo)),
            ("grpc", Some(Wish::Grpc)),
            ("switch", Some(Wish::Switch)),
            ("status=x", None),
            ("dance", None),
        ] {
            assert_eq!(Wish::parse(text), wish, "{text}");
        }
    }
}
