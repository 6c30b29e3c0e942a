//! `envoy.config.accesslog.v3.AccessLog`: files and standard output, and the formats of their lines.

use std::mem::take;
use std::path::Path;

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as PbAccessLog, AccessLogFilter, ComparisonFilter, NotHealthCheckFilter,
};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format as PbFormat;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat as StdoutFormat;
use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Struct, Value};
use prost::Name;

use super::fields::{At, Reason, any, done, required};
use super::matcher::header;
use crate::access_log::{
    CodeStyle, Comparison, Destination, Field, Filter, Format, Log, Medium, OfChannel, Operator, Piece,
    Relation, Request, Show, escape,
};

mod hint;
mod records;

/// What Envoy writes where no format is given.
const FORMAT_DEFAULT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" ",
    "\"%UPSTREAM_HOST%\"\n"
);

/// The words of Envoy's response flags; some of them this proxy never says.
const FLAGS: [&str; 29] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
];

/// Those of a listener, in their order.
pub(super) fn of_listener(logs: Vec<PbAccessLog>) -> Result<Box<[Log]>, Reason> {
    let logs = logs.into_iter().enumerate();
    logs.map(|(index, given)| log(given).at_index("access_log", index))
        .collect()
}

fn log(mut pb: PbAccessLog) -> Result<Log, Reason> {
    take(&mut pb.name);
    let Some(ConfigType::TypedConfig(config)) = pb.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    let (medium, format) = target(&config).at("typed_config")?;
    let filter = pb.filter.take().map(filter).transpose().at("filter")?;
    done(&pb)?;
    Ok(Log {
        medium,
        filter,
        format,
    })
}

fn target(config: &Any) -> Result<(Medium, Format), Reason> {
    if config.type_url == OpenTelemetryAccessLogConfig::type_url() {
        return records::records(any(config)?);
    }
    if config.type_url == StdoutAccessLog::type_url() {
        let mut pb: StdoutAccessLog = any(config)?;
        let given = pb.access_log_format.take();
        let format = given.map(|StdoutFormat::LogFormat(format)| format);
        done(&pb)?;
        return Ok((Medium::Lines(Destination::Stdout), self::format(format)?));
    }
    let mut pb: FileAccessLog = any(config)?;
    let format = match pb.access_log_format.take() {
        None => None,
        Some(FileFormat::LogFormat(format)) => Some(format),
        Some(_) => return Err("access_log_format: only log_format is supported".to_owned()),
    };
    let path = take(&mut pb.path);
    if path.is_empty() {
        return Err("path: is required".to_owned());
    }
    done(&pb)?;
    let destination = Destination::of_path(Path::new(&path));
    Ok((Medium::Lines(destination), self::format(format)?))
}

fn format(given: Option<SubstitutionFormatString>) -> Result<Format, Reason> {
    let Some(given) = given else {
        return Ok(Format::new(pieces(FORMAT_DEFAULT, Show::Text)?));
    };
    substitution(given).at("log_format")
}

fn substitution(mut pb: SubstitutionFormatString) -> Result<Format, Reason> {
    formatters(take(&mut pb.formatters))?;
    // They are sorted, asked or not, as in Envoy.
    take(&mut pb.json_format_options);
    let format = match required(pb.format.take()).at("format")? {
        PbFormat::TextFormatSource(DataSource {
            watched_directory: None,
            specifier: Some(Specifier::InlineString(text)),
        }) => pieces(&text, Show::Text).at("text_format_source.inline_string")?,
        PbFormat::TextFormatSource(_) => {
            return Err("text_format_source: only inline_string is supported".to_owned());
        }
        PbFormat::JsonFormat(object) => {
            let mut json = Json::default();
            json.object(object).at("json_format")?;
            json.literal.push(b'\n');
            json.pieces()
        }
        _ => return Err("format: only json_format and text_format_source are supported".to_owned()),
    };
    done(&pb)?;
    Ok(Format::new(format))
}

/// Those that are known without being said too.
fn formatters(given: Vec<TypedExtensionConfig>) -> Result<(), Reason> {
    for (index, mut formatter) in given.into_iter().enumerate() {
        take(&mut formatter.name);
        let config = required(formatter.typed_config.take()).at("typed_config");
        config
            .and_then(|config| any::<ReqWithoutQuery>(&config).at("typed_config"))
            .at_index("formatters", index)?;
    }
    Ok(())
}

/// A JSON object on its way to be pieces.
#[derive(Default)]
struct Json {
    pieces: Vec<Piece>,
    /// What comes after them.
    literal: Vec<u8>,
}

impl Json {
    fn object(&mut self, object: Struct) -> Result<(), Reason> {
        let mut fields: Vec<(String, Value)> = object.fields.into_iter().collect();
        fields.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.literal.push(b'{');
        for (index, (name, value)) in fields.into_iter().enumerate() {
            if index > 0 {
                self.literal.push(b',');
            }
            self.literal.push(b'"');
            escape(&mut self.literal, name.as_bytes());
            self.literal.extend_from_slice(b"\":");
            self.value(value).at_key("fields", &name)?;
        }
        self.literal.push(b'}');
        Ok(())
    }

    fn value(&mut self, value: Value) -> Result<(), Reason> {
        match value.kind {
            None | Some(Kind::NullValue(_)) => self.literal.extend_from_slice(b"null"),
            Some(Kind::BoolValue(value)) => self.literal.extend_from_slice(value.to_string().as_bytes()),
            Some(Kind::NumberValue(value)) if value.is_finite() => {
                self.literal.extend_from_slice(value.to_string().as_bytes());
            }
            Some(Kind::NumberValue(_)) => return Err("is not a number".to_owned()),
            Some(Kind::StringValue(text)) => self.string(&text)?,
            Some(Kind::StructValue(object)) => self.object(object)?,
            Some(Kind::ListValue(list)) => {
                self.literal.push(b'[');
                for (index, value) in list.values.into_iter().enumerate() {
                    if index > 0 {
                        self.literal.push(b',');
                    }
                    self.value(value)?;
                }
                self.literal.push(b']');
            }
        }
        Ok(())
    }

    /// A value alone keeps its type.
    fn string(&mut self, text: &str) -> Result<(), Reason> {
        let mut parts = pieces(text, Show::JsonPart)?;
        if let [Piece::Value(_, show)] = &mut parts[..] {
            *show = Show::Json;
            self.flush();
            self.pieces.append(&mut parts);
            return Ok(());
        }
        self.literal.push(b'"');
        for part in parts {
            match part {
                Piece::Literal(bytes) => escape(&mut self.literal, &bytes),
                value @ Piece::Value(..) => {
                    self.flush();
                    self.pieces.push(value);
                }
            }
        }
        self.literal.push(b'"');
        Ok(())
    }

    fn flush(&mut self) {
        let literal = take(&mut self.literal);
        self.pieces.push(Piece::Literal(literal.into()));
    }

    fn pieces(mut self) -> Vec<Piece> {
        self.flush();
        self.pieces
    }
}

/// A text with values between percent signs, two of which are one.
fn pieces(text: &str, show: Show) -> Result<Vec<Piece>, Reason> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        literal += before;
        if let Some(behind) = behind.strip_prefix('%') {
            literal.push('%');
            rest = behind;
            continue;
        }
        let (command, behind) = command(behind)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(take(&mut literal).into_bytes().into()));
        }
        pieces.push(Piece::Value(operator(&command)?, show));
        rest = behind;
    }
    literal += rest;
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into_bytes().into()));
    }
    Ok(pieces)
}

/// `NAME`, `NAME(argument)` or `NAME(argument):length`.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    bytes_max: Option<usize>,
}

/// The command behind a percent sign, and what is behind its own.
fn command(text: &str) -> Result<(Command<'_>, &str), Reason> {
    let unclosed = || format!("%{text} has no end");
    let end = text.find(['(', ':', '%']).ok_or_else(unclosed)?;
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inner, behind) = inner.split_once(')').ok_or_else(unclosed)?;
        argument = Some(inner);
        rest = behind;
    }
    let (length, rest) = rest.split_once('%').ok_or_else(unclosed)?;
    let bytes_max = match length.strip_prefix(':') {
        None if length.is_empty() => None,
        None => return Err(format!("%{name}: {length:?} is not understood")),
        Some(length) => Some(
            length
                .parse()
                .map_err(|_| format!("%{name}: {length:?} is not a length"))?,
        ),
    };
    let command = Command {
        name,
        argument,
        bytes_max,
    };
    Ok((command, rest))
}

fn operator(command: &Command<'_>) -> Result<Operator, Reason> {
    let Command {
        name,
        argument,
        bytes_max,
    } = *command;
    match (name, argument) {
        ("REQ" | "REQUEST_HEADER", Some(argument)) => return request(argument, bytes_max, |field| field),
        ("REQ_WITHOUT_QUERY", Some(argument)) => {
            return request(argument, bytes_max, |field| match field {
                Field::Path => Field::PathWithoutQuery,
                other => other,
            });
        }
        ("RESP" | "RESPONSE_HEADER", Some(argument)) => {
            return match argument.split_once('?') {
                None => match (field(argument, &RESPONSE_FIELDS)?, bytes_max) {
                    (Field::Status, Some(_)) => {
                        Err(format!("%{name}({argument})% with a length is not supported"))
                    }
                    (field, bytes_max) => Ok(Operator::Response(field, bytes_max)),
                },
                Some(_) => Err(format!("%{name}({argument})%: one header is supported, not two")),
            };
        }
        ("GRPC_STATUS", Some(style)) => {
            let (_, style) = CODE_STYLES
                .into_iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(style))
                .ok_or_else(|| format!("%{name}({style})% is not supported"))?;
            return match bytes_max {
                None => Ok(Operator::GrpcStatus(style)),
                Some(_) => Err(format!("%{name}% with a length is not supported")),
            };
        }
        _ => {}
    }
    let operator = match name {
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "DURATION" => Operator::DurationMs,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "UPSTREAM_HOST" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" => Operator::UpstreamCluster,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Attempts,
        "ROUTE_NAME" => Operator::Request(Request::Route),
        "PROTOCOL" => Operator::Protocol,
        "START_TIME" => Operator::StartTime,
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::RemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::RemoteAddressWithoutPort,
        "GRPC_STATUS" => Operator::GrpcStatus(CodeStyle::Camel),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(CodeStyle::Number),
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::Channel(OfChannel::LocalAddress),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::Channel(OfChannel::LocalAddressWithoutPort),
        "REQUESTED_SERVER_NAME" => Operator::Channel(OfChannel::ServerName),
        "DOWNSTREAM_TLS_VERSION" => Operator::Channel(OfChannel::TlsVersion),
        "DOWNSTREAM_TLS_CIPHER" => Operator::Channel(OfChannel::TlsCipher),
        "DOWNSTREAM_PEER_SUBJECT" => Operator::Channel(OfChannel::PeerSubject),
        "DOWNSTREAM_PEER_URI_SAN" => Operator::Channel(OfChannel::PeerUris),
        "DOWNSTREAM_PEER_DNS_SAN" => Operator::Channel(OfChannel::PeerDnsNames),
        _ => return Err(format!("%{name}% is not supported")),
    };
    match (argument, bytes_max) {
        (None, None) => Ok(operator),
        _ => Err(format!("%{name}% with an argument or a length is not supported")),
    }
}

const CODE_STYLES: [(&str, CodeStyle); 3] = [
    ("CAMEL_STRING", CodeStyle::Camel),
    ("SNAKE_STRING", CodeStyle::Snake),
    ("NUMBER", CodeStyle::Number),
];

const REQUEST_FIELDS: [(&str, Field); 4] = [
    (":method", Field::Method),
    (":path", Field::Path),
    (":authority", Field::Authority),
    (":scheme", Field::Scheme),
];
const RESPONSE_FIELDS: [(&str, Field); 1] = [(":status", Field::Status)];

fn request(
    argument: &str,
    bytes_max: Option<usize>,
    of: impl Fn(Field) -> Field,
) -> Result<Operator, Reason> {
    let (name, or) = match argument.split_once('?') {
        Some((name, or)) => (name, Some(or)),
        None => (argument, None),
    };
    let or = or.map(|or| field(or, &REQUEST_FIELDS).map(&of)).transpose()?;
    Ok(Operator::Request(Request::Field {
        field: of(field(name, &REQUEST_FIELDS)?),
        or,
        bytes_max,
    }))
}

fn field(name: &str, pseudo: &[(&str, Field)]) -> Result<Field, Reason> {
    let name = name.to_ascii_lowercase();
    if let Some((_, field)) = pseudo.iter().find(|(known, _)| *known == name) {
        return Ok(field.clone());
    }
    name.parse()
        .map(Field::Header)
        .map_err(|_| format!("{name:?} is not a header name"))
}

/// As many as a filter may have within others: what is decoded by itself within itself has an end.
const FILTER_DEPTH_MAX: usize = 16;

fn filter(pb: AccessLogFilter) -> Result<Filter, Reason> {
    filter_within(pb, FILTER_DEPTH_MAX)
}

fn filters(given: Vec<AccessLogFilter>, depth: usize) -> Result<Box<[Filter]>, Reason> {
    // Envoy takes two at least.
    if given.len() < 2 {
        return Err("filters: at least two are required".to_owned());
    }
    let given = given.into_iter().enumerate();
    given
        .map(|(index, filter)| filter_within(filter, depth).at_index("filters", index))
        .collect()
}

fn filter_within(mut pb: AccessLogFilter, depth: usize) -> Result<Filter, Reason> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("there are too many of them within each other".to_owned());
    };
    let filter = match required(pb.filter_specifier.take())? {
        FilterSpecifier::StatusCodeFilter(filter) => {
            Filter::Status(comparison(filter.comparison).at("status_code_filter.comparison")?)
        }
        FilterSpecifier::DurationFilter(filter) => {
            Filter::DurationMs(comparison(filter.comparison).at("duration_filter.comparison")?)
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            if let Some(unknown) = filter.flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
                return Err(format!("response_flag_filter.flags: {unknown:?} is unknown"));
            }
            Filter::Flags(filter.flags.into_iter().map(String::into_boxed_str).collect())
        }
        FilterSpecifier::MetadataFilter(filter) => hint::hint(filter).at("metadata_filter")?,
        FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {}) => Filter::Everything,
        FilterSpecifier::HeaderFilter(filter) => {
            let matcher = required(filter.header)
                .and_then(header)
                .at("header_filter.header")?;
            Filter::Header(matcher)
        }
        FilterSpecifier::AndFilter(and) => Filter::All(filters(and.filters, depth).at("and_filter")?),
        FilterSpecifier::OrFilter(or) => Filter::Any(filters(or.filters, depth).at("or_filter")?),
        _ => {
            return Err(
                "only status_code_filter, duration_filter, response_flag_filter, metadata_filter, header_filter, not_health_check_filter, and_filter and or_filter are supported"
                    .to_owned(),
            );
        }
    };
    done(&pb)?;
    Ok(filter)
}

fn comparison(pb: Option<ComparisonFilter>) -> Result<Comparison, Reason> {
    let mut pb = required(pb)?;
    let relation = match Op::try_from(take(&mut pb.op)) {
        Ok(Op::Eq) => Relation::Equal,
        Ok(Op::Ge) => Relation::AtLeast,
        Ok(Op::Le) => Relation::AtMost,
        Ok(Op::Ne) => Relation::Differs,
        Err(_) => return Err("op: is unknown".to_owned()),
    };
    let mut value = required(pb.value.take()).at("value")?;
    // There is no runtime that could say otherwise.
    take(&mut value.runtime_key);
    Ok(Comparison {
        relation,
        to: value.default_value,
    })
}

#[cfg(test)]
mod tests;
