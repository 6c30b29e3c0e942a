//! `envoy.config.route.v3.RouteConfiguration`.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action as PbAction;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HedgePolicy, RedirectAction, RetryPolicy as PbRetryPolicy, Route as PbRoute,
    RouteAction, RouteConfiguration, VirtualHost,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use http::StatusCode;

use super::fields::{
    At, Reason, answer_status, done, duration, header_value, message, required, runtime_fraction, same_name,
};
use super::filter::overrides;
use super::header_rules::{HeaderRules, Wins, request_edits, said};
use super::matcher::of_route;
use super::retry;
use super::{descriptor, hash, require_tls, subset, upgrade, wire};
use crate::config::{
    Action, Forward, HeaderEdits, MILLION, Mirror, Redirect, Route, SaidDuration, StreamDuration, Target,
};
use crate::filter::{Described, Levels};
use crate::matcher::PathMatcher;
use crate::rewrite::{PathRewrite, Substitution};
use crate::router::{Host, NO_LEVELS, Ports, RouteTable, levels_below};

/// Envoy's route timeout when none is given.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
const WEIGHT_MAX: u32 = 10_000;
/// `virtual_hosts` of a `RouteConfiguration`, and `name` of one of them.
const VIRTUAL_HOSTS: usize = 2;
const NAME: usize = 1;

/// A table that runs already, with what it was decoded from: hosts that stay as they are need not be decoded again.
pub(super) struct Held<'a> {
    table: &'a RouteTable,
    encoded: Option<Encoded<'a>>,
    /// Where the next host is if all stays in its order.
    next: usize,
    places: OnceCell<HashMap<&'a str, usize>>,
}

/// What routes have of their virtual host where they say nothing else.
struct Outer {
    /// The place of what is said of filters.
    levels: usize,
    rules: HeaderRules,
    limits: Arc<[Described]>,
    retry: Option<PbRetryPolicy>,
    hedging: Option<HedgePolicy>,
}

/// A route configuration, its virtual hosts apart from all else.
struct Encoded<'a> {
    hosts: Vec<&'a [u8]>,
    rest: Vec<u8>,
}

pub(super) fn decode(name: &str, body: &[u8], held: Option<Held<'_>>) -> Result<RouteTable, Reason> {
    let Some(encoded) = Encoded::new(body) else {
        return match message::<RouteConfiguration>(body) {
            Ok(_) => Err("not a valid message".to_owned()),
            Err(reason) => Err(reason),
        };
    };
    let mut pb: RouteConfiguration = message(&encoded.rest)?;
    same_name(&take(&mut pb.name), name).at("name")?;
    let ports = if take(&mut pb.ignore_port_in_host_matching) {
        Ports::Ignored
    } else {
        Ports::Matter
    };
    let mut levels = vec![Levels::new()];
    let said = overrides(take(&mut pb.typed_per_filter_config), format_args!(""))?;
    let outer = levels_below(&mut levels, NO_LEVELS, said);
    let wins = if take(&mut pb.most_specific_header_mutations_wins) {
        Wins::MostSpecific
    } else {
        Wins::Outermost
    };
    let rules = HeaderRules::none(wins).with(said!(pb))?;
    done(&pb)?;
    let before = held.as_ref().map(|held| held.table);
    let mut held = held.filter(|held| held.is_beside(&encoded.rest));
    if let Some(held) = &held {
        // Hosts that stay have the table's own as it was: a limit that all share has one bucket.
        levels = held.table.levels()[..=outer].to_vec();
    }
    let mut hosts = Vec::with_capacity(encoded.hosts.len());
    for (index, bytes) in encoded.hosts.into_iter().enumerate() {
        let host = match held.as_mut().and_then(|held| held.host(bytes, &mut levels)) {
            Some(host) => Ok(host),
            None => message(bytes).and_then(|host| virtual_host(host, outer, &rules, &mut levels)),
        };
        hosts.push(host.at_index("virtual_hosts", index)?);
    }
    let table = RouteTable::new(ports, levels, hosts, before);
    table.or_else(|(index, reason)| Err(reason).at_index("virtual_hosts", index))
}

impl<'a> Encoded<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        let (mut hosts, mut rest) = (Vec::new(), Vec::new());
        for field in wire::fields(body)? {
            match field.content {
                Some(content) if field.number == VIRTUAL_HOSTS => hosts.push(&body[content]),
                _ => rest.extend_from_slice(&body[field.whole]),
            }
        }
        Some(Self { hosts, rest })
    }
}

impl<'a> Held<'a> {
    pub(super) fn new(table: &'a RouteTable, body: &'a [u8]) -> Self {
        Self {
            table,
            encoded: Encoded::new(body),
            next: 0,
            places: OnceCell::new(),
        }
    }

    /// Whether all that is not in hosts is `rest`.
    fn is_beside(&self, rest: &[u8]) -> bool {
        self.encoded.as_ref().is_some_and(|encoded| encoded.rest == rest)
    }

    /// The host that was decoded from these very bytes, if what is said of filters within it comes to the same places.
    fn host(&mut self, bytes: &[u8], levels: &mut Vec<Levels>) -> Option<Arc<Host>> {
        let place = self.place(bytes)?;
        self.next = place + 1;
        let host = &self.table.hosts()[place];
        let said = host.levels();
        if self.bytes(place) != Some(bytes) || !(said.is_empty() || said.start == levels.len()) {
            return None;
        }
        levels.extend_from_slice(&self.table.levels()[said]);
        Some(Arc::clone(host))
    }

    /// Where the host was that these bytes are about.
    fn place(&self, bytes: &[u8]) -> Option<usize> {
        if self.bytes(self.next) == Some(bytes) {
            return Some(self.next);
        }
        let hosts = self.table.hosts();
        let name = wire::fields(bytes)?
            .into_iter()
            .find(|field| field.number == NAME)?;
        let name = std::str::from_utf8(&bytes[name.content?]).ok()?;
        if hosts.get(self.next).is_some_and(|host| host.name() == name) {
            return Some(self.next);
        }
        let places = || hosts.iter().map(|host| host.name()).zip(0..).collect();
        self.places.get_or_init(places).get(name).copied()
    }

    fn bytes(&self, place: usize) -> Option<&'a [u8]> {
        self.encoded.as_ref()?.hosts.get(place).copied()
    }
}

fn virtual_host(
    mut pb: VirtualHost,
    outer: usize,
    rules: &HeaderRules,
    levels: &mut Vec<Levels>,
) -> Result<Arc<Host>, Reason> {
    let name = take(&mut pb.name);
    let domains = take(&mut pb.domains);
    let start = levels.len();
    let said = overrides(take(&mut pb.typed_per_filter_config), format_args!("/{name}"))?;
    let (retry, hedging) = (pb.retry_policy.take(), pb.hedge_policy.take());
    // For what is to be refused of it, which is not a route's.
    retry::decode(retry.clone(), hedging)?;
    let outer = Outer {
        levels: levels_below(levels, outer, said),
        rules: rules.with(said!(pb))?,
        limits: descriptor::decode(take(&mut pb.rate_limits), "rate_limits")?.into(),
        retry,
        hedging,
    };
    let mut routes = require_tls::routes(take(&mut pb.require_tls)).at("require_tls")?;
    for (index, given) in take(&mut pb.routes).into_iter().enumerate() {
        let route = route(given, format_args!("/{name}/{index}"), &outer, levels);
        routes.push(route.at_index("routes", index)?);
    }
    done(&pb)?;
    Ok(Arc::new(Host::new(&name, &domains, routes, start..levels.len())))
}

fn route(
    mut pb: PbRoute,
    place: fmt::Arguments<'_>,
    outer: &Outer,
    levels: &mut Vec<Levels>,
) -> Result<Route, Reason> {
    let name = take(&mut pb.name).into();
    let levels = levels_below(
        levels,
        outer.levels,
        overrides(take(&mut pb.typed_per_filter_config), place)?,
    );
    let rules = outer.rules.with(said!(pb))?;
    let matcher = of_route(required(pb.r#match.take()).at("match")?).at("match")?;
    let action = match required(pb.action.take()).at("action")? {
        PbAction::Route(action) => {
            let forward = forward(action, &matcher.path, outer, rules.response).at("route")?;
            Action::Forward(Box::new(forward))
        }
        PbAction::DirectResponse(direct) => direct_response(direct, rules.response).at("direct_response")?,
        PbAction::Redirect(to) => {
            Action::Redirect(redirect(to, &matcher.path, rules.response).at("redirect")?)
        }
        _ => return Err("action: only route, redirect and direct_response are supported".to_owned()),
    };
    done(&pb)?;
    Ok(Route {
        name,
        levels,
        matcher,
        edits: rules.request,
        action,
    })
}

fn direct_response(mut pb: DirectResponseAction, edits: Arc<HeaderEdits>) -> Result<Action, Reason> {
    let status = answer_status(take(&mut pb.status)).at("status")?;
    let body = match pb.body.take() {
        None => Bytes::new(),
        Some(DataSource {
            watched_directory: None,
            specifier: Some(Specifier::InlineString(body)),
        }) => body.into(),
        Some(_) => return Err("body: only inline_string is supported".to_owned()),
    };
    done(&pb)?;
    Ok(Action::Respond { status, body, edits })
}

fn redirect(
    mut pb: RedirectAction,
    matcher: &PathMatcher,
    response_edits: Arc<HeaderEdits>,
) -> Result<Redirect, Reason> {
    let scheme = match pb.scheme_rewrite_specifier.take() {
        None => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => https.then(|| "https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if matches!(&*scheme, "http" | "https") => {
            Some(scheme.into())
        }
        Some(_) => {
            return Err("scheme_rewrite_specifier: only http and https are supported".to_owned());
        }
    };
    let host = Some(take(&mut pb.host_redirect)).filter(|host| !host.is_empty());
    let port = match take(&mut pb.port_redirect) {
        0 => None,
        port => Some(u16::try_from(port).map_err(|_| format!("port_redirect: {port} is not a port"))?),
    };
    let path = match pb.path_rewrite_specifier.take() {
        None => None,
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => Some(substitution(rewrite).at("regex_rewrite")?),
        Some(PathRewriteSpecifier::PrefixRewrite(by)) => Some(matched(by, matcher)),
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(PathRewrite::Whole(path.into())),
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err("path_rewrite: is not supported by this proxy".to_owned());
        }
    };
    let strips_query = take(&mut pb.strip_query);
    // A path with a query of its own, as Envoy takes it.
    let brings_query = matches!(&path, Some(PathRewrite::Whole(path)) if path.contains('?'));
    let status = match RedirectResponseCode::try_from(take(&mut pb.response_code)) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err("response_code: is unknown".to_owned()),
    };
    done(&pb)?;
    Ok(Redirect {
        scheme,
        host: host.map(String::into_boxed_str),
        port,
        path,
        keeps_query: !strips_query && !brings_query,
        status,
        response_edits,
    })
}

fn matched(by: String, matcher: &PathMatcher) -> PathRewrite {
    PathRewrite::Matched {
        bytes: matcher.matched_bytes(),
        by: by.into(),
    }
}

fn substitution(mut pb: RegexMatchAndSubstitute) -> Result<PathRewrite, Reason> {
    let mut pattern = required(pb.pattern.take()).at("pattern")?;
    let regex = take(&mut pattern.regex);
    done(&pattern).at("pattern")?;
    let substitution = take(&mut pb.substitution);
    done(&pb)?;
    Substitution::new(&regex, &substitution).map(PathRewrite::Pattern)
}

fn forward(
    mut pb: RouteAction,
    matcher: &PathMatcher,
    outer: &Outer,
    response_edits: Arc<HeaderEdits>,
) -> Result<Forward, Reason> {
    let mut targets = match required(pb.cluster_specifier.take()).at("cluster_specifier")? {
        ClusterSpecifier::Cluster(cluster) => {
            vec![Target {
                cluster: cluster_name(cluster).at("cluster")?,
                weight: 1,
                labels: None,
                edits: HeaderEdits::default(),
            }]
        }
        ClusterSpecifier::WeightedClusters(mut weighted) => {
            let mut targets = Vec::new();
            for (index, cluster) in take(&mut weighted.clusters).into_iter().enumerate() {
                targets.push(target(cluster).at_index("weighted_clusters.clusters", index)?);
            }
            done(&weighted).at("weighted_clusters")?;
            targets
        }
        _ => return Err("cluster_specifier: only cluster and weighted_clusters are supported".to_owned()),
    };
    if let Some(metadata) = pb.metadata_match.take()
        && let Some(wanted) = subset::labels(metadata).at("metadata_match")?
    {
        for target in &mut targets {
            let own = target.labels.take().unwrap_or_default();
            target.labels = Some(Box::new(wanted.overlaid(&own)));
        }
    }
    let total_weight = targets
        .iter()
        .try_fold(0u32, |sum, target| sum.checked_add(target.weight))
        .ok_or_else(|| format!("weighted_clusters: the weights add up to more than {}", u32::MAX))?;
    if total_weight == 0 {
        return Err("weighted_clusters: the weights add up to 0".to_owned());
    }
    let timeout = match pb.timeout.take() {
        Some(timeout) => Some(duration(timeout).at("timeout")?).filter(|timeout| !timeout.is_zero()),
        None => Some(TIMEOUT_DEFAULT),
    };
    let lasting = match pb.max_stream_duration.take() {
        Some(duration) => Some(stream_duration(duration).at("max_stream_duration")?),
        None => None,
    };
    let idle = pb
        .idle_timeout
        .take()
        .map(duration)
        .transpose()
        .at("idle_timeout")?;
    let retry = retry::decode(
        pb.retry_policy.take().or_else(|| outer.retry.clone()),
        pb.hedge_policy.take().or(outer.hedging),
    )?;
    let host = match pb.host_rewrite_specifier.take() {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(header_value(&host).at("host_rewrite_literal")?)
        }
        Some(_) => return Err("host_rewrite_specifier: only host_rewrite_literal is supported".to_owned()),
    };
    let prefix = Some(take(&mut pb.prefix_rewrite)).filter(|prefix| !prefix.is_empty());
    let path = match (pb.regex_rewrite.take(), prefix) {
        (Some(_), Some(_)) => return Err("prefix_rewrite: is not supported beside regex_rewrite".to_owned()),
        (Some(rewrite), None) => Some(substitution(rewrite).at("regex_rewrite")?),
        (None, Some(by)) => Some(matched(by, matcher)),
        (None, None) => None,
    };
    let mut mirrors = Vec::new();
    for (index, policy) in take(&mut pb.request_mirror_policies).into_iter().enumerate() {
        mirrors.push(mirror(policy).at_index("request_mirror_policies", index)?);
    }
    let mut hash = Vec::new();
    for (index, policy) in take(&mut pb.hash_policy).into_iter().enumerate() {
        hash.push(hash::decode(policy).at_index("hash_policy", index)?);
    }
    let own_limits = descriptor::decode(take(&mut pb.rate_limits), "rate_limits")?;
    #[allow(deprecated, reason = "those who have routes of old still say it")]
    let includes_outer = pb
        .include_vh_rate_limits
        .take()
        .is_some_and(|includes| includes.value);
    let upgrades = upgrade::of_route(take(&mut pb.upgrade_configs))?;
    done(&pb)?;
    Ok(Forward {
        hash: hash.into(),
        targets,
        total_weight,
        // As in Envoy, one says all that there is to say of time.
        timeout: timeout.filter(|_| lasting.is_none()),
        duration: lasting,
        idle,
        retry,
        host,
        path,
        response_edits,
        mirrors,
        limits: descriptor::of_route(own_limits, includes_outer, &outer.limits),
        upgrades,
    })
}

fn stream_duration(mut pb: MaxStreamDuration) -> Result<StreamDuration, Reason> {
    let limit = |given: Option<PbDuration>, field: &str| match given {
        Some(given) => duration(given).at(field).map(Some),
        None => Ok(None),
    };
    let max = limit(pb.max_stream_duration.take(), "max_stream_duration")?;
    let said_max = limit(pb.grpc_timeout_header_max.take(), "grpc_timeout_header_max")?;
    let less = limit(pb.grpc_timeout_header_offset.take(), "grpc_timeout_header_offset")?;
    done(&pb)?;
    let is_finite = |limit: &Duration| !limit.is_zero();
    Ok(StreamDuration {
        max: max.filter(is_finite),
        said: said_max.map(|max| SaidDuration {
            max: Some(max).filter(is_finite),
            less: less.unwrap_or_default(),
        }),
    })
}

fn mirror(mut pb: RequestMirrorPolicy) -> Result<Mirror, Reason> {
    let cluster = cluster_name(take(&mut pb.cluster)).at("cluster")?;
    let millionths = match pb.runtime_fraction.take() {
        None => MILLION,
        Some(fraction) => runtime_fraction(fraction).at("runtime_fraction")?,
    };
    if !take(&mut pb.disable_shadow_host_suffix_append) {
        return Err("disable_shadow_host_suffix_append: false is not supported, only true".to_owned());
    }
    done(&pb)?;
    Ok(Mirror { cluster, millionths })
}

fn target(mut pb: ClusterWeight) -> Result<Target, Reason> {
    let cluster = cluster_name(take(&mut pb.name)).at("name")?;
    let weight = required(pb.weight.take()).at("weight")?.value;
    if weight > WEIGHT_MAX {
        return Err(format!("weight: {weight} is more than {WEIGHT_MAX}"));
    }
    let edits = request_edits(
        take(&mut pb.request_headers_to_add),
        &take(&mut pb.request_headers_to_remove),
    )?;
    let labels = match pb.metadata_match.take() {
        None => None,
        Some(metadata) => subset::labels(metadata).at("metadata_match")?,
    };
    done(&pb)?;
    Ok(Target {
        cluster,
        weight,
        labels: labels.map(Box::new),
        edits,
    })
}

fn cluster_name(name: String) -> Result<Arc<str>, Reason> {
    if name.is_empty() {
        Err("is required".to_owned())
    } else {
        Ok(name.into())
    }
}
