//! What nobody well-behaved sends, over real sockets to a real worker: requests that two readers could read in two ways, heads
//! and bodies that end early or never, floods; and hosts that answer like that.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy::{DEADLINE, ask_first};
use crate::support::stage::{Stage, WAYS};
use answers::says;

mod answers;
mod refused;
mod taken;

/// The status of each answer on a connection.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| head[..3].parse().unwrap()).collect()
}

/// All at once, and on one of the ways byte by byte too.
fn steps(way: &str) -> impl Iterator<Item = usize> + use<> {
    let all = if way == WAYS[0] {
        &[usize::MAX, 1][..]
    } else {
        &[usize::MAX]
    };
    all.iter().copied()
}

const H: &str = "host: h\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_within_bounds() {
    let stage = Stage::start().await;
    let start = "GET /relayed HTTP/1.1\r\nhost: h\r\n";
    let chunked = "POST /relayed HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (format!("{start}{}\r\n", "x: y\r\n".repeat(100)), 431),
        (format!("{start}x: {}\r\n\r\n", "y".repeat(70_000)), 431),
        (format!("{start}{}", "y".repeat(70_000)), 431),
        (format!("{start}connection: {}\r\n\r\n", "a,".repeat(33)), 431),
        (
            format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "y".repeat(70_000)),
            414,
        ),
        ("y".repeat(70_000), 414),
        ("\r\n".repeat(10_000), 400),
        (format!("{chunked}1;{}\r\n", "x".repeat(10_000)), 400),
        (format!("{chunked}{}", "1;xxxxxxxx\r\na\r\n".repeat(2_000)), 400),
        (format!("{chunked}0\r\n{}", "x: yyyyyyyy\r\n".repeat(2_000)), 400),
        (format!("{chunked}{}\r\n", "0".repeat(1_000)), 400),
    ];
    for (request, status) in cases {
        let answer = stage.talk(request.as_bytes(), 10_000).await;
        assert_eq!(statuses(&answer), [status], "{}: {answer:?}", &request[..60]);
    }
    let said = format!(
        "HTTP/1.1 200 OK\r\nconnection: {}\r\ncontent-length: 0\r\n\r\n",
        "a,".repeat(33)
    );
    let answer = stage.talk(says("/relayed", &said).as_bytes(), usize::MAX).await;
    assert_eq!(statuses(&answer), [503], "{answer:?}");
    let one = "GET /relayed HTTP/1.1\r\nhost: h\r\n\r\n".repeat(999);
    let last = "GET /relayed HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let answer = stage.talk(format!("{one}{last}").as_bytes(), usize::MAX).await;
    assert_eq!(statuses(&answer), [200; 1000]);
    let fits = format!("{start}x: {}\r\nconnection: close\r\n\r\n", "y".repeat(60_000));
    assert_eq!(statuses(&stage.talk(fits.as_bytes(), 1_000).await), [200]);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_may_answer_before_the_request_has_come() {
    let stage = Stage::start().await;
    for way in WAYS {
        for body in [
            "content-length: 100000\r\n\r\nhello",
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            let request = format!("POST {way}/early HTTP/1.1\r\nhost: h\r\n{body}");
            let answer = stage.talk(request.as_bytes(), usize::MAX).await;
            assert_eq!(statuses(&answer), [413], "{request:?}: {answer:?}");
            assert!(answer.contains("connection: close\r\n"), "{answer:?}");
            assert!(answer.ends_with("\r\n\r\nno"), "{answer:?}");
            // A connection over which half a request went would take this one for the other half.
            let next = format!("GET {way}/next HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
            let answer = stage.talk(next.as_bytes(), usize::MAX).await;
            assert_eq!(statuses(&answer), [200], "{request:?}: {answer:?}");
        }
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_wants_is_skipped() {
    let stage = Stage::start().await;
    let last = "GET /relayed HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    for body in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
    ] {
        // The proxy answers this itself.
        let request = format!("OPTIONS * HTTP/1.1\r\nhost: h\r\n{body}{last}");
        let answer = stage.talk(request.as_bytes(), usize::MAX).await;
        assert_eq!(statuses(&answer), [400, 200], "{request:?}: {answer:?}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_bodies_may_be_under_way_at_once() {
    let stage = Stage::start().await;
    for way in WAYS {
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        let head = format!("POST {way}/echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        for said in ["a", "b", "c"] {
            let chunk = format!("1\r\n{said}\r\n");
            stream.write_all(chunk.as_bytes()).await.unwrap();
            while !String::from_utf8_lossy(&answer).contains(&chunk) {
                let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
                assert!(read.expect("it comes back").unwrap() > 0, "{said}");
            }
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("it ends")
            .unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(statuses(&answer), [200], "{answer}");
        assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_repeated_outlives_a_connection_that_its_host_closes() {
    let stage = Stage::start().await;
    let of =
        |method: &str| format!("{method} /relayed/once HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
    let last = of("GET").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    // Each but the first finds a connection that has answered once already.
    let requests = [of("GET"), of("GET"), of("POST"), of("GET"), of("DELETE"), last].concat();
    let answer = stage.talk(requests.as_bytes(), usize::MAX).await;
    assert_eq!(statuses(&answer), [200, 200, 503, 200, 200, 200], "{answer}");
    let seen = String::from_utf8_lossy(&stage.seen.lock().unwrap()).into_owned();
    let count = |method: &str| seen.matches(&format!("{method} /relayed/once ")).count();
    assert_eq!((count("GET"), count("POST"), count("DELETE")), (6, 1, 2));
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_more_than_was_asked_for_is_not_used_again() {
    let stage = Stage::start().await;
    let of = |path: &str| format!("GET /relayed{path} HTTP/1.1\r\nhost: h\r\n\r\n");
    let last = of("").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let requests = [of(""), of("/twice"), of(""), last].concat();
    let answer = stage.talk(requests.as_bytes(), usize::MAX).await;
    assert_eq!(statuses(&answer), [200; 4], "{answer}");
    let numbers = answer.split("\r\n\r\n").skip(1).map(|body| &body[..2]);
    assert_eq!(numbers.collect::<Vec<_>>(), ["01", "02", "01", "02"], "{answer}");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preface_of_http2_may_come_in_pieces() {
    let stage = Stage::start().await;
    let mut stream = TcpStream::connect(stage.listener).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().chain(&settings) {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut frame = [0; 9];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut frame))
        .await
        .expect("it is answered")
        .unwrap();
    assert_eq!(frame[3], settings[3], "settings come first");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let stage = Stage::start().await;
    for way in WAYS {
        let head = format!(
            "POST {way} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        );
        let answer = ask_first(stage.listener, &head).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    }
    assert!(!stage.has_seen("expect"));
    stage.proxy.stop().await;
}
