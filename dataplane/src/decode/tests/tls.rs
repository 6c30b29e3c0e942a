//! Contexts of TLS and secrets.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, GenericSecret, SdsSecretConfig,
    Secret as PbSecret, SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};

use super::*;

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..Default::default()
    })
}

fn certificate() -> TlsCertificate {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    TlsCertificate {
        certificate_chain: inline(&made.cert.pem()),
        private_key: inline(&made.signing_key.serialize_pem()),
        ..Default::default()
    }
}

fn validation() -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: certificate().certificate_chain,
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: 2,
            matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Exact("a.example".to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn secret() -> PbSecret {
    PbSecret {
        name: "x".to_owned(),
        r#type: Some(Type::TlsCertificate(certificate())),
    }
}

fn changed(secret: &mut PbSecret, change: impl FnOnce(&mut TlsCertificate)) {
    if let Some(Type::TlsCertificate(certificate)) = &mut secret.r#type {
        change(certificate);
    }
}

fn believing(secret: &mut PbSecret, change: impl FnOnce(&mut CertificateValidationContext)) {
    let mut context = validation();
    change(&mut context);
    secret.r#type = Some(Type::ValidationContext(context));
}

fn listener() -> PbListener {
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![certificate()],
            tls_certificate_sds_secret_configs: vec![SdsSecretConfig {
                name: "s".to_owned(),
                sds_config: ads(),
            }],
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: 3,
                ..Default::default()
            }),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation())),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: "r".to_owned(),
            config_source: ads(),
        })),
        http_filters: vec![HttpFilter {
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..Default::default()
        }],
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..Default::default()
    };
    PbListener {
        name: "x".to_owned(),
        address: address("127.0.0.1", 80),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
                ..Default::default()
            }],
            transport_socket: Some(TransportSocket {
                config_type: Some(ConfigType::TypedConfig(pack_any(context))),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn context(listener: &mut PbListener, change: impl FnOnce(&mut DownstreamTlsContext)) {
    let socket = listener.filter_chains[0].transport_socket.as_mut().unwrap();
    let Some(ConfigType::TypedConfig(config)) = &mut socket.config_type else {
        return;
    };
    let mut context = DownstreamTlsContext::decode(config.value.as_slice()).unwrap();
    change(&mut context);
    *config = pack_any(context);
}

fn common(listener: &mut PbListener, change: impl FnOnce(&mut CommonTlsContext)) {
    context(listener, |context| {
        change(context.common_tls_context.as_mut().unwrap());
    });
}

#[test]
fn a_secret_is_as_the_contract_says() {
    check(
        ResourceKind::Secret,
        &secret(),
        &[
            (
                |s| s.name = "y".to_owned(),
                "name: is \"y\", but the resource is named \"x\"",
            ),
            (
                |s| s.r#type = Some(Type::GenericSecret(GenericSecret::default())),
                "type: only tls_certificate and validation_context are supported",
            ),
            (
                |s| changed(s, |c| c.private_key = certificate().private_key),
                "tls_certificate.private_key: keys may not be consistent: KeyMismatch",
            ),
            (
                |s| changed(s, |c| c.private_key = None),
                "tls_certificate.private_key: is required",
            ),
            (
                |s| changed(s, |c| c.private_key = inline("secret")),
                "tls_certificate.private_key: is not a key in PEM, without a password",
            ),
            (
                |s| changed(s, |c| c.certificate_chain = inline("")),
                "tls_certificate.certificate_chain: is not a list of certificates in PEM",
            ),
            (
                |s| {
                    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
                    changed(s, |c| c.certificate_chain = inline(broken));
                },
                "tls_certificate.certificate_chain: is not a list of certificates in PEM",
            ),
            (
                |s| {
                    let file = Specifier::Filename("f".to_owned());
                    changed(s, |c| {
                        c.certificate_chain.as_mut().unwrap().specifier = Some(file);
                    });
                },
                "tls_certificate.certificate_chain: only inline_bytes and inline_string are supported",
            ),
            (
                |s| changed(s, |c| c.password = inline("p")),
                "tls_certificate.password: is not supported by this proxy",
            ),
            (
                |s| believing(s, |c| c.trusted_ca = None),
                "validation_context.trusted_ca: is required",
            ),
            (
                |s| believing(s, |c| c.trusted_ca = inline("none")),
                "validation_context.trusted_ca: is not a list of certificates in PEM",
            ),
            (
                |s| believing(s, |c| c.allow_expired_certificate = true),
                "validation_context.allow_expired_certificate: is not supported by this proxy",
            ),
            (
                |s| believing(s, |c| c.match_typed_subject_alt_names[0].san_type = 5),
                "validation_context.match_typed_subject_alt_names[0].san_type: only EMAIL, DNS, URI and IP_ADDRESS are supported",
            ),
            (
                |s| believing(s, |c| c.match_typed_subject_alt_names[0].matcher = None),
                "validation_context.match_typed_subject_alt_names[0].matcher: is required",
            ),
        ],
    );
}

#[test]
fn a_context_of_clients_is_as_the_contract_says() {
    macro_rules! at {
        ($what:literal) => {
            concat!(
                "filter_chains[0].transport_socket.downstream_tls_context.",
                $what
            )
        };
    }
    check(
        ResourceKind::Listener,
        &listener(),
        &[
            (
                |l| l.filter_chains[0].transport_socket.as_mut().unwrap().config_type = None,
                "filter_chains[0].transport_socket.typed_config: is required",
            ),
            (
                |l| context(l, |c| c.common_tls_context = None),
                at!("common_tls_context: is required"),
            ),
            (
                |l| context(l, |c| c.require_sni = Some(BoolValue { value: true })),
                at!("require_sni: is not supported by this proxy"),
            ),
            (
                |l| common(l, |c| c.validation_context_type = None),
                at!("require_client_certificate: takes a validation_context"),
            ),
            (
                |l| {
                    common(l, |c| {
                        c.tls_certificates.clear();
                        c.tls_certificate_sds_secret_configs.clear();
                    });
                },
                at!("common_tls_context.tls_certificates: at least one is required, here or as a secret"),
            ),
            (
                |l| common(l, |c| c.tls_certificates[0].private_key = None),
                at!("common_tls_context.tls_certificates[0].private_key: is required"),
            ),
            (
                |l| common(l, |c| c.tls_certificate_sds_secret_configs[0].sds_config = None),
                at!("common_tls_context.tls_certificate_sds_secret_configs[0].sds_config: is required"),
            ),
            (
                |l| common(l, |c| c.alpn_protocols[1].clear()),
                at!("common_tls_context.alpn_protocols: \"\" is not the name of a protocol"),
            ),
            (
                |l| {
                    common(l, |c| {
                        c.tls_params.as_mut().unwrap().tls_minimum_protocol_version = 1;
                    });
                },
                at!("common_tls_context.tls_params.tls_minimum_protocol_version: must be TLSv1_2 or TLSv1_3"),
            ),
            (
                |l| {
                    common(l, |c| {
                        let params = c.tls_params.as_mut().unwrap();
                        (
                            params.tls_minimum_protocol_version,
                            params.tls_maximum_protocol_version,
                        ) = (4, 3);
                    });
                },
                at!(
                    "common_tls_context.tls_params.tls_maximum_protocol_version: must be TLSv1_2 or TLSv1_3, and not below the minimum"
                ),
            ),
            (
                |l| {
                    common(l, |c| {
                        c.tls_params.as_mut().unwrap().cipher_suites.push("x".to_owned());
                    });
                },
                at!("common_tls_context.tls_params.cipher_suites: is not supported by this proxy"),
            ),
        ],
    );
}

#[test]
fn a_context_of_hosts_is_as_the_contract_says() {
    fn upstream(cluster: &mut PbCluster, change: impl FnOnce(&mut UpstreamTlsContext)) {
        let mut context = UpstreamTlsContext {
            sni: "host.example".to_owned(),
            common_tls_context: Some(CommonTlsContext {
                tls_certificates: vec![certificate()],
                alpn_protocols: vec!["h2".to_owned()],
                validation_context_type: Some(ValidationContextType::ValidationContext(validation())),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut context);
        cluster.transport_socket = Some(TransportSocket {
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
            ..Default::default()
        });
    }
    fn common(cluster: &mut PbCluster, change: impl FnOnce(&mut CommonTlsContext)) {
        upstream(cluster, |context| {
            change(context.common_tls_context.as_mut().unwrap());
        });
    }
    macro_rules! at {
        ($what:literal) => {
            concat!("transport_socket.upstream_tls_context.", $what)
        };
    }
    let mut right = PbCluster {
        name: "x".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            ..Default::default()
        }),
        lb_policy: LbPolicy::LeastRequest as i32,
        ..Default::default()
    };
    upstream(&mut right, |_| {});
    check(
        ResourceKind::Cluster,
        &right,
        &[
            (
                |c| c.transport_socket.as_mut().unwrap().config_type = None,
                "transport_socket.typed_config: is required",
            ),
            (
                |c| upstream(c, |u| u.common_tls_context = None),
                at!("common_tls_context: is required"),
            ),
            (
                |c| upstream(c, |u| u.sni = "not a name".to_owned()),
                at!("sni: is not a host's name"),
            ),
            (
                |c| upstream(c, |u| u.sni = "1.2.3.4".to_owned()),
                at!("sni: is not a host's name"),
            ),
            (
                |c| upstream(c, |u| u.auto_host_sni = true),
                at!("auto_host_sni: is not supported by this proxy"),
            ),
            (
                |c| common(c, |c| c.validation_context_type = None),
                at!(
                    "common_tls_context.validation_context_type: is required, else any host would be believed"
                ),
            ),
            (
                |c| common(c, |c| c.tls_certificates.push(certificate())),
                at!("common_tls_context.tls_certificates: at most one is supported"),
            ),
        ],
    );
}
