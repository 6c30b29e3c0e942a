//! What a connection of TLS says in its first message, the ClientHello (RFC 8446, section 4.1.2): the name it wants and the
//! protocols it speaks. It is read beside the codec, so that a connection can be passed on without being answered. What is
//! malformed in other places is for whoever answers it.

/// Bytes of a ClientHello with its record headers, as Envoy bounds it; a browser sends 2 KiB.
pub(crate) const HELLO_BYTES_MAX: usize = 16 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER_BYTES: usize = 5;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const PROTOCOLS: u16 = 16;
/// Of a name in DNS.
const NAME_BYTES_MAX: usize = 255;

/// What can be said of a connection that begins like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not enough yet.
    Part,
    /// It does not begin as TLS does.
    Plain,
    Hello(Hello),
    /// It begins as TLS does, and is none, or too long.
    Malformed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// In lower case.
    pub(crate) server_name: Option<Box<str>>,
    /// In the client's order.
    pub(crate) protocols: Vec<Box<[u8]>>,
}

/// Looks at all that has come of a connection.
pub(crate) fn look(first: &[u8]) -> Seen {
    match first {
        [] => return Seen::Part,
        // Every version since SSL 3 begins a record so.
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
        _ => return Seen::Plain,
    }
    let (message, whole) = match message(first) {
        Some(found) => found,
        None => return Seen::Malformed,
    };
    match message.first() {
        None | Some(&CLIENT_HELLO) => {}
        Some(_) => return Seen::Malformed,
    }
    if !whole {
        return if first.len() < HELLO_BYTES_MAX {
            Seen::Part
        } else {
            Seen::Malformed
        };
    }
    client_hello(&message[4..]).map_or(Seen::Malformed, Seen::Hello)
}

/// The handshake's first message out of its records, and whether all of it is there; `None` where it cannot be.
fn message(mut records: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut message = Vec::new();
    loop {
        if let [_, high, middle, low, ..] = message[..] {
            let length = 4 + ((usize::from(high) << 16) | (usize::from(middle) << 8) | usize::from(low));
            if length > HELLO_BYTES_MAX {
                return None;
            }
            if message.len() >= length {
                message.truncate(length);
                return Some((message, true));
            }
        }
        let Some((header, rest)) = records.split_at_checked(RECORD_HEADER_BYTES) else {
            return Some((message, false));
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // A record of another kind, or an empty one, cannot stand within a message.
        if header[0] != HANDSHAKE || length == 0 {
            return None;
        }
        let here = length.min(rest.len());
        message.extend_from_slice(&rest[..here]);
        records = &rest[here..];
    }
}

/// A message without its type and length.
fn client_hello(mut body: &[u8]) -> Option<Hello> {
    // The version and 32 random bytes.
    body = body.get(34..)?;
    let (_session, rest) = vector8(body)?;
    let (_ciphers, rest) = vector16(rest)?;
    let (_compressions, rest) = vector8(rest)?;
    let mut hello = Hello::default();
    if rest.is_empty() {
        return Some(hello);
    }
    let (mut extensions, _) = vector16(rest)?;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk()?;
        let (content, rest) = vector16(rest)?;
        match u16::from_be_bytes(*kind) {
            SERVER_NAME if !content.is_empty() => hello.server_name = server_name(content)?,
            PROTOCOLS => hello.protocols = protocols(content)?,
            _ => {}
        }
        extensions = rest;
    }
    Some(hello)
}

/// The first of the names that is a host's; what cannot be one is no name.
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let (mut names, _) = vector16(content)?;
    while let Some((kind, rest)) = names.split_first() {
        let (name, rest) = vector16(rest)?;
        if *kind == HOST_NAME {
            let name = std::str::from_utf8(name).ok().filter(|name| is_host(name));
            return Some(name.map(|name| name.to_ascii_lowercase().into()));
        }
        names = rest;
    }
    Some(None)
}

/// It is logged as it is, so nothing else may be in it.
fn is_host(name: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.len() <= NAME_BYTES_MAX && name.bytes().all(is_of_it)
}

fn protocols(content: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let (mut list, _) = vector16(content)?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let (protocol, rest) = vector8(list)?;
        protocols.push(protocol.into());
        list = rest;
    }
    Some(protocols)
}

/// What follows a length of one byte, and what is behind it.
fn vector8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// What follows a length of two bytes, and what is behind it.
fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sized16(content: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes
    }

    fn sized8(content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), sized16(content)].concat()
    }

    fn named(kind: u8, name: &[u8]) -> Vec<u8> {
        let name = [vec![kind], sized16(name)].concat();
        extension(SERVER_NAME, &sized16(&name))
    }

    fn speaking(protocols: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| sized8(protocol)).collect();
        extension(PROTOCOLS, &sized16(&list))
    }

    /// A ClientHello with these extensions.
    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(sized8(&[1; 32]));
        body.extend(sized16(&[0x13, 1, 0x13, 2]));
        body.extend(sized8(&[0]));
        body.extend(sized16(&extensions.concat()));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    /// A message in records of so many bytes.
    fn records(message: &[u8], bytes: usize) -> Vec<u8> {
        let record = |piece: &[u8]| [vec![HANDSHAKE, 3, 1], sized16(piece)].concat();
        message.chunks(bytes).flat_map(record).collect()
    }

    fn said(server_name: Option<&str>, protocols: &[&str]) -> Seen {
        Seen::Hello(Hello {
            server_name: server_name.map(Into::into),
            protocols: protocols
                .iter()
                .map(|protocol| protocol.as_bytes().into())
                .collect(),
        })
    }

    #[test]
    fn a_hello_says_its_name_and_protocols_however_it_is_cut() {
        for (extensions, expected) in [
            (vec![], said(None, &[])),
            (vec![named(0, b"a.example")], said(Some("a.example"), &[])),
            (vec![named(0, b"A.Example")], said(Some("a.example"), &[])),
            (vec![named(9, b"a.example")], said(None, &[])),
            (vec![named(0, b"\xff")], said(None, &[])),
            (vec![named(0, b"a\nforged")], said(None, &[])),
            (vec![named(0, &[b'a'; 256])], said(None, &[])),
            (vec![extension(SERVER_NAME, b"")], said(None, &[])),
            (
                vec![
                    extension(43, &[2, 3, 4]),
                    speaking(&[b"h2", b"http/1.1"]),
                    named(0, b"b"),
                ],
                said(Some("b"), &["h2", "http/1.1"]),
            ),
        ] {
            let message = hello(&extensions);
            for bytes in [message.len(), 1, 3, 100] {
                let whole = records(&message, bytes);
                assert_eq!(look(&whole), expected, "{extensions:?} by {bytes}");
                for cut in 0..whole.len() {
                    assert_eq!(
                        look(&whole[..cut]),
                        Seen::Part,
                        "{extensions:?} by {bytes} at {cut}"
                    );
                }
                let more = [&whole[..], b"\x14\x03\x03\0\x01\x01"].concat();
                assert_eq!(look(&more), expected, "{extensions:?} by {bytes}, and more");
            }
        }
    }

    #[test]
    fn a_hello_of_old_may_have_no_extensions() {
        let mut message = hello(&[]);
        message.truncate(message.len() - 2);
        message[3] -= 2;
        assert_eq!(look(&records(&message, 512)), said(None, &[]));
    }

    #[test]
    fn what_is_no_hello_is_told_from_what_is_broken() {
        let message = hello(&[named(0, b"a.example")]);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = message.clone();
            change(&mut changed);
            records(&changed, 16 * 1024)
        };
        let longest = HELLO_BYTES_MAX - 200;
        let long = hello(&[extension(21, &vec![0; longest])]);
        let too_long = hello(&[extension(21, &vec![0; HELLO_BYTES_MAX])]);
        let nothing_ever: Vec<u8> = records(&long, 1)[..HELLO_BYTES_MAX].to_vec();
        let cut_by_alert = [&records(&message[..20], 512)[..], &[21, 3, 1, 0, 2, 1, 0]].concat();
        for (what, first, expected) in [
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Seen::Plain),
            ("SSL 2", vec![0x80, 0x2e, 1, 3, 1], Seen::Plain),
            ("one letter", b"G".to_vec(), Seen::Plain),
            ("another version", vec![HANDSHAKE, 2], Seen::Plain),
            ("a server's message", with(&|m| m[0] = 2), Seen::Malformed),
            ("an alert within it", cut_by_alert, Seen::Malformed),
            ("an empty record", vec![HANDSHAKE, 3, 1, 0, 0], Seen::Malformed),
            (
                "a session beyond the end",
                with(&|m| m[38] = 255),
                Seen::Malformed,
            ),
            (
                "extensions beyond the end",
                with(&|m| m[80] = 255),
                Seen::Malformed,
            ),
            ("the longest", records(&long, 16 * 1024), said(None, &[])),
            (
                "too long",
                records(&too_long, 16 * 1024)[..9].to_vec(),
                Seen::Malformed,
            ),
            ("all headers", nothing_ever, Seen::Malformed),
        ] {
            assert_eq!(look(&first), expected, "{what}");
        }
    }
}
