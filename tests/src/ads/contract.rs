//! The smallest configuration that docs/xds.md allows: one listener, one route, one cluster. It has what the edge
//! gives to every route (a timeout, careful retries, the destination header), so that its cost is a real one's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption, HealthCheck,
    DataSource, Http2ProtocolOptions, SocketAddress, SubstitutionFormatString, TransportSocket, address,
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, TlsCertificate, TlsParameters,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::v3::CodecClientType;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration as PbDuration, Struct, UInt32Value, Value,
};
use envoy_types::util::pack_any;
use http::Version;
use prost::{Message, Name};

use super::Resources;

/// The name of the one listener, route configuration and cluster.
pub const NAME: &str = "only";

/// What the edge retries, by the method of a request (RFC 9110, section 9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// Of GET, PUT and their like: what an application may have seen, too.
    Idempotent,
    /// Of POST: only what never arrived.
    Other,
}

/// In what services differ from each other.
#[derive(Clone, Copy, Debug)]
pub struct Serving<'a> {
    pub retries: Retries,
    /// What is spoken to the upstreams.
    pub upstream: Version,
    /// Takes a line of JSON for each request.
    pub access_log: Option<&'a Path>,
    /// Clients speak TLS 1.3.
    pub identity: Option<&'a Identity>,
}

/// What a listener shows of itself, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub chain: String,
    pub key: String,
}

/// Everything that arrives at `listener` goes to one of `upstreams`, over HTTP/1.1 and without an access log.
pub fn one_service(listener: SocketAddr, upstreams: &[SocketAddr], retries: Retries) -> Resources {
    let serving = Serving {
        retries,
        upstream: Version::HTTP_11,
        access_log: None,
        identity: None,
    };
    service(listener, upstreams, &serving)
}

/// Everything that arrives at `listener` goes to one of `upstreams`.
pub fn service(listener: SocketAddr, upstreams: &[SocketAddr], serving: &Serving<'_>) -> Resources {
    let mut resources = Resources::default();
    let check = health_check(serving.upstream);
    resources.insert(
        NAME,
        &Cluster {
            health_checks: vec![check],
            close_connections_on_host_health_failure: true,
            typed_extension_protocol_options: protocol_options(serving.upstream),
            ..cluster(NAME)
        },
    );
    resources.insert(NAME, &endpoints(NAME, upstreams));
    resources.insert(NAME, &http_listener(listener, serving));
    let only = virtual_host(NAME, "*", vec![route("/", NAME, serving.retries)]);
    resources.insert(NAME, &route_configuration(vec![only]));
    resources
}

/// [`one_service`] for `shop.example.com` only, and beside it so many more, each with a cluster and a host of its own,
/// `sN.example.com`. They are not checked: as many checks would be what is measured.
#[derive(Debug)]
pub struct Services {
    upstreams: [SocketAddr; 2],
    resources: Resources,
    /// For each host a route configuration that has nothing else: encoded, one after the other they are one that has them all.
    hosts: Vec<Vec<u8>>,
    changes: usize,
}

impl Services {
    pub fn new(listener: SocketAddr, upstreams: [SocketAddr; 2], count: usize) -> Services {
        let first = vec![route("/", NAME, Retries::Idempotent)];
        let mut services = Services {
            upstreams,
            resources: one_service(listener, &upstreams, Retries::Idempotent),
            hosts: vec![alone(virtual_host(NAME, "shop.example.com", first))],
            changes: 0,
        };
        for number in 0..count {
            let name = format!("s{number}");
            services.resources.insert(&name, &cluster(&name));
            let host = services.say(number, false);
            services.hosts.push(host);
        }
        services.say_hosts();
        services
    }

    pub fn resources(&self) -> Resources {
        self.resources.clone()
    }

    /// Changes one after the other: moves it to the other upstream and retries it in the other way.
    pub fn change(&mut self) {
        let count = self.hosts.len() - 1;
        let (turn, number) = (self.changes / count, self.changes % count);
        self.hosts[number + 1] = self.say(number, turn.is_multiple_of(2));
        self.say_hosts();
        self.changes += 1;
    }

    /// What a service is, but for its cluster.
    fn say(&mut self, number: usize, moved: bool) -> Vec<u8> {
        let (upstream, retries) = if moved {
            (self.upstreams[1], Retries::Other)
        } else {
            (self.upstreams[0], Retries::Idempotent)
        };
        let name = format!("s{number}");
        self.resources.insert(&name, &endpoints(&name, &[upstream]));
        let domain = format!("{name}.example.com");
        alone(virtual_host(&name, &domain, vec![route("/", &name, retries)]))
    }

    fn say_hosts(&mut self) {
        let mut table = route_configuration(Vec::new()).encode_to_vec();
        table.extend(self.hosts.iter().flatten());
        self.resources
            .insert_raw(&RouteConfiguration::type_url(), NAME, table);
    }
}

fn alone(host: VirtualHost) -> Vec<u8> {
    let table = RouteConfiguration {
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    };
    table.encode_to_vec()
}

/// [`one_service`] at the last of ten routes of `shop.example.com`, beside so many other hosts that have as many.
pub fn many_routes(listener: SocketAddr, upstream: SocketAddr, hosts: usize) -> Resources {
    let mut resources = one_service(listener, &[upstream], Retries::Idempotent);
    let host = |name: &str| {
        let others = (0..9).map(|number| route(&format!("/others/{number}"), NAME, Retries::Other));
        let last = route("/products", NAME, Retries::Idempotent);
        let domain = format!("{name}.example.com");
        virtual_host(name, &domain, others.chain([last]).collect())
    };
    let mut table = vec![host("shop")];
    table.extend((0..hosts).map(|number| host(&format!("h{number}"))));
    resources.insert(NAME, &route_configuration(table));
    resources
}

/// A route configuration named [`NAME`] with these virtual hosts.
pub fn route_configuration(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: NAME.to_owned(),
        virtual_hosts,
        ..RouteConfiguration::default()
    }
}

/// What a cluster says of the version that its hosts are spoken to in.
pub fn protocol_options(upstream: Version) -> HashMap<String, Any> {
    if upstream != Version::HTTP_2 {
        return HashMap::new();
    }
    let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(http2),
        })),
        ..HttpProtocolOptions::default()
    };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    HashMap::from([(name.to_owned(), pack_any(options))])
}

fn health_check(upstream: Version) -> HealthCheck {
    let codec = if upstream == Version::HTTP_2 {
        CodecClientType::Http2
    } else {
        CodecClientType::Http1
    };
    HealthCheck {
        timeout: Some(span(Duration::from_millis(400))),
        interval: Some(span(Duration::from_millis(400))),
        no_traffic_interval: Some(span(Duration::from_millis(400))),
        unhealthy_threshold: Some(number(2)),
        healthy_threshold: Some(number(1)),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: NAME.to_owned(),
            path: "/".to_owned(),
            codec_client_type: codec as i32,
            ..HttpHealthCheck::default()
        })),
        ..HealthCheck::default()
    }
}

/// A cluster whose endpoints come over ADS, without checks.
pub fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(span(Duration::from_secs(1))),
        lb_policy: LbPolicy::LeastRequest as i32,
        ..Cluster::default()
    }
}

/// All of them in one place.
pub fn endpoints(cluster: &str, upstreams: &[SocketAddr]) -> ClusterLoadAssignment {
    let lb_endpoints = upstreams.iter().map(|upstream| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket_address(*upstream)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: lb_endpoints.collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

/// The listener of [`one_service`], with `filters` before its router.
pub fn filtering_listener(address: SocketAddr, filters: Vec<HttpFilter>) -> Listener {
    let mut manager = manager(None);
    manager.http_filters.splice(..0, filters);
    listener(address, pack_any(manager), None)
}

fn http_listener(address: SocketAddr, serving: &Serving<'_>) -> Listener {
    listener(address, pack_any(manager(serving.access_log)), serving.identity)
}

fn manager(access_log: Option<&Path>) -> HttpConnectionManager {
    HttpConnectionManager {
        access_log: access_log.map(json_log).into_iter().collect(),
        stat_prefix: NAME.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: NAME.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..HttpFilter::default()
        }],
        normalize_path: Some(yes()),
        use_remote_address: Some(yes()),
        generate_request_id: Some(yes()),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..HttpConnectionManager::default()
    }
}

/// Connections that arrive at `address` are passed on to `upstream`, byte by byte.
pub fn connections(address: SocketAddr, upstream: SocketAddr) -> Resources {
    let mut resources = Resources::default();
    resources.insert(NAME, &cluster(NAME));
    resources.insert(NAME, &endpoints(NAME, &[upstream]));
    let proxy = TcpProxy {
        stat_prefix: NAME.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(NAME.to_owned())),
        ..TcpProxy::default()
    };
    resources.insert(NAME, &listener(address, pack_any(proxy), None));
    resources
}

fn listener(address: SocketAddr, filter: Any, identity: Option<&Identity>) -> Listener {
    Listener {
        name: NAME.to_owned(),
        address: Some(socket_address(address)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "only".to_owned(),
                config_type: Some(ConfigType::TypedConfig(filter)),
            }],
            transport_socket: identity.map(tls),
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn tls(identity: &Identity) -> TransportSocket {
    let pem = |text: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..DataSource::default()
        })
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![TlsCertificate {
                certificate_chain: pem(&identity.chain),
                private_key: pem(&identity.key),
                ..TlsCertificate::default()
            }],
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            alpn_protocols: vec!["http/1.1".to_owned()],
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
    }
}

/// A line for each request, with what is asked about most.
fn json_log(path: &Path) -> AccessLog {
    let text = |format: &str| Value {
        kind: Some(Kind::StringValue(format.to_owned())),
    };
    let fields = [
        ("time", "%START_TIME%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(:PATH)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("status", "%RESPONSE_CODE%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("duration_ms", "%DURATION%"),
        ("bytes_sent", "%BYTES_SENT%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
    ];
    let fields = fields.map(|(name, format)| (name.to_owned(), text(format)));
    let format = SubstitutionFormatString {
        format: Some(Format::JsonFormat(Struct {
            fields: fields.into_iter().collect(),
        })),
        ..SubstitutionFormatString::default()
    };
    let log = FileAccessLog {
        path: path.display().to_string(),
        access_log_format: Some(AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(log))),
        ..AccessLog::default()
    }
}

fn route(prefix: &str, cluster: &str, retries: Retries) -> Route {
    let (retry_on, statuses) = match retries {
        Retries::Idempotent => (
            "connect-failure,refused-stream,reset,retriable-status-codes",
            vec![503],
        ),
        Retries::Other => ("connect-failure,refused-stream", Vec::new()),
    };
    let target = ClusterWeight {
        name: cluster.to_owned(),
        weight: Some(number(100)),
        request_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-tombolo-destination".to_owned(),
                value: "only.bench:8080".to_owned(),
                ..HeaderValue::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..HeaderValueOption::default()
        }],
        ..ClusterWeight::default()
    };
    let forward = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: vec![target],
            ..WeightedCluster::default()
        })),
        timeout: Some(span(Duration::from_secs(15))),
        retry_policy: Some(RetryPolicy {
            retry_on: retry_on.to_owned(),
            num_retries: Some(number(2)),
            retriable_status_codes: statuses,
            ..RetryPolicy::default()
        }),
        ..RouteAction::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(forward)),
        ..Route::default()
    }
}

fn virtual_host(name: &str, domain: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        routes,
        ..VirtualHost::default()
    }
}

fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..ConfigSource::default()
    }
}

fn socket_address(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn span(duration: Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

fn yes() -> BoolValue {
    BoolValue { value: true }
}
