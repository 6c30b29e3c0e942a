//! Frames that are wrong, or odd, or in the wrong place.

use crate::hostile_h2::Outcome::{self, GoAway, Reset, Status};
use crate::hostile_h2::wire::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, Wire, block, field, frame, request, setting, sized,
};
use crate::hostile_h2::{post, wrong};
use crate::support::stage::Stage;

/// What is sent to a path of its own, and what becomes of it.
type Frames = (&'static str, fn(&str) -> Vec<u8>, Outcome);

/// Behind a proper beginning, and before any request.
const FRAMES: &[Frames] = &[
    (
        "SETTINGS of half a setting",
        |_| frame(SETTINGS, 0, 0, b"12345"),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "SETTINGS of a stream",
        |_| frame(SETTINGS, 0, 1, b""),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "SETTINGS with ACK and more",
        |_| frame(SETTINGS, ACK, 0, &[0; 6]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "SETTINGS with ACK once more",
        |_| frame(SETTINGS, ACK, 0, b""),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a window beyond what is",
        |_| setting(4, 1 << 31),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a frame size below what is",
        |_| setting(5, 16_383),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a frame size beyond what is",
        |_| setting(5, 1 << 24),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a push that is neither",
        |_| setting(2, 2),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a setting that nobody knows",
        |path| [setting(0xbeef, 1), request(1, path)].concat(),
        Status(200),
    ),
    (
        "PING too short",
        |_| frame(PING, 0, 0, b"1234567"),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PING of a stream",
        |_| frame(PING, 0, 1, b"12345678"),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PING of an answer to nothing",
        |path| [frame(PING, ACK, 0, b"12345678"), request(1, path)].concat(),
        Status(200),
    ),
    (
        "WINDOW_UPDATE too short",
        |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "WINDOW_UPDATE by nothing",
        |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "WINDOW_UPDATE of nobody's",
        |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "the connection's window flows over",
        |_| frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        GoAway(FLOW_CONTROL_ERROR),
    ),
    (
        "a stream's window flows over",
        |path| {
            [
                post(path, ""),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat()
        },
        Reset(FLOW_CONTROL_ERROR),
    ),
    (
        "a stream's window by nothing",
        |path| [post(path, ""), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "RST_STREAM of the connection",
        |_| frame(RST_STREAM, 0, 0, &[0; 4]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "RST_STREAM of nobody's",
        |_| frame(RST_STREAM, 0, 1, &[0; 4]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "RST_STREAM too short",
        |_| [request(1, "/relayed/reset"), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PRIORITY of the connection",
        |_| frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PRIORITY too short",
        |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PRIORITY over itself",
        |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1]),
        Reset(PROTOCOL_ERROR),
    ),
    (
        "PRIORITY before its stream",
        |path| [frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), request(1, path)].concat(),
        Status(200),
    ),
    (
        "HEADERS over themselves",
        |path| {
            let head = [&[0, 0, 0, 1, 1][..], &request(1, path)[9..]].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &head)
        },
        Reset(PROTOCOL_ERROR),
    ),
    (
        "HEADERS with a priority",
        |path| {
            let head = [&[0, 0, 0, 3, 1][..], &request(1, path)[9..]].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &head)
        },
        Status(200),
    ),
    (
        "HEADERS with half a priority",
        |_| frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &[0; 3]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "HEADERS with padding",
        |path| {
            let head = [&[2][..], &request(1, path)[9..], &[0, 0]].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &head)
        },
        Status(200),
    ),
    (
        "HEADERS of padding beyond their end",
        |_| frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[9, 0, 0]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "HEADERS of the connection",
        |path| request(0, path),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "HEADERS of a stream of ours",
        |path| request(2, path),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "HEADERS of a stream that was passed over",
        |path| [request(5, "/relayed/well"), request(3, path)].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "HEADERS with the reserved bit",
        |path| request(0x8000_0001, path),
        Status(200),
    ),
    (
        "HEADERS once more, and no end",
        |path| [post(path, ""), post(path, "")].concat(),
        Reset(PROTOCOL_ERROR),
    ),
    (
        "DATA of the connection",
        |_| frame(DATA, 0, 0, b"hello"),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "DATA of nobody's",
        |_| frame(DATA, 0, 1, b"hello"),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "DATA of padding beyond its end",
        |path| [post(path, ""), frame(DATA, END_STREAM | PADDED, 1, &[9, 0])].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "DATA padded without padding",
        |path| [post(path, ""), frame(DATA, END_STREAM | PADDED, 1, b"")].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "DATA behind the end",
        |_| [request(1, "/relayed/early"), frame(DATA, END_STREAM, 1, b"hello")].concat(),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "less than content-length says",
        |path| {
            [
                post(path, "|content-length 6"),
                frame(DATA, END_STREAM, 1, b"hello"),
            ]
            .concat()
        },
        Reset(PROTOCOL_ERROR),
    ),
    (
        "more than content-length says",
        |path| {
            [
                post(path, "|content-length 4"),
                frame(DATA, END_STREAM, 1, b"hello"),
            ]
            .concat()
        },
        Reset(PROTOCOL_ERROR),
    ),
    (
        "less than content-length says, and trailers",
        |path| {
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("x y"));
            [
                post(path, "|content-length 6"),
                frame(DATA, 0, 1, b"hello"),
                trailers,
            ]
            .concat()
        },
        Reset(PROTOCOL_ERROR),
    ),
    (
        "PUSH_PROMISE",
        |path| {
            frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &request(1, path)[9..]].concat(),
            )
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "GOAWAY of a stream",
        |_| frame(GOAWAY, 0, 1, &[0; 8]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "GOAWAY too short",
        |_| frame(GOAWAY, 0, 0, &[0; 7]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "CONTINUATION of nothing",
        |_| frame(CONTINUATION, END_HEADERS, 1, &block("x y")),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "CONTINUATION behind the end",
        |path| {
            [
                request(1, path),
                frame(CONTINUATION, END_HEADERS, 1, &block("x y")),
            ]
            .concat()
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "CONTINUATION of another stream",
        |_| {
            [
                frame(HEADERS, 0, 1, &block(":method GET")),
                frame(CONTINUATION, END_HEADERS, 3, &block(":path /")),
            ]
            .concat()
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "DATA between HEADERS and CONTINUATION",
        |_| {
            [
                frame(HEADERS, 0, 1, &block(":method GET")),
                frame(DATA, 0, 1, b""),
            ]
            .concat()
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "PING between HEADERS and CONTINUATION",
        |_| {
            [
                frame(HEADERS, 0, 1, &block(":method GET")),
                frame(PING, 0, 0, b"12345678"),
            ]
            .concat()
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "what nobody knows between HEADERS and CONTINUATION",
        |_| {
            [
                frame(HEADERS, 0, 1, &block(":method GET")),
                frame(0xbe, 0, 1, b""),
            ]
            .concat()
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "what nobody knows",
        |path| [frame(0xbe, 0xff, 7, b"what"), request(1, path)].concat(),
        Status(200),
    ),
    (
        "a head in pieces",
        |path| {
            let (fields, mut sent) = (request(1, path).split_off(9), Vec::new());
            let (first, rest) = fields.split_at(3);
            sent.extend(frame(HEADERS, END_STREAM, 1, first));
            sent.extend(frame(CONTINUATION, 0, 1, b""));
            sent.extend(frame(CONTINUATION, END_HEADERS, 1, rest));
            sent
        },
        Status(200),
    ),
    (
        "a frame larger than may be",
        |_| sized(16_385, DATA, 0, 1, &[0; 16_385]),
        GoAway(FRAME_SIZE_ERROR),
    ),
    (
        "a frame that says it is huge",
        |_| sized(0xff_ffff, HEADERS, 0, 1, b"x"),
        GoAway(FRAME_SIZE_ERROR),
    ),
    (
        "an index of zero",
        |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "an index beyond the table",
        |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x7f]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a number without end",
        |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 16]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a string beyond its block",
        |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 9, b'x']),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "Huffman's end in a string",
        |_| {
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x'],
            )
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a table larger than may be",
        |_| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xff, 0x7f]),
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "a table's size behind a field",
        |path| {
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[&request(1, path)[9..], &[0x20]].concat(),
            )
        },
        GoAway(PROTOCOL_ERROR),
    ),
    (
        "as many lines as may be",
        |path| lines(path, 100, 10),
        Status(200),
    ),
    ("a line more", |path| lines(path, 101, 10), Status(431)),
    (
        "many cookies are one line",
        |path| {
            let cookies = "|cookie a=b".repeat(150);
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &block(&format!(
                    ":method GET|:scheme http|:authority h|:path {path}{cookies}"
                )),
            )
        },
        Status(200),
    ),
    ("as large as may be", |path| lines(path, 60, 1000), Status(200)),
    ("a little larger", |path| lines(path, 70, 1000), Status(431)),
    (
        "one line that is larger",
        |path| lines(path, 1, 70_000),
        Status(431),
    ),
    ("far larger", |path| lines(path, 1, 90_000), Status(431)),
    (
        "the largest bomb",
        |path| {
            // One long line in the table, named again and again.
            let mut bomb = request(1, path).split_off(9);
            bomb.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
            bomb.extend([b'y'; 3968]);
            bomb.extend([0xbe; 3000]);
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)
        },
        GoAway(ENHANCE_YOUR_CALM),
    ),
];

/// A request with so many lines beside those of the proxy's own, each of so many bytes.
fn lines(path: &str, lines: usize, bytes: usize) -> Vec<u8> {
    let mut head = request(1, path).split_off(9);
    for line in 0..lines {
        head.extend(field(format!("x-{line}").as_bytes(), &vec![b'y'; bytes]));
    }
    let mut pieces = head.chunks(16_384).peekable();
    let mut sent = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if kind == HEADERS { END_STREAM } else { 0 };
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        sent.extend(frame(kind, end | last, 1, piece));
        kind = CONTINUATION;
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_taken_as_they_should_be_or_not_at_all() {
    let stage = Stage::start().await;
    let mut mistakes = Vec::new();
    for (nth, (what, sent, expected)) in FRAMES.iter().enumerate() {
        let path = format!("/relayed/frames-{nth}-");
        let sent = sent(&path);
        let mut wire = Wire::start(stage.listener).await;
        stage.seen.lock().unwrap().clear();
        let mut wrong: Vec<String> = wrong(&stage, &mut wire, &sent, *expected)
            .await
            .into_iter()
            .collect();
        let taken = *expected == Status(200);
        if taken && !stage.has_seen(&format!("GET {path} HTTP/1.1\r\n")) {
            wrong.push("it did not come to its host".to_owned());
        }
        let begun = taken || String::from_utf8_lossy(&sent).contains("POST");
        if !begun && stage.has_seen(&path) {
            wrong.push("it came to its host".to_owned());
        }
        // What broke off has no end.
        if stage.has_seen("0\r\n\r\n") {
            wrong.push("its host saw an end".to_owned());
        }
        mistakes.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}")));
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    stage.proxy.stop().await;
}
