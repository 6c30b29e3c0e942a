//! What a connection manager says of its clients.

use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions};

use super::*;
use crate::limits::ClientLimits;

fn manager(listener: &mut PbListener, change: impl FnOnce(&mut HttpConnectionManager)) {
    let Some(filter::ConfigType::TypedConfig(config)) = &mut listener.filter_chains[0].filters[0].config_type
    else {
        return;
    };
    let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    change(&mut manager);
    *config = pack_any(manager);
}

fn common(listener: &mut PbListener, options: HttpProtocolOptions) {
    manager(listener, |manager| {
        manager.common_http_protocol_options = Some(options);
    });
}

fn http2(listener: &mut PbListener, options: Http2ProtocolOptions) {
    manager(listener, |manager| manager.http2_protocol_options = Some(options));
}

fn listener() -> PbListener {
    let (_, raw) = samples::listener("x", ([127, 0, 0, 1], 80).into(), "r");
    PbListener::decode(raw.body.as_slice()).unwrap()
}

macro_rules! at {
    ($what:literal) => {
        concat!("filter_chains[0].http_connection_manager.", $what)
    };
}

#[test]
fn limits_are_as_the_contract_says() {
    check(
        ResourceKind::Listener,
        &listener(),
        &[
            (
                |l| manager(l, |m| m.max_request_headers_kb = number(0)),
                at!("max_request_headers_kb: must be 1 to 64"),
            ),
            (
                |l| manager(l, |m| m.max_request_headers_kb = number(65)),
                at!("max_request_headers_kb: must be 1 to 64"),
            ),
            (
                |l| manager(l, |m| m.request_headers_timeout = seconds(61)),
                at!("request_headers_timeout: must be at most 60 s"),
            ),
            (
                |l| manager(l, |m| m.request_timeout = seconds(-1)),
                at!("request_timeout: is negative"),
            ),
            (
                |l| manager(l, |m| m.stream_idle_timeout = seconds(-1)),
                at!("stream_idle_timeout: is negative"),
            ),
            (
                |l| manager(l, |m| m.drain_timeout = seconds(-1)),
                at!("drain_timeout: is negative"),
            ),
            (
                |l| {
                    common(
                        l,
                        HttpProtocolOptions {
                            max_headers_count: number(101),
                            ..Default::default()
                        },
                    );
                },
                at!("common_http_protocol_options.max_headers_count: must be 1 to 100"),
            ),
            (
                |l| {
                    common(
                        l,
                        HttpProtocolOptions {
                            max_connection_duration: seconds(0),
                            ..Default::default()
                        },
                    );
                },
                at!("common_http_protocol_options.max_connection_duration: must be more than 0"),
            ),
            (
                |l| {
                    common(
                        l,
                        HttpProtocolOptions {
                            headers_with_underscores_action: 1,
                            ..Default::default()
                        },
                    );
                },
                at!(
                    "common_http_protocol_options.headers_with_underscores_action: is not supported by this proxy"
                ),
            ),
            (
                |l| {
                    http2(
                        l,
                        Http2ProtocolOptions {
                            max_concurrent_streams: number(101),
                            ..Default::default()
                        },
                    );
                },
                at!("http2_protocol_options.max_concurrent_streams: must be 1 to 100"),
            ),
            (
                |l| {
                    http2(
                        l,
                        Http2ProtocolOptions {
                            initial_stream_window_size: number(65_534),
                            ..Default::default()
                        },
                    );
                },
                at!("http2_protocol_options.initial_stream_window_size: must be 65535 to 262144"),
            ),
            (
                |l| {
                    http2(
                        l,
                        Http2ProtocolOptions {
                            initial_connection_window_size: number(4_194_305),
                            ..Default::default()
                        },
                    );
                },
                at!("http2_protocol_options.initial_connection_window_size: must be 65535 to 4194304"),
            ),
        ],
    );
}

fn limits(listener: &PbListener) -> ClientLimits {
    let decoded = crate::decode::listener::decode("x", &listener.encode_to_vec()).unwrap();
    match &decoded.chains[0].network {
        crate::config::Network::Http(http) => http.limits,
        crate::config::Network::Tcp(_) => unreachable!("it was made with HTTP"),
    }
}

/// With none a request that is on its way when its client is told to go would be lost.
#[test]
fn a_client_has_time_to_go_and_not_for_ever() {
    for (said_s, expected_s) in [(0, 1), (1, 1), (7, 7), (300, 300), (301, 300)] {
        let mut said = listener();
        manager(&mut said, |manager| manager.drain_timeout = seconds(said_s));
        assert_eq!(limits(&said).drain_timeout.as_secs(), expected_s, "{said_s}");
    }
}

#[test]
fn what_is_not_said_is_as_it_was() {
    let mut said = listener();
    assert_eq!(limits(&said), ClientLimits::DEFAULT);
    manager(&mut said, |manager| {
        manager.max_request_headers_kb = number(64);
        manager.request_headers_timeout = seconds(0);
        manager.drain_timeout = seconds(5);
        manager.common_http_protocol_options = Some(HttpProtocolOptions {
            max_headers_count: number(100),
            max_requests_per_connection: number(0),
            ..Default::default()
        });
        manager.http2_protocol_options = Some(Http2ProtocolOptions {
            max_concurrent_streams: number(100),
            initial_stream_window_size: number(262_144),
            initial_connection_window_size: number(4_194_304),
            ..Default::default()
        });
    });
    assert_eq!(limits(&said), ClientLimits::DEFAULT);
}
