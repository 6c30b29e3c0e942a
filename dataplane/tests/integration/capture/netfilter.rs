//! Rules that redirect connections, told to the kernel over netlink as `nft` would: a machine without that program can run the
//! tests. Numbers are those of the kernel's headers `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const SOCK_RAW: i32 = 3;
const NETLINK_NETFILTER: i32 = 12;

const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const FAMILY_INET: u8 = 1;

const TABLE: &str = "capture";
/// Where destinations are changed.
const PRIORITY: i32 = -100;
const REGISTER: i32 = 1;

/// Whose connections: those of others that come here, or those that begin here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Prerouting,
    Output,
}

/// Connections of TCP that `from` opens to one of these `ports`, wherever, or where `to` begins the address, go to the port
/// `redirected` of this machine, at the address where they come in, or at `at`.
pub(super) struct Redirect {
    pub(super) from: IpAddr,
    pub(super) to: &'static [u8],
    pub(super) ports: RangeInclusive<u16>,
    pub(super) redirected: u16,
    pub(super) at: Option<Ipv4Addr>,
}

/// Adds the rules, of this process's network namespace.
pub(super) fn redirect(hook: Hook, rules: &[Redirect]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("netlink: {error}");
    let (family, kind) = (Domain::from(AF_NETLINK), Type::from(SOCK_RAW));
    let mut socket = Socket::new(family, kind, Some(Protocol::from(NETLINK_NETFILTER))).map_err(failed)?;
    let (name, hook) = match hook {
        Hook::Prerouting => ("prerouting", 0),
        Hook::Output => ("output", 3),
    };
    let hook = [number(1, hook), number(2, PRIORITY)].concat();
    let chain = [text(1, TABLE), text(3, name), nested(4, &hook), text(7, "nat")].concat();
    let mut messages = vec![
        message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]),
        message(NEW_TABLE, REQUEST | ACK | CREATE, FAMILY_INET, 0, &text(1, TABLE)),
        message(NEW_CHAIN, REQUEST | ACK | CREATE, FAMILY_INET, 0, &chain),
    ];
    for rule in rules {
        let body = [text(1, TABLE), text(2, name), nested(4, &rule.expressions())].concat();
        messages.push(message(
            NEW_RULE,
            REQUEST | ACK | CREATE | APPEND,
            FAMILY_INET,
            0,
            &body,
        ));
    }
    let mut awaited = messages.len() - 1;
    messages.push(message(BATCH_END, REQUEST, 0, NFTABLES, &[]));
    // The kernel takes a batch whole.
    socket.write_all(&messages.concat()).map_err(failed)?;
    let mut answers = vec![0; 64 * 1024];
    while awaited > 0 {
        let read = socket.read(&mut answers).map_err(failed)?;
        let mut left = &answers[..read];
        while let Some(head) = left.get(..20) {
            let bytes = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            let code = i32::from_ne_bytes([head[16], head[17], head[18], head[19]]);
            if kind != NLMSG_ERROR || code != 0 {
                return Err(failed(std::io::Error::from_raw_os_error(-code)));
            }
            awaited = awaited.saturating_sub(1);
            left = left.get(padded(bytes)..).unwrap_or_default();
        }
    }
    Ok(())
}

impl Redirect {
    fn expressions(&self) -> Vec<u8> {
        const NFPROTO: i32 = 15;
        const L4PROTO: i32 = 16;
        const TCP: u8 = 6;
        const NETWORK: i32 = 1;
        const TRANSPORT: i32 = 2;
        const EQUAL: i32 = 0;
        const AT_MOST: i32 = 3;
        const AT_LEAST: i32 = 5;
        let (version, source, destination, from) = match self.from {
            IpAddr::V4(from) => (2, 12, 16, from.octets().to_vec()),
            IpAddr::V6(from) => (10, 8, 24, from.octets().to_vec()),
        };
        let mut all = vec![meta(NFPROTO), compare(EQUAL, &[version])];
        all.extend([payload(NETWORK, source, from.len()), compare(EQUAL, &from)]);
        if !self.to.is_empty() {
            all.extend([
                payload(NETWORK, destination, self.to.len()),
                compare(EQUAL, self.to),
            ]);
        }
        all.extend([meta(L4PROTO), compare(EQUAL, &[TCP])]);
        all.extend([
            payload(TRANSPORT, 2, 2),
            compare(AT_LEAST, &self.ports.start().to_be_bytes()),
            compare(AT_MOST, &self.ports.end().to_be_bytes()),
        ]);
        all.push(immediate(REGISTER, &self.redirected.to_be_bytes()));
        all.push(match self.at {
            None => expression("redir", &number(1, REGISTER)),
            Some(at) => {
                const OTHER: i32 = REGISTER + 1;
                const DNAT: i32 = 1;
                const IPV4: i32 = 2;
                let nat = [
                    number(1, DNAT),
                    number(2, IPV4),
                    number(3, OTHER),
                    number(5, REGISTER),
                ];
                [immediate(OTHER, &at.octets()), expression("nat", &nat.concat())].concat()
            }
        });
        all.concat()
    }
}

fn immediate(register: i32, value: &[u8]) -> Vec<u8> {
    let value = nested(2, &attribute(1, value));
    expression("immediate", &[number(1, register), value].concat())
}

fn meta(key: i32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)].concat())
}

fn payload(base: i32, offset: i32, bytes: usize) -> Vec<u8> {
    let bytes = i32::try_from(bytes).unwrap();
    let body = [
        number(1, REGISTER),
        number(2, base),
        number(3, offset),
        number(4, bytes),
    ];
    expression("payload", &body.concat())
}

fn compare(how: i32, with: &[u8]) -> Vec<u8> {
    let with = nested(3, &attribute(1, with));
    expression("cmp", &[number(1, REGISTER), number(2, how), with].concat())
}

fn expression(name: &str, body: &[u8]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, body)].concat())
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    const HEAD_BYTES: usize = 20;
    let bytes = u32::try_from(HEAD_BYTES + body.len()).unwrap();
    let mut message = Vec::new();
    message.extend(bytes.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Neither a number of the message nor a sender: there is one of each.
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, format!("{text}\0").as_bytes())
}

fn number(kind: u16, number: i32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn nested(kind: u16, body: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, body)
}

fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
    let bytes = 4 + body.len();
    let mut attribute = Vec::new();
    attribute.extend(u16::try_from(bytes).unwrap().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend_from_slice(body);
    attribute.resize(padded(bytes), 0);
    attribute
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4)
}
