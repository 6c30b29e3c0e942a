//! `envoy.extensions.transport_sockets.tls.v3`: contexts and secrets.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    Secret as PbSecret, SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};
use rustls::pki_types::ServerName;

use super::fields::{At, Reason, ads, any, done, message, required, same_name};
use super::matcher;
use crate::config::Protocol;
use crate::tls::{
    ClientTls, Clients, HTTP2, Identity, NameKind, NameMatcher, Resumption, Secret, ServerTls, Source, Trust,
    Versions,
};

/// The longest name of a protocol (RFC 7301, section 3.1).
const PROTOCOL_BYTES_MAX: usize = 255;

pub(super) fn secret(name: &str, body: &[u8]) -> Result<Secret, Reason> {
    let mut pb: PbSecret = message(body)?;
    same_name(&take(&mut pb.name), name).at("name")?;
    match pb.r#type.take() {
        Some(Type::TlsCertificate(pb)) => Ok(Secret::Identity(Arc::new(identity(pb).at("tls_certificate")?))),
        Some(Type::ValidationContext(pb)) => Ok(Secret::Trust(Arc::new(trust(pb).at("validation_context")?))),
        _ => Err("type: only tls_certificate and validation_context are supported".to_owned()),
    }
}

/// What a filter chain's transport socket says.
pub(super) fn server(mut socket: TransportSocket) -> Result<ServerTls, Reason> {
    take(&mut socket.name);
    let Some(ConfigType::TypedConfig(config)) = socket.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    let context: DownstreamTlsContext = any(&config).at("typed_config")?;
    downstream(context).at("downstream_tls_context")
}

/// What a cluster's transport socket says.
pub(super) fn client(mut socket: TransportSocket, protocol: Protocol) -> Result<ClientTls, Reason> {
    take(&mut socket.name);
    let Some(ConfigType::TypedConfig(config)) = socket.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    let context: UpstreamTlsContext = any(&config).at("typed_config")?;
    upstream(context, protocol).at("upstream_tls_context")
}

fn upstream(mut pb: UpstreamTlsContext, protocol: Protocol) -> Result<ClientTls, Reason> {
    let mut common = required(pb.common_tls_context.take()).at("common_tls_context")?;
    let name = Some(take(&mut pb.sni)).filter(|name| !name.is_empty());
    let name = match name.map(ServerName::try_from).transpose() {
        Ok(Some(ServerName::IpAddress(_))) | Err(_) => return Err("sni: is not a host's name".to_owned()),
        Ok(name) => name,
    };
    done(&pb)?;
    let trust = validation(&mut common).at("common_tls_context")?;
    let trust = trust.ok_or_else(|| {
        "common_tls_context.validation_context_type: is required, else any host would be believed".to_owned()
    })?;
    let mut identities = identities(&mut common).at("common_tls_context")?.into_iter();
    let identity = identities.next();
    if identities.next().is_some() {
        return Err("common_tls_context.tls_certificates: at most one is supported".to_owned());
    }
    let mut protocols = protocols(&mut common).at("common_tls_context")?;
    if protocols.is_empty() && protocol == Protocol::Http2 {
        protocols.push(HTTP2.to_vec());
    }
    let versions = versions(common.tls_params.take()).at("common_tls_context.tls_params")?;
    done(&common).at("common_tls_context")?;
    Ok(ClientTls {
        name,
        trust,
        identity,
        protocols,
        versions,
    })
}

fn downstream(mut pb: DownstreamTlsContext) -> Result<ServerTls, Reason> {
    let mut common = required(pb.common_tls_context.take()).at("common_tls_context")?;
    let requires = pb
        .require_client_certificate
        .take()
        .is_some_and(|requires| requires.value);
    let resumption = match pb.session_ticket_keys_type.take() {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => Resumption::Tickets,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => Resumption::Never,
        Some(_) => return Err("session_ticket_keys_type: keys of others are not supported".to_owned()),
    };
    done(&pb)?;
    let identities = identities(&mut common).at("common_tls_context")?;
    if identities.is_empty() {
        let reason = "common_tls_context.tls_certificates: at least one is required, here or as a secret";
        return Err(reason.to_owned());
    }
    let trust = validation(&mut common).at("common_tls_context")?;
    let protocols = protocols(&mut common).at("common_tls_context")?;
    let versions = versions(common.tls_params.take()).at("common_tls_context.tls_params")?;
    done(&common).at("common_tls_context")?;
    let clients = match (trust, requires) {
        (None, false) => Clients::Any,
        (Some(trust), false) => Clients::Believed(trust),
        (Some(trust), true) => Clients::Known(trust),
        (None, true) => return Err("require_client_certificate: takes a validation_context".to_owned()),
    };
    Ok(ServerTls {
        identities,
        clients,
        protocols,
        versions,
        resumption,
    })
}

fn identities(common: &mut CommonTlsContext) -> Result<Vec<Source<Identity>>, Reason> {
    let mut identities = Vec::new();
    for (index, pb) in take(&mut common.tls_certificates).into_iter().enumerate() {
        identities.push(Source::Inline(Arc::new(
            identity(pb).at_index("tls_certificates", index)?,
        )));
    }
    let secrets = take(&mut common.tls_certificate_sds_secret_configs);
    for (index, pb) in secrets.into_iter().enumerate() {
        identities.push(Source::Secret(
            named(pb).at_index("tls_certificate_sds_secret_configs", index)?,
        ));
    }
    Ok(identities)
}

fn validation(common: &mut CommonTlsContext) -> Result<Option<Source<Trust>>, Reason> {
    match common.validation_context_type.take() {
        None => Ok(None),
        Some(ValidationContextType::ValidationContext(pb)) => {
            Ok(Some(Source::Inline(Arc::new(trust(pb).at("validation_context")?))))
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(pb)) => {
            Ok(Some(Source::Secret(named(pb).at("validation_context_sds_secret_config")?)))
        }
        Some(_) => Err(
            "validation_context_type: only validation_context and validation_context_sds_secret_config are supported"
                .to_owned(),
        ),
    }
}

/// A secret that comes over ADS.
fn named(mut pb: SdsSecretConfig) -> Result<Arc<str>, Reason> {
    let name = take(&mut pb.name);
    if name.is_empty() {
        return Err("name: is required".to_owned());
    }
    ads(pb.sds_config.take()).at("sds_config")?;
    done(&pb)?;
    Ok(name.into())
}

fn protocols(common: &mut CommonTlsContext) -> Result<Vec<Vec<u8>>, Reason> {
    let protocols = take(&mut common.alpn_protocols);
    let wrong = |protocol: &&String| protocol.is_empty() || protocol.len() > PROTOCOL_BYTES_MAX;
    if let Some(wrong) = protocols.iter().find(wrong) {
        return Err(format!("alpn_protocols: {wrong:?} is not the name of a protocol"));
    }
    Ok(protocols.into_iter().map(String::into_bytes).collect())
}

fn versions(pb: Option<TlsParameters>) -> Result<Versions, Reason> {
    let Some(mut pb) = pb else {
        return Ok(Versions::Both);
    };
    const AUTO: i32 = TlsProtocol::TlsAuto as i32;
    const TLS12: i32 = TlsProtocol::TlSv12 as i32;
    const TLS13: i32 = TlsProtocol::TlSv13 as i32;
    let min = take(&mut pb.tls_minimum_protocol_version);
    let max = take(&mut pb.tls_maximum_protocol_version);
    done(&pb)?;
    match (min, max) {
        (AUTO | TLS12, AUTO | TLS13) => Ok(Versions::Both),
        (TLS13, AUTO | TLS13) => Ok(Versions::Tls13),
        (AUTO | TLS12, TLS12) => Ok(Versions::Tls12),
        (AUTO | TLS12 | TLS13, _) => Err(
            "tls_maximum_protocol_version: must be TLSv1_2 or TLSv1_3, and not below the minimum".to_owned(),
        ),
        _ => Err("tls_minimum_protocol_version: must be TLSv1_2 or TLSv1_3".to_owned()),
    }
}

fn identity(mut pb: TlsCertificate) -> Result<Identity, Reason> {
    let chain = inline(pb.certificate_chain.take()).at("certificate_chain")?;
    let key = inline(pb.private_key.take()).at("private_key")?;
    done(&pb)?;
    Identity::new(&chain, &key).map_err(|error| error.to_string())
}

fn trust(mut pb: CertificateValidationContext) -> Result<Trust, Reason> {
    let roots = inline(pb.trusted_ca.take()).at("trusted_ca")?;
    let mut names = Vec::new();
    for (index, name) in take(&mut pb.match_typed_subject_alt_names)
        .into_iter()
        .enumerate()
    {
        names.push(name_matcher(name).at_index("match_typed_subject_alt_names", index)?);
    }
    done(&pb)?;
    Trust::new(&roots, names).map_err(|error| error.to_string())
}

fn name_matcher(mut pb: SubjectAltNameMatcher) -> Result<NameMatcher, Reason> {
    let kind = match SanType::try_from(take(&mut pb.san_type)) {
        Ok(SanType::Dns) => NameKind::Dns,
        Ok(SanType::Uri) => NameKind::Uri,
        Ok(SanType::Email) => NameKind::Email,
        Ok(SanType::IpAddress) => NameKind::Ip,
        _ => return Err("san_type: only EMAIL, DNS, URI and IP_ADDRESS are supported".to_owned()),
    };
    let matcher = matcher::string(required(pb.matcher.take()).at("matcher")?).at("matcher")?;
    done(&pb)?;
    Ok(NameMatcher { kind, matcher })
}

fn inline(source: Option<DataSource>) -> Result<Vec<u8>, Reason> {
    let mut source = required(source)?;
    let bytes = match source.specifier.take() {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => return Err("only inline_bytes and inline_string are supported".to_owned()),
    };
    done(&source)?;
    Ok(bytes)
}
