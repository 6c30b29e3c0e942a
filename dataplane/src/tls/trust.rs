//! Whose certificates are believed: by who has signed them, and by the names in them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{BadSecret, Clients, PROVIDER, certificates};
use crate::matcher::StringMatcher;

/// Which certificates of others are believed.
#[derive(PartialEq)]
pub(crate) struct Trust {
    roots: Vec<CertificateDer<'static>>,
    pub(super) store: Roots,
    /// One of these is a name of the certificate's, unless there are none.
    names: Vec<NameMatcher>,
}

/// Follows from the certificates beside it.
pub(super) struct Roots(pub(super) Arc<RootCertStore>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NameMatcher {
    pub(crate) kind: NameKind,
    pub(crate) matcher: StringMatcher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    Dns,
    Uri,
    Email,
    Ip,
}

/// Believes what its inner verifier believes, if it has one of the names too.
#[derive(Debug)]
struct NamedClients {
    inner: Arc<dyn ClientCertVerifier>,
    trust: Arc<Trust>,
}

pub(super) fn client_verifier(trust: &Arc<Trust>, clients: &Clients) -> Arc<dyn ClientCertVerifier> {
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.store.0), Arc::clone(&PROVIDER));
    let builder = match clients {
        Clients::Known(_) => builder,
        Clients::Any | Clients::Believed(_) => builder.allow_unauthenticated(),
    };
    let inner = builder
        .build()
        .expect("invariant: there is a root, and no list of revocations");
    if trust.names.is_empty() {
        return inner;
    }
    Arc::new(NamedClients {
        inner,
        trust: Arc::clone(trust),
    })
}

impl Trust {
    /// From PEM.
    pub(crate) fn new(roots: &[u8], names: Vec<NameMatcher>) -> Result<Self, BadSecret> {
        let roots = certificates(roots).ok_or(BadSecret::Roots)?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(BadSecret::Root)?;
        }
        Ok(Self {
            roots,
            store: Roots(Arc::new(store)),
            names,
        })
    }

    /// Whether a certificate, which is believed otherwise, has a name that is asked for.
    pub(super) fn takes(&self, certificate: &[u8]) -> bool {
        if self.names.is_empty() {
            return true;
        }
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let Ok(Some(names)) = parsed.subject_alternative_name() else {
            return false;
        };
        let names = &names.value.general_names;
        self.names
            .iter()
            .any(|wanted| names.iter().any(|name| wanted.takes(name)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots.len())
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Roots {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl NameMatcher {
    fn takes(&self, name: &GeneralName<'_>) -> bool {
        match (self.kind, name) {
            (NameKind::Dns, GeneralName::DNSName(name)) => self.takes_host(name.as_bytes()),
            (NameKind::Uri, GeneralName::URI(name)) | (NameKind::Email, GeneralName::RFC822Name(name)) => {
                self.matcher.matches(name.as_bytes())
            }
            (NameKind::Ip, GeneralName::IPAddress(bytes)) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                address.is_ok_and(|address| self.matcher.matches(address.to_string().as_bytes()))
            }
            _ => false,
        }
    }

    /// A host that is wanted to the letter is found by the rules of its DNS.
    fn takes_host(&self, name: &[u8]) -> bool {
        let wanted = match &self.matcher {
            StringMatcher::Exact(text) => text.literal(),
            _ => None,
        };
        match wanted {
            Some(wanted) => stands_for(name, wanted),
            None => self.matcher.matches(name),
        }
    }
}

/// Whether a certificate's name is the host's: in letters of any case, with `*` for the whole first label (RFC 6125, section 6.4.3).
fn stands_for(name: &[u8], host: &[u8]) -> bool {
    let parent = host
        .iter()
        .position(|byte| *byte == b'.')
        .filter(|at| *at > 0)
        .map(|at| &host[at..]);
    let of_children = name.strip_prefix(b"*");
    name.eq_ignore_ascii_case(host)
        || matches!((of_children, parent), (Some(name), Some(parent)) if name.eq_ignore_ascii_case(parent))
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(certificate, above, now)?;
        if self.trust.takes(certificate) {
            Ok(verified)
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
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::{Case, Text};

    #[test]
    fn a_host_is_found_by_the_rules_of_its_dns() {
        for (name, taken) in [
            ("login.example.com", true),
            ("LOGIN.Example.com", true),
            ("*.example.com", true),
            ("*.EXAMPLE.com", true),
            ("*.com", false),
            ("*", false),
            ("*login.example.com", false),
            ("l*.example.com", false),
            ("*.login.example.com", false),
            ("*.*.com", false),
            ("example.com", false),
            ("other.example.com", false),
        ] {
            let wanted = |kind| NameMatcher {
                kind,
                matcher: StringMatcher::exact("login.example.com"),
            };
            let of_certificate = GeneralName::DNSName(name);
            assert_eq!(wanted(NameKind::Dns).takes(&of_certificate), taken, "{name}");
            assert!(!wanted(NameKind::Uri).takes(&of_certificate), "{name}");
        }
        let children = NameMatcher {
            kind: NameKind::Dns,
            matcher: StringMatcher::Suffix(Text::new(".example.com", Case::Matters)),
        };
        assert!(children.takes(&GeneralName::DNSName("*.example.com")));
        assert!(!children.takes(&GeneralName::DNSName("a.EXAMPLE.com")));
    }
}
