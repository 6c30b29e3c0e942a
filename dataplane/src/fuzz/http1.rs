//! Heads and chunks: what is taken is taken whole, wherever it is cut, and read in the same way by the next reader.

use super::{Target, mutate_text};
use crate::config::HeaderEdits;
use crate::h1::fuzzing::{
    Chunked, Fields, Framing, KeepAlive, Known, Request, Response, of_request, of_response, read_request,
    read_response,
};
use http::HeaderValue;

pub(super) const REQUESTS: Target = Target {
    name: "requests",
    check: request,
    mutate: |random, pool| mutate_text(random, pool, HEAD_WORDS),
};

pub(super) const RESPONSES: Target = Target {
    name: "responses",
    check: response,
    mutate: |random, pool| mutate_text(random, pool, HEAD_WORDS),
};

pub(super) const CHUNKS: Target = Target {
    name: "chunks",
    check: chunks,
    mutate: |random, pool| mutate_text(random, pool, CHUNK_WORDS),
};

const HEAD_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"\x0b",
    b"\xff",
    b"%",
    b"#",
    b"?",
    b"//",
    b"GET ",
    b"HEAD ",
    b"POST ",
    b" HTTP/1.1",
    b" HTTP/1.0",
    b" HTTP/2.0",
    b"HTTP/1.1 ",
    b"200 OK",
    b"304 ",
    b"host: a",
    b"content-length: 5",
    b"Content-Length: 5, 5",
    b"content-length: +5",
    b"transfer-encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"connection: close",
    b"connection: content-length, host, x",
    b"te: trailers",
    b"expect: 100-continue",
    b"upgrade: websocket",
    b"trailer: x",
    b"x: y",
    b"http://a/",
    b"\r\n\r\n",
    b" x: folded",
];

const CHUNK_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b";",
    b"=",
    b"\"",
    b"0",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff",
    b"00000000000005",
    b"-1",
    b"+5",
    b"0x5",
    b" ",
    b"\t",
    b"x: y\r\n",
    b"content-length: 5\r\n",
    b":",
    b"\0",
    b"\xff",
];

fn request(input: &[u8]) -> String {
    let mut fields = Fields::default();
    let line = match read_request(input, &mut fields) {
        Ok(Some(line)) => line,
        other => return format!("{:?}", other.map(drop)),
    };
    let bytes = &input[..line.bytes];
    assert_lines(bytes);
    for cut in 0..bytes.len() {
        let early = read_request(&bytes[..cut], &mut Fields::default());
        assert!(matches!(early, Ok(None)), "cut at {cut}: {early:?}");
    }
    let head = fields.of(bytes);
    let framing = match of_request(head.said(line.version)) {
        Ok(framing) => framing,
        Err(malformed) => return format!("{malformed:?}"),
    };
    let mut sent = Vec::new();
    let edits = HeaderEdits::default();
    Request {
        head,
        method: &line.method,
        target: &bytes[line.target.clone()],
        framing,
        host: None,
        peer: &HeaderValue::from_static("10.0.0.1"),
        scheme: "http",
        request_id: None,
        trace: None,
        edits: [&edits, &edits],
    }
    .write(&mut sent);
    let mut again = Fields::default();
    let second = read_request(&sent, &mut again)
        .unwrap()
        .expect("what is sent on is whole");
    let passed = again.of(&sent);
    assert_eq!(second.bytes, sent.len(), "something stands behind the head");
    assert_eq!(second.method, line.method);
    assert_eq!(&sent[second.target.clone()], &bytes[line.target.clone()]);
    assert_eq!(of_request(passed.said(second.version)), Ok(framing));
    assert!(
        passed.options().all(|option| option == b"te"),
        "a header of one connection is passed on"
    );
    assert!(!passed.has(Known::Upgrade) && !passed.has(Known::Expect));
    format!(
        "{} {framing:?} {} lines",
        line.method.as_str().len(),
        head.fields().len().min(8)
    )
}

fn response(input: &[u8]) -> String {
    let mut fields = Fields::default();
    let line = match read_response(input, &mut fields) {
        Ok(Some(line)) => line,
        other => return format!("{:?}", other.map(drop)),
    };
    let bytes = &input[..line.bytes];
    assert_lines(bytes);
    for cut in 0..bytes.len() {
        let early = read_response(&bytes[..cut], &mut Fields::default());
        assert!(matches!(early, Ok(None)), "cut at {cut}: {early:?}");
    }
    let head = fields.of(bytes);
    let framing = match of_response(false, line.status, head.said(line.version)) {
        Ok(framing) => framing,
        Err(malformed) => return format!("{malformed:?}"),
    };
    let mut sent = Vec::new();
    Response {
        head,
        status: line.status,
        framing,
        edits: &HeaderEdits::default(),
        keep_alive: KeepAlive::Yes,
    }
    .write(&mut sent);
    let mut again = Fields::default();
    let second = read_response(&sent, &mut again)
        .unwrap()
        .expect("what is sent on is whole");
    assert_eq!((second.bytes, second.status), (sent.len(), line.status));
    let expected = match framing {
        // The client's connection goes on.
        Framing::UntilClose => Framing::Chunked,
        other => other,
    };
    let passed = again.of(&sent);
    assert_eq!(
        of_response(false, second.status, passed.said(second.version)),
        Ok(expected)
    );
    format!(
        "{} {framing:?} {} lines",
        line.status / 100,
        head.fields().len().min(8)
    )
}

/// A reader that takes a lone CR or LF for the end of a line finds no other lines than we do.
fn assert_lines(head: &[u8]) {
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "a lone CR at {at}"),
            b'\n' => assert!(at > 0 && head[at - 1] == b'\r', "a lone LF at {at}"),
            0 => panic!("a NUL at {at}"),
            _ => {}
        }
    }
}

/// The first byte says how the rest is cut.
fn chunks(input: &[u8]) -> String {
    let Some((step, body)) = input.split_first() else {
        return "nothing".to_owned();
    };
    let whole = passed(body, body.len().max(1));
    let pieces = passed(body, usize::from(*step).max(1));
    assert_eq!(whole, pieces, "it depends on how the body comes");
    let Ok((sent, data, ended)) = whole else {
        return format!("{:?}", whole.map(drop));
    };
    if ended {
        // Nothing of it is left to be read as another message.
        let again = passed(&sent, sent.len().max(1)).unwrap();
        assert_eq!(
            again,
            (sent, data.clone(), true),
            "the next reader reads something else"
        );
    }
    assert_eq!(
        unframed(body, usize::from(*step).max(1)),
        data,
        "both ways of reading agree"
    );
    format!("{ended} {}", data.len().min(32))
}

type Passed = Result<(Vec<u8>, Vec<u8>, bool), crate::h1::Malformed>;

/// What is passed on of a body that comes in pieces, with its trailers; its data; and whether it has ended.
fn passed(body: &[u8], step: usize) -> Passed {
    let mut chunked = Chunked::default();
    let (mut sent, mut ended) = (Vec::new(), false);
    for piece in body.chunks(step) {
        let looked = chunked.look(piece)?;
        sent.extend_from_slice(&piece[..looked.pass]);
        ended = looked.ended;
        if ended {
            break;
        }
    }
    if ended {
        sent.extend(chunked.take_trailers());
        sent.extend_from_slice(b"\r\n");
    }
    let data = unframed(body, step);
    Ok((sent, data, ended))
}

/// The data alone, until it ends or is malformed.
fn unframed(body: &[u8], step: usize) -> Vec<u8> {
    let mut chunked = Chunked::default();
    let mut data = Vec::new();
    for mut piece in body.chunks(step) {
        while !piece.is_empty() {
            let Ok(run) = chunked.data(piece) else {
                return data;
            };
            data.extend_from_slice(&piece[run.skipped..run.skipped + run.data]);
            if run.ended {
                return data;
            }
            piece = &piece[run.skipped + run.data..];
        }
    }
    data
}
