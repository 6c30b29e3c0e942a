//! Requests that management itself sends to the world: one connection each, a deadline, and no redirects.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// From the name to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// What is asked for is small: a list of keys, or why something was refused.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Of an answer, in an error.
const SHOWN_CHARS_MAX: usize = 200;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    tls: Arc<ClientConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("cannot read the certificates of authorities in {path}: {reason}", path = path.display())]
    Authorities { path: PathBuf, reason: String },
    #[error("{0} is not an address: use http://HOST/… or https://HOST/…")]
    Address(String),
    #[error("{host} is no name of a host")]
    HostName {
        host: String,
        #[source]
        source: InvalidDnsNameError,
    },
    #[error("cannot connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} did not answer")]
    Exchange {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer of {host} is cut off or longer than {ANSWER_BYTES_MAX} bytes")]
    Answer { host: String },
    #[error("{host} answered {status}: {text}")]
    Refused {
        host: String,
        status: http::StatusCode,
        text: String,
    },
    #[error("{host} did not answer within {} s", DEADLINE.as_secs())]
    Late { host: String },
}

impl Outbound {
    /// Believes the public authorities, or those of `authorities`, a PEM file.
    pub(crate) fn new(authorities: Option<&Path>) -> Result<Outbound, OutboundError> {
        let mut roots = RootCertStore::empty();
        match authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let unusable = |reason: String| OutboundError::Authorities {
                    path: path.to_owned(),
                    reason,
                };
                let read =
                    CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
                for certificate in read {
                    let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                    roots
                        .add(certificate)
                        .map_err(|error| unusable(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(unusable("there is none".to_owned()));
                }
            }
        }
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Outbound { tls: Arc::new(tls) })
    }

    /// # Errors
    /// When nobody answers in time, or with anything but a status of success.
    pub(crate) async fn send(&self, request: http::Request<Vec<u8>>) -> Result<(), OutboundError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.fetch(request).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(OutboundError::Refused {
            host,
            status: answer.status(),
            text: String::from_utf8_lossy(answer.body())
                .chars()
                .take(SHOWN_CHARS_MAX)
                .collect(),
        })
    }

    /// # Errors
    /// When nobody answers in time.
    pub(crate) async fn fetch(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<http::Response<Vec<u8>>, OutboundError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        timeout(DEADLINE, Box::pin(self.exchange(&host, request)))
            .await
            .unwrap_or(Err(OutboundError::Late { host }))
    }

    async fn exchange(
        &self,
        host: &str,
        request: http::Request<Vec<u8>>,
    ) -> Result<http::Response<Vec<u8>>, OutboundError> {
        let is_tls = match request.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(OutboundError::Address(request.uri().to_string())),
        };
        let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let connect = |source| OutboundError::Connect {
            host: host.to_owned(),
            source,
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(connect)?;
        if !is_tls {
            return over(host, stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|source| OutboundError::HostName {
            host: host.to_owned(),
            source,
        })?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(connect)?;
        over(host, stream, request).await
    }
}

async fn over(
    host: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Vec<u8>>,
) -> Result<http::Response<Vec<u8>>, OutboundError> {
    let failed = |source| OutboundError::Exchange {
        host: host.to_owned(),
        source,
    };
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let (mut head, body) = request.into_parts();
    if !head.headers.contains_key(http::header::HOST)
        && let Some(authority) = head.uri.authority()
        && let Ok(value) = authority.as_str().parse()
    {
        head.headers.insert(http::header::HOST, value);
    }
    // A server is asked for a path, a proxy for an address.
    if let Some(path) = head.uri.path_and_query().cloned() {
        head.uri = path.into();
    }
    let request = http::Request::from_parts(head, Full::new(Bytes::from(body)));
    // The connection ends when the sender is dropped, which is with the answer.
    let asking = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok::<_, hyper::Error>((head, Limited::new(body, ANSWER_BYTES_MAX).collect().await))
    };
    let (answer, _) = tokio::join!(asking, connection);
    let (head, body) = answer.map_err(failed)?;
    let body = body.map_err(|_| OutboundError::Answer {
        host: host.to_owned(),
    })?;
    Ok(http::Response::from_parts(head, body.to_bytes().to_vec()))
}
