//! mTLS between planes. An [`Identity`] is a folder that is read again when its files change; a peer is
//! known by the SPIFFE identity in its certificate and never by a DNS name. tonic cannot take a prepared
//! rustls configuration, so TLS is done here, below it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server};

use crate::plane_id::{BadPlaneId, Plane, PlaneId};

mod identity;
mod incoming;
mod verify;

pub use identity::Identity;
pub use incoming::{Incoming, TlsConn, incoming};
pub(crate) use verify::{id_of, uris_of};

/// How often an idle connection is probed, and how long a probe may go unanswered: a frozen or cut-off peer
/// is noticed within six seconds.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// TCP connect plus TLS handshake, on either side.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The verified identity of the peer of a request: `request.extensions().get::<PeerIdentity>()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub PlaneId);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path} of the TLS identity")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path} as PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("cannot use the TLS identity in {dir}: check that cert.pem, key.pem and ca.pem belong together")]
    Unusable {
        dir: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("cannot use the certificate {path}")]
    Certificate {
        path: PathBuf,
        #[source]
        source: BadCertificate,
    },
    #[error("the TLS identity in {dir} changed from {held} to {given}: a running process keeps its identity")]
    Renamed {
        dir: PathBuf,
        held: Box<PlaneId>,
        given: Box<PlaneId>,
    },
    #[error("cannot dial `{target}`: write it as https://HOST:PORT")]
    Target { target: String },
    #[error("cannot connect to {expect} at {target}: check its address, and that one authority signed both")]
    Connect {
        target: String,
        expect: Plane,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Why a certificate does not name a plane.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    #[error("the certificate cannot be parsed")]
    Parse,
    #[error("the certificate must hold exactly one URI name and holds {given}")]
    Uris { given: usize },
    #[error(transparent)]
    Id(#[from] BadPlaneId),
}

/// Makes aws-lc-rs the process's TLS provider. Call it first in `main`; a second call does nothing.
pub fn install_crypto() {
    // An error says that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A tonic server with the keepalive that the planes agree on, for use with [`incoming`].
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Connects to a process of the plane `expect` of our own organization. `target` is `https://HOST:PORT`.
/// The channel reconnects by itself, each time with the identity's current files.
///
/// # Errors
/// When the target is not reachable within five seconds, or is not what was expected.
pub async fn connect(target: &str, expect: Plane, identity: Arc<Identity>) -> Result<Channel, TlsError> {
    let malformed = || TlsError::Target {
        target: target.to_owned(),
    };
    let authority = target
        .strip_prefix("https://")
        .ok_or_else(malformed)?
        .trim_end_matches('/');
    if authority.is_empty() || authority.contains('/') || !authority.contains(':') {
        return Err(malformed());
    }
    // To tonic this is plain HTTP/2: the connector below brings the TLS.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| malformed())?
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let address: Arc<str> = authority.into();
    let connector = tower::service_fn(move |_| {
        let (identity, address) = (identity.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            let config = identity.client_config(expect).map_err(io::Error::other)?;
            // The verifier looks at the SPIFFE identity and not at this name, and it is never sent.
            let name = ServerName::try_from("plane.invalid").map_err(io::Error::other)?;
            TlsConnector::from(config)
                .connect(name, stream)
                .await
                .map(TokioIo::new)
        }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| TlsError::Connect {
            target: target.to_owned(),
            expect,
            source,
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
