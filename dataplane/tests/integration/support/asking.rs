//! A proxy whose filters ask a service, in front of a host.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, GrpcService, SubstitutionFormatString, data_source,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use http::Request;
use http_body_util::Full;
use prost::Message;

use super::ads::AdsServer;
use super::mesh;
use super::proxy::{Answer, HttpClient, Proxy, eventually, free_address, send};
use super::upstream::Upstream;

const LOG: &str = "requests.log";

/// Everything is sent to cluster `a`; `service` is who is asked, `dead` who does not answer.
pub(crate) struct Stage {
    pub(crate) listener: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) upstream: Upstream,
    pub(crate) edge: AdsServer,
    data: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn start(
        filters: Vec<(&str, Any)>,
        routes: RouteConfiguration,
        service: SocketAddr,
    ) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        let upstream = Upstream::start("a").await;
        let dead = free_address();
        for (cluster, host) in [
            (mesh::cluster("a"), upstream.address),
            (mesh::with_http2(mesh::cluster("service")), service),
            (mesh::with_http2(mesh::cluster("dead")), dead),
        ] {
            edge.put(&cluster.name, &cluster);
            edge.put(&cluster.name, &mesh::endpoints(&cluster.name, &[(host, 0)]));
        }
        let log = data.path().join(LOG);
        let plain = mesh::listener("in", listener, "in");
        edge.put("in", &with_filters(plain, filters, &log));
        edge.put("in", &routes);
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            proxy,
            upstream,
            edge,
            data,
        }
    }

    /// The path, `x-user` and `x-forwarded-for` of each request that has ended, as they are logged.
    pub(crate) fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.data.path().join(LOG)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn ask(
        &self,
        client: &HttpClient,
        path: &str,
        lines: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let request = Request::post(format!("http://{}{path}", self.listener));
        let request = lines
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let body = Full::from(Bytes::copy_from_slice(body));
        send(client, request.body(body).unwrap()).await.unwrap()
    }
}

pub(crate) fn with_filters(mut listener: Listener, filters: Vec<(&str, Any)>, log: &Path) -> Listener {
    if let Some(filter::ConfigType::TypedConfig(config)) =
        &mut listener.filter_chains[0].filters[0].config_type
    {
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        let filters = filters.into_iter().map(|(name, config)| HttpFilter {
            name: name.to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(config)),
            ..HttpFilter::default()
        });
        manager.http_filters.splice(0..0, filters);
        manager.access_log = vec![self::log(log)];
        *config = pack_any(manager);
    }
    listener
}

fn log(path: &Path) -> AccessLog {
    let line = "%REQ(:PATH)% %REQ(X-USER)% %REQ(X-FORWARDED-FOR)%\n";
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(DataSource {
            specifier: Some(data_source::Specifier::InlineString(line.to_owned())),
            ..DataSource::default()
        })),
        ..SubstitutionFormatString::default()
    };
    let file = FileAccessLog {
        path: path.to_str().unwrap().to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(file))),
        ..AccessLog::default()
    }
}

pub(crate) fn service(cluster: &str) -> GrpcService {
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..EnvoyGrpc::default()
        })),
        // On a busy machine it takes a while to connect.
        timeout: Some(Duration { seconds: 1, nanos: 0 }),
        ..GrpcService::default()
    }
}
