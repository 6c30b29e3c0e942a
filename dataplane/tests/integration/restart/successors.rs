//! What a proxy that takes over has ready, and what the one that it relieves still does well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::listener::v3::FilterChainMatch;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use envoy_types::pb::google::protobuf::UInt32Value;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::jwt::{Issuer, authentication, remote};
use crate::support::ads::LISTENER;
use crate::support::proxy::send;

/// What asks all the time, and notes each answer that is not `expected`.
struct Asking {
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<StatusCode>>,
}

impl Asking {
    fn start(url: String, lines: Vec<(&'static str, String)>) -> Self {
        let ends = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            let mut others = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let request = lines.iter().fold(Request::get(&url), |request, (name, value)| {
                    request.header(*name, value)
                });
                // A new connection each time, which one process or the other takes.
                let answer = send(&client(), request.body(Full::default()).unwrap()).await;
                let status = answer.expect("there is an answer").status;
                if status != StatusCode::OK {
                    others.push(status);
                }
            }
            others
        });
        Self { ends, task }
    }

    async fn stop(self) -> Vec<StatusCode> {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Two that see at once that nobody is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_that_start_at_once_is_refused() {
    for take_over in [false, true] {
        let mesh = Mesh::start().await;
        let mut both = [mesh.admin, free_address()].map(|admin| mesh.run(1, take_over, admin));
        let ended = |both: &mut [Process; 2]| {
            both.iter_mut()
                .position(|process| process.child.try_wait().unwrap().is_some())
        };
        let mut refused = None;
        for _ in 0..DEADLINE.as_millis() / 10 {
            refused = ended(&mut both);
            if refused.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let refused = refused.expect("both of them run");
        let (log, folder) = (both[refused].log(), mesh.data.path().display());
        let why = if take_over {
            format!("a proxy with the data folder {folder} starts or stops")
        } else {
            format!(
                "a proxy runs with the data folder {folder} already: let this one take over from it (--take-over)"
            )
        };
        // The other one may have got so far that it can be asked, or be relieved.
        let asked = ["it is not ready, or stops", "another process has taken over"];
        let is_asked = take_over && asked.iter().any(|said| log.contains(said));
        assert!(log.contains(&why) || is_asked, "{log}");
        eventually("the other one serves", || async {
            mesh.get("/").await.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
}

/// Balancers in front of it would send requests elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_always_one_that_is_ready() {
    let mesh = Mesh::start().await;
    let mut running = mesh.ready_proxy(1).await;
    let url = format!("http://{}/ready", mesh.admin);
    let asking: Vec<_> = (0..4).map(|_| Asking::start(url.clone(), vec![])).collect();
    for round in 0..2 {
        let mut kept = TcpStream::connect(mesh.admin).await.unwrap();
        let request = b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n";
        kept.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ready\n") {
            kept.read_buf(&mut answer).await.unwrap();
        }
        // Something to write down before it can go.
        mesh.follows_the_edge(&format!("round {round}")).await;
        let successor = mesh.successor(1);
        successor.says("took over").await;
        // Who has asked the one that goes is told the same, and asks the other one next.
        running.says("another process has taken over").await;
        let mut told = Vec::new();
        if kept.write_all(request).await.is_ok() {
            let read = tokio::time::timeout(DEADLINE, kept.read_to_end(&mut told));
            let _ = read.await.expect("the connection ends");
        }
        let told = String::from_utf8_lossy(&told);
        // On a busy machine it may have ended meanwhile.
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 200 "), "{told}");
        running.ended_well().await;
        running = successor;
    }
    for asking in asking {
        assert_eq!(asking.stop().await, Vec::<StatusCode>::new(), "{}", running.log());
    }
}

/// An issuer that takes its time to answer.
async fn slow(issuer: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut asking, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let mut answering = TcpStream::connect(issuer).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut asking, &mut answering).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_knows_the_keys_of_issuers_before_it_serves() {
    let mesh = Mesh::start().await;
    let issuer = Issuer::start().await;
    let address = slow(issuer.address).await;
    mesh.edge.put("issuer", &mesh::cluster("issuer"));
    mesh.edge
        .put("issuer", &mesh::endpoints("issuer", &[(address, 0)]));
    let filters = vec![("jwt", authentication(remote(600)))];
    let listener = mesh::listener("in", mesh.listener, "in");
    mesh.edge.put("in", &mesh::with_filters(listener, filters));
    let mut running = mesh.ready_proxy(1).await;
    let token = issuer.token(&json!({}));
    let ask = || async {
        let request = Request::get(format!("http://{}/", mesh.listener)).header("authorization", &token);
        let answer = send(&client(), request.body(Full::default()).unwrap()).await;
        answer.is_some_and(|answer| answer.status == 200)
    };
    eventually("the keys have come", ask).await;
    let url = format!("http://{}/", mesh.listener);
    let asking: Vec<_> = (0..4)
        .map(|_| Asking::start(url.clone(), vec![("authorization", token.clone())]))
        .collect();
    // Nobody else would let in whom the one that runs still knows.
    issuer.goes_down(true);
    mesh.successor(1)
        .failed("its keys of issuer.example:8443/keys?v=1 have not come in time")
        .await;
    issuer.goes_down(false);
    let successor = mesh.successor(1);
    successor.says("took over").await;
    running.ended_well().await;
    assert!(ask().await);
    for asking in asking {
        assert_eq!(
            asking.stop().await,
            Vec::<StatusCode>::new(),
            "{}",
            successor.log()
        );
    }
}

/// Not for as many, of whomever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_waits_for_the_keys_that_the_other_one_has() {
    let mesh = Mesh::start().await;
    let issuers = [Issuer::start().await, Issuer::start().await];
    let [one, other] = &issuers;
    for (name, issuer) in ["issuer", "other"].iter().zip(&issuers) {
        mesh.edge.put(name, &mesh::cluster(name));
        mesh.edge
            .put(name, &mesh::endpoints(name, &[(issuer.address, 0)]));
    }
    let of_the_other = match remote(600) {
        JwksSourceSpecifier::RemoteJwks(mut keys) => {
            let uri = keys.http_uri.as_mut().unwrap();
            uri.http_upstream_type = Some(HttpUpstreamType::Cluster("other".to_owned()));
            JwksSourceSpecifier::RemoteJwks(keys)
        }
        local => local,
    };
    for (name, address, keys) in [
        ("in", mesh.listener, remote(600)),
        ("other", free_address(), of_the_other),
    ] {
        let listener = mesh::listener(name, address, "in");
        let filters = vec![("jwt", authentication(keys))];
        mesh.edge.put(name, &mesh::with_filters(listener, filters));
    }
    other.goes_down(true);
    let _running = mesh.ready_proxy(1).await;
    let token = one.token(&json!({}));
    let ask = || async {
        let request = Request::get(format!("http://{}/", mesh.listener)).header("authorization", &token);
        let answer = send(&client(), request.body(Full::default()).unwrap()).await;
        answer.is_some_and(|answer| answer.status == 200)
    };
    eventually("the keys of one have come", ask).await;
    mesh.host.mood.send_replace(Mood::Frozen);
    let mut successor = mesh.successor(1);
    successor.says("gets ready to serve it").await;
    // From now on there are keys of as many, and not those that are in use.
    one.goes_down(true);
    other.goes_down(false);
    mesh.host.mood.send_replace(Mood::Well);
    successor
        .failed("issuer: its keys of issuer.example:8443/keys?v=1 have not come in time")
        .await;
    assert!(ask().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_waits_for_no_keys_when_nobody_serves() {
    let mesh = Mesh::start().await;
    let issuer = Issuer::start().await;
    mesh.edge.put("issuer", &mesh::cluster("issuer"));
    let endpoints = mesh::endpoints("issuer", &[(issuer.address, 0)]);
    mesh.edge.put("issuer", &endpoints);
    let filters = vec![("jwt", authentication(remote(600)))];
    let listener = mesh::listener("in", mesh.listener, "in");
    mesh.edge.put("in", &mesh::with_filters(listener, filters));
    let mut running = mesh.ready_proxy(1).await;
    let token = issuer.token(&json!({}));
    let ask = || async {
        let request = Request::get(format!("http://{}/", mesh.listener)).header("authorization", &token);
        let answer = send(&client(), request.body(Full::default()).unwrap()).await;
        answer.map(|answer| answer.status.as_u16())
    };
    eventually("the keys have come", || async { ask().await == Some(200) }).await;
    issuer.goes_down(true);
    let successor = mesh.successor(1);
    running.says("handing the ports over").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.signal(Signal::KILL);
    running.ended().await;
    successor.says("without the keys of all issuers").await;
    successor.says("has ended meanwhile").await;
    assert_eq!(ask().await, Some(401));
    issuer.goes_down(false);
    eventually("the keys have come again", || async { ask().await == Some(200) }).await;
}

/// A chain that goes on as it was would be closed by who knows nothing of what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_successor_could_not_serve_is_left_to_who_does() {
    let mesh = Mesh::start().await;
    let of_this_port = |routes: &str| {
        let mut listener = mesh::listener("in", mesh.listener, routes);
        listener.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
            destination_port: Some(UInt32Value {
                value: mesh.listener.port().into(),
            }),
            ..FilterChainMatch::default()
        });
        let other = mesh::listener("in", mesh.listener, "other");
        listener.default_filter_chain = other.filter_chains.into_iter().next();
        listener
    };
    let nobodys = vec![mesh::answer("/", 404, "nobody's")];
    mesh.edge.put("other", &mesh::routes("other", nobodys));
    mesh.edge.put("in", &of_this_port("in"));
    let mut running = mesh.ready_proxy(1).await;
    let is_served = || async { mesh.get("/").await.is_some_and(|answer| answer.status == 200) };
    assert!(is_served().await);
    mesh.edge.put("in", &of_this_port("later"));
    eventually("it waits for its routes", || async {
        mesh.edge.is_acknowledged(LISTENER, "in")
    })
    .await;
    mesh.successor(1)
        .failed("listener in goes on as it was before it was changed")
        .await;
    assert!(is_served().await);
    let later = vec![mesh::to_cluster("/", "a")];
    mesh.edge.put("later", &mesh::routes("later", later));
    mesh.follows_the_edge_in("later", "they have come").await;
    let successor = mesh.successor(1);
    successor.says("took over").await;
    running.ended_well().await;
    assert!(is_served().await);
}

/// It has requests to send for a while, and hosts die meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_relieved_still_sees_which_hosts_are_well() {
    let mesh = Mesh::start().await;
    let other = Upstream::start("host").await;
    let hosts = [(mesh.host.address, 0), (other.address, 0)];
    mesh.edge.put("a", &mesh::endpoints("a", &hosts));
    let mut running = mesh.ready_proxy(1).await;
    let mut kept = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(mesh.listener).await.unwrap();
        assert!(talk(&mut stream, "/kept").await.contains("host /kept"));
        kept.push(stream);
    }
    let successor = mesh.successor(1);
    successor.says("took over").await;
    running.says("another process has taken over").await;
    drop(other);
    running.says("\"unhealthy\"").await;
    for mut stream in kept {
        let answer = talk(&mut stream, "/kept").await;
        assert!(
            answer.contains("host /kept") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    running.ended_well().await;
}
