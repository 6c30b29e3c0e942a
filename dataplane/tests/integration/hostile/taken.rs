//! Requests that look odd and can be read in one way only.

use super::{statuses, steps};
use crate::support::proxy;
use crate::support::stage::{Stage, WAYS};

/// Request, how often it is answered with 200, what its host must see, and what not.
type Taken = (
    &'static str,
    usize,
    &'static [&'static str],
    &'static [&'static str],
);

/// `WAY` is a path of its own; the last request of each asks for the connection's end.
const TAKEN: &[Taken] = &[
    (
        "GET WAY HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        1,
        &["GET WAY HTTP/1.1\r\n"],
        &["onnection"],
    ),
    (
        "\r\nGET WAY HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        1,
        &["GET WAY"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost:h\r\nconnection:close\r\n\r\n",
        1,
        &["host: h\r\n"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: \t h \t \r\nconnection: close\r\n\r\n",
        1,
        &["host: h\r\n"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nx: \r\nconnection: close\r\n\r\n",
        1,
        &["x: \r\n"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nx: \u{e9}\r\nconnection: close\r\n\r\n",
        1,
        &["x: \u{e9}\r\n"],
        &[],
    ),
    (
        "GET http://hWAY HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        1,
        &["GET WAY HTTP/1.1", "host: h\r\n"],
        &[],
    ),
    (
        "GET http://HWAY HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        1,
        &["GET WAY HTTP/1.1"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n\r\n",
        1,
        &["host: [::1]:80\r\n"],
        &[],
    ),
    (
        "GET WAY HTTP/1.0\r\nhost: h\r\n\r\n",
        1,
        &["GET WAY HTTP/1.1"],
        &[],
    ),
    (
        "GET WAY HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n",
        1,
        &["GET WAY"],
        &["keep-alive"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nconnection: close, x-mine, host, x-request-id\r\nx-mine: secret\r\n\r\n",
        1,
        &["host: h\r\n", "x-request-id: "],
        &["secret", "x-mine"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nkeep-alive: a\r\nproxy-connection: b\r\nte: gzip\r\nupgrade: h2c\r\nconnection: close\r\n\r\n",
        1,
        &["GET WAY"],
        &["keep-alive", "proxy-connection", "te: gzip", "upgrade", "h2c"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nconnection: close\r\n\r\n",
        1,
        &["x-forwarded-for: 9.9.9.9,127.", "x-forwarded-proto: http\r\n"],
        &["https"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\n\r\nGET WAY2 HTTP/1.1\r\nhost: h\r\n\r\nGET WAY3 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        3,
        &["GET WAY HTTP", "GET WAY2 HTTP", "GET WAY3 HTTP"],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhelloPOST WAY2 HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        2,
        &["content-length: 5\r\n", "hello", "POST WAY2 HTTP"],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\ntransfer-encoding: CHUNKED\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\r\nGET WAY2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        2,
        &[
            "transfer-encoding: chunked\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "GET WAY2 HTTP",
        ],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, content-length, x-forwarded-for\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\ncontent-length: 5\r\nx-forwarded-for: 9.9.9.9\r\n\r\nGET WAY2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        2,
        &[
            "trailer: x-sum, ",
            "\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
            "GET WAY2 HTTP",
        ],
        &["content-length: 5", "9.9.9.9"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nTE: trailers\r\nX-Mixed-Case: kept\r\nconnection: TE, close\r\n\r\n",
        1,
        &["te: trailers\r\n", "connection: te\r\n", "X-Mixed-Case: kept\r\n"],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\nconnection: transfer-encoding, content-length, close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        1,
        &["transfer-encoding: chunked\r\n", "hello"],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\nconnection: content-length\r\ncontent-length: 5\r\n\r\nhelloGET WAY2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        2,
        &["hello", "GET WAY2 HTTP"],
        &[],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        1,
        &["hello"],
        &[],
    ),
    // Nobody is told to be asked for another protocol, and one of the same kind is not switched to.
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nconnection: upgrade, close\r\n\r\n",
        1,
        &["GET WAY"],
        &["upgrade"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: close\r\n\r\n",
        1,
        &["GET WAY"],
        &["upgrade", "websocket"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n",
        1,
        &["GET WAY"],
        &["pgrade", "h2c", "AAA"],
    ),
    (
        "GET WAY HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\nGET WAY2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        2,
        &["GET WAY", "GET WAY2"],
        &["pgrade", "h2c", "AAA"],
    ),
    (
        "GET WAY HTTP/1.0\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        1,
        &["GET WAY"],
        &["upgrade", "websocket"],
    ),
    // A path that is not as plain as it could be goes over the bridge.
    (
        "GET /%61WAY HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 9.9.9.9\r\nconnection: x-forwarded-for, x-forwarded-proto, x-request-id, host, x-mine\r\nconnection: x-yours, close\r\nx-mine: secret\r\nx-yours: secret\r\n\r\n",
        1,
        &[
            "GET /aWAY HTTP/1.1\r\n",
            "host: h\r\n",
            "x-forwarded-for: 9.9.9.9,127.",
            "x-forwarded-proto: http\r\n",
            "x-request-id: ",
        ],
        &["secret", "x-mine", "x-yours"],
    ),
    (
        "GET /%61WAY HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET WAY2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        2,
        &["GET /aWAY HTTP", "hello", "GET WAY2 HTTP"],
        &[],
    ),
    (
        "GET /%61WAY HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nconnection: content-length, close\r\n\r\nhello",
        1,
        &["GET /aWAY HTTP", "content-length: 5\r\n", "hello"],
        &[],
    ),
    (
        "POST WAY HTTP/1.1\r\nhost: h\r\nconnection: x-mine, close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, x-mine\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-mine: secret\r\n\r\n",
        1,
        &["\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"],
        &["secret"],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_odd_but_clear_is_answered() {
    let stage = Stage::start().await;
    for way in WAYS {
        for (nth, (request, answers, seen, unseen)) in TAKEN.iter().enumerate() {
            for step in steps(way) {
                let path = format!("{way}/taken-{nth}-{}-", step == 1);
                let request = request.replace("WAY", &path);
                stage.seen.lock().unwrap().clear();
                let answer = stage.talk(request.as_bytes(), step).await;
                assert_eq!(
                    statuses(&answer),
                    vec![200; *answers],
                    "{request:?} by {step}: {answer:?}"
                );
                for text in *seen {
                    let text = text.replace("WAY", &path);
                    let in_small = way == WAYS[2] && stage.has_seen(&text.to_lowercase());
                    assert!(
                        stage.has_seen(&text) || in_small,
                        "{request:?} by {step}: {text:?} did not come"
                    );
                }
                for text in *unseen {
                    assert!(!stage.has_seen(text), "{request:?} by {step}: {text:?} came");
                }
            }
        }
    }
    stage.proxy.stop().await;
}

/// A target's path, and as what it comes to the host if it is not refused.
const PATHS: &[(&str, Option<&str>)] = &[
    ("/a/../b", Some("/b")),
    ("/a/%2e%2E/b", Some("/b")),
    ("/a/%2e./b", Some("/b")),
    ("/%61%2fb", Some("/a%2fb")),
    ("/a/%252e%252e/b", Some("/a/%252e%252e/b")),
    ("/a/%2%65%2%65/b", None),
    ("/a/%2%45%2%45/b", None),
    ("/a/%%32e%%32e/b", None),
    ("/a/%2", None),
    ("/a/%", None),
    ("/a/%+e%+e/b", None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_becomes_another_one_behind_the_proxy() {
    let stage = Stage::start().await;
    let client = proxy::http2_client();
    for (path, seen) in PATHS {
        let status = if seen.is_some() { 200 } else { 400 };
        let line = seen.map(|seen| format!("GET {seen} HTTP/1.1\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stage.seen.lock().unwrap().clear();
        let answer = stage.talk(request.as_bytes(), usize::MAX).await;
        assert_eq!(statuses(&answer), [status], "{path}: {answer:?}");
        assert_eq!(stage.has_seen("GET "), line.is_some(), "{path}");
        assert!(line.iter().all(|line| stage.has_seen(line)), "{path}");

        stage.seen.lock().unwrap().clear();
        let url = format!("http://{}{path}", stage.listener);
        let answer = proxy::get(&client, &url).await.unwrap();
        assert_eq!(answer.status, status, "{path} over HTTP/2: {}", answer.body);
        assert_eq!(stage.has_seen("GET "), line.is_some(), "{path} over HTTP/2");
        assert!(line.iter().all(|line| stage.has_seen(line)), "{path} over HTTP/2");
    }
    stage.proxy.stop().await;
}
