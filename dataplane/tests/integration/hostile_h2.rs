//! What nobody well-behaved sends over HTTP/2, frame by frame, over real sockets to a real worker: what becomes of it, what its
//! host sees of it, and that others do not notice.

use wire::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PREFACE, PROTOCOL_ERROR, RST_STREAM, SETTINGS,
    Wire, block, frame, request, status,
};

mod answers;
mod frames;
mod heads;
mod hosts;
mod limits;
mod wire;

/// What becomes of a request on stream 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is answered, and the connection goes on.
    Status(u16),
    /// Its stream is reset, and the connection goes on.
    Reset(u32),
    /// The connection is ended with a GOAWAY.
    GoAway(u32),
    /// The connection is ended without a word.
    Closed,
}

use Outcome::{Closed, GoAway, Reset, Status};

use crate::support::stage::Stage;

/// What becomes of all that is sent, up to where it is decided.
async fn outcome(wire: &mut Wire, sent: &[u8]) -> Outcome {
    wire.send(sent).await;
    loop {
        match wire.next().await {
            None => return Closed,
            Some(frame) if frame.kind == GOAWAY => return GoAway(frame.code()),
            Some(frame) if frame.stream != 1 => {}
            Some(frame) if frame.kind == RST_STREAM => return Reset(frame.code()),
            Some(frame) if frame.kind == HEADERS => return Status(status(&frame.payload)),
            Some(_) => {}
        }
    }
}

/// Sends `sent`: `None` if that becomes of it which should, and what comes after it and of others is answered.
async fn wrong(stage: &Stage, wire: &mut Wire, sent: &[u8], expected: Outcome) -> Option<String> {
    let got = outcome(wire, sent).await;
    if got != expected {
        return Some(format!("{got:?} instead of {expected:?}"));
    }
    match expected {
        Status(_) | Reset(_) => {
            if !wire.is_answered(0x7fff_fff1, "/relayed/same").await {
                return Some("no answer on the same connection".to_owned());
            }
        }
        GoAway(_) | Closed => {
            if let Some(frame) = wire.next().await {
                return Some(format!("a closed connection says {frame:?}"));
            }
        }
    }
    let mut other = Wire::start(stage.listener).await;
    let answered = other.is_answered(1, "/relayed/other").await;
    (!answered).then(|| "no answer on another connection".to_owned())
}

/// The head of a request with a body, on a path below `/relayed`.
fn post(path: &str, more: &str) -> Vec<u8> {
    let fields = format!(":method POST|:scheme http|:authority h|:path {path}{more}");
    frame(HEADERS, END_HEADERS, 1, &block(&fields))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_begin_like_http_2_is_nothing() {
    let stage = Stage::start().await;
    let settings = frame(SETTINGS, 0, 0, b"");
    for (what, preface, expected) in [
        ("another end", &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], Closed),
        ("no settings", PREFACE, GoAway(PROTOCOL_ERROR)),
        ("another target", b"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n", Closed),
        ("another version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", Closed),
        (
            "a request of HTTP/1.1",
            b"PRI * HTTP/1.1\r\nhost: h\r\n\r\n",
            Closed,
        ),
        ("line feeds only", b"PRI * HTTP/2.0\n\nSM\n\nSM\n\nSM\n\n", Closed),
    ] {
        let mut wire = Wire::bare(stage.listener).await;
        let settings = if expected == Closed { &settings[..] } else { b"" };
        let sent = [preface, settings, &request(1, "/relayed/preface")].concat();
        let wrong = wrong(&stage, &mut wire, &sent, expected).await;
        assert_eq!(wrong, None, "{what}");
        assert!(!stage.has_seen("preface"), "{what}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_passed_on_as_it_is() {
    let stage = Stage::start().await;
    let padded = |payload: &[u8]| frame(DATA, PADDED, 1, &[&[3], payload, &[0; 3]].concat());
    let end = frame(DATA, END_STREAM, 1, b"");
    let trailers = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block("x-sum 1|content-length 5|host other"),
    );
    for (what, more, body, sees) in [
        (
            "padding",
            "",
            [padded(b"hel"), padded(b"lo"), end.clone()].concat(),
            "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ),
        (
            "a length",
            "|content-length 5",
            [padded(b"hel"), padded(b"lo"), end.clone()].concat(),
            "\r\n\r\nhello",
        ),
        (
            "nothing in it",
            "",
            [frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"x"), end].concat(),
            "1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "what begins a request behind a body",
            "",
            [frame(DATA, 0, 1, b"x"), request(1, "/relayed/smuggled")].concat(),
            "1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "trailers",
            "|trailer x-sum",
            [frame(DATA, 0, 1, b"x"), trailers].concat(),
            "1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
    ] {
        let mut wire = Wire::start(stage.listener).await;
        stage.seen.lock().unwrap().clear();
        let sent = [post("/relayed/body", more), body].concat();
        let wrong = wrong(&stage, &mut wire, &sent, Status(200)).await;
        assert_eq!(wrong, None, "{what}");
        assert!(!stage.has_seen("smuggled"), "{what}");
        assert!(
            stage.has_seen(sees),
            "{what}: {:?}",
            String::from_utf8_lossy(&stage.seen.lock().unwrap())
        );
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_anywhere_is_not_taken_for_whole() {
    let stage = Stage::start().await;
    let whole = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &post("/relayed/cut", "|content-length 5"),
        &frame(DATA, 0, 1, b"he"),
        &frame(DATA, END_STREAM, 1, b"llo"),
    ]
    .concat();
    for end in 0..=whole.len() {
        let mut wire = Wire::bare(stage.listener).await;
        wire.send(&whole[..end]).await;
        let is_whole = end == whole.len();
        if !is_whole {
            wire.end().await;
        }
        let mut answered = false;
        while let Some(frame) = wire.next().await {
            answered |= frame.kind == HEADERS && status(&frame.payload) == 200;
            if answered && is_whole {
                break;
            }
        }
        assert_eq!(answered, is_whole, "cut at {end} of {}", whole.len());
        assert_eq!(stage.has_seen("hello"), is_whole, "cut at {end}");
    }
    assert!(
        Wire::start(stage.listener)
            .await
            .is_answered(1, "/relayed/next")
            .await
    );
    stage.proxy.stop().await;
}
