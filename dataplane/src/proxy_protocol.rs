//! The PROXY protocol (versions 1 and 2): who passes a connection on says in its first bytes whose it is. A header that comes is
//! looked at without I/O, and what follows it is left for whoever comes next.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::h1::Buffer;

/// What a header of version 1 has at most, with its line end; as the specification has it.
const V1_BYTES_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, a byte each for version and command and for the family, and two for the length of what follows.
const V2_HEADER_BYTES: usize = 16;
/// Of a header of version 2 with what follows its addresses: an address of a UNIX socket takes 216, the certificates' names and
/// identifiers that clouds add some hundreds. The field itself could say 64 KiB.
const V2_BYTES_MAX: usize = 4096;
const UNIX_ADDRESSES_BYTES: usize = 216;

/// Which headers a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) v1: bool,
    pub(crate) v2: bool,
    /// Whether a connection may be without.
    pub(crate) none: bool,
}

/// The version that hosts are told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Whose connection it is, and where it was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Addresses {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// What can be said of a connection that begins like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Not enough yet.
    Part,
    /// It begins with none, and may.
    Absent,
    /// A header of so many bytes; without addresses it is of whoever has connected.
    Header(usize, Option<Addresses>),
    Malformed,
}

/// Reads a connection's header, and leaves in `input` what has come behind it; `None` where there is none to be had. There is no
/// time limit here.
pub(crate) async fn take(
    taken: Taken,
    stream: &mut TcpStream,
    input: &mut Buffer,
) -> Option<Option<Addresses>> {
    if input.is_empty() {
        // Memory is for those who have sent something.
        stream.readable().await.ok()?;
    }
    loop {
        match look(input.filled(), taken) {
            Seen::Part => {}
            Seen::Absent => return Some(None),
            Seen::Malformed => return None,
            Seen::Header(bytes, addresses) => {
                input.consume(bytes);
                return Some(addresses);
            }
        }
        if poll_fn(|cx| input.poll_fill(stream, cx)).await.ok()? == 0 {
            return None;
        }
    }
}

/// Looks at all that has come of a connection.
fn look(first: &[u8], taken: Taken) -> Seen {
    let begins = |signature: &[u8]| {
        let seen = first.len().min(signature.len());
        (first[..seen] == signature[..seen]).then_some(seen == signature.len())
    };
    // Whoever need not be told apart from others is not held up.
    let (v1, v2) = if taken.none {
        (taken.v1, taken.v2)
    } else {
        (true, true)
    };
    match (
        begins(V1_SIGNATURE).filter(|_| v1),
        begins(V2_SIGNATURE).filter(|_| v2),
    ) {
        (Some(true), _) if taken.v1 => first_version(first),
        (_, Some(true)) if taken.v2 => second_version(first),
        (Some(true), _) | (_, Some(true)) => Seen::Malformed,
        (Some(false), _) | (_, Some(false)) => Seen::Part,
        (None, None) if taken.none => Seen::Absent,
        (None, None) => Seen::Malformed,
    }
}

fn first_version(first: &[u8]) -> Seen {
    let bounded = &first[..first.len().min(V1_BYTES_MAX)];
    let Some(end) = bounded.windows(2).position(|two| two == b"\r\n") else {
        return if first.len() < V1_BYTES_MAX {
            Seen::Part
        } else {
            Seen::Malformed
        };
    };
    let line = std::str::from_utf8(&first[V1_SIGNATURE.len()..end]);
    match line.ok().and_then(said) {
        Some(addresses) => Seen::Header(end + 2, addresses),
        None => Seen::Malformed,
    }
}

/// What a line of version 1 says, behind its signature.
fn said(line: &str) -> Option<Option<Addresses>> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is not to be looked at.
        return Some(None);
    }
    let [from, to, from_port, to_port] = words.collect::<Vec<_>>().try_into().ok()?;
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| -> Option<u16> {
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| is_plain)
    };
    Some(Some(Addresses::new(
        (ip(from)?, port(from_port)?),
        (ip(to)?, port(to_port)?),
    )))
}

fn second_version(first: &[u8]) -> Seen {
    let Some([command, family, high, low]) = first.get(V2_SIGNATURE.len()..V2_HEADER_BYTES) else {
        return Seen::Part;
    };
    let bytes = V2_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    // It is told at once, so that nobody has to be waited for who cannot say it right any more.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Seen::Malformed,
    };
    let addresses_bytes = match family {
        // Nothing is said, or nothing that this side knows of.
        0x00 => 0,
        // Streams and datagrams alike.
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => UNIX_ADDRESSES_BYTES,
        _ if is_local => 0,
        _ => return Seen::Malformed,
    };
    if bytes > V2_BYTES_MAX || (!is_local && bytes < V2_HEADER_BYTES + addresses_bytes) {
        return Seen::Malformed;
    }
    let Some(said) = first.get(V2_HEADER_BYTES..bytes) else {
        return Seen::Part;
    };
    let addresses = if is_local { None } else { binary(family >> 4, said) };
    Seen::Header(bytes, addresses)
}

/// Both addresses, then both ports.
fn binary(family: u8, said: &[u8]) -> Option<Addresses> {
    let port = |at: usize| Some(u16::from_be_bytes(said.get(at..at + 2)?.try_into().ok()?));
    match family {
        1 => {
            let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(said.get(at..at + 4)?).ok()?));
            Some(Addresses::new(
                (ip(0)?.into(), port(8)?),
                (ip(4)?.into(), port(10)?),
            ))
        }
        2 => {
            let ip = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(said.get(at..at + 16)?).ok()?));
            Some(Addresses::new(
                (ip(0)?.into(), port(32)?),
                (ip(16)?.into(), port(34)?),
            ))
        }
        _ => None,
    }
}

impl Addresses {
    /// An IPv4 address is one however it is written.
    fn new(from: (IpAddr, u16), to: (IpAddr, u16)) -> Self {
        Self {
            from: SocketAddr::new(from.0.to_canonical(), from.1),
            to: SocketAddr::new(to.0.to_canonical(), to.1),
        }
    }

    /// A header has room for one.
    fn of_one_family(self) -> (IpAddr, IpAddr) {
        match (self.from.ip(), self.to.ip()) {
            (from @ IpAddr::V4(_), to @ IpAddr::V4(_)) => (from, to),
            (from, to) => (as_v6(from).into(), as_v6(to).into()),
        }
    }
}

/// Tells a host whose connection this is; without `addresses` it is the proxy's own.
pub(crate) async fn tell(
    stream: &mut TcpStream,
    version: Version,
    addresses: Option<Addresses>,
) -> io::Result<()> {
    let header = match (version, addresses) {
        // As in Envoy, which could say UNKNOWN.
        (Version::V1, None) => v1_header(Addresses {
            from: stream.local_addr()?,
            to: stream.peer_addr()?,
        }),
        (Version::V1, Some(addresses)) => v1_header(addresses),
        (Version::V2, addresses) => v2_header(addresses),
    };
    stream.write_all(&header).await
}

fn v1_header(addresses: Addresses) -> Vec<u8> {
    let (from, to) = addresses.of_one_family();
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from_port, to_port) = (addresses.from.port(), addresses.to.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn v2_header(addresses: Option<Addresses>) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    let Some(addresses) = addresses else {
        header.extend([0x20, 0, 0, 0]);
        return header;
    };
    match addresses.of_one_family() {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(from.octets().into_iter().chain(to.octets()));
        }
        (from, to) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend([from, to].into_iter().flat_map(|ip| as_v6(ip).octets()));
        }
    }
    for end in [addresses.from, addresses.to] {
        header.extend(end.port().to_be_bytes());
    }
    header
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ANY: Taken = Taken {
        v1: true,
        v2: true,
        none: false,
    };

    fn addresses(from: &str, to: &str) -> Option<Addresses> {
        Some(Addresses {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        })
    }

    fn binary_header(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
        let length = u16::try_from(said.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, said].concat()
    }

    fn four(tail: &[u8]) -> Vec<u8> {
        let said = [&[10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80], tail].concat();
        binary_header(0x21, 0x11, &said)
    }

    #[test]
    fn a_header_says_whose_connection_it_is() {
        let known = addresses("10.0.0.1:8080", "10.0.0.2:80");
        let six = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
        let mut six_binary = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].to_vec();
        six_binary.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        six_binary.extend([0, 1, 0xff, 0xff]);
        let text = |text: &str| text.as_bytes().to_vec();
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16));
        let longest_binary = four(&vec![0; V2_BYTES_MAX - 28]);
        for (header, expected) in [
            (text("PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n"), known),
            (text("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"), six),
            (
                text("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 8080 80\r\n"),
                known,
            ),
            (text("PROXY UNKNOWN\r\n"), None),
            (text("PROXY UNKNOWN ff:ff 1 2 3 what ever\r\n"), None),
            (text(&longest), None),
            (four(b""), known),
            (four(b"\x04\x00\x01x"), known),
            (longest_binary, known),
            (binary_header(0x21, 0x12, &four(b"")[16..]), known),
            (binary_header(0x21, 0x21, &six_binary), six),
            (binary_header(0x21, 0x31, &[b'/'; UNIX_ADDRESSES_BYTES]), None),
            (binary_header(0x21, 0x00, b""), None),
            (binary_header(0x21, 0x00, b"what"), None),
            (binary_header(0x20, 0x00, b""), None),
            (binary_header(0x20, 0x11, &four(b"")[16..]), None),
            (binary_header(0x20, 0x77, b""), None),
        ] {
            let shown = String::from_utf8_lossy(&header).into_owned();
            let (bytes, mut followed) = (header.len(), header);
            assert_eq!(look(&followed, ANY), Seen::Header(bytes, expected), "{shown:?}");
            for cut in 0..bytes {
                assert_eq!(look(&followed[..cut], ANY), Seen::Part, "{shown:?} cut at {cut}");
            }
            followed.extend_from_slice(b"PROXY UNKNOWN\r\n");
            assert_eq!(
                look(&followed, ANY),
                Seen::Header(bytes, expected),
                "{shown:?} and more"
            );
        }
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_first_wrong_byte_or_its_end() {
        let text = |text: &str| text.as_bytes().to_vec();
        let short = |family: u8, bytes: usize| binary_header(0x21, family, &vec![0; bytes]);
        for header in [
            text("GET / HTTP/1.1\r\n"),
            text("PROXx"),
            text("\r\n\r\n\0\r\nQUIT\r"),
            text("PROXY \r\n"),
            text("PROXY TCP4\r\n"),
            text("PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n"),
            text("PROXY TCP4 10.0.0.1  10.0.0.2 1 2\r\n"),
            text("PROXY TCP4 ::1 ::1 1 2\r\n"),
            text("PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n"),
            text("PROXY TCP4 10.0.0.256 10.0.0.2 1 2\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n"),
            text("PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n"),
            text(&format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX - 14))),
            text(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 15))),
            binary_header(0x11, 0x11, b"")[..16].to_vec(),
            binary_header(0x22, 0x11, b"")[..16].to_vec(),
            binary_header(0x21, 0x13, b"")[..16].to_vec(),
            binary_header(0x21, 0x41, b"")[..16].to_vec(),
            short(0x11, 11)[..16].to_vec(),
            short(0x21, 35)[..16].to_vec(),
            short(0x31, UNIX_ADDRESSES_BYTES - 1)[..16].to_vec(),
            four(&vec![0; V2_BYTES_MAX - 27])[..16].to_vec(),
        ] {
            let shown = String::from_utf8_lossy(&header).into_owned();
            assert_eq!(look(&header, ANY), Seen::Malformed, "{shown:?}");
        }
    }

    #[test]
    fn a_listener_takes_what_it_says_it_takes() {
        let (one, two) = (b"PROXY UNKNOWN\r\n".to_vec(), binary_header(0x20, 0, b""));
        let both = |v1, v2, none| Taken { v1, v2, none };
        let header = |bytes| Seen::Header(bytes, None);
        for (taken, bytes, expected) in [
            (both(true, false, false), &one[..], header(15)),
            (both(true, false, false), &two, Seen::Malformed),
            (both(true, false, false), &two[..11], Seen::Part),
            (both(false, true, false), &one, Seen::Malformed),
            (both(false, true, false), &two, header(16)),
            // What is not looked for is what the client says.
            (both(false, true, true), &one, Seen::Absent),
            (both(false, true, true), b"P", Seen::Absent),
            (both(true, false, true), &two, Seen::Absent),
            (both(true, true, true), &one, header(15)),
            (both(true, true, true), b"GET /", Seen::Absent),
            (both(true, true, true), b"POST", Seen::Absent),
            (both(true, true, true), b"P", Seen::Part),
            (both(true, true, true), b"\r\n", Seen::Part),
            (both(true, true, true), b"\x16\x03", Seen::Absent),
            (both(true, true, true), b"", Seen::Part),
            // It has said that it is one.
            (both(true, true, true), b"PROXY TCP4 x\r\n", Seen::Malformed),
        ] {
            assert_eq!(look(bytes, taken), expected, "{taken:?} {bytes:?}");
        }
    }

    #[test]
    fn what_is_said_is_what_is_understood() {
        for (from, to) in [
            ("10.0.0.1:8080", "10.0.0.2:80"),
            ("[2001:db8::1]:1", "[2001:db8::2]:65535"),
            ("10.0.0.1:8080", "[2001:db8::2]:443"),
        ] {
            let said = addresses(from, to);
            for header in [v1_header(said.unwrap()), v2_header(said)] {
                assert_eq!(
                    look(&header, ANY),
                    Seen::Header(header.len(), said),
                    "{from} {to}"
                );
            }
        }
        assert_eq!(look(&v2_header(None), ANY), Seen::Header(V2_HEADER_BYTES, None));
    }
}
