//! Connections that the kernel redirects to the proxy, in a network namespace of their own: where they were to go is known, and
//! decides who serves them and where they are passed on to. Takes root, and the Debian package `iproute2`.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use envoy_types::util::pack_any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::proxy_protocol::{answer, ask};
use crate::support::ads::{self, AdsServer};
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};

mod elsewhere;
mod netfilter;

use netfilter::{Hook, Redirect, redirect};

/// Set where a test runs within its namespace.
const INSIDE: &str = "TOMBOLO_TEST_NAMESPACE";

/// Who comes from .9 is redirected; the proxy's own connections come from elsewhere.
fn rules() -> [Redirect; 3] {
    let rule = |from: &str, to: &'static [u8], ports, redirected| Redirect {
        from: from.parse().unwrap(),
        to,
        ports,
        redirected,
        at: None,
    };
    [
        rule("10.77.0.9", &[10, 77, 0], 80..=89, 15001),
        rule("fd77::9", &[], 80..=89, 15001),
        rule("10.77.0.9", &[10, 77, 0], 90..=90, 15002),
    ]
}

/// A network namespace; it ends with its test, however that does.
struct Namespace(String);

impl Namespace {
    /// With addresses; or what is missing.
    fn new(test: &str) -> Result<Self, String> {
        let name = format!("tombolo-{}-{test}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self(name);
        let name = namespace.0.as_str();
        run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        for address in [
            "10.77.0.1/24",
            "10.77.0.2/24",
            "10.77.0.9/24",
            "fd77::1/64",
            "fd77::9/64",
        ] {
            run(&["ip", "-n", name, "address", "add", address, "dev", "lo"])?;
        }
        // Others are in one beside it, which the link goes with.
        let outside = namespace.outside();
        run(&["ip", "netns", "add", &outside])?;
        for command in [
            [
                "link", "add", "across", "type", "veth", "peer", "across", "netns", &outside,
            ]
            .as_slice(),
            &["link", "set", "across", "up"],
            &["address", "add", "10.78.0.1/24", "dev", "across"],
            &["address", "add", "10.78.0.2/24", "dev", "across"],
        ] {
            run(&[&["ip", "-n", name], command].concat())?;
        }
        for command in [
            ["link", "set", "across", "up"].as_slice(),
            &["address", "add", "10.78.0.9/24", "dev", "across"],
        ] {
            run(&[&["ip", "-n", &outside], command].concat())?;
        }
        Ok(namespace)
    }

    fn outside(&self) -> String {
        outside(&self.0)
    }

    /// Runs this program's test of that path within.
    fn run_test(&self, path: &str) -> Output {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
            .args(["--exact", path, "--nocapture"])
            .env(INSIDE, &self.0);
        command.output().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for name in [&self.0, &self.outside()] {
            if let Err(error) = run(&["ip", "netns", "delete", name]) {
                eprintln!("{error}");
            }
        }
    }
}

fn outside(namespace: &str) -> String {
    format!("{namespace}-outside")
}

fn run(command: &[&str]) -> Result<(), String> {
    let failed = |why: &str| format!("{}: {}", command.join(" "), why.trim());
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs `test` in a namespace, if there can be one.
fn within(name: &str, hook: Hook, rules: &[Redirect], test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        redirect(hook, rules).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(test);
    }
    let namespace = match Namespace::new(name) {
        Ok(namespace) => namespace,
        Err(missing) => {
            let missing = format!("not tested, it takes root and the Debian package iproute2: {missing}");
            let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!is_ci, "{missing}");
            eprintln!("{missing}");
            return;
        }
    };
    let output = namespace.run_test(&format!("capture::{name}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{wrong}"
    );
}

/// Answers what it is asked with its name.
async fn host(address: &str, name: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, name));
        }
    });
}

fn anywhere(name: &str) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        eds_cluster_config: None,
        lb_policy: LbPolicy::ClusterProvided as i32,
        ..mesh::cluster(name)
    }
}

fn passing(cluster: &str) -> FilterChain {
    let proxy = TcpProxy {
        stat_prefix: "tcp".to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    FilterChain {
        filters: vec![Filter {
            name: "envoy.filters.network.tcp_proxy".to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
        }],
        ..Default::default()
    }
}

fn unbound(name: &str, address: &str) -> Listener {
    Listener {
        bind_to_port: Some(BoolValue { value: false }),
        ..mesh::listener(name, address.parse().unwrap(), name)
    }
}

async fn connect(from: &str, to: &str) -> TcpStream {
    let (from, to): (IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let socket = if from.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    tokio::time::timeout(DEADLINE, socket.connect(to))
        .await
        .unwrap()
        .unwrap()
}

async fn asked(to: &str) -> String {
    let from = if to.starts_with('[') {
        "fd77::9"
    } else {
        "10.77.0.9"
    };
    ask(&mut connect(from, to).await).await
}

#[test]
fn who_is_redirected_gets_where_it_was_to_go() {
    let name = "who_is_redirected_gets_where_it_was_to_go";
    within(name, Hook::Output, &rules(), async {
        for (address, name) in [
            ("10.77.0.1:80", "one"),
            ("10.77.0.2:80", "two"),
            ("[fd77::1]:80", "six"),
            ("10.77.0.1:90", "ninety"),
        ] {
            host(address, name).await;
        }
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        edge.put("anywhere", &anywhere("anywhere"));
        // Its chain for a port is for those only that were to go to it.
        let of_port = FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                destination_port: Some(UInt32Value { value: 82 }),
                ..Default::default()
            }),
            ..mesh::listener("out", free_address(), "port")
                .filter_chains
                .remove(0)
        };
        let out = Listener {
            filter_chains: vec![of_port, passing("anywhere")],
            use_original_dst: Some(BoolValue { value: true }),
            ..mesh::listener("out", "[::]:15001".parse().unwrap(), "unused")
        };
        edge.put("out", &out);
        edge.put("web", &unbound("web", "10.77.0.2:80"));
        edge.put("all", &unbound("all", "0.0.0.0:81"));
        let known = Listener {
            listener_filters: vec![ListenerFilter {
                name: "envoy.filters.listener.original_dst".to_owned(),
                config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(OriginalDst {}))),
                ..Default::default()
            }],
            ..mesh::listener("known", "0.0.0.0:15002".parse().unwrap(), "known")
        };
        edge.put("known", &known);
        let via = |name: &str| {
            vec![
                mesh::answer("/said", 200, name),
                mesh::to_cluster("/", "anywhere"),
            ]
        };
        for name in ["web", "all", "known"] {
            edge.put(name, &mesh::routes(name, via(name)));
        }
        for name in ["all", "port"] {
            edge.put(name, &mesh::routes(name, vec![mesh::answer("/", 200, name)]));
        }
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        for name in ["out", "web", "all", "known"] {
            let known = || async { edge.is_acknowledged(ads::LISTENER, name) };
            eventually("its listeners are known", known).await;
        }
        assert!(
            TcpStream::connect("10.77.0.1:81").await.is_err(),
            "nobody listens where a listener does not bind"
        );
        for (to, expected) in [
            ("10.77.0.1:80", "one"),
            ("[fd77::1]:80", "six"),
            // By the listener of that address, over HTTP.
            ("10.77.0.2:80", "two"),
            ("10.77.0.1:81", "all"),
            ("10.77.0.2:81", "all"),
            ("10.77.0.1:82", "port"),
            ("10.77.0.1:90", "ninety"),
        ] {
            for _ in 0..4 {
                assert_eq!(asked(to).await, expected, "{to}");
            }
        }
        let mut said = connect("10.77.0.9", "10.77.0.2:80").await;
        said.write_all(b"GET /said HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        said.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nweb"), "{answer}");

        // Who was to come here, and nowhere else, goes nowhere.
        let mut here = connect("10.77.0.1", "10.77.0.1:15001").await;
        assert_eq!(here.read(&mut [0]).await.unwrap_or(0), 0);
        let mut here = connect("10.77.0.1", "10.77.0.1:15002").await;
        here.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        here.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        for line in [
            "tombolo_tcp_connections_total{listener=\"out\",cluster=\"anywhere\",flags=\"UH\"} 1",
            "tombolo_connections_active{listener=\"out\"} 0",
            "tombolo_connections_active{listener=\"web\"} 0",
        ] {
            let counted = || async { proxy.metrics().await.contains(line) };
            eventually(line, counted).await;
        }
        let metrics = proxy.metrics().await;
        assert!(!metrics.contains("0.0.0.0:0"), "no host that is none");

        // A listener that goes leaves its connections to whom they were redirected to.
        let mut held = connect("10.77.0.9", "10.77.0.1:81").await;
        assert_eq!(ask(&mut held).await, "all");
        edge.remove(ads::LISTENER, "all");
        edge.put(
            "web",
            &Listener {
                bind_to_port: None,
                ..unbound("web", "10.77.0.2:83")
            },
        );
        eventually("it binds now", || async {
            TcpStream::connect("10.77.0.2:83").await.is_ok()
        })
        .await;
        assert_eq!(asked("10.77.0.2:80").await, "two");
        eventually("the other one is gone", || async {
            let mut stream = connect("10.77.0.9", "10.77.0.1:81").await;
            // Nobody is there to be passed on to.
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte));
            matches!(read.await, Ok(Ok(0) | Err(_)))
        })
        .await;
        edge.put("web", &unbound("web", "10.77.0.2:83"));
        eventually("it binds no more", || async {
            TcpStream::connect("10.77.0.2:83").await.is_err()
        })
        .await;
        let mut said = connect("10.77.0.9", "10.77.0.2:83").await;
        said.write_all(b"GET /said HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        said.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nweb"), "{answer}");
        proxy.stop().await;
    });
}
