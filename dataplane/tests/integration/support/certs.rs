//! Certificates of the tests' own authority, and clients that believe it.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    TlsCertificate,
};
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::util::pack_any;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, RootCertStore};

/// An authority that signs what a test needs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// In PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn sign(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client that believes this authority, speaks `protocols`, and shows `pair`.
    pub(crate) fn client(&self, protocols: &[&str], pair: Option<&Pair>) -> Arc<ClientConfig> {
        let builder = self.believing(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }

    /// A client that believes this authority, and offers these in this order.
    pub(crate) fn client_of(&self, suites: &[CipherSuite]) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let place = |suite| suites.iter().position(|offered| *offered == suite);
        provider
            .cipher_suites
            .retain(|suite| place(suite.suite()).is_some());
        provider.cipher_suites.sort_by_key(|suite| place(suite.suite()));
        Arc::new(self.believing(provider).with_no_client_auth())
    }

    fn believing(&self, provider: CryptoProvider) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap())
            .unwrap();
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }
}

pub(crate) fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    })
}

pub(crate) fn certificate(pair: &Pair) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: inline(&pair.certificate),
        private_key: inline(&pair.key),
        ..Default::default()
    }
}

pub(crate) fn secret(name: &str, pair: &Pair) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(certificate(pair))),
    }
}

/// A secret over ADS.
pub(crate) fn named(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            ..Default::default()
        }),
    }
}

pub(crate) fn believing(authority: &Authority) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: inline(&authority.pem()),
        ..Default::default()
    }
}

/// A listener's side, that offers HTTP/2 and HTTP/1.1.
pub(crate) fn context(certificates: Vec<TlsCertificate>, secrets: &[&str]) -> DownstreamTlsContext {
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: certificates,
            tls_certificate_sds_secret_configs: secrets.iter().map(|name| named(name)).collect(),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `context`, for clients of that authority only.
pub(crate) fn with_clients(mut context: DownstreamTlsContext, authority: &Authority) -> DownstreamTlsContext {
    let common = context.common_tls_context.as_mut().unwrap();
    common.validation_context_type = Some(ValidationContextType::ValidationContext(believing(authority)));
    context.require_client_certificate = Some(BoolValue { value: true });
    context
}

pub(crate) fn socket<M: prost::Message + prost::Name>(context: M) -> Option<TransportSocket> {
    Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
    })
}
