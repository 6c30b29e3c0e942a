//! A proxy whose filters ask a service, in front of a host.

use std::net::SocketAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
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

/// Everything is sent to cluster `a`; `service` is who is asked, `dead` who does not answer.
pub(crate) struct Stage {
    pub(crate) listener: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) upstream: Upstream,
    _edge: AdsServer,
    _data: tempfile::TempDir,
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
        edge.put("in", &with_filters(mesh::listener("in", listener, "in"), filters));
        edge.put("in", &routes);
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            proxy,
            upstream,
            _edge: edge,
            _data: data,
        }
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

fn with_filters(mut listener: Listener, filters: Vec<(&str, Any)>) -> Listener {
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
        *config = pack_any(manager);
    }
    listener
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
