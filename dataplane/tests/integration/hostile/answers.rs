//! What hosts answer that nobody well-behaved answers: in several ways at once, broken off, and more than was asked for.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile::statuses;
use crate::support::proxy::DEADLINE;
use crate::support::stage::{Stage, WAYS};

/// What a host says, and what the client gets of it: the status, and the body if there is an end to it.
const SAID: &[(&str, u16, Option<&str>)] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, Some("ok")),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        200,
        Some("ok"),
    ),
    ("HTTP/1.1 200 OK\r\n\r\nok", 200, Some("2\r\nok\r\n0\r\n\r\n")),
    ("HTTP/1.0 200 OK\r\n\r\nok", 200, Some("2\r\nok\r\n0\r\n\r\n")),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        200,
        Some("2\r\nok\r\n0\r\n\r\n"),
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
        200,
        Some("0\r\nx: y\r\n\r\n"),
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nset-cookie: a=b\r\nx: y\r\n\r\n",
        200,
        Some("0\r\nx: y\r\n\r\n"),
    ),
    (
        "HTTP/1.1 200 OK\r\nconnection: x-mine\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-mine: a\r\nx: y\r\n\r\n",
        200,
        Some("0\r\nx: y\r\n\r\n"),
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        200,
        Some(""),
    ),
    (
        "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
        204,
        Some(""),
    ),
    (
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        304,
        Some(""),
    ),
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", 200, None),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        200,
        None,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\ng\r\n",
        200,
        None,
    ),
    ("", 503, Some("")),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", 503, Some("")),
    (
        "HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        503,
        Some(""),
    ),
    ("HTTP/1.1 100 Continue\r\n\r\n", 503, Some("")),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        503,
        Some(""),
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        503,
        Some(""),
    ),
    ("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", 503, Some("")),
    ("HTTP/1.1 200 OK\r\ncontent-length: 02\r\n\r\nok", 503, Some("")),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        503,
        Some(""),
    ),
    (
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        503,
        Some(""),
    ),
    ("HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok", 503, Some("")),
    ("HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", 503, Some("")),
    ("HTTP/1.1 200 OK\r\nx : y\r\n\r\n", 503, Some("")),
    ("HTTP/1.1 200 OK\r\nx: \0\r\n\r\n", 503, Some("")),
    ("HTTP/2.0 200 OK\r\n\r\n", 503, Some("")),
    ("HTTP/1.1 99 OK\r\n\r\n", 503, Some("")),
    ("nonsense\r\n\r\n", 503, Some("")),
];

/// Whether an answer of 200 with five bytes, or with chunks, is there to its end.
fn is_whole(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
        && (answer.ends_with("0\r\n\r\n") || answer.ends_with("\r\n\r\nhello"))
}

pub(crate) fn says(path: &str, said: &str) -> String {
    let digits: String = said.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("GET {path}/says/{digits} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_says_is_believed_in_one_way_only() {
    let stage = Stage::start().await;
    for (said, status, body) in SAID {
        let answer = stage.talk(says("/relayed", said).as_bytes(), usize::MAX).await;
        let Some(body) = body else {
            // What is malformed from the start is not even begun.
            assert!(
                answer.is_empty() || statuses(&answer) == [*status],
                "{said:?}: {answer:?}"
            );
            assert!(!is_whole(&answer), "{said:?}: {answer:?}");
            continue;
        };
        assert_eq!(statuses(&answer), [*status], "{said:?}: {answer:?}");
        let (head, got) = answer.split_once("\r\n\r\n").unwrap();
        if *status == 503 {
            assert!(got.starts_with("upstream connect error"), "{said:?}: {got}");
        } else {
            assert_eq!(got, *body, "{said:?}: {head}");
        }
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_anywhere_is_not_taken_for_whole() {
    let stage = Stage::start().await;
    for way in WAYS {
        for (body, framing) in [
            ("hello", "content-length: 5"),
            ("5\r\nhello\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        ] {
            let whole = format!("POST {way} HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n{body}");
            for end in 0..whole.len() {
                let answer = stage.talk_and_end(&whole.as_bytes()[..end]).await;
                let refused = statuses(&answer).iter().all(|status| *status == 400);
                assert!(refused, "{:?}: {answer:?}", &whole[..end]);
            }
        }
    }
    let said = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for end in 0..said.len() {
        let answer = stage
            .talk(says("/relayed", &said[..end]).as_bytes(), usize::MAX)
            .await;
        assert!(!is_whole(&answer), "{:?}: {answer:?}", &said[..end]);
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_answer_does_not_end_as_a_whole_one_in_http_1_0() {
    let stage = Stage::start().await;
    for (said, whole) in [
        ("2\r\nok\r\n0\r\n\r\n", true),
        ("2\r\nok\r\n", false),
        ("2\r\nok\r\nnonsense\r\n", false),
    ] {
        let said = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{said}");
        let request = says("/relayed", &said).replace("HTTP/1.1", "HTTP/1.0");
        let mut stream = TcpStream::connect(stage.listener).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        let read = read.expect("the connection is closed");
        assert_eq!(
            read.is_ok(),
            whole,
            "{said:?}: {read:?} {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    stage.proxy.stop().await;
}

/// What a host says to a request whose body is kept for another attempt, and what the client gets of it.
const SAID_OVER_THE_BRIDGE: &[(&str, u16, &str)] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, "ok"),
    ("HTTP/1.1 200 OK\r\n\r\nok", 200, "2\r\nok\r\n0\r\n\r\n"),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\nset-cookie: a=b\r\n\r\n",
        200,
        "2\r\nok\r\n0\r\nx: y\r\n\r\n",
    ),
    ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, ""),
    (
        "HTTP/1.1 200 OK\r\nconnection: close\r\nconnection: x-secret\r\nx-secret: 1\r\ncontent-length: 2\r\n\r\nok",
        200,
        "ok",
    ),
    (
        "HTTP/1.1 200 OK\r\nconnection: x-secret\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\nx-secret: 1\r\n\r\n",
        200,
        "2\r\nok\r\n0\r\nx: y\r\n\r\n",
    ),
    (
        "HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        503,
        "upstream connect error or disconnect/reset before headers: connection termination: the host's interim responses lead nowhere",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_bridge_ends_where_it_ends() {
    let stage = Stage::start().await;
    for (said, status, body) in SAID_OVER_THE_BRIDGE {
        let request = says("/bridged", said)
            .replacen("GET", "POST", 1)
            .replace("\r\n\r\n", "\r\ncontent-length: 1\r\n\r\nx");
        let answer = stage.talk(request.as_bytes(), usize::MAX).await;
        assert_eq!(statuses(&answer), [*status], "{said:?}: {answer:?}");
        let (head, got) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(got, *body, "{said:?}: {head}");
        assert!(!head.contains("secret"), "{said:?}: {head}");
        assert_eq!(
            head.contains("content-length"),
            !body.is_empty() && !body.ends_with("\r\n"),
            "{head}"
        );
    }
    stage.proxy.stop().await;
}
