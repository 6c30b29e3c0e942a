//! Reading messages by taking: a decoder takes the fields that the contract names out of a message, and [`done`] refuses
//! it if anything is left. So a field that Envoy knows and the contract does not can never be overlooked.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::address::Address as PbAddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address as PbAddress, ApiVersion, ConfigSource, HeaderValueOption, RuntimeFractionalPercent,
};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as PbDuration};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use prost::{Message, Name};

use crate::config::MILLION;
use crate::header_changes::is_framing;

/// The longest duration that is taken, ten years of 365 days: no process lives that long, and adding it to any moment
/// is within what every platform's clock can tell, which protobuf's own limit of ten thousand years is not.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A reason, without the resource's name: `field: what is wrong`.
pub(super) type Reason = String;

pub(super) fn message<M: Message + Default>(body: &[u8]) -> Result<M, Reason> {
    let message = M::decode(body).map_err(|error| format!("not a valid message: {error}"))?;
    // What prost does not know it drops; it may not go unnoticed either.
    if message.encoded_len() != body.len() {
        return Err("has fields that this proxy's version of the Envoy API does not know".to_owned());
    }
    Ok(message)
}

pub(super) fn any<M: Message + Name + Default>(any: &Any) -> Result<M, Reason> {
    if any.type_url != M::type_url() {
        return Err(format!(
            "{} is not supported here, expected {}",
            any.type_url,
            M::type_url()
        ));
    }
    message(&any.value)
}

/// Refuses a message whose known fields have been taken if anything else is set.
pub(super) fn done<M: Default + PartialEq + Debug>(rest: &M) -> Result<(), Reason> {
    let empty = M::default();
    if *rest == empty {
        return Ok(());
    }
    Err(format!(
        "{}: is not supported by this proxy",
        first_difference(rest, &empty)
    ))
}

/// The name of the first field in which two messages of one type differ, read from their `Debug` output, which
/// prost derives: the only reflection generated code has.
fn first_difference<M: Debug>(left: &M, right: &M) -> String {
    let (left, right) = (format!("{left:#?}"), format!("{right:#?}"));
    let fields = |shown: &str| -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        for line in shown.lines().skip(1) {
            match fields.last_mut() {
                Some(last) if line.starts_with("     ") || line.starts_with("    }") => last.push_str(line),
                _ => fields.push(line.trim().to_owned()),
            }
        }
        fields
    };
    let differing = fields(&left)
        .into_iter()
        .zip(fields(&right))
        .find(|(left, right)| left != right);
    let field = differing.and_then(|(left, _)| left.split_once(':').map(|(name, _)| name.to_owned()));
    field.unwrap_or_else(|| "a field".to_owned())
}

/// Puts the field's name in front of what is wrong with it.
pub(super) trait At<T> {
    fn at(self, field: &str) -> Result<T, Reason>;
    fn at_index(self, field: &str, index: usize) -> Result<T, Reason>;
    fn at_key(self, field: &str, key: &str) -> Result<T, Reason>;
}

impl<T> At<T> for Result<T, Reason> {
    fn at(self, field: &str) -> Self {
        self.map_err(|reason| join(field, &reason))
    }

    fn at_index(self, field: &str, index: usize) -> Self {
        self.map_err(|reason| join(&format!("{field}[{index}]"), &reason))
    }

    fn at_key(self, field: &str, key: &str) -> Self {
        self.map_err(|reason| join(&format!("{field}[{key}]"), &reason))
    }
}

/// Paths grow from the inside: `a` + `b: wrong` is `a.b: wrong`.
pub(crate) fn join(field: &str, reason: &str) -> Reason {
    let path = reason.split_once(": ").map(|(path, _)| path);
    let nested = path.is_some_and(|path| {
        path.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'[' | b']'))
    });
    if nested {
        format!("{field}.{reason}")
    } else {
        format!("{field}: {reason}")
    }
}

pub(super) fn required<T>(value: Option<T>) -> Result<T, Reason> {
    value.ok_or_else(|| "is required".to_owned())
}

/// Accepts absence and `expected`.
pub(super) fn only_bool(value: Option<BoolValue>, expected: bool) -> Result<(), Reason> {
    match value {
        Some(BoolValue { value }) if value != expected => {
            Err(format!("{value} is not supported, only {expected}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn only_enum(value: i32, expected: &[i32]) -> Result<(), Reason> {
    if expected.contains(&value) {
        Ok(())
    } else {
        Err(format!("value {value} is not supported"))
    }
}

pub(super) fn same_name(inner: &str, name: &str) -> Result<(), Reason> {
    if inner == name {
        Ok(())
    } else {
        Err(format!("is {inner:?}, but the resource is named {name:?}"))
    }
}

/// Normalised, not negative, and at most [`DURATION_MAX`].
pub(super) fn duration(value: PbDuration) -> Result<Duration, Reason> {
    let seconds = u64::try_from(value.seconds).map_err(|_| "is negative".to_owned())?;
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| "has an invalid part of a second".to_owned())?;
    let duration = Duration::new(seconds, nanos);
    if duration > DURATION_MAX {
        return Err(format!("is more than {} s", DURATION_MAX.as_secs()));
    }
    Ok(duration)
}

pub(super) fn positive(value: PbDuration) -> Result<Duration, Reason> {
    let value = duration(value)?;
    if value.is_zero() {
        Err("must be more than 0".to_owned())
    } else {
        Ok(value)
    }
}

pub(super) fn runtime_fraction(mut pb: RuntimeFractionalPercent) -> Result<u32, Reason> {
    let share = required(pb.default_value.take()).at("default_value")?;
    done(&pb)?;
    millionths(share).at("default_value")
}

/// Of a million requests.
pub(super) fn millionths(share: FractionalPercent) -> Result<u32, Reason> {
    let each = match DenominatorType::try_from(share.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err("denominator: is unknown".to_owned()),
    };
    let millionths = share.numerator.saturating_mul(each);
    if millionths > MILLION {
        return Err("numerator: is more than all".to_owned());
    }
    Ok(millionths)
}

pub(super) fn answer_status(status: u32) -> Result<StatusCode, Reason> {
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    status
        .filter(|status| status.as_u16() >= 200)
        .ok_or_else(|| "must be 200 to 599".to_owned())
}

pub(super) fn socket_address(address: Option<PbAddress>) -> Result<SocketAddr, Reason> {
    let Some(PbAddressKind::SocketAddress(mut socket)) = required(address)?.address else {
        return Err("only socket_address is supported".to_owned());
    };
    let ip = std::mem::take(&mut socket.address);
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| format!("socket_address.address: {ip:?} is not an IP address"))?;
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier.take() else {
        return Err("socket_address.port_value: is required".to_owned());
    };
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| "socket_address.port_value: must be 1 to 65535".to_owned())?;
    done(&socket).at("socket_address")?;
    Ok(SocketAddr::new(ip, port))
}

/// Aggregated discovery is where everything comes from.
pub(super) fn ads(source: Option<ConfigSource>) -> Result<(), Reason> {
    let mut source = required(source)?;
    match source.config_source_specifier.take() {
        Some(ConfigSourceSpecifier::Ads(_)) => {}
        _ => return Err("only ads is supported".to_owned()),
    }
    only_enum(
        std::mem::take(&mut source.resource_api_version),
        &[ApiVersion::Auto as i32, ApiVersion::V3 as i32],
    )
    .at("resource_api_version")?;
    done(&source)
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, Reason> {
    let parsed: HeaderName = name
        .parse()
        .map_err(|_| format!("{name:?} is not a header name"))?;
    if parsed == http::header::HOST {
        return Err("host cannot be changed".to_owned());
    }
    Ok(parsed)
}

/// Of lines that edits change: not those that frame the message or concern one connection.
pub(super) fn edited_name(name: &str) -> Result<HeaderName, Reason> {
    let parsed = header_name(name)?;
    if is_framing(&parsed) {
        return Err(format!("{parsed} cannot be changed"));
    }
    Ok(parsed)
}

/// `%%` stands for a percent sign.
pub(super) fn header_value(value: &str) -> Result<HeaderValue, Reason> {
    if value.split("%%").any(|part| part.contains('%')) {
        return Err(format!("{value:?} has a %, and substitutions are not supported"));
    }
    HeaderValue::from_str(&value.replace("%%", "%")).map_err(|_| format!("{value:?} is not a header value"))
}

/// A header to set; `actions` are the append actions that the place allows.
pub(super) fn header_to_set(
    mut option: HeaderValueOption,
    actions: &[i32],
) -> Result<(HeaderName, HeaderValue), Reason> {
    let mut header = required(option.header.take()).at("header")?;
    let name = edited_name(&std::mem::take(&mut header.key)).at("header.key")?;
    let value = header_value(&std::mem::take(&mut header.value)).at("header.value")?;
    done(&header).at("header")?;
    only_enum(std::mem::take(&mut option.append_action), actions).at("append_action")?;
    done(&option)?;
    Ok((name, value))
}
