//! TLS towards hosts: a cluster's hosts are believed by what signed their certificates, and by their names where the cluster says
//! some.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Identity, PROVIDER, Source, Trust, Versions};
use crate::config::Config;

/// What a cluster says of TLS towards its hosts.
#[derive(Debug, PartialEq)]
pub(crate) struct ClientTls {
    /// The name that is asked for; none is by default.
    pub(crate) name: Option<ServerName<'static>>,
    pub(crate) trust: Source<Trust>,
    /// Who the proxy says it is, if it is asked.
    pub(crate) identity: Option<Source<Identity>>,
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) versions: Versions,
}

/// What connections to a cluster's hosts are begun with, for as long as it says the same of TLS.
#[derive(Debug)]
pub(crate) struct HostTls {
    pub(crate) said: Arc<ClientTls>,
    /// None until the secrets have come.
    ready: ArcSwapOption<Ready>,
    come: Notify,
}

#[derive(Debug)]
struct Ready {
    config: Arc<ClientConfig>,
    secrets: Secrets,
}

#[derive(Debug, PartialEq)]
struct Secrets {
    trust: Arc<Trust>,
    identity: Option<Arc<Identity>>,
}

/// Believes what a trusted authority has signed, if it has one of the names.
#[derive(Debug)]
struct HostVerifier(Arc<Trust>);

impl ClientTls {
    /// The names of secrets that it needs.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let identity = self.identity.as_ref().and_then(Source::secret);
        identity.into_iter().chain(self.trust.secret())
    }

    fn resolve(&self, config: &Config) -> Option<Secrets> {
        let identity = match &self.identity {
            None => None,
            Some(source) => Some(source.identity(config)?),
        };
        let trust = self.trust.trust(config)?;
        Some(Secrets { trust, identity })
    }
}

impl HostTls {
    pub(crate) fn new(said: Arc<ClientTls>) -> Self {
        Self {
            said,
            ready: ArcSwapOption::empty(),
            come: Notify::new(),
        }
    }

    /// Takes the secrets of `config`, if they are there and have changed.
    pub(crate) fn update(&self, config: &Config) {
        let Some(secrets) = self.said.resolve(config) else {
            return;
        };
        let held = self.ready.load();
        if held.as_ref().is_some_and(|held| held.secrets == secrets) {
            return;
        }
        let config = Arc::new(client_config(&self.said, &secrets));
        self.ready.store(Some(Arc::new(Ready { config, secrets })));
        self.come.notify_waiters();
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load().is_some()
    }

    /// Ready once the secrets have come.
    pub(crate) async fn ready(&self) {
        loop {
            let come = self.come.notified();
            if self.is_ready() {
                return;
            }
            come.await;
        }
    }

    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: IpAddr,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let config = self.ready.load().as_ref().map(|ready| Arc::clone(&ready.config));
        let config = config.ok_or_else(|| io::Error::other("the secrets of its cluster have not come"))?;
        // An address is not asked for (RFC 6066, section 3).
        let name = self
            .said
            .name
            .clone()
            .unwrap_or_else(|| ServerName::IpAddress(host.into()));
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn client_config(said: &ClientTls, secrets: &Secrets) -> ClientConfig {
    let verifier = Arc::new(HostVerifier(Arc::clone(&secrets.trust)));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(said.versions.list())
        .expect("invariant: the provider has suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &secrets.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let shown = SingleCertAndKey::from(Arc::clone(&identity.certified));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
    };
    config.alpn_protocols.clone_from(&said.protocols);
    config
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.0.store.0, above, now, algorithms)?;
        if self.0.takes(certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
