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
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Router;

use super::ads::AdsServer;
use super::mesh;
use super::proxy::{Answer, HttpClient, Proxy, free_address, send};
use super::site::{Site, at};
use super::upstream::Upstream;

const LOG: &str = "requests.log";

/// Everything is sent to cluster `a`; `service` is who is asked, `dead` who does not answer.
pub(crate) struct Stage {
    pub(crate) listener: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) upstream: Upstream,
    pub(crate) edge: AdsServer,
    logs: tempfile::TempDir,
    _data: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn start(
        filters: Vec<(&str, Any)>,
        routes: RouteConfiguration,
        service: SocketAddr,
    ) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        Self::start_under(edge, filters, routes, service).await
    }

    pub(crate) async fn start_under(
        edge: AdsServer,
        filters: Vec<(&str, Any)>,
        routes: RouteConfiguration,
        service: SocketAddr,
    ) -> Self {
        let upstream = Upstream::start("a").await;
        let clusters = vec![
            at(mesh::cluster("a"), upstream.address),
            at(mesh::with_http2(mesh::cluster("service")), service),
            at(mesh::with_http2(mesh::cluster("dead")), free_address()),
        ];
        let logs = tempfile::tempdir().unwrap();
        let log = log(&logs.path().join(LOG));
        let made = |plain| {
            mesh::with_manager(mesh::with_filters(plain, filters), |manager| {
                manager.access_log = vec![log];
            })
        };
        let site = Site::start_under(edge, clusters, made, routes, Proxy::start).await;
        Self {
            listener: site.listener,
            proxy: site.proxy,
            upstream,
            edge: site.edge,
            logs,
            _data: site.data,
        }
    }

    /// The path, `x-user` and `x-forwarded-for` of each request that has ended, as they are logged.
    pub(crate) fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.logs.path().join(LOG)).unwrap_or_default();
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

/// Serves what a filter asks.
pub(crate) async fn serve(services: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = TcpListenerStream::new(listener);
    tokio::spawn(async move { services.serve_with_incoming(connections).await.unwrap() });
    address
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
