//! Route configurations, as the contract has them.

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::SchemeRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher as PbHeaderMatcher, QueryParameterMatcher, RedirectAction,
    RetryPolicy as PbRetryPolicy, RouteConfiguration,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use super::*;

#[test]
fn routes_are_as_the_contract_says() {
    fn route(config: &mut RouteConfiguration) -> &mut PbRoute {
        &mut config.virtual_hosts[0].routes[0]
    }
    fn action(config: &mut RouteConfiguration) -> &mut RouteAction {
        match &mut route(config).action {
            Some(PbAction::Route(action)) => action,
            _ => unreachable!(),
        }
    }
    fn weighted(config: &mut RouteConfiguration, weights: &[u32]) {
        let clusters = weights
            .iter()
            .map(|weight| ClusterWeight {
                name: "c".to_owned(),
                weight: number(*weight),
                ..Default::default()
            })
            .collect();
        action(config).cluster_specifier = Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters,
            ..Default::default()
        }));
    }
    fn header(config: &mut RouteConfiguration, name: &str, specifier: HeaderMatchSpecifier) {
        route(config).r#match.as_mut().unwrap().headers = vec![PbHeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(specifier),
            ..Default::default()
        }];
    }
    fn string(pattern: MatchPattern) -> HeaderMatchSpecifier {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        })
    }
    fn regex(regex: &str) -> HeaderMatchSpecifier {
        string(MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.to_owned(),
            ..Default::default()
        }))
    }
    fn added(config: &mut RouteConfiguration, name: &str, value: &str, append_action: i32) {
        let header = HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        };
        route(config).request_headers_to_add = vec![HeaderValueOption {
            header: Some(header),
            append_action,
            ..Default::default()
        }];
    }
    fn retried(config: &mut RouteConfiguration, change: impl FnOnce(&mut PbRetryPolicy)) {
        let mut policy = PbRetryPolicy {
            retry_on: "reset".to_owned(),
            ..Default::default()
        };
        change(&mut policy);
        action(config).retry_policy = Some(policy);
    }
    let right = RouteConfiguration {
        name: "x".to_owned(),
        ignore_port_in_host_matching: true,
        virtual_hosts: vec![VirtualHost {
            domains: vec!["a".to_owned()],
            routes: vec![PbRoute {
                r#match: Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                    ..Default::default()
                }),
                action: Some(PbAction::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    check(
        ResourceKind::Routes,
        &right,
        &[
            (
                |r| r.virtual_hosts.push(r.virtual_hosts[0].clone()),
                "virtual_hosts[1].name: \"\" is another virtual host's too",
            ),
            (
                |r| {
                    let mut host = r.virtual_hosts[0].clone();
                    host.name = "another".to_owned();
                    r.virtual_hosts.push(host);
                },
                "virtual_hosts[1].domains: domain a is listed twice",
            ),
            (
                |r| r.virtual_hosts[0].include_request_attempt_count = true,
                "virtual_hosts[0].include_request_attempt_count: is not supported by this proxy",
            ),
            (
                |r| route(r).r#match = None,
                "virtual_hosts[0].routes[0].match: is required",
            ),
            (
                |r| {
                    let path = PathSpecifier::PathMatchPolicy(TypedExtensionConfig::default());
                    route(r).r#match.as_mut().unwrap().path_specifier = Some(path);
                },
                "virtual_hosts[0].routes[0].match.path_specifier: only path, prefix, path_separated_prefix, safe_regex and connect_matcher are supported",
            ),
            (
                |r| header(r, "x", regex("(")),
                "virtual_hosts[0].routes[0].match.headers[0].string_match.safe_regex.regex: is not a regular expression that can be had: error: unclosed group",
            ),
            (
                |r| header(r, ":scheme", regex("http")),
                "virtual_hosts[0].routes[0].match.headers[0].name: \":scheme\" is not a header name",
            ),
            (
                |r| header(r, "x", string(MatchPattern::Prefix(String::new()))),
                "virtual_hosts[0].routes[0].match.headers[0].string_match.prefix: is empty",
            ),
            (
                |r| {
                    header(r, "x", regex("a"));
                    let matcher = &mut route(r).r#match.as_mut().unwrap().headers[0];
                    match matcher.header_match_specifier.as_mut() {
                        Some(HeaderMatchSpecifier::StringMatch(string)) => string.ignore_case = true,
                        _ => unreachable!(),
                    }
                },
                "virtual_hosts[0].routes[0].match.headers[0].string_match.ignore_case: is not supported beside safe_regex",
            ),
            (
                |r| route(r).action = None,
                "virtual_hosts[0].routes[0].action: is required",
            ),
            (
                |r| {
                    let direct = DirectResponseAction {
                        status: 1000,
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::DirectResponse(direct));
                },
                "virtual_hosts[0].routes[0].direct_response.status: must be 200 to 599",
            ),
            (
                |r| weighted(r, &[0, 0]),
                "virtual_hosts[0].routes[0].route.weighted_clusters: the weights add up to 0",
            ),
            (
                |r| weighted(r, &[10_001]),
                "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight: 10001 is more than 10000",
            ),
            (
                // Their sum would not fit 32 bits.
                |r| weighted(r, &vec![10_000; 429_497]),
                "virtual_hosts[0].routes[0].route.weighted_clusters: the weights add up to more than 4294967295",
            ),
            (
                |r| action(r).timeout = seconds(i64::MAX),
                "virtual_hosts[0].routes[0].route.timeout: is more than 315360000 s",
            ),
            (
                |r| retried(r, |p| p.per_try_timeout = seconds(i64::MAX)),
                "virtual_hosts[0].routes[0].route.retry_policy.per_try_timeout: is more than 315360000 s",
            ),
            (
                |r| retried(r, |p| p.host_selection_retry_max_attempts = 1001),
                "virtual_hosts[0].routes[0].route.retry_policy.host_selection_retry_max_attempts: must be 0 to 1000",
            ),
            (
                |r| {
                    action(r).prefix_rewrite = "/b".to_owned();
                    action(r).regex_rewrite = Some(RegexMatchAndSubstitute::default());
                },
                "virtual_hosts[0].routes[0].route.prefix_rewrite: is not supported beside regex_rewrite",
            ),
            (
                |r| action(r).idle_timeout = seconds(-1),
                "virtual_hosts[0].routes[0].route.idle_timeout: is negative",
            ),
            (
                |r| action(r).internal_redirect_policy = Some(Default::default()),
                "virtual_hosts[0].routes[0].route.internal_redirect_policy: is not supported by this proxy",
            ),
            (
                |r| {
                    action(r).max_stream_duration = Some(MaxStreamDuration {
                        grpc_timeout_header_max: duration(-1, 0),
                        ..Default::default()
                    });
                },
                "virtual_hosts[0].routes[0].route.max_stream_duration.grpc_timeout_header_max: is negative",
            ),
            (
                |r| {
                    retried(r, |p| {
                        p.retriable_headers = vec![PbHeaderMatcher {
                            name: ":path".to_owned(),
                            ..Default::default()
                        }];
                    });
                },
                "virtual_hosts[0].routes[0].route.retry_policy.retriable_headers[0].name: is not of an answer",
            ),
            (
                |r| retried(r, |p| p.retry_on = "reset,http3-post-connect-failure".to_owned()),
                "virtual_hosts[0].routes[0].route.retry_policy.retry_on: http3-post-connect-failure is not supported",
            ),
            (
                |r| retried(r, |p| p.retriable_status_codes = vec![99]),
                "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes: not a status code",
            ),
            (
                |r| retried(r, |p| p.retry_host_predicate = vec![Default::default()]),
                "virtual_hosts[0].routes[0].route.retry_policy.retry_host_predicate[0].typed_config: is required",
            ),
            (
                |r| retried(r, |p| p.per_try_idle_timeout = seconds(-1)),
                "virtual_hosts[0].routes[0].route.retry_policy.per_try_idle_timeout: is negative",
            ),
            (
                |r| added(r, "x", "v", 1),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].append_action: value 1 is not supported",
            ),
            (
                |r| added(r, "x", "%REQ(a)%", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.value: \"%REQ(a)%\" has a %, and substitutions are not supported",
            ),
            (
                |r| added(r, "Host", "v", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: host cannot be changed",
            ),
            (
                |r| added(r, "Transfer-Encoding", "chunked", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: transfer-encoding cannot be changed",
            ),
            (
                |r| route(r).request_headers_to_remove = vec!["x".to_owned(), "content-length".to_owned()],
                "virtual_hosts[0].routes[0].request_headers_to_remove[1]: content-length cannot be changed",
            ),
            (
                |r| route(r).response_headers_to_remove = vec!["Keep-Alive".to_owned()],
                "virtual_hosts[0].routes[0].response_headers_to_remove[0]: keep-alive cannot be changed",
            ),
            (
                |r| {
                    let present = QueryParameterMatcher {
                        name: "q".to_owned(),
                        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::PresentMatch(
                            false,
                        )),
                    };
                    route(r).r#match.as_mut().unwrap().query_parameters = vec![present];
                },
                "virtual_hosts[0].routes[0].match.query_parameters[0].present_match: false is not supported, only true",
            ),
            (
                |r| {
                    let redirect = RedirectAction {
                        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect(
                            "ftp".to_owned(),
                        )),
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::Redirect(redirect));
                },
                "virtual_hosts[0].routes[0].redirect.scheme_rewrite_specifier: only http and https are supported",
            ),
            (
                |r| {
                    let redirect = RedirectAction {
                        port_redirect: 65_536,
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::Redirect(redirect));
                },
                "virtual_hosts[0].routes[0].redirect.port_redirect: 65536 is not a port",
            ),
            (
                |r| r.response_headers_to_remove = vec!["te".to_owned()],
                "response_headers_to_remove[0]: te cannot be changed",
            ),
            (
                |r| r.virtual_hosts[0].request_headers_to_remove = vec!["host".to_owned()],
                "virtual_hosts[0].request_headers_to_remove[0]: host cannot be changed",
            ),
            (
                |r| {
                    r.virtual_hosts[0].retry_policy = Some(PbRetryPolicy {
                        retry_on: "never".to_owned(),
                        ..Default::default()
                    });
                },
                "virtual_hosts[0].retry_policy.retry_on: never is not supported",
            ),
            (
                |r| r.virtual_hosts[0].require_tls = 1,
                "virtual_hosts[0].require_tls: only NONE and ALL are supported",
            ),
            (
                |r| {
                    action(r).regex_rewrite = Some(RegexMatchAndSubstitute {
                        pattern: Some(RegexMatcher {
                            regex: "^/a".to_owned(),
                            ..Default::default()
                        }),
                        substitution: "/\\1".to_owned(),
                    });
                },
                "virtual_hosts[0].routes[0].route.regex_rewrite.substitution: \\1 is no group of the pattern",
            ),
            (
                |r| route(r).request_headers_to_remove = vec!["a b".to_owned()],
                "virtual_hosts[0].routes[0].request_headers_to_remove[0]: \"a b\" is not a header name",
            ),
        ],
    );
}
