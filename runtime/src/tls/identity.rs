//! The folder with `cert.pem`, `key.pem` and `ca.pem` that says who a process is. It is read again when a
//! file changes, looked at on each handshake; what cannot be used is reported and the identity in use stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::verify::PlaneVerifier;
use super::{TlsError, id_of};
use crate::plane_id::{Plane, PlaneId};
use crate::telemetry::chain;

/// Both sides of a hop are ours and new enough.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const FILES: [&str; 3] = ["cert.pem", "key.pem", "ca.pem"];

/// A process's own certificate, key and authority.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    id: PlaneId,
    current: ArcSwap<Loaded>,
    /// The stamps that were last looked at, usable or not, so that bad files are reported once.
    seen: Mutex<Stamps>,
}

#[derive(Debug)]
struct Loaded {
    id: PlaneId,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    server: Arc<ServerConfig>,
}

/// Modification time and length of each file; a file that is missing has none.
type Stamps = [Option<(SystemTime, u64)>; 3];

impl Identity {
    /// Reads the identity in `dir`.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the three do not belong together.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let stamps = stamps(dir);
        let loaded = load(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            id: loaded.id.clone(),
            current: ArcSwap::from_pointee(loaded),
            seen: Mutex::new(stamps),
        })
    }

    /// Who this process is. It never changes while the process runs.
    pub fn id(&self) -> &PlaneId {
        &self.id
    }

    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        self.refresh();
        self.current.load().server.clone()
    }

    pub(super) fn client_config(&self, expect: Plane) -> Result<Arc<ClientConfig>, TlsError> {
        self.refresh();
        client_config(&self.dir, &self.current.load(), expect).map(Arc::new)
    }

    /// Reads the files again if one changed. Three `stat`s when none did; connections between planes are
    /// few and long, so no watcher is needed.
    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.dir);
        if *seen == now {
            return;
        }
        *seen = now;
        match load(&self.dir).and_then(|loaded| self.keep_id(loaded)) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!(id = %self.id, "reloaded the TLS identity");
            }
            Err(error) => {
                // Also seen between the writes of a rotation; the last write changes a stamp again.
                tracing::warn!(error = chain(&error), "keeping the TLS identity in use");
            }
        }
    }

    fn keep_id(&self, loaded: Loaded) -> Result<Loaded, TlsError> {
        if loaded.id == self.id {
            return Ok(loaded);
        }
        Err(TlsError::Renamed {
            dir: self.dir.clone(),
            held: Box::new(self.id.clone()),
            given: Box::new(loaded.id),
        })
    }
}

fn stamps(dir: &Path) -> Stamps {
    FILES.map(|file| {
        let metadata = fs::metadata(dir.join(file)).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(dir: &Path) -> Result<Loaded, TlsError> {
    let [cert_path, key_path, ca_path] = FILES.map(|file| dir.join(file));
    let chain = read_certificates(&cert_path)?;
    let key_pem = read(&key_path)?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|source| TlsError::Pem {
        path: key_path,
        source,
    })?;
    let unusable = |source| TlsError::Unusable {
        dir: dir.to_owned(),
        source,
    };

    let mut roots = RootCertStore::empty();
    for root in read_certificates(&ca_path)? {
        roots.add(root).map_err(unusable)?;
    }
    let roots = Arc::new(roots);
    let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate {
        path: cert_path.clone(),
    })?;
    let id = id_of(leaf).map_err(|source| TlsError::Certificate {
        path: cert_path,
        source,
    })?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unusable(rustls::Error::General(error.to_string())))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unusable)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep the peer's old certificate.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;

    Ok(Loaded {
        id,
        provider,
        roots,
        chain,
        key,
        server: Arc::new(server),
    })
}

fn client_config(dir: &Path, loaded: &Loaded, expect: Plane) -> Result<ClientConfig, TlsError> {
    let unusable = |source| TlsError::Unusable {
        dir: dir.to_owned(),
        source,
    };
    let verifier = PlaneVerifier {
        roots: loaded.roots.clone(),
        provider: loaded.provider.clone(),
        organization: loaded.id.organization.clone(),
        expect,
    };
    let mut config = ClientConfig::builder_with_provider(loaded.provider.clone())
        .with_protocol_versions(VERSIONS)
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(loaded.chain.clone(), loaded.key.clone_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}
