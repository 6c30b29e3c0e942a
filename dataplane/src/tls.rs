//! TLS: who a listener says it is, whom it believes, and what rustls makes of both once the secrets are there. Keys and
//! certificates are parsed once, where they come in; a connection keeps what it began with when they are replaced.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SignatureScheme, SupportedCipherSuite};

use crate::config::Config;

pub(crate) use cipher::Cipher;
pub(crate) use client::{ClientTls, HostTls};
pub(crate) use peer::Peer;
use trust::client_verifier;
pub(crate) use trust::{NameKind, NameMatcher, Trust};

mod cipher;
mod client;
mod peer;
mod trust;

pub(crate) const HTTP1: &[u8] = b"http/1.1";
pub(crate) const HTTP2: &[u8] = b"h2";

/// What everybody must speak (RFC 8446, section 9.1) comes first: it is as good as any, and its hash is what processors have
/// instructions for, unlike that of the longer keys, which rustls prefers. A handshake is mostly hashes and curves.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite.suite()));
    Arc::new(provider)
});

fn is_aes_128(suite: CipherSuite) -> bool {
    use CipherSuite as C;
    matches!(
        suite,
        C::TLS13_AES_128_GCM_SHA256
            | C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn is_chacha20(suite: CipherSuite) -> bool {
    use CipherSuite as C;
    matches!(
        suite,
        C::TLS13_CHACHA20_POLY1305_SHA256
            | C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// What a filter chain says of TLS towards clients.
#[derive(Debug, PartialEq)]
pub(crate) struct ServerTls {
    /// At least one.
    pub(crate) identities: Vec<Source<Identity>>,
    pub(crate) clients: Clients,
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) versions: Versions,
    pub(crate) resumption: Resumption,
}

/// Where something secret comes from.
#[derive(Debug, PartialEq)]
pub(crate) enum Source<T> {
    Inline(Arc<T>),
    /// A secret of that name.
    Secret(Arc<str>),
}

/// Which clients are served.
#[derive(Debug, PartialEq)]
pub(crate) enum Clients {
    /// They are not asked who they are.
    Any,
    /// A certificate is believed by this, if there is one.
    Believed(Source<Trust>),
    /// There must be one.
    Known(Source<Trust>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    Tls12,
    Tls13,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumption {
    Tickets,
    Never,
}

/// A resource of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Secret {
    Identity(Arc<Identity>),
    Trust(Arc<Trust>),
}

/// A certificate with what is above it, and its key.
pub(crate) struct Identity {
    key: PrivateKeyDer<'static>,
    certified: Arc<CertifiedKey>,
}

/// What a filter chain's connections are begun with.
#[derive(Clone, Debug)]
pub(crate) struct LiveTls {
    config: Arc<ServerConfig>,
    /// For clients that know better than we do what they are fast at.
    in_their_order: Arc<ServerConfig>,
    said: Arc<ServerTls>,
    secrets: Secrets,
}

/// What the sources of a [`ServerTls`] have brought.
#[derive(Clone, Debug, PartialEq)]
struct Secrets {
    identities: Vec<Arc<Identity>>,
    trust: Option<Arc<Trust>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSecret {
    #[error("certificate_chain: is not a list of certificates in PEM")]
    Certificates,
    #[error("private_key: is not a key in PEM, without a password")]
    Key,
    #[error("private_key: {0}")]
    Pair(rustls::Error),
    #[error("trusted_ca: is not a list of certificates in PEM")]
    Roots,
    #[error("trusted_ca: {0}")]
    Root(rustls::Error),
}

/// Chooses among identities as Envoy does: by the name that is asked for, then by what the client can check.
#[derive(Debug)]
struct Resolver(Vec<Arc<CertifiedKey>>);

impl ServerTls {
    /// The names of secrets that it needs.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let identities = self.identities.iter().filter_map(Source::secret);
        identities.chain(self.clients.trust().and_then(Source::secret))
    }

    fn resolve(&self, config: &Config) -> Option<Secrets> {
        let trust = match self.clients.trust() {
            None => None,
            Some(source) => Some(source.trust(config)?),
        };
        Some(Secrets {
            identities: self
                .identities
                .iter()
                .map(|source| source.identity(config))
                .collect::<Option<_>>()?,
            trust,
        })
    }
}

impl<T> Source<T> {
    fn secret(&self) -> Option<&Arc<str>> {
        match self {
            Self::Inline(_) => None,
            Self::Secret(name) => Some(name),
        }
    }
}

impl Source<Identity> {
    fn identity(&self, config: &Config) -> Option<Arc<Identity>> {
        match self {
            Self::Inline(identity) => Some(Arc::clone(identity)),
            Self::Secret(name) => match config.secrets.get(name).map(Arc::as_ref) {
                Some(Secret::Identity(identity)) => Some(Arc::clone(identity)),
                Some(Secret::Trust(_)) | None => None,
            },
        }
    }
}

impl Source<Trust> {
    fn trust(&self, config: &Config) -> Option<Arc<Trust>> {
        match self {
            Self::Inline(trust) => Some(Arc::clone(trust)),
            Self::Secret(name) => match config.secrets.get(name).map(Arc::as_ref) {
                Some(Secret::Trust(trust)) => Some(Arc::clone(trust)),
                Some(Secret::Identity(_)) | None => None,
            },
        }
    }
}

impl Clients {
    /// Grows with what a client has to show.
    pub(crate) fn strictness(&self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Believed(_) => 1,
            Self::Known(_) => 2,
        }
    }

    fn trust(&self) -> Option<&Source<Trust>> {
        match self {
            Self::Any => None,
            Self::Believed(trust) | Self::Known(trust) => Some(trust),
        }
    }
}

impl LiveTls {
    /// In place of `held`, which is kept if nothing has changed; nothing as long as a secret is missing.
    pub(crate) fn new(said: &Arc<ServerTls>, config: &Config, held: Option<&Self>) -> Option<Self> {
        let secrets = said.resolve(config)?;
        if let Some(held) = held
            && held.said == *said
            && held.secrets == secrets
        {
            return Some(held.clone());
        }
        let config = server_config(said, &secrets);
        let mut in_their_order = config.clone();
        in_their_order.ignore_client_order = false;
        Some(Self {
            config: Arc::new(config),
            in_their_order: Arc::new(in_their_order),
            said: Arc::clone(said),
            secrets,
        })
    }

    /// What a client that says this is answered with. One that would rather have ChaCha20 has no instructions for AES.
    pub(crate) fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let is_ours = |suite: &&CipherSuite| {
            let ours = PROVIDER.cipher_suites.iter();
            ours.map(SupportedCipherSuite::suite).any(|ours| ours == **suite)
        };
        let preferred = hello.cipher_suites().iter().find(is_ours);
        let in_their_order = preferred.is_some_and(|suite| is_chacha20(*suite));
        Arc::clone(if in_their_order {
            &self.in_their_order
        } else {
            &self.config
        })
    }

    /// What tells it from one that came in its place.
    pub(crate) fn pointer(&self) -> *const ServerConfig {
        Arc::as_ptr(&self.config)
    }
}

fn server_config(said: &ServerTls, secrets: &Secrets) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(said.versions.list())
        .expect("invariant: the provider has suites for every version");
    let builder = match &secrets.trust {
        None => builder.with_no_client_auth(),
        Some(trust) => builder.with_client_cert_verifier(client_verifier(trust, &said.clients)),
    };
    let identities = secrets.identities.iter();
    let resolver = Resolver(
        identities
            .map(|identity| Arc::clone(&identity.certified))
            .collect(),
    );
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols.clone_from(&said.protocols);
    config.ignore_client_order = true;
    // A ticket is of this configuration only, and of all workers.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // rustls does not look again at the certificate of a client that comes back: it would be believed beyond its end.
    let resumes = said.resumption == Resumption::Tickets && secrets.trust.is_none();
    match resumes.then(aws_lc_rs::Ticketer::new) {
        Some(Ok(ticketer)) => {
            config.ticketer = ticketer;
            // A connection takes one when it begins, and leaves one for the next.
            config.send_tls13_tickets = 1;
        }
        Some(Err(_)) | None => config.send_tls13_tickets = 0,
    }
    config
}

impl Versions {
    fn list(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
        static TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::Tls12 => TLS12,
            Self::Tls13 => TLS13,
            Self::Both => rustls::DEFAULT_VERSIONS,
        }
    }
}

impl Identity {
    /// From PEM.
    pub(crate) fn new(chain: &[u8], key: &[u8]) -> Result<Self, BadSecret> {
        let chain = certificates(chain).ok_or(BadSecret::Certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadSecret::Key)?;
        let certified = CertifiedKey::from_der(chain, key.clone_key(), &PROVIDER).map_err(BadSecret::Pair)?;
        Ok(Self {
            key,
            certified: Arc::new(certified),
        })
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.key == other.key
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// `None` unless there is one at least, and nothing else.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty())
}

impl Resolver {
    fn choose(&self, name: Option<&str>, signatures: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let [only] = self.0.as_slice() else {
            let name = name.and_then(|name| ServerName::try_from(name).ok());
            let is_of_name = |held: &CertifiedKey| {
                let parsed = held.end_entity_cert().and_then(ParsedCertificate::try_from);
                matches!((parsed, &name), (Ok(parsed), Some(name)) if verify_server_name(&parsed, name).is_ok())
            };
            let can_be_checked = |held: &&Arc<CertifiedKey>| held.key.choose_scheme(signatures).is_some();
            let all = || self.0.iter().filter(can_be_checked);
            return all().find(|held| is_of_name(held)).or_else(|| all().next());
        };
        Some(only)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
            .cloned()
    }
}
