//! What hosts of HTTP/2 answer that nobody well-behaved answers, frame by frame: the client gets an error of its gateway or a body
//! that is cut off, and everybody else goes on being served, in memory that does not grow with what was said.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::hostile_h2::wire::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, PADDED, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, block, field, frame, setting, sized,
};
use crate::restart::Process;
use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, client, eventually, free_address, get};
use crate::support::upstream::Upstream;

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// An answer of the proxy's own.
    Error,
    /// One of 200 without its end.
    Cut,
    /// One of 200 that is `hello`.
    Hello,
}

use Got::{Cut, Error, Hello};

/// How much the proxy may grow by all the floods together: less than by one of them.
const GROWTH_BYTES_MAX: u64 = 12 << 20;
/// For an answer; a host that floods and does not listen itself may be stuck for ever.
const ROUTE_MS: u64 = 3_000;

/// What a host says to a request on stream 1, which is the first of each connection.
type Said = fn() -> Vec<u8>;

fn head(flags: u8, fields: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &block(fields))
}

fn ok(fields: &str) -> Vec<u8> {
    head(0, &format!(":status 200{fields}"))
}

fn data(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, payload)
}

/// Well, but for what comes before it.
fn after(before: &[u8]) -> Vec<u8> {
    [before, &ok(""), &data(END_STREAM, b"hello")].concat()
}

/// In the middle of an answer that would be well.
fn amid(amid: &[u8]) -> Vec<u8> {
    [&ok(""), &data(0, b"he"), amid, &data(END_STREAM, b"llo")].concat()
}

const SAID: &[(&str, Got, Said)] = &[
    ("an answer", Hello, || after(b"")),
    ("an answer with its length", Hello, || {
        [ok("|content-length 5"), data(END_STREAM, b"hello")].concat()
    }),
    ("padding", Hello, || {
        [ok(""), data(END_STREAM | PADDED, b"\x02hello\0\0")].concat()
    }),
    ("unknown frames", Hello, || amid(&frame(0xbb, 0xff, 1, b"xyz"))),
    ("no HTTP/2", Error, || {
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()
    }),
    ("data before a head", Error, || data(END_STREAM, b"hello")),
    ("a head of the connection", Error, || {
        after(&frame(HEADERS, END_HEADERS, 0, &block(":status 200")))
    }),
    ("a head of a stream of the host's", Error, || {
        after(&frame(HEADERS, END_HEADERS, 2, &block(":status 200")))
    }),
    ("a head of a stream that nobody opened", Error, || {
        after(&frame(HEADERS, END_HEADERS, 101, &block(":status 200")))
    }),
    ("data of the connection", Error, || {
        after(&frame(DATA, 0, 0, b"x"))
    }),
    ("a frame longer than may be", Error, || {
        sized(1 << 20, DATA, 0, 1, &[b'x'; 20_000])
    }),
    ("settings of no whole number", Error, || {
        after(&frame(SETTINGS, 0, 0, &[0; 5]))
    }),
    ("settings of a stream", Error, || {
        after(&frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 1]))
    }),
    ("an acknowledgement that says something", Error, || {
        after(&frame(SETTINGS, ACK, 0, &[0, 3, 0, 0, 0, 1]))
    }),
    ("a window larger than may be", Error, || {
        after(&setting(INITIAL_WINDOW, 1 << 31))
    }),
    ("frames smaller than may be", Error, || after(&setting(5, 1))),
    ("frames larger than may be", Error, || after(&setting(5, 1 << 24))),
    ("a short ping", Error, || after(&frame(PING, 0, 0, &[0; 7]))),
    ("a ping of a stream", Error, || after(&frame(PING, 0, 1, &[0; 8]))),
    ("a short reset", Error, || {
        after(&frame(RST_STREAM, 0, 1, &[0; 3]))
    }),
    ("a reset of the connection", Error, || {
        after(&frame(RST_STREAM, 0, 0, &[0; 4]))
    }),
    ("a window that opens by nothing", Error, || {
        after(&frame(WINDOW_UPDATE, 0, 0, &[0; 4]))
    }),
    ("a stream's window that opens by nothing", Error, || {
        after(&frame(WINDOW_UPDATE, 0, 1, &[0; 4]))
    }),
    ("a window that overflows", Error, || {
        after(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()))
    }),
    // Nothing is sent on it any more.
    ("a stream's window that overflows", Hello, || {
        after(&frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes()))
    }),
    ("a short goodbye", Error, || after(&frame(GOAWAY, 0, 0, &[0; 7]))),
    ("a promise", Error, || {
        let promised = [
            &2u32.to_be_bytes()[..],
            &block(":method GET|:scheme http|:authority h|:path /"),
        ];
        after(&frame(PUSH_PROMISE, END_HEADERS, 1, &promised.concat()))
    }),
    ("the rest of no head", Error, || {
        after(&frame(CONTINUATION, END_HEADERS, 1, &block("x y")))
    }),
    ("data within a head", Error, || {
        [
            frame(HEADERS, 0, 1, &block(":status 200")),
            data(END_STREAM, b"hello"),
        ]
        .concat()
    }),
    ("a ping within a head", Error, || {
        let begun = frame(HEADERS, 0, 1, &block(":status 200"));
        [
            begun,
            frame(PING, 0, 0, &[0; 8]),
            frame(CONTINUATION, END_HEADERS, 1, b""),
        ]
        .concat()
    }),
    ("a field without a number", Error, || {
        frame(HEADERS, END_HEADERS, 1, &[0x80])
    }),
    ("a field that nobody told of", Error, || {
        frame(HEADERS, END_HEADERS, 1, &[0x88, 0xfe])
    }),
    ("a field without its end", Error, || {
        frame(HEADERS, END_HEADERS, 1, &[0x88, 0, 5, b'x'])
    }),
    ("a number without end", Error, || {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &[&[0x88, 0xff][..], &[0xff; 20]].concat(),
        )
    }),
    ("a table larger than may be", Error, || {
        frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0xff, 0x03, 0x88])
    }),
    ("more padding than there is", Error, || {
        let fields = [&[200][..], &block(":status 200")].concat();
        frame(HEADERS, END_HEADERS | PADDED, 1, &fields)
    }),
    ("no status", Error, || head(END_STREAM, "x y")),
    ("two statuses", Error, || {
        head(END_STREAM, ":status 200|:status 200")
    }),
    ("a status that is none", Error, || head(END_STREAM, ":status ok")),
    ("a status of two digits", Error, || head(END_STREAM, ":status 20")),
    // It goes nowhere.
    ("a path in an answer", Hello, || {
        [ok("|:path /"), data(END_STREAM, b"hello")].concat()
    }),
    ("a status behind other fields", Error, || {
        head(END_STREAM, "x y|:status 200")
    }),
    ("a name in capitals", Error, || {
        head(END_STREAM, ":status 200|X y")
    }),
    ("a name that is none", Error, || {
        head(END_STREAM, ":status 200|x: y")
    }),
    ("a value of two lines", Error, || {
        let fields = [block(":status 200"), field(b"x", b"y\r\nz: a")].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)
    }),
    ("a field of the connection", Error, || {
        head(END_STREAM, ":status 200|connection close")
    }),
    ("chunks", Error, || {
        head(END_STREAM, ":status 200|transfer-encoding chunked")
    }),
    ("another protocol", Error, || head(END_STREAM, ":status 101")),
    ("an interim answer that ends", Error, || {
        head(END_STREAM, ":status 103")
    }),
    ("two lengths", Error, || {
        [
            ok("|content-length 5|content-length 6"),
            data(END_STREAM, b"hello"),
        ]
        .concat()
    }),
    ("less than its length", Cut, || {
        [ok("|content-length 5"), data(END_STREAM, b"he")].concat()
    }),
    ("more than its length", Cut, || {
        [ok("|content-length 5"), data(END_STREAM, b"hello again")].concat()
    }),
    ("another head", Cut, || amid(&ok(""))),
    ("trailers that go on", Cut, || amid(&head(0, "x y"))),
    // It goes nowhere either.
    ("trailers with a status", Hello, || {
        [ok(""), data(0, b"hello"), head(END_STREAM, ":status 200")].concat()
    }),
    ("trailers in capitals", Cut, || {
        [ok(""), data(0, b"hello"), head(END_STREAM, "X y")].concat()
    }),
    ("more padding than data", Cut, || {
        amid(&data(PADDED, &[200, b'x']))
    }),
    ("a reset", Cut, || amid(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]))),
    ("a reset without a reason", Cut, || {
        amid(&frame(RST_STREAM, 0, 1, &[0; 4]))
    }),
    ("a promise amid", Cut, || {
        amid(&frame(PUSH_PROMISE, END_HEADERS, 1, &2u32.to_be_bytes()))
    }),
];

/// What comes first, what is then repeated for [`FLOOD_BYTES`], and what comes last.
type Flood = fn() -> [Vec<u8>; 3];

/// Before an answer that would be well.
fn before(piece: Vec<u8>) -> [Vec<u8>; 3] {
    [vec![], piece, after(b"")]
}

/// In one that would be.
fn within(piece: Vec<u8>) -> [Vec<u8>; 3] {
    [ok(""), piece, data(END_STREAM, b"hello")]
}

/// Of what there is far too much, and what may come of that.
const FLOODS: &[(&str, &[Got], Flood)] = &[
    ("settings", &[Error, Hello], || {
        before(setting(INITIAL_WINDOW, 65_535))
    }),
    ("acknowledgements", &[Error, Hello], || {
        before(frame(SETTINGS, ACK, 0, b""))
    }),
    ("pings", &[Error, Hello], || before(frame(PING, 0, 0, &[7; 8]))),
    ("priorities", &[Error, Hello], || {
        before(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))
    }),
    ("unknown frames", &[Error, Hello], || {
        before(frame(0xbb, 0, 1, &[0; 100]))
    }),
    ("windows of the connection", &[Error], || {
        before(frame(WINDOW_UPDATE, 0, 0, &0x4000_u32.to_be_bytes()))
    }),
    ("windows of the stream", &[Error], || {
        before(frame(WINDOW_UPDATE, 0, 1, &0x4000_u32.to_be_bytes()))
    }),
    ("resets", &[Error], || {
        before(frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]))
    }),
    ("goodbyes", &[Error, Hello], || {
        before(frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
    }),
    ("interim answers", &[Error, Hello], || {
        before(head(0, ":status 103|link <a>; rel=preload"))
    }),
    ("a head that goes on", &[Error], || {
        let begun = frame(HEADERS, 0, 1, &block(":status 200"));
        [
            begun,
            frame(CONTINUATION, 0, 1, &field(b"x", &[b'y'; 8_000])),
            vec![],
        ]
    }),
    ("a head that goes on with nothing", &[Error], || {
        let begun = frame(HEADERS, 0, 1, &block(":status 200"));
        [begun, frame(CONTINUATION, 0, 1, b""), vec![]]
    }),
    ("data of nothing", &[Error, Cut, Hello], || within(data(0, b""))),
    ("data of padding", &[Error, Cut, Hello], || {
        within(data(PADDED, &[&[200][..], &[0; 200]].concat()))
    }),
    ("settings amid", &[Error, Cut, Hello], || {
        within(setting(INITIAL_WINDOW, 65_535))
    }),
    ("pings amid", &[Error, Cut, Hello], || {
        within(frame(PING, 0, 0, &[7; 8]))
    }),
    ("data that nobody has asked for", &[Error, Cut], || {
        within(data(0, &[b'x'; 16_000]))
    }),
];

/// Of each flood.
const FLOOD_BYTES: usize = 16 << 20;

/// A host that says to each connection's first request what it is told, and then closes, or listens until it is left.
#[derive(Clone)]
struct Host(Arc<Mutex<Saying>>);

struct Saying {
    bytes: Vec<u8>,
    closes: bool,
}

impl Host {
    async fn start() -> (SocketAddr, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let saying = Saying {
            bytes: Vec::new(),
            closes: false,
        };
        let host = Self(Arc::new(Mutex::new(saying)));
        let told = host.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(told.clone().serve(stream));
            }
        });
        (address, host)
    }

    fn says(&self, bytes: Vec<u8>, closes: bool) {
        *self.0.lock().unwrap() = Saying { bytes, closes };
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut wire = Wire::of(stream);
        wire.skip(PREFACE.len()).await.then_some(())?;
        wire.send(&frame(SETTINGS, 0, 0, b"")).await;
        wire.next_of(&[HEADERS]).await?;
        let (bytes, closes) = {
            let saying = self.0.lock().unwrap();
            (saying.bytes.clone(), saying.closes)
        };
        wire.send(&bytes).await;
        if closes {
            wire.end().await;
        }
        // Who asks again on the same connection is not answered: it comes back on another one.
        let asked = wire.next_of(&[HEADERS]).await;
        asked.is_none().then_some(())
    }
}

/// A proxy in a process of its own, before such a host and one that is well.
struct Stage {
    listener: SocketAddr,
    host: Host,
    proxy: Process,
    _well: Upstream,
    _edge: AdsServer,
    _data: tempfile::TempDir,
}

impl Stage {
    async fn start() -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let (listener, admin) = (free_address(), free_address());
        let (address, host) = Host::start().await;
        let well = Upstream::start("well").await;
        edge.put("a", &mesh::with_http2(mesh::cluster("a")));
        edge.put("a", &mesh::endpoints("a", &[(address, 0)]));
        edge.put("well", &mesh::cluster("well"));
        edge.put("well", &mesh::endpoints("well", &[(well.address, 0)]));
        edge.put("in", &mesh::listener("in", listener, "in"));
        let routes = vec![
            mesh::to_cluster("/well", "well"),
            mesh::with_timeout(mesh::to_cluster("/", "a"), ROUTE_MS),
        ];
        edge.put("in", &mesh::routes("in", routes));
        let told = json!({
            "xds": edge.url(),
            "admin": admin.to_string(),
            "data": data.path(),
            "workers": 1,
            "take_over": false,
            "grace_ms": 0,
        });
        let proxy = Process::start(&told, data.path());
        let ready = format!("http://{admin}/ready");
        eventually("the proxy is ready", || async {
            get(&client(), &ready)
                .await
                .is_some_and(|answer| answer.status == 200)
        })
        .await;
        Self {
            listener,
            host,
            proxy,
            _well: well,
            _edge: edge,
            _data: data,
        }
    }

    /// What becomes of a request to the host; `None` if it is none of what may.
    async fn got(&self) -> Option<Got> {
        let mut stream = TcpStream::connect(self.listener).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        // A reset takes with it what was not read yet.
        if read.ok()?.is_err() {
            return Some(Cut);
        }
        // Neither is an answer begun that is already known to break off.
        if answer.is_empty() {
            return Some(Cut);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        if head.starts_with("HTTP/1.1 50") {
            return body.starts_with("upstream ").then_some(Error);
        }
        head.starts_with("HTTP/1.1 200 ").then_some(())?;
        if head.contains("transfer-encoding: chunked") && body.ends_with("0\r\n\r\n") {
            let data: String = body.split("\r\n").filter(|part| !is_length(part)).collect();
            return (data == "hello").then_some(Hello);
        }
        Some(if body == "hello" { Hello } else { Cut })
    }

    async fn serves_others(&self) -> bool {
        let answer = get(&client(), &format!("http://{}/well", self.listener)).await;
        answer.is_some_and(|answer| answer.body == "well /well ")
    }
}

fn is_length(part: &str) -> bool {
    part.is_empty() || usize::from_str_radix(part, 16).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_says_in_frames_is_believed_in_one_way_only() {
    let stage = Stage::start().await;
    let mut wrong = Vec::new();
    for (what, expected, said) in SAID {
        stage.host.says(said(), false);
        let got = stage.got().await;
        if got != Some(*expected) {
            wrong.push(format!("{what}: {got:?} instead of {expected:?}"));
        }
        assert!(stage.serves_others().await, "others are not served: {what}");
        stage.host.says(after(b""), true);
        eventually("the host is asked again", || async {
            stage.got().await == Some(Hello)
        })
        .await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_anywhere_is_not_taken_for_whole() {
    let stage = Stage::start().await;
    for fields in ["", "|content-length 5"] {
        let begun = ok(fields);
        let whole = [&begun[..], &data(0, b"hel"), &data(END_STREAM, b"lo")].concat();
        for end in 0..=whole.len() {
            stage.host.says(whole[..end].to_vec(), true);
            let expected = match end {
                _ if end < begun.len() => Error,
                _ if end < whole.len() => Cut,
                _ => Hello,
            };
            assert_eq!(
                stage.got().await,
                Some(expected),
                "cut at {end} of {}, {fields:?}",
                whole.len()
            );
        }
        assert!(stage.serves_others().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_far_too_much_costs_no_memory() {
    let stage = Stage::start().await;
    stage.host.says(after(b""), true);
    assert_eq!(stage.got().await, Some(Hello));
    let before = stage.proxy.peak_bytes();
    for (what, expected, said) in FLOODS {
        let [first, piece, last] = said();
        let flood = piece.repeat(FLOOD_BYTES / piece.len());
        stage.host.says([first, flood, last].concat(), true);
        let got = stage.got().await;
        assert!(
            got.is_some_and(|got| expected.contains(&got)),
            "{what}: {got:?} instead of {expected:?}"
        );
        assert!(stage.serves_others().await, "others are not served: {what}");
        let grown = stage.proxy.peak_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{what}: {grown} bytes more");
    }
}
