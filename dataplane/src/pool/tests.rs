//! Connections of HTTP/2 whose host is slow to say what it takes, or for which nobody waits any more.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::multiplexed::STREAMS_UNTOLD;
use super::*;
use crate::balance::Balancer;
use crate::breaker::Load as ClusterLoad;
use crate::config::Protocol;
use crate::snapshot::Health;

/// In which something that must happen does.
const SOON: Duration = Duration::from_secs(10);

fn cluster(protocol: Protocol) -> Cluster {
    Cluster {
        connect_timeout: SOON,
        protocol,
        health_check: None,
        panic_threshold_percent: 0.0,
        close_on_failure: false,
        balancer: Balancer::LeastRequest,
        is_by_locality: false,
        subsets: None,
        slow_start: None,
        limits: Limits {
            connections_max: 1,
            ..Limits::DEFAULT
        },
        outliers: None,
        tls: None,
        greeting: None,
        original: None,
    }
}

fn pool(address: SocketAddr) -> Rc<HostPool> {
    let host = Host::new(0, "a".into(), address, Health::Healthy);
    HostPool::new(Arc::new(host), Share::new(&ClusterLoad::new(1), 0))
}

/// A host that takes 200 requests at once on a connection, which is hyper's own number.
async fn host() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer =
                service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::task::spawn_local(async move {
                // A connection that is closed is no failure of a test.
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    address
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.unwrap()
}

#[tokio::test]
async fn who_waits_goes_on_when_a_host_says_that_it_takes_more() {
    let test = async {
        let (pool, config) = (pool(host().await), cluster(Protocol::Http2));
        let mut waiting: FuturesUnordered<_> = (0..150).map(|_| pool.sender(&config)).collect();
        let mut places = Vec::new();
        for _ in 0..STREAMS_UNTOLD {
            places.push(soon(waiting.next()).await.unwrap().unwrap().0);
        }
        assert!(waiting.next().now_or_never().is_none(), "it has said nothing yet");
        let mut lease = pool.lease();
        let mut sender = places.pop().unwrap();
        let request = Request::get(format!("http://{}/", pool.host.address));
        let answer = sender.send(request.body(RequestBody::Empty).unwrap()).await;
        assert!(answer.is_ok());
        lease.hold(sender);
        while let Some(place) = soon(waiting.next()).await {
            places.push(place.unwrap().0);
        }
        assert_eq!(places.len(), 149);
        assert!(!pool.turns.is_queue());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_that_nobody_waits_for_any_more_is_opened_all_the_same() {
    let test = async {
        let (pool, config) = (pool(host().await), cluster(Protocol::Http2));
        assert!(pool.sender(&config).now_or_never().is_none());
        soon(async {
            while pool.multiplexed.borrow().opening.is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(pool.multiplexed.borrow().open.len(), 1);
        let (_, freshness) = soon(pool.sender(&config)).await.unwrap();
        assert_eq!(freshness, Freshness::Reused);
        assert_eq!(Rc::strong_count(&pool), 1, "nothing holds it");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_one_of_another_protocol() {
    let test = async {
        let pool = pool(host().await);
        let (http2, http1) = (cluster(Protocol::Http2), cluster(Protocol::Http1));
        drop(soon(pool.sender(&http2)).await.unwrap());
        let (_, freshness) = soon(pool.connect_h1(&http1, Freshness::Reused)).await.unwrap();
        assert_eq!(freshness, Freshness::New);
        assert!(pool.multiplexed.borrow().open.is_empty());
    };
    LocalSet::new().run_until(test).await;
}
