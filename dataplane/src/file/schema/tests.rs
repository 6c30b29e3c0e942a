//! Where the schema is from.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use envoy_types::pb::google::protobuf::field_descriptor_proto::{Label as PbLabel, Type as PbType};
use envoy_types::pb::google::protobuf::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
};
use prost::Message;

use super::*;

/// What a file may have, in its resources or where any message may stand; with what these are made of.
const ROOTS: [&str; 58] = [
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.trace.v3.OpenTelemetryConfig",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.compression.gzip.compressor.v3.Gzip",
    "envoy.extensions.compression.gzip.decompressor.v3.Gzip",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.compressor.v3.Compressor",
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaOverride",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "google.protobuf.BoolValue",
    "google.protobuf.Duration",
    "google.protobuf.Struct",
    "google.protobuf.UInt32Value",
];

enum Described<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

/// `UPDATE_EXPECT=1` writes it anew.
#[test]
fn the_schema_is_that_of_the_descriptors() {
    let descriptors = std::fs::read(descriptors()).unwrap();
    let descriptors = FileDescriptorSet::decode(&*descriptors).unwrap();
    let mut all = BTreeMap::new();
    for file in &descriptors.file {
        let package = file.package();
        for message in &file.message_type {
            add(&mut all, package, message);
        }
        for values in &file.enum_type {
            all.insert(format!("{package}.{}", values.name()), Described::Enum(values));
        }
    }
    let expected = described(&all);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/file/schema.txt");
        std::fs::write(path, expected).unwrap();
    } else {
        assert!(TEXT == expected, "run this with UPDATE_EXPECT=1");
    }
}

#[test]
fn all_that_is_named_is_there() {
    let schema = Schema::read();
    assert_eq!(
        schema.0.len(),
        TEXT.lines().filter(|line| !line.starts_with(' ')).count()
    );
    let mut members = 0;
    for (name, of) in &schema.0 {
        match of {
            Type::Enum(values) => {
                members += values.len();
                assert!(!values.is_empty(), "{name}");
            }
            Type::Message(fields) => {
                members += fields.len();
                for field in fields {
                    if let Kind::Named(of) = field.kind {
                        assert!(schema.get(of).is_some(), "{name}.{}: {of}", field.name);
                    }
                }
            }
        }
    }
    assert_eq!(members, TEXT.lines().filter(|line| line.starts_with(' ')).count());
}

#[test]
fn names_in_the_way_of_json() {
    for (name, expected) in [
        ("name", "name"),
        ("lb_endpoints", "lbEndpoints"),
        ("connect_timeout", "connectTimeout"),
        ("http2_protocol_options", "http2ProtocolOptions"),
    ] {
        assert_eq!(camel_case(name), expected);
    }
}

fn descriptors() -> PathBuf {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--manifest-path",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let envoy_types = packages.find(|package| package["name"] == "envoy-types").unwrap();
    let manifest = Path::new(envoy_types["manifest_path"].as_str().unwrap());
    manifest.with_file_name("src/generated/types.bin")
}

fn add<'a>(all: &mut BTreeMap<String, Described<'a>>, parent: &str, message: &'a DescriptorProto) {
    let name = format!("{parent}.{}", message.name());
    for nested in &message.nested_type {
        add(all, &name, nested);
    }
    for values in &message.enum_type {
        all.insert(format!("{name}.{}", values.name()), Described::Enum(values));
    }
    all.insert(name, Described::Message(message));
}

/// The roots and all that they are made of.
fn described(all: &BTreeMap<String, Described<'_>>) -> String {
    let mut wanted: Vec<String> = ROOTS.iter().map(|root| (*root).to_owned()).collect();
    let mut found = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let of = all.get(&name).unwrap_or_else(|| panic!("{name} is nowhere"));
        if let Described::Message(message) = of {
            let named = message
                .field
                .iter()
                .filter_map(|field| field.type_name.as_deref());
            let named = named.map(|name| name.trim_start_matches('.').to_owned());
            wanted.extend(named.filter(|name| !found.contains(name)));
        }
        found.insert(name);
    }
    let mut text = String::new();
    for name in &found {
        match &all[name] {
            Described::Message(message) => {
                writeln!(text, "message {name}").unwrap();
                for field in &message.field {
                    let label = label(message, field, all);
                    writeln!(
                        text,
                        " {} {} {label}{}",
                        field.number(),
                        field.name(),
                        kind(field)
                    )
                    .unwrap();
                }
            }
            Described::Enum(values) => {
                writeln!(text, "enum {name}").unwrap();
                for value in &values.value {
                    writeln!(text, " {} {}", value.number(), value.name()).unwrap();
                }
            }
        }
    }
    text
}

fn label(
    message: &DescriptorProto,
    field: &FieldDescriptorProto,
    all: &BTreeMap<String, Described<'_>>,
) -> String {
    let is_entry = |name: &str| match &all[name.trim_start_matches('.')] {
        Described::Message(message) => message
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry()),
        Described::Enum(_) => false,
    };
    if field.label() == PbLabel::Repeated {
        let is_map = field.type_name.as_deref().is_some_and(is_entry);
        return if is_map { "map " } else { "repeated " }.to_owned();
    }
    match field.oneof_index {
        _ if field.proto3_optional() => "optional ".to_owned(),
        Some(index) => {
            let of = &message.oneof_decl[usize::try_from(index).unwrap()];
            format!("oneof {} ", of.name())
        }
        None => String::new(),
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        PbType::Bool => "bool".to_owned(),
        PbType::Bytes => "bytes".to_owned(),
        PbType::Double => "double".to_owned(),
        PbType::Float => "float".to_owned(),
        PbType::Int32 => "int32".to_owned(),
        PbType::Int64 => "int64".to_owned(),
        PbType::String => "string".to_owned(),
        PbType::Uint32 => "uint32".to_owned(),
        PbType::Uint64 => "uint64".to_owned(),
        PbType::Message | PbType::Enum => field.type_name().trim_start_matches('.').to_owned(),
        other => panic!("{}: {other:?}", field.name()),
    }
}
