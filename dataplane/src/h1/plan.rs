//! What is to be done with a request, decided from its head before anything is: pure functions.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use http::Method;

use super::encode::KeepAlive;
use super::framing::{self, Framing, Lines, Malformed, Version};
use super::head::{Head, Known, RequestLine, View};
use crate::balance::Draw;
use crate::config::{Action, Forward, Protocol, Route, Target};
use crate::filter::{Chain, Verdict};
use crate::hash::{Hashed, hashed};
use crate::matcher::{Client, Subject};
use crate::retry::RetryPolicy;
use crate::snapshot::LiveHttp;
use crate::worker::{View as Clusters, WorkerCluster};

/// What the head says about the exchange around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) framing: Framing,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) expects: Expects,
    /// Whether nobody has to think about the host.
    is_plain_host: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    Nothing,
    Continue,
}

/// A request that goes to a host as it is but for its head.
pub(crate) struct Plan<'a> {
    pub(crate) route: &'a Route,
    pub(crate) forward: &'a Forward,
    pub(crate) target: &'a Target,
    pub(crate) cluster: Rc<WorkerCluster>,
    /// What it has in common with those that are to go to the same host.
    pub(crate) key: Option<u64>,
}

/// Which way a request goes.
pub(crate) enum Way<'a> {
    Straight(Plan<'a>),
    /// With what the filters of its route have said, if they were asked.
    Bridged(Option<Box<Verdict>>),
}

/// What the head says about the exchange, if it says it in one way.
pub(crate) fn terms(line: &RequestLine, head: Head<'_>) -> Result<Terms, Malformed> {
    let framing = framing::of_request(head.said(line.version))?;
    if line.method == Method::CONNECT && !matches!(framing, Framing::Empty | Framing::Length(0)) {
        return Err(Malformed::Connect);
    }
    let is_plain_host = check_host(line, head)?;
    head.check_options()?;
    let expects = head
        .values(Known::Expect)
        .any(|expected| expected.eq_ignore_ascii_case(b"100-continue"));
    let expects = if expects && line.version == Version::Http11 {
        Expects::Continue
    } else {
        Expects::Nothing
    };
    let keeps = line.version == Version::Http11 && !head.has_option("close");
    Ok(Terms {
        framing,
        keep_alive: if keeps { KeepAlive::Yes } else { KeepAlive::No },
        expects,
        is_plain_host,
    })
}

/// One host and no other: HTTP/1.1 demands the line, and a target that names a host must name the same (RFC 9112, section
/// 3.2, where a proxy may also believe the target; but who looked at the request before us may not have). Whether it is plain.
fn check_host(line: &RequestLine, head: Head<'_>) -> Result<bool, Malformed> {
    let target = &head.bytes[line.target.clone()];
    let named = if line.method == Method::CONNECT {
        Some(target)
    } else if target.starts_with(b"/") {
        None
    } else {
        authority(target)
    };
    match (head.lines(Known::Host), named) {
        (Lines::One(host), Some(named)) if !is_same_host(host, named) => Err(Malformed::HostAndTarget),
        (Lines::One(host), _) if is_plain_host(host) => Ok(true),
        (Lines::One(host), _) if host.is_empty() || !host.iter().all(|byte| is_in(byte, IN_HOST)) => {
            Err(Malformed::Host)
        }
        (Lines::One(_), _) => Ok(false),
        (Lines::None, _) if line.version == Version::Http10 => Ok(false),
        (Lines::None | Lines::Many, _) => Err(Malformed::Host),
    }
}

/// The authority of a target in absolute form.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|byte| *byte == b':')?;
    let authority = target[scheme..].strip_prefix(b"://")?;
    let end = authority
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    Some(&authority[..end.unwrap_or(authority.len())])
}

/// Names are compared as they stand; the port that nobody needs to write may be written once.
fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    let without_port = |host: &'_ [u8]| host.strip_suffix(b":80").unwrap_or(host).to_ascii_lowercase();
    without_port(one) == without_port(other)
}

/// How the request goes to its host, which is straight if it needs nothing but what this file does.
pub(crate) fn plan<'a>(
    line: &RequestLine,
    head: Head<'_>,
    terms: Terms,
    (client, direct): (Client<'_>, IpAddr),
    live: &'a LiveHttp,
    clusters: &Clusters,
    random: &impl Draw,
) -> Way<'a> {
    let Some((plan, subject)) = straight(line, head, terms, (client, direct), live, clusters, random) else {
        return Way::Bridged(None);
    };
    // Last of all: what a filter has counted or drawn is not to be counted or drawn again.
    let route = Some(plan.route);
    let judge = |chain: &Chain| chain.judge(route, &subject, Instant::now, random);
    match live.chain(route).map(judge) {
        None => Way::Straight(plan),
        Some(verdict) if verdict.is_silent() => Way::Straight(plan),
        verdict => Way::Bridged(verdict.map(Box::new)),
    }
}

/// The plan of a request if its filters have nothing to say to it, with what they look at.
fn straight<'a, 'r>(
    line: &'r RequestLine,
    head: Head<'r>,
    terms: Terms,
    (client, direct): (Client<'r>, IpAddr),
    live: &'a LiveHttp,
    clusters: &Clusters,
    random: &impl Draw,
) -> Option<(Plan<'a>, Subject<'r, View<'r>>)> {
    let Lines::One(host) = head.lines(Known::Host) else {
        return None;
    };
    let target = &head.bytes[line.target.clone()];
    let end = target.iter().position(|byte| *byte == b'?');
    let (path, query) = target.split_at(end.unwrap_or(target.len()));
    if line.version != Version::Http11
        || head.has(Known::Upgrade)
        || !terms.is_plain_host
        || !is_plain_path(path)
        || !query.iter().all(|byte| is_in(byte, IN_QUERY))
        || head.values(Known::Cookie).nth(1).is_some()
    {
        return None;
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (host, (path, query)) = (text(host)?, text(target)?.split_at(path.len()));
    let query = query.get(1..);
    let subject = Subject {
        authority: host,
        path,
        client,
        direct,
        request: View {
            head,
            method: &line.method,
            query,
        },
    };
    let route = live.routes.route(&subject)?;
    let Action::Forward(forward) = &route.action else {
        return None;
    };
    let is_plain = forward.path.is_none()
        && forward.mirrors.is_empty()
        && forward.duration.is_none()
        && !forward.retry.as_ref().is_some_and(RetryPolicy::is_bridged);
    if !is_plain {
        return None;
    }
    let cluster = |target: &Target| {
        let cluster = clusters.cluster(&target.cluster)?;
        (cluster.live.config.protocol == Protocol::Http1).then_some(cluster)
    };
    let Hashed { key, cookies } = if forward.hash.is_empty() {
        Hashed::default()
    } else {
        hashed(&forward.hash, &subject, || 0)
    };
    if !cookies.is_empty() {
        // The answer is to have more than the host says.
        return None;
    }
    let target = match forward.targets.as_slice() {
        [only] => only,
        // Nothing is drawn here that might have to be drawn again.
        all if all.iter().all(|target| cluster(target).is_some()) => {
            forward.target(random.below(forward.total_weight))
        }
        _ => return None,
    };
    let plan = Plan {
        route,
        forward,
        target,
        cluster: cluster(target)?,
        key,
    };
    Some((plan, subject))
}

/// Places where a byte may stand, each a bit of its entry in [`PLACES`].
const IN_NAME: u8 = 1;
const IN_HOST: u8 = 1 << 1;
const IN_PATH: u8 = 1 << 2;
const IN_QUERY: u8 = 1 << 3;

/// Where each byte may stand in a head that nobody has to think about. What is escaped in a path is looked at elsewhere.
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            places[byte] = IN_NAME | IN_HOST | IN_PATH | IN_QUERY;
        }
        byte += 1;
    }
    let of: [(&[u8], u8); 4] = [
        (b"-._~", IN_NAME | IN_HOST),
        (b":[]", IN_HOST),
        (b"/-._~!$&'()*+,;=:@", IN_PATH | IN_QUERY),
        (b"?%", IN_QUERY),
    ];
    let mut row = 0;
    while row < of.len() {
        let (bytes, place) = of[row];
        let mut at = 0;
        while at < bytes.len() {
            places[bytes[at] as usize] |= place;
            at += 1;
        }
        row += 1;
    }
    places
};

fn is_in(byte: &u8, place: u8) -> bool {
    PLACES[usize::from(*byte)] & place != 0
}

/// A path that [`normalize_path`](crate::router::normalize_path) leaves as it is.
fn is_plain_path(path: &[u8]) -> bool {
    let mut before = b'/';
    let are_plain = path.iter().all(|byte| {
        let is_plain = is_in(byte, IN_PATH) && (before != b'/' || *byte != b'.');
        before = *byte;
        is_plain
    });
    are_plain && path.first() == Some(&b'/')
}

/// A name with or without a port; what has more to it is looked at elsewhere.
fn is_plain_host(host: &[u8]) -> bool {
    let end = host.iter().position(|byte| !is_in(byte, IN_NAME));
    let (name, rest) = host.split_at(end.unwrap_or(host.len()));
    let is_end = match rest {
        [] => true,
        [b':', port @ ..] => (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !name.is_empty() && is_end
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::h1::head::{Fields, read_request};
    use crate::router::normalize_path;

    #[test]
    fn there_is_one_host() {
        use Malformed::{Host, HostAndTarget};
        let cases = [
            ("/", "1.1", "host: h\r\n", Ok(true)),
            ("/", "1.1", "host: h:80\r\n", Ok(true)),
            ("/", "1.1", "host: [::1]:80\r\n", Ok(false)),
            ("/http://other/", "1.1", "host: h\r\n", Ok(true)),
            ("/", "1.0", "", Ok(false)),
            ("/", "1.1", "", Err(Host)),
            ("/", "1.1", "host:\r\n", Err(Host)),
            ("/", "1.1", "host: h\r\nhost: h\r\n", Err(Host)),
            ("/", "1.0", "host: h\r\nhost: h\r\n", Err(Host)),
            ("/", "1.1", "host: a/b\r\n", Err(Host)),
            ("/", "1.1", "host: user@h\r\n", Err(Host)),
            ("http://h/", "1.1", "host: h\r\n", Ok(true)),
            ("http://H", "1.1", "host: h\r\n", Ok(true)),
            ("http://h?q", "1.1", "host: h\r\n", Ok(true)),
            ("http://h/", "1.1", "", Err(Host)),
            ("http://h:80/", "1.1", "host: h\r\n", Ok(true)),
            ("http://h/", "1.1", "host: H:80\r\n", Ok(true)),
            ("http://h:8080/", "1.1", "host: h\r\n", Err(HostAndTarget)),
            ("http://other/", "1.1", "host: h\r\n", Err(HostAndTarget)),
            ("http://user@h/", "1.1", "host: h\r\n", Err(HostAndTarget)),
        ];
        for (target, version, lines, expected) in cases {
            let text = format!("GET {target} HTTP/{version}\r\n{lines}\r\n");
            let mut fields = Fields::default();
            let line = read_request(text.as_bytes(), &mut fields).unwrap().unwrap();
            assert_eq!(
                check_host(&line, fields.of(text.as_bytes())),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_plain_path_is_one_that_stays_as_it_is() {
        for (path, plain) in [
            ("/", true),
            ("/a/b-c_d~e.f", true),
            ("//a", true),
            ("/a;b=c,d", true),
            ("", false),
            ("*", false),
            ("a", false),
            ("/.", false),
            ("/a/../b", false),
            ("/.well-known", false),
            ("/%41", false),
            ("/a\\b", false),
            ("/a#b", false),
            ("/a\"b", false),
            ("/\u{e9}", false),
        ] {
            assert_eq!(is_plain_path(path.as_bytes()), plain, "{path:?}");
            if plain {
                assert_eq!(normalize_path(path).as_deref(), Some(path));
            }
        }
    }

    #[test]
    fn a_name_with_or_without_a_port_is_plain() {
        for (host, expected) in [
            ("h", true),
            ("a.b-c_d~1:8080", true),
            ("", false),
            (":80", false),
            ("h:", false),
            ("h:x", false),
            ("h:123456", false),
            ("a:b:c", false),
            ("[::1]", false),
        ] {
            assert_eq!(is_plain_host(host.as_bytes()), expected, "{host:?}");
        }
    }
}
