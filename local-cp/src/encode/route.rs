//! `envoy.config.route.v3.RouteConfiguration`: virtual hosts, matches, splits and retries.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType as PredicateConfig;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_priority::ConfigType as PriorityConfig;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header as HashHeader, PolicySpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    CookieMatcher, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction,
    RetryPolicy as PbRetryPolicy, Route as PbRoute, RouteAction as PbRouteAction, RouteConfiguration,
    RouteMatch, VirtualHost as PbVirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::Duration;
use envoy_types::util::pack_any;
use tombolo_compiler::finding::Origin;
use tombolo_compiler::http::{
    Affinity, HeaderEdits, HttpMatch, PathMatch, PathPattern, PathRewrite, RedirectStatus, RedirectTo, Span,
    ValueMatch,
};
use tombolo_compiler::proxy::{
    Forward, Mirror, RetryPolicy, Route, RouteAction, RouteTable, Target, VirtualHost,
};

use super::listener::FAULT;
use super::{destination_header, duration, filter, header, number, share};

/// RFC 9110, section 9.2.2: sending these twice does what sending them once does.
const IDEMPOTENT_METHODS: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";
/// The request provably never reached the application.
const NEVER_ARRIVED: &str = "connect-failure,refused-stream";
/// The application may have seen it.
const MAY_HAVE_ARRIVED: &str = "connect-failure,refused-stream,reset";
/// Draws of a host that was not tried yet. With one of two hosts tried, twenty draws miss the other once in a million.
const HOST_DRAWS_MAX: i64 = 20;
/// Envoy refuses a whole table for one longer body.
const RESPONSE_BODY_BYTES_MAX: usize = 4096;

/// The encoded table, and by field path where its routes and its hosts came from.
pub(super) fn encode(name: &str, table: &RouteTable) -> (RouteConfiguration, Vec<(String, Origin)>) {
    let mut origins = Vec::new();
    let virtual_hosts = table
        .hosts
        .iter()
        .enumerate()
        .map(|(at, host)| virtual_host(&host.value, at, &mut origins))
        .collect();
    // After the routes, which say more.
    origins.extend(hosts(table));
    let table = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        ignore_port_in_host_matching: table.ignore_port,
        ..RouteConfiguration::default()
    };
    (table, origins)
}

/// By field path, whose each host is.
pub(super) fn hosts(table: &RouteTable) -> Vec<(String, Origin)> {
    let hosts = table.hosts.iter().enumerate();
    hosts
        .filter_map(|(at, host)| Some((format!("virtual_hosts[{at}]"), host.origin.clone()?)))
        .collect()
}

/// The clusters that the table sends requests to.
pub(super) fn clusters(table: &RouteTable) -> BTreeSet<String> {
    let routes = table.hosts.iter().flat_map(|host| &host.value.routes);
    routes
        .filter_map(|route| match &route.value.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::Respond { .. } => None,
        })
        .flat_map(|forward| {
            let mirrors = forward.mirrors.iter().map(|mirror| &mirror.cluster);
            forward
                .targets
                .iter()
                .map(|target| &target.cluster)
                .chain(mirrors)
        })
        .cloned()
        .collect()
}

fn virtual_host(host: &VirtualHost, host_at: usize, origins: &mut Vec<(String, Origin)>) -> PbVirtualHost {
    let mut routes = Vec::new();
    for route in &host.routes {
        for mut encoded in encode_route(&route.value) {
            if host.conduct.cors.is_some() && matches!(encoded.action, Some(Action::Route(_))) {
                filter::speaks_alone(&mut encoded);
            }
            if let Some(origin) = &route.origin {
                let path = format!("virtual_hosts[{host_at}].routes[{}]", routes.len());
                origins.push((path, origin.clone()));
            }
            routes.push(encoded);
        }
    }
    PbVirtualHost {
        name: host.name.clone(),
        domains: host.domains.iter().cloned().collect(),
        routes,
        typed_per_filter_config: filter::of_host(host),
        ..PbVirtualHost::default()
    }
}

/// One route, or two where the retries depend on the method: first match wins.
fn encode_route(route: &Route) -> Vec<PbRoute> {
    let matches = route_match(&route.matches);
    match &route.action {
        RouteAction::Respond { status, body } => vec![respond(matches, *status, body)],
        RouteAction::Redirect(to) => vec![redirect(matches, to)],
        RouteAction::Forward(forward) if forward.targets.is_empty() => {
            vec![respond(matches, 503, "no backend")]
        }
        RouteAction::Forward(forward) => match &forward.retry {
            RetryPolicy::Careful { attempts: 0 } | RetryPolicy::AsAsked { attempts: 0, .. } => {
                vec![forwarding(matches, forward, None)]
            }
            RetryPolicy::Careful { attempts } => {
                let idempotent = retry_policy(MAY_HAVE_ARRIVED, *attempts, &[503].into(), None);
                let other = retry_policy(NEVER_ARRIVED, *attempts, &BTreeSet::new(), None);
                vec![
                    forwarding(with_method(matches.clone()), forward, Some(idempotent)),
                    forwarding(matches, forward, Some(other)),
                ]
            }
            RetryPolicy::AsAsked {
                attempts,
                codes,
                backoff,
            } => {
                let policy = retry_policy(MAY_HAVE_ARRIVED, *attempts, codes, Some(*backoff));
                vec![forwarding(matches, forward, Some(policy))]
            }
        },
    }
}

fn route_match(matches: &HttpMatch) -> RouteMatch {
    let parts = matches.path.as_ref().map(PathMatch::parts).unwrap_or_default();
    let (patterns, plain): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|part| matches!(part, PathMatch::RegularExpression(_)));
    let mut patterns = patterns.into_iter();
    // Of those that all hold, one stands where a path is matched, and the others look at the same path with its query.
    let path = plain.first().copied().or_else(|| patterns.next());
    let other_paths = patterns.filter_map(|part| match part {
        PathMatch::RegularExpression(pattern) => Some(header_matcher(":path", before_query(pattern))),
        PathMatch::Exact(_) | PathMatch::PathPrefix(_) | PathMatch::All(_) => None,
    });
    let method = matches.method.map(|method| {
        let exact = MatchPattern::Exact(method.as_str().to_owned());
        header_matcher(":method", exact)
    });
    let headers = matches
        .headers
        .iter()
        .map(|matched| header_matcher(matched.name.as_str(), value(&matched.value)));
    let query_parameters = matches.query_params.iter().map(|matched| QueryParameterMatcher {
        name: matched.name.as_str().to_owned(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string_matcher(
            value(&matched.value),
        ))),
    });
    let cookies = matches.cookies.iter().map(|matched| CookieMatcher {
        name: matched.name.as_str().to_owned(),
        string_match: Some(string_matcher(value(&matched.value))),
        ..CookieMatcher::default()
    });
    RouteMatch {
        path_specifier: Some(path_specifier(path)),
        headers: method.into_iter().chain(other_paths).chain(headers).collect(),
        query_parameters: query_parameters.collect(),
        cookies: cookies.collect(),
        ..RouteMatch::default()
    }
}

fn path_specifier(path: Option<&PathMatch>) -> PathSpecifier {
    match path {
        None | Some(PathMatch::All(_)) => PathSpecifier::Prefix("/".to_owned()),
        Some(PathMatch::Exact(path)) => PathSpecifier::Path(path.as_str().to_owned()),
        // Envoy takes no trailing slash here, and with whole segments it means nothing.
        Some(PathMatch::PathPrefix(prefix)) => match prefix.as_str().trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".to_owned()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
        },
        Some(PathMatch::RegularExpression(pattern)) => PathSpecifier::SafeRegex(regex(pattern.canonical())),
    }
}

/// The pattern has no question mark, so that it cannot match into the query.
fn before_query(pattern: &PathPattern) -> MatchPattern {
    MatchPattern::SafeRegex(regex(&format!(r"(?:{})(?:\?.*)?", pattern.canonical())))
}

fn value(wanted: &ValueMatch) -> MatchPattern {
    match wanted {
        ValueMatch::Exact(value) => MatchPattern::Exact(value.clone()),
        ValueMatch::RegularExpression(pattern) => MatchPattern::SafeRegex(regex(pattern.canonical())),
    }
}

pub(super) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..RegexMatcher::default()
    }
}

fn with_method(mut matches: RouteMatch) -> RouteMatch {
    let pattern = MatchPattern::SafeRegex(regex(IDEMPOTENT_METHODS));
    matches.headers.push(header_matcher(":method", pattern));
    matches
}

pub(super) fn header_matcher(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_matcher(pattern))),
        ..HeaderMatcher::default()
    }
}

pub(super) fn string_matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

fn respond(matches: RouteMatch, status: u16, body: &str) -> PbRoute {
    let cut = body.floor_char_boundary(RESPONSE_BODY_BYTES_MAX);
    PbRoute {
        r#match: Some(matches),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: status.into(),
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(body[..cut].to_owned())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        ..PbRoute::default()
    }
}

fn redirect(matches: RouteMatch, to: &RedirectTo) -> PbRoute {
    let code = match to.status {
        RedirectStatus::MovedPermanently => RedirectResponseCode::MovedPermanently,
        RedirectStatus::Found => RedirectResponseCode::Found,
        RedirectStatus::SeeOther => RedirectResponseCode::SeeOther,
        RedirectStatus::TemporaryRedirect => RedirectResponseCode::TemporaryRedirect,
        RedirectStatus::PermanentRedirect => RedirectResponseCode::PermanentRedirect,
    };
    let scheme = to
        .scheme
        .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.as_str().to_owned()));
    PbRoute {
        r#match: Some(matches),
        action: Some(Action::Redirect(RedirectAction {
            scheme_rewrite_specifier: scheme,
            host_redirect: to
                .host
                .as_ref()
                .map_or_else(String::new, |host| host.as_str().to_owned()),
            port_redirect: to.port.map_or(0, |port| port.get().into()),
            path_rewrite_specifier: to
                .path
                .as_ref()
                .map(regex_rewrite)
                .map(PathRewriteSpecifier::RegexRewrite),
            response_code: code.into(),
            ..RedirectAction::default()
        })),
        ..PbRoute::default()
    }
}

fn regex_rewrite(rewrite: &PathRewrite) -> RegexMatchAndSubstitute {
    let (pattern, substitution) = rewrite.substitution();
    RegexMatchAndSubstitute {
        pattern: Some(regex(&pattern)),
        substitution,
    }
}

fn forwarding(matches: RouteMatch, forward: &Forward, retry_policy: Option<PbRetryPolicy>) -> PbRoute {
    let (specifier, headers) = match forward.targets.as_slice() {
        [only] => (
            ClusterSpecifier::Cluster(only.cluster.clone()),
            destination_header(only.destination.as_ref()),
        ),
        many => (
            ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: many.iter().map(weighted).collect(),
                ..WeightedCluster::default()
            }),
            Vec::new(),
        ),
    };
    let edits = &forward.edits;
    let host = edits
        .host
        .as_ref()
        .map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.as_str().to_owned()));
    PbRoute {
        r#match: Some(matches),
        action: Some(Action::Route(PbRouteAction {
            cluster_specifier: Some(specifier),
            timeout: Some(duration(forward.timeout)),
            retry_policy,
            host_rewrite_specifier: host,
            regex_rewrite: edits.path.as_ref().map(regex_rewrite),
            request_mirror_policies: forward.mirrors.iter().map(mirror).collect(),
            hash_policy: forward.affinities.iter().map(hash_policy).collect(),
            ..PbRouteAction::default()
        })),
        request_headers_to_add: headers.into_iter().chain(lines(&edits.request_headers)).collect(),
        request_headers_to_remove: removed(&edits.request_headers),
        response_headers_to_add: lines(&edits.response_headers).collect(),
        response_headers_to_remove: removed(&edits.response_headers),
        typed_per_filter_config: forward
            .fault
            .iter()
            .map(|fault| (FAULT.to_owned(), pack_any(filter::fault(fault))))
            .collect(),
        ..PbRoute::default()
    }
}

/// The first that a request has is the last that is looked at.
fn hash_policy(affinity: &Affinity) -> HashPolicy {
    let specifier = match affinity {
        Affinity::Header(name) => PolicySpecifier::Header(HashHeader {
            header_name: name.as_str().to_owned(),
            ..HashHeader::default()
        }),
        Affinity::Cookie { name, made_for } => PolicySpecifier::Cookie(Cookie {
            name: name.as_str().to_owned(),
            ttl: made_for.map(cookie_ttl),
            path: made_for.map_or_else(String::new, |_| "/".to_owned()),
            ..Cookie::default()
        }),
        Affinity::Source => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    HashPolicy {
        terminal: true,
        policy_specifier: Some(specifier),
    }
}

/// In whole seconds, as cookies have it, and at least one: none would mean that it has no end.
fn cookie_ttl(span: Span) -> Duration {
    Duration {
        seconds: i64::try_from(span.as_ms().div_ceil(1000)).expect("invariant: a span is at most a day"),
        nanos: 0,
    }
}

/// A copy asks for the same host as the request itself.
fn mirror(mirror: &Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: mirror.cluster.clone(),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(share(mirror.share)),
            runtime_key: String::new(),
        }),
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    }
}

fn lines(edits: &HeaderEdits) -> impl Iterator<Item = HeaderValueOption> {
    let set = edits
        .set
        .iter()
        .map(|line| (line, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits
        .add
        .iter()
        .map(|line| (line, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add)
        .map(|((name, value), action)| header(name.as_str(), value, action))
}

fn removed(edits: &HeaderEdits) -> Vec<String> {
    edits.remove.iter().map(|name| name.as_str().to_owned()).collect()
}

fn weighted(target: &Target) -> ClusterWeight {
    ClusterWeight {
        name: target.cluster.clone(),
        weight: Some(number(target.weight)),
        request_headers_to_add: destination_header(target.destination.as_ref()),
        ..ClusterWeight::default()
    }
}

/// Every retry goes to another host, of the next priority where there is one.
fn retry_policy(on: &str, attempts: u32, codes: &BTreeSet<u16>, backoff: Option<Span>) -> PbRetryPolicy {
    let retry_on = if codes.is_empty() {
        on.to_owned()
    } else {
        format!("{on},retriable-status-codes")
    };
    PbRetryPolicy {
        retry_on,
        num_retries: Some(number(attempts)),
        retriable_status_codes: codes.iter().map(|code| u32::from(*code)).collect(),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(PredicateConfig::TypedConfig(pack_any(PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: HOST_DRAWS_MAX,
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(PriorityConfig::TypedConfig(pack_any(PreviousPrioritiesConfig {
                update_frequency: 1,
            }))),
        }),
        // Envoy demands a base interval above zero.
        retry_back_off: backoff.filter(|span| span.as_ms() > 0).map(|base| RetryBackOff {
            base_interval: Some(duration(base)),
            max_interval: None,
        }),
        ..PbRetryPolicy::default()
    }
}
