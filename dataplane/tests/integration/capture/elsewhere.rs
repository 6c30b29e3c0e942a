//! Connections of others that come here, as to a gateway that captures what passes: the kernel redirects them before it looks where
//! they go, to a port of this machine or to another address of it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use envoy_types::pb::google::protobuf::BoolValue;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

use super::netfilter::{Hook, Redirect};
use super::{INSIDE, Listener, anywhere, host, outside, passing, within};
use crate::proxy_protocol::ask;
use crate::support::ads::{self, AdsServer};
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};

fn rules() -> [Redirect; 2] {
    let rule = |port: u16, at: Option<&str>| Redirect {
        from: [10, 78, 0, 9].into(),
        to: &[10, 78, 0],
        ports: port..=port,
        redirected: 15001,
        at: at.map(|at| at.parse().unwrap()),
    };
    [rule(80, None), rule(90, Some("10.78.0.1"))]
}

/// A connection of another machine, as it were.
async fn connect(to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    let connecting = tokio::task::spawn_blocking(move || {
        // A namespace is a thread's: one that nobody else has.
        let connecting = std::thread::spawn(move || {
            let inside = std::env::var(INSIDE).unwrap();
            let namespace = File::open(format!("/var/run/netns/{}", outside(&inside))).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            std::net::TcpStream::connect_timeout(&to, DEADLINE).unwrap()
        });
        connecting.join().unwrap()
    });
    let stream = connecting.await.unwrap();
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

#[test]
fn who_comes_from_elsewhere_gets_where_it_was_to_go() {
    let name = "elsewhere::who_comes_from_elsewhere_gets_where_it_was_to_go";
    within(name, Hook::Prerouting, &rules(), async {
        for (address, name) in [
            ("10.78.0.1:80", "one"),
            ("10.78.0.2:80", "two"),
            ("10.78.0.1:90", "ninety of one"),
            ("10.78.0.2:90", "ninety of two"),
            ("10.78.0.1:91", "not captured"),
        ] {
            host(address, name).await;
        }
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        edge.put("anywhere", &anywhere("anywhere"));
        let out = Listener {
            filter_chains: vec![passing("anywhere")],
            use_original_dst: Some(BoolValue { value: true }),
            ..mesh::listener("out", "0.0.0.0:15001".parse().unwrap(), "unused")
        };
        edge.put("out", &out);
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        let known = || async { edge.is_acknowledged(ads::LISTENER, "out") };
        eventually("its listener is known", known).await;
        for (to, expected) in [
            ("10.78.0.1:80", "one"),
            ("10.78.0.2:80", "two"),
            ("10.78.0.1:90", "ninety of one"),
            // By the address where it was to go, not by that where it came in.
            ("10.78.0.2:90", "ninety of two"),
            ("10.78.0.1:91", "not captured"),
        ] {
            for _ in 0..4 {
                assert_eq!(ask(&mut connect(to).await).await, expected, "{to}");
            }
        }
        // All of them but those that nothing redirects.
        let line = "tombolo_tcp_connections_total{listener=\"out\",cluster=\"anywhere\",flags=\"\"} 16";
        let counted = || async { proxy.admin("/metrics").await.unwrap().body.contains(line) };
        eventually(line, counted).await;
        proxy.stop().await;
    });
}
