//! Active health checks: one task per host and process, on the main runtime; the workers read the result. What a
//! row of results means is a pure function.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, response};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::{HealthCheck, HttpProbe, Probe, Protocol};
use crate::overload::is_own_want;
use crate::proxy_protocol;
use crate::snapshot::{Health, Host};

mod grpc;

pub(crate) use grpc::GrpcProbe;

/// A health endpoint's answer is read to its end up to this size so that the connection can be used again.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// Called on the check's task when a host's health has changed.
pub(crate) type OnChange = Arc<dyn Fn(&Host, Health) + Send + Sync>;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// A refused or broken connection, or an unexpected status: proof enough at once.
    Fail,
    /// No answer in time: counts towards the threshold.
    Timeout,
}

/// A host's health and the row of results since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streak {
    health: Health,
    length: u32,
}

/// A connection to the checked host, kept from one check to the next.
pub(crate) enum Session {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What of an answer tells how the host is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Head,
    Body,
}

/// A host's answer.
pub(crate) struct Told {
    pub(crate) head: response::Parts,
    /// None where it is too large, or broke off.
    pub(crate) body: Option<Collected<Bytes>>,
}

/// With TLS, or without.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Http(#[source] hyper::Error),
}

impl ProbeError {
    /// What it says of the host, if anything.
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Connect(error) if is_own_want(error) => None,
            Self::Connect(_) | Self::Http(_) => Some(Verdict::Fail),
        }
    }
}

impl Streak {
    pub(crate) fn new() -> Self {
        Self {
            health: Health::Unchecked,
            length: 0,
        }
    }

    /// The streak after `verdict`. As docs/xds.md has it: the first result decides; then a failure is enough, timeouts
    /// and passes need their thresholds.
    pub(crate) fn after(self, verdict: Verdict, check: &HealthCheck) -> Self {
        let settled = |health| Self { health, length: 0 };
        let threshold = match (self.health, verdict) {
            (Health::Unchecked, Verdict::Pass) => return settled(Health::Healthy),
            (Health::Unchecked, _) => return settled(Health::Unhealthy),
            (Health::Healthy, Verdict::Pass) | (Health::Unhealthy, Verdict::Fail | Verdict::Timeout) => {
                return settled(self.health);
            }
            (Health::Healthy, Verdict::Fail) => return settled(Health::Unhealthy),
            (Health::Healthy, Verdict::Timeout) => check.unhealthy_threshold,
            (Health::Unhealthy, Verdict::Pass) => check.healthy_threshold,
        };
        let length = self.length + 1;
        match self.health {
            Health::Healthy if length >= threshold => settled(Health::Unhealthy),
            Health::Unhealthy if length >= threshold => settled(Health::Healthy),
            _ => Self { length, ..self },
        }
    }
}

/// Checks `host` until the task is aborted.
pub(crate) async fn watch(
    host: Arc<Host>,
    check: HealthCheck,
    traffic: Arc<AtomicBool>,
    on_change: OnChange,
) {
    // What cannot be asked yet says nothing of the host.
    if let Some(tls) = &host.tls {
        tls.ready().await;
    }
    let mut streak = Streak::new();
    let mut session = None;
    loop {
        // On the heap, so that the many that wait for their next check hold no room for one.
        let probing = Box::pin(probe(&host, &check.probe, &mut session));
        let verdict = match tokio::time::timeout(check.timeout, probing).await {
            Ok(Ok(true)) => Some(Verdict::Pass),
            Ok(Ok(false)) => Some(Verdict::Fail),
            Ok(Err(error)) => {
                tracing::debug!(cluster = %host.cluster, host = %host.address, error = &error as &dyn std::error::Error, "health check failed");
                session = None;
                error.verdict()
            }
            Err(_) => {
                session = None;
                Some(Verdict::Timeout)
            }
        };
        let before = streak.health;
        streak = verdict.map_or(streak, |verdict| streak.after(verdict, &check));
        if let (Some(Verdict::Pass), Health::Healthy, Some(record)) = (verdict, streak.health, &host.record) {
            record.check_passed();
        }
        if let Some(verdict) = verdict
            && streak.health != before
        {
            host.set_health(streak.health);
            tracing::info!(cluster = %host.cluster, host = %host.address, health = streak.health.word(), ?verdict, "host changed");
            on_change(&host, streak.health);
        }
        let idle = !traffic.load(Ordering::Relaxed);
        tokio::time::sleep(if idle {
            check.no_traffic_interval
        } else {
            check.interval
        })
        .await;
    }
}

/// Whether the host answers as expected.
async fn probe(host: &Host, probe: &Probe, session: &mut Option<Session>) -> Result<bool, ProbeError> {
    match probe {
        Probe::Tcp => connect(host).await.map(|_| true).map_err(ProbeError::Connect),
        Probe::Http(http) => {
            let told = ask(host, http.protocol, session, Wanted::Head, || request(host, http)).await?;
            let status = told.head.status.as_u16();
            Ok(http.expected.iter().any(|range| range.contains(&status)))
        }
        Probe::Grpc(probe) => ask(host, Protocol::Http2, session, Wanted::Body, || {
            probe.request(host)
        })
        .await
        .map(grpc::serves),
    }
}

/// As requests do, with TLS if the cluster has it.
pub(crate) async fn connect(host: &Host) -> std::io::Result<Box<dyn Connection>> {
    let mut stream = TcpStream::connect(host.address).await?;
    if let Some(version) = host.greeting {
        proxy_protocol::tell(&mut stream, version, None).await?;
    }
    match &host.tls {
        None => Ok(Box::new(stream)),
        Some(tls) => Ok(Box::new(tls.connect(host.address.ip(), stream).await?)),
    }
}

/// A kept connection may have been closed meanwhile, which says nothing about the host.
pub(crate) async fn ask(
    host: &Host,
    protocol: Protocol,
    session: &mut Option<Session>,
    wanted: Wanted,
    request: impl Fn() -> Request<Full<Bytes>>,
) -> Result<Told, ProbeError> {
    let kept = session.take().filter(|session| session.is_ready());
    let reused = kept.is_some();
    let opened = match kept {
        Some(kept) => kept,
        None => Session::open(host, protocol).await?,
    };
    let answered = match opened.ask(request()).await {
        Err(_) if reused => Session::open(host, protocol).await?.ask(request()).await,
        Ok((Told { body: None, .. }, _)) if reused && wanted == Wanted::Body => {
            Session::open(host, protocol).await?.ask(request()).await
        }
        answered => answered,
    };
    let (told, kept) = answered?;
    *session = kept;
    Ok(told)
}

fn request(host: &Host, probe: &HttpProbe) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    let headers = request.headers_mut();
    user_agent(headers);
    for (name, value) in &probe.headers {
        headers.insert(name.clone(), value.clone());
    }
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(probe.path.clone());
    match probe.protocol {
        Protocol::Http1 => {
            headers.insert(http::header::HOST, probe.host.clone());
        }
        Protocol::Http2 => {
            uri.scheme = Some(host.scheme());
            uri.authority = Some(authority(&probe.host, host));
        }
    }
    *request.uri_mut() =
        Uri::from_parts(uri).expect("invariant: a path, or scheme, authority and path, are a URI");
    request
}

fn user_agent(headers: &mut HeaderMap) {
    let name = HeaderValue::from_static("tombolo-health-check");
    headers.insert(http::header::USER_AGENT, name);
}

/// What is asked for, or else the host's address.
fn authority(wanted: &HeaderValue, host: &Host) -> http::uri::Authority {
    wanted.as_bytes().try_into().unwrap_or_else(|_| {
        host.address
            .to_string()
            .parse()
            .expect("invariant: a socket address is an authority")
    })
}

impl Session {
    async fn open(host: &Host, protocol: Protocol) -> Result<Self, ProbeError> {
        let io = TokioIo::new(connect(host).await.map_err(ProbeError::Connect)?);
        // The connection's task ends with its sender.
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(ProbeError::Http)?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(ProbeError::Http)?;
                tokio::spawn(connection);
                Ok(Self::Http2(sender))
            }
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    /// The answer, with the connection if it can be used again.
    async fn ask(mut self, request: Request<Full<Bytes>>) -> Result<(Told, Option<Self>), ProbeError> {
        let (head, body) = self.send(request).await.map_err(ProbeError::Http)?.into_parts();
        let body = Limited::new(body, BODY_MAX_BYTES).collect().await.ok();
        let kept = body.is_some().then_some(self);
        Ok((Told { head, body }, kept))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_check_without_a_socket_says_nothing_of_the_host() {
        use rustix::io::Errno;
        for (error, expected) in [
            (Errno::MFILE, None),
            (Errno::NFILE, None),
            (Errno::CONNREFUSED, Some(Verdict::Fail)),
        ] {
            assert_eq!(ProbeError::Connect(error.into()).verdict(), expected, "{error}");
        }
    }

    #[test]
    fn verdicts_move_health_as_the_contract_says() {
        let check = HealthCheck {
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            no_traffic_interval: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            probe: Probe::Tcp,
        };
        // P pass, F fail, T timeout → health after the last.
        let cases = [
            ("", Health::Unchecked),
            ("P", Health::Healthy),
            ("F", Health::Unhealthy),
            ("T", Health::Unhealthy),
            ("PF", Health::Unhealthy),
            ("PT", Health::Healthy),
            ("PTT", Health::Healthy),
            ("PTTT", Health::Unhealthy),
            ("PTTPTT", Health::Healthy),
            ("PFP", Health::Unhealthy),
            ("PFPP", Health::Healthy),
            ("PFPFP", Health::Unhealthy),
            ("FPTP", Health::Unhealthy),
            ("FPP", Health::Healthy),
        ];
        for (verdicts, expected) in cases {
            let streak = verdicts.chars().fold(Streak::new(), |streak, verdict| {
                let verdict = match verdict {
                    'P' => Verdict::Pass,
                    'F' => Verdict::Fail,
                    _ => Verdict::Timeout,
                };
                streak.after(verdict, &check)
            });
            assert_eq!(streak.health, expected, "{verdicts}");
        }
    }
}
