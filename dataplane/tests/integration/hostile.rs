//! What nobody well-behaved sends, over real sockets to a real worker: requests that two readers could read in two ways, heads
//! and bodies that end early or never, floods; and hosts that answer like that.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy;
use crate::support::proxy::DEADLINE;
use crate::support::stage::{Stage, WAYS};
use answers::says;

mod answers;

/// The status of each answer on a connection.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| head[..3].parse().unwrap()).collect()
}

/// Head (after its first line, which is `POST <way>/<nth> HTTP/1.1`, or instead of it where there is a `>`), what follows it, and
/// the status.
type Refused = (&'static str, &'static str, u16);

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

/// Whether the head of a request is as it should be, and only its body is not.
fn is_of_body(request: &str) -> bool {
    request.contains(" HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
}

/// Each is followed by another request, which must not be answered: nobody knows where it begins.
const REFUSED: &[Refused] = &[
    ("", "", 400),
    ("host: h\r\nhost: h\r\n", "", 400),
    ("host: h\r\nhost: other\r\n", "", 400),
    ("host:\r\n", "", 400),
    ("host: a/b\r\n", "", 400),
    ("host: user@h\r\n", "", 400),
    ("host: a b\r\n", "", 400),
    ("host: h,h\r\n", "", 400),
    (
        "host: h\r\ncontent-length: 5\r\ncontent-length: 5\r\n",
        "hello",
        400,
    ),
    (
        "host: h\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        "hello",
        400,
    ),
    ("host: h\r\ncontent-length: 5, 5\r\n", "hello", 400),
    ("host: h\r\ncontent-length: +5\r\n", "hello", 400),
    ("host: h\r\ncontent-length: -5\r\n", "hello", 400),
    ("host: h\r\ncontent-length: 0x5\r\n", "hello", 400),
    ("host: h\r\ncontent-length: 5 5\r\n", "hello", 400),
    ("host: h\r\ncontent-length: 5;a\r\n", "hello", 400),
    ("host: h\r\ncontent-length: five\r\n", "hello", 400),
    ("host: h\r\ncontent-length:\r\n", "", 400),
    (
        "host: h\r\ncontent-length: 99999999999999999999\r\n",
        "hello",
        400,
    ),
    (
        "host: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    ("host: h\r\ntransfer-encoding: identity\r\n", "", 400),
    ("host: h\r\ntransfer-encoding: gzip\r\n", "", 400),
    (
        "host: h\r\ntransfer-encoding: gzip, chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked, identity\r\n",
        "0\r\n\r\n",
        400,
    ),
    ("host: h\r\ntransfer-encoding: xchunked\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding: chunked;q=1\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding: \"chunked\"\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding: \x0bchunked\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding:\r\n", "", 400),
    ("host: h\r\ntransfer-encoding : chunked\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding\t: chunked\r\n", "0\r\n\r\n", 400),
    ("host: h\r\ntransfer-encoding:\r\n chunked\r\n", "0\r\n\r\n", 400),
    (
        "host: h\r\nx: y\r\n transfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    ("host: h\r\nx: y\r\n\tz\r\n", "", 400),
    (" host: h\r\n", "", 400),
    (
        "host: h\r\nx: y\rtransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\nx: y\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    ("host: h\nx: y\r\n", "", 400),
    ("host: h\r\nx: y\n", "", 400),
    ("host: h\r\nx: \0\r\n", "", 400),
    ("host: h\r\nx: a\0b\r\n", "", 400),
    ("host: h\r\nx: \x08\r\n", "", 400),
    ("host: h\r\nx: \x7f\r\n", "", 400),
    ("host: h\r\nx\0: y\r\n", "", 400),
    ("host: h\r\nx y: z\r\n", "", 400),
    ("host: h\r\nx\r\n", "", 400),
    ("host: h\r\n: y\r\n", "", 400),
    ("host: h\r\n\"x\": y\r\n", "", 400),
    ("host: h\r\nx\u{e9}: y\r\n", "", 400),
    (">POST WAY HTTP/1.1\nhost: h\r\n", "", 400),
    (">POST  WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST WAY  HTTP/1.1\r\nhost: h\r\n", "", 505),
    (">POST WAY HTTP/1.1 \r\nhost: h\r\n", "", 400),
    (">POST\tWAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST WAY\r\nhost: h\r\n", "", 400),
    (">POST WAY HTTP/1.1x\r\nhost: h\r\n", "", 400),
    (">POST WAY HTTP/2.0\r\nhost: h\r\n", "", 505),
    (">POST WAY HTTP/1.2\r\nhost: h\r\n", "", 505),
    (">POST WAY http/1.1\r\nhost: h\r\n", "", 505),
    (">\r\n\r\nPOST WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">\nPOST WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">\0POST WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">P(ST WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST WAY\x01 HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST WAY#fragment HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST http://other/WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST http://hWAY HTTP/1.1\r\n", "", 400),
    (">POST http://user@hWAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">POST http:WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    (">CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n", "", 404),
    (">CONNECT h:80 HTTP/1.1\r\nhost: other:80\r\n", "", 400),
    (">CONNECT h HTTP/1.1\r\nhost: h\r\n", "", 400),
    (
        ">CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\ncontent-length: 5\r\n",
        "hello",
        400,
    ),
    (
        ">CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n",
        "",
        403,
    ),
    (
        "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n",
        "hello",
        403,
    ),
    (
        "host: h\r\nconnection: upgrade\r\nupgrade: h2c, websocket\r\n",
        "",
        403,
    ),
    (
        "host: h\r\nconnection: upgrade\r\nupgrade: h2c\r\nupgrade: h2c\r\n",
        "",
        403,
    ),
    ("host: h\r\nconnection: upgrade\r\nupgrade:\r\n", "", 403),
    (">CONNECT WAY HTTP/1.1\r\nhost: h\r\n", "", 400),
    ("host: h\r\ncontent-length: 05\r\n", "hello", 400),
    ("host: h\r\ncontent-length: 00\r\n", "", 400),
    (
        ">POST WAY HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
    ),
    (">POST WAY HTTP/1.0\r\n", "", 400),
    ("host: h\r\ntransfer-encoding: chunked\r\n", "\r\n", 400),
    ("host: h\r\ntransfer-encoding: chunked\r\n", "g\r\n", 400),
    ("host: h\r\ntransfer-encoding: chunked\r\n", "-1\r\n", 400),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1\r\na\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1;x\ny\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "fffffffffffffffff\r\n",
        400,
    ),
    ("host: h\r\ntransfer-encoding: chunked\r\n", "0\r\n\n", 400),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "0\r\nx : y\r\n\r\n",
        400,
    ),
    (
        "host: h\r\ntransfer-encoding: chunked\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        400,
    ),
    ("host: h\r\ntransfer-encoding: chunked\r\n", "0\r\nx\r\n\r\n", 400),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ambiguous_is_refused_and_nothing_behind_it_is_answered() {
    let stage = Stage::start().await;
    for way in WAYS {
        for (nth, (head, body, status)) in REFUSED.iter().enumerate() {
            let path = format!("{way}/refused-{nth}-");
            let head = match head.strip_prefix('>') {
                Some(whole) => whole.replace("WAY", &path),
                None => format!("POST {path} HTTP/1.1\r\n{head}"),
            };
            let request = format!("{head}\r\n{body}GET /smuggled HTTP/1.1\r\n{H}\r\n");
            for step in steps(way) {
                let answer = stage.talk(request.as_bytes(), step).await;
                assert_eq!(statuses(&answer), [*status], "{request:?} by {step}: {answer:?}");
                assert!(
                    answer.contains("connection: close\r\n"),
                    "{request:?}: {answer:?}"
                );
            }
            // Before a body turns out malformed its head may have gone through.
            if !is_of_body(&request) {
                assert!(!stage.has_seen(&path), "{request:?} came to the host");
            }
        }
    }
    assert!(!stage.has_seen("smuggled"));
    stage.proxy.stop().await;
}

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
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        let head = format!(
            "POST {way} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = [0; 25];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut told))
            .await
            .expect("it is told")
            .unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .expect("it is answered")
            .unwrap();
        assert_eq!(statuses(&answer), [200], "{answer}");
    }
    assert!(!stage.has_seen("expect"));
    stage.proxy.stop().await;
}
