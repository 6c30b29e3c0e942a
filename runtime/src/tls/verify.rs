//! Who a certificate says its holder is, and the client's check of the server: a chain to our authority and
//! the expected plane of our organization, instead of a DNS name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::BadCertificate;
use crate::plane_id::{Plane, PlaneId};

#[derive(Debug)]
pub(super) struct PlaneVerifier {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) organization: String,
    pub(super) expect: Plane,
}

/// The peer is somebody else than whom we meant to speak to.
#[derive(Debug, thiserror::Error)]
pub(super) enum WrongPeer {
    #[error("the peer is {given}, of another organization than {expected}")]
    Organization { given: PlaneId, expected: String },
    #[error("the peer is {given} and not of the plane {expected}")]
    Plane { given: PlaneId, expected: Plane },
}

/// The identity in a certificate. SPIFFE's rule is exactly one URI name.
pub(crate) fn id_of(certificate: &[u8]) -> Result<PlaneId, BadCertificate> {
    let uris = uris_of(certificate)?;
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        _ => Err(BadCertificate::Uris { given: uris.len() }),
    }
}

pub(crate) fn uris_of(certificate: &[u8]) -> Result<Vec<String>, BadCertificate> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| BadCertificate::Parse)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| BadCertificate::Parse)?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect())
}

pub(super) fn same_organization(peer: &PlaneId, organization: &str) -> Result<(), WrongPeer> {
    if peer.organization == organization {
        return Ok(());
    }
    Err(WrongPeer::Organization {
        given: peer.clone(),
        expected: organization.to_owned(),
    })
}

impl PlaneVerifier {
    fn check_peer(&self, peer: PlaneId) -> Result<(), WrongPeer> {
        same_organization(&peer, &self.organization)?;
        if peer.plane == self.expect {
            return Ok(());
        }
        Err(WrongPeer::Plane {
            given: peer,
            expected: self.expect,
        })
    }
}

impl ServerCertVerifier for PlaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let peer = id_of(end_entity).map_err(refused)?;
        self.check_peer(peer).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    // Not `InvalidCertificate`, which would show the error as a debug text.
    rustls::Error::Other(OtherError(Arc::new(error)))
}
