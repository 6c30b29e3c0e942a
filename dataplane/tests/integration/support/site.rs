//! An edge, and a proxy that runs what it says: the listener `in`, whose requests go by the route table `in`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use http::Request;
use http_body_util::Full;

use super::ads::AdsServer;
use super::mesh;
use super::proxy::{Answer, Proxy, client, eventually, free_address, http2_client, send};

/// A cluster and its hosts, each with its priority.
pub(crate) type Served = (Cluster, Vec<(SocketAddr, u32)>);

pub(crate) struct Site {
    pub(crate) edge: AdsServer,
    pub(crate) proxy: Proxy,
    pub(crate) data: tempfile::TempDir,
    pub(crate) listener: SocketAddr,
}

/// A cluster of one host.
pub(crate) fn at(cluster: Cluster, host: SocketAddr) -> Served {
    (cluster, vec![(host, 0)])
}

impl Site {
    /// Returns when the proxy is ready.
    pub(crate) async fn start(clusters: Vec<Served>, routes: Vec<Route>) -> Self {
        Self::start_listening(clusters, |plain| plain, routes).await
    }

    /// With the listener that `made` makes of a [plain one](mesh::listener).
    pub(crate) async fn start_listening(
        clusters: Vec<Served>,
        made: impl FnOnce(Listener) -> Listener,
        routes: Vec<Route>,
    ) -> Self {
        Self::start_with(clusters, made, mesh::routes("in", routes), Proxy::start).await
    }

    /// And with a proxy that is told more than its edge and where it keeps what it knows.
    pub(crate) async fn start_with(
        clusters: Vec<Served>,
        made: impl FnOnce(Listener) -> Listener,
        routes: RouteConfiguration,
        start: impl FnOnce(&str, &Path) -> Proxy,
    ) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        Self::start_under(edge, clusters, made, routes, start).await
    }

    pub(crate) async fn start_under(
        edge: AdsServer,
        clusters: Vec<Served>,
        made: impl FnOnce(Listener) -> Listener,
        routes: RouteConfiguration,
        start: impl FnOnce(&str, &Path) -> Proxy,
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        for (cluster, hosts) in &clusters {
            edge.put(&cluster.name, cluster);
            edge.put(&cluster.name, &mesh::endpoints(&cluster.name, hosts));
        }
        edge.put("in", &made(mesh::listener("in", listener, "in")));
        edge.put("in", &routes);
        let proxy = start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            edge,
            proxy,
            data,
            listener,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener)
    }

    /// One request over a connection of its own.
    pub(crate) async fn get(&self, path: &str, header: (&str, &str), http2: bool) -> Answer {
        let client = if http2 { http2_client() } else { client() };
        let request = Request::get(self.url(path)).header(header.0, header.1);
        let answer = send(&client, request.body(Full::default()).unwrap()).await;
        answer.unwrap()
    }

    /// The log of a proxy that [has one](Proxy::start_logging).
    pub(crate) fn log(&self) -> PathBuf {
        Proxy::log(self.data.path())
    }

    /// Waits until the proxy runs a resource as the edge holds it.
    pub(crate) async fn acknowledges(&self, type_url: &str, name: &str) {
        eventually(&format!("{name} is acknowledged"), || async {
            self.edge.is_acknowledged(type_url, name)
        })
        .await;
    }

    /// Waits until every host of `cluster` is as `health` says.
    pub(crate) async fn hosts_are(&self, cluster: &str, health: &[&str]) {
        eventually(&format!("hosts of {cluster} are {health:?}"), || async {
            let hosts = self.proxy.admin("/hosts").await.unwrap().body;
            let hosts: HashMap<String, Vec<serde_json::Value>> = serde_json::from_str(&hosts).unwrap();
            hosts.get(cluster).is_some_and(|hosts| {
                hosts
                    .iter()
                    .map(|host| host["health"].as_str().unwrap())
                    .eq(health.iter().copied())
            })
        })
        .await;
    }
}
