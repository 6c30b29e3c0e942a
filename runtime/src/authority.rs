//! The certificate authority of one organization: a folder with `ca.pem` and `ca-key.pem`, and the issuing of
//! plane identities from it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::plane_id::{BadPlaneId, PlaneId, is_name};
use crate::replace::replace_file;
use crate::tls::{BadCertificate, id_of, uris_of};

/// An agent renews by itself long before; a year is for identities that are handed out by hand.
const IDENTITY_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Replacing an authority touches every process, so it outlives many generations of identities.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little before now, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Signs the identities of one organization.
#[derive(Debug)]
pub struct Authority {
    organization: String,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}")]
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
    #[error("cannot use the certificate {path}")]
    Certificate {
        path: PathBuf,
        #[source]
        source: BadCertificate,
    },
    #[error("cannot sign with the authority of {organization}: check ca.pem and ca-key.pem")]
    Sign {
        organization: String,
        #[source]
        source: rcgen::Error,
    },
    #[error(transparent)]
    BadId(#[from] BadPlaneId),
    #[error("the authority in {dir} is {given} and not of the organization {expected}")]
    OtherOrganization {
        dir: PathBuf,
        given: String,
        expected: String,
    },
    #[error("{dir} holds the identity {held} and is not overwritten with {given}: choose another folder")]
    Occupied {
        dir: PathBuf,
        held: Box<PlaneId>,
        given: Box<PlaneId>,
    },
    #[error("{given} is not of the organization {expected} of this authority")]
    Foreign { given: Box<PlaneId>, expected: String },
}

impl Authority {
    /// Opens the authority in `dir`, or creates it (and the folder).
    ///
    /// # Errors
    /// When the folder cannot be used or holds another organization's authority.
    pub fn create_or_open(dir: &Path, organization: &str) -> Result<Self, AuthorityError> {
        if !is_name(organization) {
            return Err(BadPlaneId::Name {
                given: organization.to_owned(),
            }
            .into());
        }
        fs::create_dir_all(dir).map_err(|source| AuthorityError::Write {
            path: dir.to_owned(),
            source,
        })?;
        // The certificate is written last: without it no authority exists, and a key left by a crash between
        // the two has signed nothing.
        if dir.join("ca.pem").exists() {
            open(dir, organization)
        } else {
            create(dir, organization)
        }
    }

    pub fn organization(&self) -> &str {
        &self.organization
    }

    /// Writes `cert.pem`, `key.pem` and `ca.pem` into `out` (created if missing), valid for a year. Issuing
    /// the same identity again renews it.
    ///
    /// # Errors
    /// When `out` holds another identity, which is never overwritten, or cannot be written.
    pub fn issue(&self, id: &PlaneId, out: &Path) -> Result<(), AuthorityError> {
        // Its fields are public, so check that it reads back.
        let id: PlaneId = id.to_string().parse()?;
        if id.organization != self.organization {
            return Err(AuthorityError::Foreign {
                given: Box::new(id),
                expected: self.organization.clone(),
            });
        }
        fs::create_dir_all(out).map_err(|source| AuthorityError::Write {
            path: out.to_owned(),
            source,
        })?;
        refuse_other_identity(out, &id)?;

        let sign = |source| AuthorityError::Sign {
            organization: self.organization.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(sign)?;
        let certificate = leaf_params(&id)
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .map_err(sign)?;
        write(&out.join("ca.pem"), PUBLIC, &self.ca_pem)?;
        write(&out.join("key.pem"), PRIVATE, &key.serialize_pem())?;
        write(&out.join("cert.pem"), PUBLIC, &certificate.pem())
    }
}

fn create(dir: &Path, organization: &str) -> Result<Authority, AuthorityError> {
    let sign = |source| AuthorityError::Sign {
        organization: organization.to_owned(),
        source,
    };
    let key = KeyPair::generate().map_err(sign)?;
    let params = authority_params(organization).map_err(sign)?;
    let ca_pem = params.self_signed(&key).map_err(sign)?.pem();
    write(&dir.join("ca-key.pem"), PRIVATE, &key.serialize_pem())?;
    write(&dir.join("ca.pem"), PUBLIC, &ca_pem)?;
    let issuer = Issuer::new(params, key);
    Ok(Authority {
        organization: organization.to_owned(),
        ca_pem,
        issuer,
    })
}

fn open(dir: &Path, organization: &str) -> Result<Authority, AuthorityError> {
    let ca_path = dir.join("ca.pem");
    let ca_pem = read(&ca_path)?;
    let key_pem = read(&dir.join("ca-key.pem"))?;
    let certificate =
        CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|source| AuthorityError::Pem {
            path: ca_path.clone(),
            source,
        })?;
    let uris = uris_of(&certificate).map_err(|source| AuthorityError::Certificate {
        path: ca_path,
        source,
    })?;
    let expected = trust_domain(organization);
    if uris != [expected.as_str()] {
        return Err(AuthorityError::OtherOrganization {
            dir: dir.to_owned(),
            given: uris.join(", "),
            expected: organization.to_owned(),
        });
    }
    let issuer = KeyPair::from_pem(&key_pem)
        .and_then(|key| Issuer::from_ca_cert_der(&certificate, key))
        .map_err(|source| AuthorityError::Sign {
            organization: organization.to_owned(),
            source,
        })?;
    Ok(Authority {
        organization: organization.to_owned(),
        ca_pem,
        issuer,
    })
}

fn refuse_other_identity(out: &Path, id: &PlaneId) -> Result<(), AuthorityError> {
    let path = out.join("cert.pem");
    if !path.exists() {
        return Ok(());
    }
    let certificate =
        CertificateDer::from_pem_slice(read(&path)?.as_bytes()).map_err(|source| AuthorityError::Pem {
            path: path.clone(),
            source,
        })?;
    let held = id_of(&certificate).map_err(|source| AuthorityError::Certificate { path, source })?;
    if held == *id {
        return Ok(());
    }
    Err(AuthorityError::Occupied {
        dir: out.to_owned(),
        held: Box::new(held),
        given: Box::new(id.clone()),
    })
}

fn authority_params(organization: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(
        &format!("Tombolo authority of {organization}"),
        AUTHORITY_VALIDITY,
    );
    params.subject_alt_names = vec![SanType::URI(trust_domain(organization).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(id: &PlaneId) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(&format!("{} {}", id.plane, id.name), IDENTITY_VALIDITY);
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A central is a server to edges and a client of management, with one certificate.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
    params
}

fn trust_domain(organization: &str) -> String {
    format!("spiffe://{organization}")
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), AuthorityError> {
    replace_file(path, mode, &[text.as_bytes()]).map_err(|source| AuthorityError::Write {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Authority, AuthorityError};
    use crate::plane_id::{Plane, PlaneId};
    use crate::telemetry::chain;
    use crate::tls::Identity;

    fn id(organization: &str, name: &str) -> PlaneId {
        PlaneId::new(organization, Plane::Edge, name).unwrap()
    }

    #[test]
    fn an_authority_is_created_once_and_opened_after() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("authority");
        Authority::create_or_open(&dir, "acme")
            .unwrap()
            .issue(&id("acme", "a"), &folder.path().join("a"))
            .unwrap();
        let ca = fs::read(dir.join("ca.pem")).unwrap();
        Authority::create_or_open(&dir, "acme")
            .unwrap()
            .issue(&id("acme", "b"), &folder.path().join("b"))
            .unwrap();
        assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), ca);
        assert_eq!(fs::read(folder.path().join("b/ca.pem")).unwrap(), ca);
        for name in ["a", "b"] {
            assert_eq!(
                *Identity::load(&folder.path().join(name)).unwrap().id(),
                id("acme", name)
            );
        }
        for private in ["authority/ca-key.pem", "a/key.pem"] {
            let mode = fs::metadata(folder.path().join(private))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{private}");
        }
    }

    #[test]
    fn another_organizations_authority_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create_or_open(folder.path(), "acme").unwrap();
        let error = Authority::create_or_open(folder.path(), "globex").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is spiffe://acme and not of the organization globex"),
            "{error}"
        );
        let error = Authority::create_or_open(folder.path(), "a/b").unwrap_err();
        assert!(matches!(error, AuthorityError::BadId(_)), "{error}");
    }

    #[test]
    fn an_identity_is_renewed_and_never_replaced_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create_or_open(&folder.path().join("authority"), "acme").unwrap();
        let out = folder.path().join("a");
        authority.issue(&id("acme", "a"), &out).unwrap();
        let before = fs::read(out.join("cert.pem")).unwrap();
        authority.issue(&id("acme", "a"), &out).unwrap();
        let renewed = fs::read(out.join("cert.pem")).unwrap();
        assert_ne!(renewed, before);

        let error = authority.issue(&id("acme", "b"), &out).unwrap_err();
        assert!(
            error.to_string().contains(
                "holds the identity spiffe://acme/plane/edge/a and is not overwritten with \
                 spiffe://acme/plane/edge/b"
            ),
            "{error}"
        );
        assert!(matches!(
            authority.issue(&id("globex", "a"), &out).unwrap_err(),
            AuthorityError::Foreign { .. }
        ));
        fs::write(out.join("cert.pem"), "garbage").unwrap();
        let error = authority.issue(&id("acme", "a"), &out).unwrap_err();
        assert!(chain(&error).contains("a/cert.pem as PEM"), "{}", chain(&error));
        fs::write(out.join("cert.pem"), &renewed).unwrap();
        assert_eq!(*Identity::load(&out).unwrap().id(), id("acme", "a"));
    }
}
