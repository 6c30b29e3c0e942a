#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::accesslog::v3::{
    AndFilter, GrpcStatusFilter, HeaderFilter, NotHealthCheckFilter, OrFilter, ResponseFlagFilter,
    StatusCodeFilter,
};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, RuntimeUInt32};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::google::protobuf::ListValue;
use envoy_types::util::pack_any;

use super::*;

/// The pieces as one can read them: values between angles.
fn shown(pieces: &[Piece]) -> String {
    let shown = pieces.iter().map(|piece| match piece {
        Piece::Literal(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Piece::Value(operator, show) => format!("<{operator:?} {show:?}>"),
    });
    shown.collect()
}

#[test]
fn texts_become_pieces_or_are_refused_by_name() {
    let head = |field: &str, or: &str, length: &str| {
        format!("<Request(Field {{ field: {field}, or: {or}, bytes_max: {length} }}) Text>")
    };
    let cases: [(&str, Result<String, &str>); 26] = [
        ("", Ok(String::new())),
        ("a 100%% b", Ok("a 100% b".to_owned())),
        (
            "%RESPONSE_CODE%%DURATION%",
            Ok("<ResponseCode Text><DurationMs Text>".to_owned()),
        ),
        ("%REQ(:Method)%", Ok(head("Method", "None", "None"))),
        (
            "%REQUEST_HEADER(X-A?:PATH):9%",
            Ok(head("Header(\"x-a\")", "Some(Path)", "Some(9)")),
        ),
        (
            "%REQ_WITHOUT_QUERY(X-A?:PATH)%",
            Ok(head("Header(\"x-a\")", "Some(PathWithoutQuery)", "None")),
        ),
        (
            "%RESP(:STATUS):2%",
            Err("%RESP(:STATUS)% with a length is not supported"),
        ),
        ("%RESP(:status)%", Ok("<Response(Status, None) Text>".to_owned())),
        (
            "%RESPONSE_HEADER(X):3%",
            Ok("<Response(Header(\"x\"), Some(3)) Text>".to_owned()),
        ),
        ("%ROUTE_NAME%", Ok("<Request(Route) Text>".to_owned())),
        (
            "%GRPC_STATUS(snake_string)%%GRPC_STATUS_NUMBER%",
            Ok("<GrpcStatus(Snake) Text><GrpcStatus(Number) Text>".to_owned()),
        ),
        ("%GRPC_STATUS(X)%", Err("%GRPC_STATUS(X)% is not supported")),
        (
            "%GRPC_STATUS:3%",
            Err("%GRPC_STATUS% with an argument or a length is not supported"),
        ),
        (
            "%DOWNSTREAM_PEER_URI_SAN%",
            Ok("<Channel(PeerUris) Text>".to_owned()),
        ),
        ("%NO_SUCH%", Err("%NO_SUCH% is not supported")),
        ("%NO_SUCH(x)%", Err("%NO_SUCH% is not supported")),
        ("%REQ%", Err("%REQ% is not supported")),
        (
            "%START_TIME(%s)%",
            Err("%START_TIME% with an argument or a length is not supported"),
        ),
        (
            "%DURATION:3%",
            Err("%DURATION% with an argument or a length is not supported"),
        ),
        ("%REQ(a b)%", Err("\"a b\" is not a header name")),
        ("%REQ(:status)%", Err("\":status\" is not a header name")),
        (
            "%RESP(a?b)%",
            Err("%RESP(a?b)%: one header is supported, not two"),
        ),
        ("%REQ(a):x%", Err("%REQ: \"x\" is not a length")),
        ("%REQ(a)x%", Err("%REQ: \"x\" is not understood")),
        ("%REQ(a%", Err("%REQ(a% has no end")),
        ("a %DURATION", Err("%DURATION has no end")),
    ];
    for (text, expected) in cases {
        let got = pieces(text, Show::Text).map(|pieces| shown(&pieces));
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }
    assert!(pieces(FORMAT_DEFAULT, Show::Text).is_ok());
}

fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

#[test]
fn objects_become_pieces_sorted_and_typed() {
    let object = |fields: Vec<(&str, Value)>| Struct {
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    };
    let kind = |kind| Value { kind: Some(kind) };
    let given = object(vec![
        ("b", string("%DURATION%")),
        ("a\"", string("x\"%PROTOCOL% %UPSTREAM_HOST%")),
        (
            "c",
            kind(Kind::StructValue(object(vec![(
                "d",
                kind(Kind::BoolValue(true)),
            )]))),
        ),
        (
            "e",
            kind(Kind::ListValue(ListValue {
                values: vec![
                    kind(Kind::NumberValue(1.5)),
                    kind(Kind::NullValue(0)),
                    string("%%"),
                ],
            })),
        ),
    ]);
    let mut json = Json::default();
    json.object(given).unwrap();
    assert_eq!(
        shown(&json.pieces()),
        "{\"a\\\"\":\"x\\\"<Protocol JsonPart> <UpstreamHost JsonPart>\",\"b\":<DurationMs Json>,\
         \"c\":{\"d\":true},\"e\":[1.5,null,\"%\"]}"
    );
    let wrong = object(vec![("a", string("%NO%"))]);
    let refused = Json::default().object(wrong);
    assert_eq!(refused, Err("fields[a]: %NO% is not supported".to_owned()));
}

fn file(change: impl FnOnce(&mut FileAccessLog)) -> PbAccessLog {
    let mut file = FileAccessLog {
        path: "/log".to_owned(),
        ..Default::default()
    };
    change(&mut file);
    PbAccessLog {
        config_type: Some(ConfigType::TypedConfig(pack_any(file))),
        ..Default::default()
    }
}

fn filtered(filter: FilterSpecifier) -> PbAccessLog {
    PbAccessLog {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(filter),
        }),
        ..file(|_| {})
    }
}

/// One of all, or one that `other` takes.
fn or(other: AccessLogFilter) -> FilterSpecifier {
    let everything = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {})),
    };
    FilterSpecifier::OrFilter(OrFilter {
        filters: vec![everything, other],
    })
}

#[test]
fn filters_are_within_each_other_so_far() {
    let nested = |depth: usize| {
        let innermost = FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {});
        let specifier = (1..depth).fold(innermost, |inner, _| {
            or(AccessLogFilter {
                filter_specifier: Some(inner),
            })
        });
        log(filtered(specifier)).map(drop)
    };
    assert_eq!(nested(16), Ok(()));
    let refused = nested(17).unwrap_err();
    assert!(
        refused.ends_with("too many of them within each other"),
        "{refused}"
    );
}

#[test]
#[allow(deprecated, reason = "what is deprecated is refused")]
fn logs_are_taken_or_refused_by_name() {
    let stdout = PbAccessLog {
        config_type: Some(ConfigType::TypedConfig(pack_any(StdoutAccessLog::default()))),
        ..Default::default()
    };
    let status = |op, value| {
        filtered(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter { op, value }),
        }))
    };
    let flags = |flag: &str| {
        filtered(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec![flag.to_owned()],
        }))
    };
    let value = RuntimeUInt32 {
        default_value: 500,
        runtime_key: "any".to_owned(),
    };
    let format = |format| file(|file| file.access_log_format = Some(FileFormat::LogFormat(format)));
    for right in [file(|_| {}), stdout, status(1, Some(value.clone())), flags("UH")] {
        assert!(log(right.clone()).is_ok(), "{right:?}");
    }
    for (path, destination) in [
        ("/dev/stdout", Destination::Stdout),
        ("/proc/self/fd/1", Destination::Stdout),
        ("/dev/stderr", Destination::Stderr),
        (
            "/dev/stdout2",
            Destination::File(Path::new("/dev/stdout2").into()),
        ),
    ] {
        let taken = log(file(|file| file.path = path.to_owned())).unwrap();
        assert_eq!(taken.medium, Medium::Lines(destination), "{path}");
    }
    let cases = [
        (PbAccessLog::default(), "typed_config: is required"),
        (file(|file| file.path.clear()), "typed_config.path: is required"),
        (
            file(|file| file.access_log_format = Some(FileFormat::TypedJsonFormat(Struct::default()))),
            "typed_config.access_log_format: only log_format is supported",
        ),
        (
            format(SubstitutionFormatString::default()),
            "typed_config.log_format.format: is required",
        ),
        (
            format(SubstitutionFormatString {
                omit_empty_values: true,
                format: Some(PbFormat::JsonFormat(Struct::default())),
                ..Default::default()
            }),
            "typed_config.log_format.omit_empty_values: is not supported by this proxy",
        ),
        (
            format(SubstitutionFormatString {
                format: Some(PbFormat::TextFormatSource(DataSource {
                    specifier: Some(Specifier::InlineString("%NO%".to_owned())),
                    ..Default::default()
                })),
                ..Default::default()
            }),
            "typed_config.log_format.text_format_source.inline_string: %NO% is not supported",
        ),
        (
            status(9, Some(value)),
            "filter.status_code_filter.comparison.op: is unknown",
        ),
        (
            status(0, None),
            "filter.status_code_filter.comparison.value: is required",
        ),
        (
            flags("XX"),
            "filter.response_flag_filter.flags: \"XX\" is unknown",
        ),
        (
            filtered(FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter::default())),
            "filter: only status_code_filter, duration_filter, response_flag_filter, metadata_filter, header_filter, not_health_check_filter, and_filter and or_filter are supported",
        ),
        (
            filtered(FilterSpecifier::AndFilter(AndFilter::default())),
            "filter.and_filter.filters: at least two are required",
        ),
        (
            filtered(or(AccessLogFilter::default())),
            "filter.or_filter.filters[1]: is required",
        ),
        (
            filtered(FilterSpecifier::HeaderFilter(HeaderFilter::default())),
            "filter.header_filter.header: is required",
        ),
    ];
    for (wrong, expected) in cases {
        assert_eq!(log(wrong).map(drop), Err(expected.to_owned()));
    }
}

#[allow(deprecated, reason = "it is where Envoy before 1.37 has the collector")]
#[test]
fn records_are_as_the_contract_says() {
    use crate::otlp::{AnyValue, KeyValueList, Value, string};

    let right = || OpenTelemetryAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: "l".to_owned(),
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: "c".to_owned(),
                    ..Default::default()
                })),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let of = |pb: OpenTelemetryAccessLogConfig| {
        let log = PbAccessLog {
            config_type: Some(ConfigType::TypedConfig(pack_any(pb))),
            ..Default::default()
        };
        of_listener(vec![log]).map(drop)
    };
    type Case = (fn(&mut OpenTelemetryAccessLogConfig), Result<(), &'static str>);
    let cases: [Case; 7] = [
        (|_| {}, Ok(())),
        (
            |pb| {
                let common = pb.common_config.take().unwrap();
                (pb.log_name, pb.grpc_service) = (common.log_name, common.grpc_service);
            },
            Ok(()),
        ),
        (
            |pb| pb.common_config = None,
            Err("access_log[0].typed_config.grpc_service: is required"),
        ),
        (
            |pb| pb.common_config.as_mut().unwrap().buffer_size_bytes = Some(Default::default()),
            Err("access_log[0].typed_config.common_config.buffer_size_bytes: is not supported by this proxy"),
        ),
        (
            |pb| pb.custom_tags.push(Default::default()),
            Err("access_log[0].typed_config.custom_tags: is not supported by this proxy"),
        ),
        (
            |pb| {
                pb.body = Some(AnyValue {
                    value: Some(Value::IntValue(1)),
                });
            },
            Err(
                "access_log[0].typed_config.body: only string_value, array_value and kvlist_value are supported",
            ),
        ),
        (
            |pb| {
                let values = vec![string("a", "b"), string("c", "%D%")];
                pb.attributes = Some(KeyValueList { values });
            },
            Err("access_log[0].typed_config.attributes.values[c]: %D% is not supported"),
        ),
    ];
    for (change, expected) in cases {
        let mut pb = right();
        change(&mut pb);
        assert_eq!(of(pb), expected.map_err(str::to_owned));
    }
}
