//! Values that are no messages of fields, from JSON to their bytes in protobuf.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

use crate::file::schema::Kind;

/// Of a text that is wrong: longer than names of values are, and shorter than keys.
const SHOWN_BYTES_MAX: usize = 40;

/// A value that is no message, as it is encoded.
pub(super) enum Scalar {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
}

impl Scalar {
    pub(super) fn is_default(&self) -> bool {
        match self {
            Self::Number(number) => *number == 0,
            Self::Fixed32(bytes) => *bytes == [0; 4],
            Self::Fixed64(bytes) => *bytes == [0; 8],
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    pub(super) fn wire_type(&self) -> WireType {
        match self {
            Self::Number(_) => WireType::Varint,
            Self::Fixed32(_) => WireType::ThirtyTwoBit,
            Self::Fixed64(_) => WireType::SixtyFourBit,
            Self::Bytes(_) => WireType::LengthDelimited,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => encode_varint(*number, out),
            Self::Fixed32(bytes) => out.extend(bytes),
            Self::Fixed64(bytes) => out.extend(bytes),
            Self::Bytes(bytes) => {
                encode_varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
        }
    }
}

pub(super) fn delimited(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend(body);
}

pub(super) fn scalar(kind: Kind, value: &Value) -> Result<Scalar, String> {
    let not = |what: &str| Err(format!("must be {what}, not {}", shown(value)));
    // A text may be a secret, whatever stands in its place.
    let not_text = |what: &str| Err(format!("must be {what}, not {}", shape(value)));
    match kind {
        Kind::Bool => match value {
            Value::Bool(value) => Ok(Scalar::Number(u64::from(*value))),
            _ => not("true or false"),
        },
        Kind::String => match value {
            Value::String(text) => Ok(Scalar::Bytes(text.clone().into_bytes())),
            _ => not_text("a string (in quotes)"),
        },
        Kind::Bytes => {
            let text = value.as_str().unwrap_or("?");
            let decoded = BASE64_STANDARD
                .decode(text)
                .or_else(|_| BASE64_URL_SAFE.decode(text));
            decoded.map_or_else(|_| not_text("base64"), |bytes| Ok(Scalar::Bytes(bytes)))
        }
        Kind::Double | Kind::Float => match number(value) {
            Some(number) if kind == Kind::Double => Ok(Scalar::Fixed64(number.to_le_bytes())),
            Some(number) => Ok(Scalar::Fixed32((number as f32).to_le_bytes())),
            None => not("a number"),
        },
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {
            let range = match kind {
                Kind::Int32 => i128::from(i32::MIN)..=i128::from(i32::MAX),
                Kind::Int64 => i128::from(i64::MIN)..=i128::from(i64::MAX),
                Kind::Uint32 => 0..=i128::from(u32::MAX),
                _ => 0..=i128::from(u64::MAX),
            };
            match integer(value).filter(|number| range.contains(number)) {
                // Negative ones in two's complement, of 64 bits whatever they are.
                Some(number) => Ok(Scalar::Number(number as u64)),
                None => not(&format!(
                    "a whole number from {} to {}",
                    range.start(),
                    range.end()
                )),
            }
        }
        Kind::Named(_) => not_text("a message"),
    }
}

pub(super) fn enumerated(values: &[(&'static str, i32)], value: &Value) -> Result<Scalar, String> {
    let number = named(values, value).map(|(_, number)| i64::from(number));
    number.map(|number| Scalar::Number(number as u64)).ok_or_else(|| {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}, not {}", names.join(", "), shown(value))
    })
}

/// Which of them it is, by its name or its number.
pub(super) fn named(values: &[(&'static str, i32)], value: &Value) -> Option<(&'static str, i32)> {
    let found = match value {
        Value::String(name) => values.iter().find(|(held, _)| held == name),
        other => values
            .iter()
            .find(|(_, number)| integer(other) == Some((*number).into())),
    };
    found.copied()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from);
            let whole = whole.or_else(|| number.as_u64().map(i128::from));
            // 1e3 and 5.0 are whole too.
            let is_whole = |number: &f64| number.fract() == 0.0 && number.abs() < 1e15;
            whole.or_else(|| number.as_f64().filter(is_whole).map(|number| number as i128))
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Seconds with at most nine digits behind the point, and `s`.
pub(super) fn duration(value: &Value) -> Result<Vec<u8>, String> {
    let read = || {
        let text = value.as_str()?.strip_suffix('s')?;
        let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(part) || part.len() > 9 {
            return None;
        }
        let seconds: i64 = whole.parse().ok()?;
        let nanos: i64 = format!("{part:0<9}").parse().ok()?;
        Some((sign * seconds, sign * nanos))
    };
    let (seconds, nanos) =
        read().ok_or_else(|| format!("must be a duration such as 0.5s, not {}", shown(value)))?;
    let mut out = Vec::new();
    for (number, value) in [(1, seconds), (2, nanos)] {
        if value != 0 {
            encode_key(number, WireType::Varint, &mut out);
            encode_varint(value as u64, &mut out);
        }
    }
    Ok(out)
}

pub(super) fn structure(value: &Value) -> Result<Vec<u8>, String> {
    let Value::Object(object) = value else {
        return Err(format!("must be an object, not {}", shape(value)));
    };
    let mut out = Vec::new();
    for (key, value) in object {
        let mut entry = Vec::new();
        if !key.is_empty() {
            delimited(&mut entry, 1, key.as_bytes());
        }
        delimited(&mut entry, 2, &of_struct(value));
        delimited(&mut out, 1, &entry);
    }
    Ok(out)
}

pub(super) fn list(value: &Value) -> Result<Vec<u8>, String> {
    let Value::Array(values) = value else {
        return Err(format!("must be a list, not {}", shape(value)));
    };
    let mut out = Vec::new();
    values
        .iter()
        .for_each(|value| delimited(&mut out, 1, &of_struct(value)));
    Ok(out)
}

/// Any value at all.
pub(super) fn of_struct(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut scalar = |number, scalar: &Scalar| {
        encode_key(number, scalar.wire_type(), &mut out);
        scalar.put(&mut out);
    };
    match value {
        Value::Null => scalar(1, &Scalar::Number(0)),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            scalar(2, &Scalar::Fixed64(number.to_le_bytes()));
        }
        Value::String(text) => scalar(3, &Scalar::Bytes(text.clone().into_bytes())),
        Value::Bool(is) => scalar(4, &Scalar::Number(u64::from(*is))),
        Value::Object(_) => scalar(5, &Scalar::Bytes(structure(value).unwrap_or_default())),
        Value::Array(_) => scalar(6, &Scalar::Bytes(list(value).unwrap_or_default())),
    }
    out
}

/// What was found in place of what is never secret, in short.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= SHOWN_BYTES_MAX => format!("{text:?}"),
        _ => shape(value).to_owned(),
    }
}

/// What was found in place of what may be, or hold, a secret.
pub(super) fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
