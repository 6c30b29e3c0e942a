//! Requests that become connections: upgrades of HTTP/1.1, CONNECT of HTTP/2 that names a protocol (RFC 8441), which is the same
//! over one of its streams, and CONNECT itself, which is a connection to a host. Whoever may have one is decided here, and so is how
//! it ends; how bytes are passed is the business of `tcp`.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Version};

use crate::config::{Action, Route};
use crate::exchange::{Exchange, Flag};
use crate::forward::options;
use crate::h1::Buffer;
use crate::http2::Duplex;
use crate::pool::Lease;
use crate::stream::{Reader, Writer};
use crate::tcp::{self, End, Way};
use crate::worker::Random;

mod extended;
mod host_end;
mod open;

use host_end::HostEnd;
pub(crate) use open::{Opening, Switched, open};

/// The kind by which CONNECT is let through, as Envoy has it.
pub(crate) const CONNECT: &str = "connect";
/// The same connection in HTTP/2, to which this proxy does not switch.
const H2C: &[u8] = b"h2c";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const WEBSOCKET: &str = "websocket";

/// What a listener or a route says of a kind of upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    /// In small letters.
    pub(crate) kind: Box<str>,
    pub(crate) is_on: bool,
}

/// What a request asks to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Becoming {
    /// A connection of another protocol with the host.
    Upgrade(HeaderValue),
    /// A connection to the host, of whatever is spoken over it.
    Connect,
}

/// A connection to a host that is a client's from now on.
pub(crate) struct Tunnel {
    pub(crate) host: Switched,
    /// Counts as active, on the host and its cluster, until it ends.
    pub(crate) _lease: Lease,
    pub(crate) exchange: Exchange,
    /// So long nothing may move.
    pub(crate) idle: Option<Duration>,
    /// Ends it, whatever moves.
    pub(crate) until: Option<Instant>,
}

/// What a request asks to become, if that is not what it is. An extended CONNECT is from now on the request that it would be in
/// HTTP/1.1.
pub(crate) fn asked(parts: &mut Parts, random: &Random) -> Option<Becoming> {
    if parts.method == Method::CONNECT {
        let Some(protocol) = parts.extensions.remove::<h2::ext::Protocol>() else {
            return Some(Becoming::Connect);
        };
        let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
        parts.method = Method::GET;
        say(&mut parts.headers, &protocol);
        if is_websocket(&protocol) && !parts.headers.contains_key(header::SEC_WEBSOCKET_KEY) {
            // HTTP/2 needs none, and a host of HTTP/1.1 does (RFC 8441, section 5).
            let key = u128::from(random.next()) << 64 | u128::from(random.next());
            let key = HeaderValue::from_str(&STANDARD.encode(key.to_be_bytes()));
            parts.headers.insert(header::SEC_WEBSOCKET_KEY, key.ok()?);
        }
        return Some(Becoming::Upgrade(protocol));
    }
    let is_asked = |option: &[u8]| option.eq_ignore_ascii_case(b"upgrade");
    if parts.version != Version::HTTP_11 || !options(&parts.headers, &header::CONNECTION).any(is_asked) {
        return None;
    }
    let mut lines = parts.headers.get_all(header::UPGRADE).iter();
    let first = lines.next()?;
    let protocol = match lines.next() {
        None => first.clone(),
        // A list, of which nobody is let through.
        Some(_) => HeaderValue::from_static(""),
    };
    if protocol.as_bytes().eq_ignore_ascii_case(H2C) {
        parts.headers.remove(HTTP2_SETTINGS);
        return None;
    }
    Some(Becoming::Upgrade(protocol))
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// Says in a request's head what it is to become.
pub(crate) fn say(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// Whether a listener that says `listener` lets requests of `route` become what they ask for.
pub(crate) fn allows(asked: &Becoming, listener: &[Upgrade], route: Option<&Route>) -> bool {
    let said: &[Upgrade] = match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => &forward.upgrades,
        _ => &[],
    };
    let of = |upgrades: &[Upgrade]| {
        let kind = match asked {
            Becoming::Upgrade(protocol) => protocol.as_bytes(),
            Becoming::Connect => CONNECT.as_bytes(),
        };
        let mut of_kind = upgrades
            .iter()
            .filter(|upgrade| upgrade.kind.as_bytes().eq_ignore_ascii_case(kind));
        of_kind.next().map(|upgrade| upgrade.is_on)
    };
    match (asked, of(said)) {
        (Becoming::Upgrade(protocol), _) if protocol.as_bytes().eq_ignore_ascii_case(CONNECT.as_bytes()) => {
            false
        }
        (_, Some(is_on)) => is_on,
        (Becoming::Upgrade(_), None) => of(listener).unwrap_or(false),
        // Only a route says that it ends here.
        (Becoming::Connect, None) => false,
    }
}

impl Tunnel {
    /// Passes bytes between the host and the client, of which `first` was read already, until both have ended or one has broken off.
    pub(crate) async fn pass(&mut self, client: (Reader<'_>, Writer<'_>), first: Buffer) -> End {
        let connection = Rc::clone(self.exchange.connection());
        let worker = &connection.worker;
        let breaker = self.host.end.breaker();
        let _host = worker.pressure.hold(1);
        let input = std::mem::replace(&mut self.host.input, Buffer::new(&worker.buffers));
        let (host_reader, host_writer) = self.host.end.split();
        let up = Way::new(client.0, host_writer, first, &worker.pipes);
        let down = Way::new(host_reader, client.1, input, &worker.pipes);
        let exchange = &mut self.exchange;
        let mut received = 0;
        let moved = |up: u64, down: u64| {
            received += up;
            exchange.received(received);
            exchange.sent(down);
        };
        let limits = tcp::Limits {
            idle: self.idle,
            breaker: &breaker,
        };
        let draining = pin!(connection.listener.drained());
        let passing = tcp::pass(up, down, limits, draining, moved);
        let over = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let (end, flag) = tokio::select! {
            biased;
            end = passing => (end, flag(end)),
            // Envoy has no flag for it.
            () = over => (End::Idle, Flag::None),
        };
        if end != End::Whole {
            // Nobody must take what broke off for an end.
            self.host.end.break_off();
        }
        self.exchange.end(flag);
        end
    }

    /// Passes bytes over a stream of HTTP/2.
    pub(crate) async fn over_http2(mut self: Box<Self>, stream: Duplex) {
        let stream = RefCell::new(stream);
        let first = Buffer::new(&self.exchange.connection().worker.buffers);
        let client = (Reader::Stream(&stream), Writer::Stream(&stream));
        if self.pass(client, first).await != End::Whole {
            stream.borrow_mut().reset();
        }
    }
}

fn flag(end: End) -> Flag {
    match end {
        End::Whole => Flag::None,
        End::Client => Flag::ClientGone,
        End::Idle => Flag::StreamIdle,
        End::Drained => Flag::LocalReset,
        End::Host | End::NoCluster | End::NoHealthyUpstream | End::ConnectFailure | End::Overflow => {
            Flag::UpstreamReset
        }
    }
}
