//! Changes to an encoded message that leave it one, mostly: a change of random bytes would be refused before anybody looks.

use super::{byte, one_of, place};
use crate::balance::Draw;
use crate::worker::Random;

const DEPTH_MAX: usize = 24;
const TEXTS: &[&[u8]] = &[
    b"",
    b"x",
    b"/",
    b"*",
    b"*.a",
    b"a.*",
    b"a:80",
    b"/a/b",
    b"(",
    b"[a-z]+",
    b"\0",
    b"\xff",
    b"127.0.0.1",
    b"::1",
    b":path",
    b"host",
    b"content-length",
    b"%REQ(x)%",
    b"5xx",
];

struct Field {
    number: u32,
    value: Value,
}

enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// `message` with up to three of its fields changed, at any depth.
pub(super) fn mutate(random: &Random, message: &[u8]) -> Vec<u8> {
    let Some(mut fields) = read(message, 0) else {
        return message.to_vec();
    };
    for _ in 0..=random.below(3) {
        change(random, &mut fields);
    }
    let mut out = Vec::new();
    write(&fields, &mut out);
    out
}

fn change(random: &Random, fields: &mut Vec<Field>) {
    if fields.is_empty() {
        fields.push(Field {
            number: random.below(20) + 1,
            value: Value::Varint(1),
        });
        return;
    }
    let at = place(random, fields.len() - 1);
    if let Value::Message(inner) = &mut fields[at].value
        && random.below(4) > 0
    {
        return change(random, inner);
    }
    match random.below(5) {
        0 => drop(fields.remove(at)),
        1 => {
            let mut copy = Vec::new();
            write(&fields[at..=at], &mut copy);
            fields.extend(read(&copy, 0).unwrap_or_default());
        }
        2 => fields[at].number = random.below(40) + 1,
        _ => replace(random, &mut fields[at].value),
    }
}

fn replace(random: &Random, value: &mut Value) {
    match value {
        Value::Varint(number) => {
            *number = *one_of(
                random,
                &[0, 1, 2, 99, 100, 101, u64::from(u32::MAX), 1 << 63, u64::MAX],
            );
        }
        Value::Fixed64(bytes) => *bytes = [byte(random); 8],
        Value::Fixed32(bytes) => *bytes = [byte(random); 4],
        Value::Bytes(bytes) => match random.below(3) {
            0 => bytes.truncate(place(random, bytes.len())),
            1 => bytes.extend_from_slice(one_of::<&[u8]>(random, TEXTS)),
            _ => *bytes = one_of::<&[u8]>(random, TEXTS).to_vec(),
        },
        Value::Message(fields) => fields.clear(),
    }
}

/// The fields of a message; `None` if it is none.
fn read(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(
                *bytes
                    .split_first_chunk()
                    .map(|(value, rest)| (bytes = rest, value).1)?,
            ),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (text, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                // A text that could be a message is taken for one: it is written as it was.
                let inner = read(text, depth + 1).filter(|_| depth < DEPTH_MAX && !text.is_empty());
                inner.map_or_else(|| Value::Bytes(text.to_vec()), Value::Message)
            }
            5 => Value::Fixed32(
                *bytes
                    .split_first_chunk()
                    .map(|(value, rest)| (bytes = rest, value).1)?,
            ),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    use prost::encoding::encode_varint;
    for Field { number, value } in fields {
        let mut tag = |wire: u64| encode_varint(u64::from(*number) << 3 | wire, out);
        match value {
            Value::Varint(_) => tag(0),
            Value::Fixed64(_) => tag(1),
            Value::Bytes(_) | Value::Message(_) => tag(2),
            Value::Fixed32(_) => tag(5),
        }
        match value {
            Value::Varint(number) => encode_varint(*number, out),
            Value::Fixed64(bytes) => out.extend_from_slice(bytes),
            Value::Fixed32(bytes) => out.extend_from_slice(bytes),
            Value::Bytes(text) => {
                encode_varint(text.len() as u64, out);
                out.extend_from_slice(text);
            }
            Value::Message(inner) => {
                let mut body = Vec::new();
                write(inner, &mut body);
                encode_varint(body.len() as u64, out);
                out.extend_from_slice(&body);
            }
        }
    }
}

#[test]
fn what_is_read_is_written() {
    let message = b"\x08\x96\x01\x12\x07testing\x1a\x03\x08\x96\x01\x21\x01\x02\x03\x04\x05\x06\x07\x08\x2d\x01\x02\x03\x04";
    let mut out = Vec::new();
    write(&read(message, 0).unwrap_or_default(), &mut out);
    assert_eq!(out, message);
    assert!(read(b"\x08", 0).is_none());
}
