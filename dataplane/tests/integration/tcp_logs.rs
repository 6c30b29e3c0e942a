//! What is written of connections that are passed on: a record of each when it has ended, in the proxy's own log and in those of
//! its listener.

use std::net::SocketAddr;
use std::path::Path;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as PbAccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter,
};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::google::protobuf::UInt32Value;
use envoy_types::util::pack_any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tombolo_dataplane::AccessLog;

use crate::support::ads::AdsServer;
use crate::support::proxy::{Proxy, eventually, free_address};
use crate::support::{ads, mesh};

const FORMAT: &str = "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% \
                      %UPSTREAM_REQUEST_ATTEMPT_COUNT% %DOWNSTREAM_REMOTE_ADDRESS% %REQ(:METHOD)% \
                      %RESPONSE_CODE% %PROTOCOL% %DOWNSTREAM_LOCAL_ADDRESS%\n";

fn log(path: &Path, filter: Option<access_log_filter::FilterSpecifier>) -> PbAccessLog {
    let file = FileAccessLog {
        path: path.to_str().unwrap().to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(FORMAT.to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        })),
    };
    PbAccessLog {
        filter: filter.map(|filter| AccessLogFilter {
            filter_specifier: Some(filter),
        }),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(file))),
        ..Default::default()
    }
}

fn passing(address: SocketAddr, name: &str, cluster: &str, logs: Vec<PbAccessLog>) -> Listener {
    let proxy = TcpProxy {
        stat_prefix: "tcp".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        max_connect_attempts: Some(UInt32Value { value: 2 }),
        access_log: logs,
        ..Default::default()
    };
    Listener {
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.tcp_proxy".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
            }],
            ..Default::default()
        }],
        ..mesh::listener(name, address, "unused")
    }
}

/// Reads five bytes, and says `bye` to each of its clients.
async fn polite() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(b"bye").await.unwrap();
        }
    });
    address
}

/// Whose connection it was, once it has ended.
async fn talk(to: SocketAddr) -> SocketAddr {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let from = stream.local_addr().unwrap();
    let _ = stream.write_all(b"hello").await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    from
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_is_a_line_when_it_has_ended() {
    let (host, dead) = (polite().await, free_address());
    let data = tempfile::tempdir().unwrap();
    let [own, all, failed] = ["own", "all", "failed"].map(|name| data.path().join(name));
    let flagged = || {
        access_log_filter::FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["UF".to_owned()],
        })
    };
    let edge = AdsServer::start_at(free_address()).await;
    let listeners = [free_address(), free_address(), free_address()];
    for (cluster, address) in [("a", host), ("b", dead)] {
        edge.put(cluster, &mesh::cluster(cluster));
        edge.put(cluster, &mesh::endpoints(cluster, &[(address, 0)]));
    }
    for ((name, cluster), address) in [("l0", "a"), ("l1", "b"), ("l2", "none")]
        .into_iter()
        .zip(listeners)
    {
        let logs = vec![log(&all, None), log(&failed, Some(flagged()))];
        edge.put(name, &passing(address, name, cluster, logs));
    }
    let proxy = Proxy::start_with(&edge.url(), data.path(), AccessLog::File(own.clone()));
    eventually("the proxy is ready", || proxy.is_ready()).await;
    for cluster in ["a", "b"] {
        let known = || async { edge.is_acknowledged(ads::ENDPOINTS, cluster) };
        eventually("its hosts are known", known).await;
    }
    let mut expected = Vec::new();
    for (address, line) in listeners.into_iter().zip([
        format!("- 5 3 {host} a 1"),
        format!("UF,URX 0 0 {dead} b 2"),
        "NC 0 0 - - 0".to_owned(),
    ]) {
        let from = talk(address).await;
        expected.push(format!("{line} {from} - 0 - {address}"));
    }
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    eventually("the lines are written", || async {
        [&all, &own].into_iter().all(|path| read(path).len() == 3)
    })
    .await;
    let failure = expected[1].clone();
    expected.sort();
    assert_eq!(read(&all), expected);
    assert_eq!(read(&failed), [failure]);
    let own = read(&own);
    let of_a = own
        .iter()
        .find(|line| line.contains("\"cluster\":\"a\""))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(of_a).unwrap();
    let said = ["bytes_received", "bytes_sent", "retries", "flags"].map(|name| line[name].to_string());
    assert_eq!(said, ["5", "3", "0", "\"\""]);
}
