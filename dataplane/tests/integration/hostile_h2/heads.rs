//! Requests that are all in one head: what is in it, and how often.

use crate::hostile_h2::Outcome::{self, GoAway, Reset, Status};
use crate::hostile_h2::wire::{END_HEADERS, END_STREAM, HEADERS, PROTOCOL_ERROR, Wire, block, frame};
use crate::hostile_h2::wrong;
use crate::support::stage::Stage;

/// The fields of a request, with `PATH` for a path of its own, what becomes of it, what its host must see, and what not. A
/// request of which the host must see nothing may not come to it at all.
type Fields = (
    &'static str,
    Outcome,
    &'static [&'static str],
    &'static [&'static str],
);

/// What a request begins with.
const GET: &str = ":method GET|:scheme http|:authority h|:path PATH";

/// All of a request is its head. What begins with a bar stands behind [`GET`].
const FIELDS: &[Fields] = &[
    (
        "|x-mine y",
        Status(200),
        &["GET PATH HTTP/1.1\r\n", "host: h\r\n", "x-mine: y\r\n"],
        &[],
    ),
    ("|te trailers", Status(200), &["te: trailers\r\n"], &[]),
    (
        "|cookie a=1|cookie b=2",
        Status(200),
        &["cookie: a=1; b=2\r\n"],
        &["cookie: a=1\r\n"],
    ),
    ("|host elsewhere", Status(200), &["host: h\r\n"], &["elsewhere"]),
    (
        ":method GET|:scheme http|:path PATH|host h",
        Status(200),
        &["host: h\r\n"],
        &[],
    ),
    (
        "|x-forwarded-for 9.9.9.9|x-forwarded-proto https",
        Status(200),
        &["x-forwarded-for: 9.9.9.9,127.", "x-forwarded-proto: http\r\n"],
        &["https"],
    ),
    (
        "|content-length 0",
        Status(200),
        &["GET PATH HTTP/1.1\r\n"],
        &["transfer-encoding"],
    ),
    ("|expect 100-continue", Status(200), &["GET PATH"], &["expect"]),
    (
        ":scheme http|:authority h|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:authority h|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (":method GET|:scheme http|:path PATH", Status(400), &[], &[]),
    ("|:method GET", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:scheme http", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:authority h", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:path PATH", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:status 200", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:protocol websocket", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|:what ever", GoAway(PROTOCOL_ERROR), &[], &[]),
    (
        ":method GET|:scheme http|:authority h|x y|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    ("|connection close", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|connection x-mine", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|keep-alive timeout=5", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|proxy-connection keep-alive", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|transfer-encoding chunked", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|upgrade h2c", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|te gzip", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|te trailers, gzip", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|X-Mine y", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x\u{e9} y", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x:y z", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x\r\ny z", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x\0 y", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("| y", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x y\r\nsmuggled: z", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x y\nsmuggled: z", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x y\0z", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|x y\u{7f}", GoAway(PROTOCOL_ERROR), &[], &[]),
    ("|content-length 5", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|content-length +0", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|content-length -1", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|content-length 0, 0", Reset(PROTOCOL_ERROR), &[], &[]),
    ("|content-length 0x0", Reset(PROTOCOL_ERROR), &[], &[]),
    (
        "|content-length 99999999999999999999",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        "|content-length 0|content-length 1",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    ("|content-length 0|content-length 0", Status(400), &[], &[]),
    ("|content-length 00", Status(400), &[], &[]),
    ("|content-length ", Status(400), &[], &[]),
    ("|content-length 05", Reset(PROTOCOL_ERROR), &[], &[]),
    (
        ":method GET|:scheme http|:authority h|:path ",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h|:path relative",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method OPTIONS|:scheme http|:authority h|:path *",
        Status(400),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h|:path PATH%zz",
        Status(400),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h|:path PATH x",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h|:path PATH\r\nx: y",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h|:path PATH/a/../b",
        Status(200),
        &["GET PATH/b HTTP/1.1\r\n"],
        &[".."],
    ),
    // The fragment is cut off before anybody sees it.
    (
        ":method GET|:scheme http|:authority h|:path PATH#fragment",
        Status(200),
        &["GET PATH HTTP/1.1\r\n"],
        &["fragment"],
    ),
    (
        ":method GET|:scheme http|:authority user@h|:path PATH",
        Status(400),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority a b|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority h/x|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme http|:authority |:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET|:scheme ftp|:authority h|:path PATH",
        Status(200),
        &["GET PATH HTTP/1.1\r\n", "x-forwarded-proto: http\r\n"],
        &["ftp"],
    ),
    (
        ":method GET|:scheme ht tp|:authority h|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method G T|:scheme http|:authority h|:path PATH",
        GoAway(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method GET PATH HTTP/1.1\r\n|:scheme http|:authority h|:path PATH",
        GoAway(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method |:scheme http|:authority h|:path PATH",
        GoAway(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (":method CONNECT|:authority h:80", Status(404), &[], &[]),
    (
        ":method CONNECT|:scheme http|:authority h:80|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
    (
        ":method CONNECT|:protocol websocket|:scheme http|:authority h|:path PATH",
        Reset(PROTOCOL_ERROR),
        &[],
        &[],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_taken_as_they_should_be_or_not_at_all() {
    let stage = Stage::start().await;
    let mut mistakes = Vec::new();
    for (nth, (fields, expected, sees, sees_not)) in FIELDS.iter().enumerate() {
        let path = format!("/relayed/head-{nth}-");
        let whole = fields
            .strip_prefix('|')
            .map_or((*fields).to_owned(), |more| format!("{GET}|{more}"))
            .replace("PATH", &path);
        let sent = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&whole));
        let mut wire = Wire::start(stage.listener).await;
        stage.seen.lock().unwrap().clear();
        let mut wrong: Vec<String> = wrong(&stage, &mut wire, &sent, *expected)
            .await
            .into_iter()
            .collect();
        let missing = sees.iter().map(|seen| seen.replace("PATH", &path));
        wrong.extend(
            missing
                .filter(|seen| !stage.has_seen(seen))
                .map(|seen| format!("no {seen:?}")),
        );
        let smuggled = sees_not
            .iter()
            .chain(&["smuggled"])
            .filter(|seen| stage.has_seen(seen));
        wrong.extend(smuggled.map(|seen| format!("its host saw {seen:?}")));
        if sees.is_empty() && stage.has_seen(&path) {
            wrong.push("it came to its host".to_owned());
        }
        mistakes.extend(wrong.into_iter().map(|wrong| format!("{fields:?}: {wrong}")));
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    stage.proxy.stop().await;
}
