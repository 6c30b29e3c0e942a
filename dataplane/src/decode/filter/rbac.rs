//! `envoy.extensions.filters.http.rbac.v3.RBAC`, and `RBACPerRoute` of routes.

use std::collections::BTreeMap;
use std::mem::take;
use std::ops::Range;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as PbPermission;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier as PbPrincipal;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as PbAction;
use envoy_types::pb::envoy::config::rbac::v3::{
    MetadataSource, Permission, Policy as PbPolicy, Principal, Rbac as PbRules, SourcedMetadata,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as PbRbac, RbacPerRoute};
use envoy_types::pb::envoy::r#type::matcher::v3::double_matcher::MatchPattern as NumberPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::list_matcher::MatchPattern as ListPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::path_matcher::Rule as PbPath;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher, PathMatcher, ValueMatcher as PbValueMatcher,
};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::Any;

use crate::decode::fields::{At, Reason, any, done, only_enum, required};
use crate::decode::matcher::{header, string};
use crate::filter::{
    Action, AddressBlock, ClaimMatcher, JWT_NAMESPACE, NumberMatcher, Policy, Rbac, Rule, Rules, ValueMatcher,
};

const PORT_MAX: u32 = 65535;

pub(super) fn of_listener(config: &Any) -> Result<Option<Rbac>, Reason> {
    rbac(any(config)?)
}

/// Without rules it lets everything through.
pub(super) fn of_route(config: &Any) -> Result<Option<Rbac>, Reason> {
    let mut pb: RbacPerRoute = any(config)?;
    let inner = pb.rbac.take();
    done(&pb)?;
    inner.map_or(Ok(None), |inner| rbac(inner).at("rbac"))
}

fn rbac(mut pb: PbRbac) -> Result<Option<Rbac>, Reason> {
    take(&mut pb.rules_stat_prefix);
    take(&mut pb.shadow_rules_stat_prefix);
    // Nothing is counted by policies.
    pb.track_per_rule_stats = false;
    let enforced = pb.rules.take().map(|given| rules(given).at("rules"));
    let shadow = pb
        .shadow_rules
        .take()
        .map(|given| rules(given).at("shadow_rules"));
    done(&pb)?;
    let rbac = Rbac {
        rules: enforced.transpose()?,
        shadow: shadow.transpose()?,
    };
    Ok(Some(rbac).filter(|rbac| *rbac != Rbac::default()))
}

fn rules(mut pb: PbRules) -> Result<Rules, Reason> {
    let action = match PbAction::try_from(take(&mut pb.action)) {
        Ok(PbAction::Allow) => Action::Allow,
        Ok(PbAction::Deny) => Action::Deny,
        Ok(PbAction::Log) => Action::Log,
        Err(_) => return Err("action: is unknown".to_owned()),
    };
    // In the order of their names, so that equal ones are equal.
    let named: BTreeMap<String, PbPolicy> = take(&mut pb.policies).into_iter().collect();
    done(&pb)?;
    let mut policies = Vec::new();
    for (name, given) in named {
        policies.push(policy(&name, given).at_key("policies", &name)?);
    }
    Ok(Rules { action, policies })
}

fn policy(name: &str, mut pb: PbPolicy) -> Result<Policy, Reason> {
    let permissions = permissions(take(&mut pb.permissions), "permissions")?;
    let principals = principals(take(&mut pb.principals), "principals")?;
    done(&pb)?;
    Ok(Policy {
        name: name.into(),
        permissions,
        principals,
    })
}

fn permissions(given: Vec<Permission>, field: &str) -> Result<Vec<Rule>, Reason> {
    some(&given, field)?;
    let rules = given.into_iter().enumerate();
    rules
        .map(|(index, given)| permission(given).at_index(field, index))
        .collect()
}

fn principals(given: Vec<Principal>, field: &str) -> Result<Vec<Rule>, Reason> {
    some(&given, field)?;
    let rules = given.into_iter().enumerate();
    rules
        .map(|(index, given)| principal(given).at_index(field, index))
        .collect()
}

fn some<T>(given: &[T], field: &str) -> Result<(), Reason> {
    if given.is_empty() {
        Err(format!("{field}: at least one is required"))
    } else {
        Ok(())
    }
}

fn permission(pb: Permission) -> Result<Rule, Reason> {
    match required(pb.rule).at("rule")? {
        PbPermission::Any(true) => Ok(Rule::Always),
        PbPermission::AndRules(set) => permissions(set.rules, "and_rules.rules").map(Rule::All),
        PbPermission::OrRules(set) => permissions(set.rules, "or_rules.rules").map(Rule::OneOf),
        PbPermission::NotRule(rule) => {
            let rule = permission(*rule).at("not_rule")?;
            Ok(Rule::Not(Box::new(rule)))
        }
        PbPermission::Header(given) => header(given).map(Rule::Header).at("header"),
        PbPermission::UrlPath(given) => path(given).at("url_path"),
        PbPermission::DestinationIp(range) => block(range).map(Rule::To).at("destination_ip"),
        PbPermission::DestinationPort(port) if port <= PORT_MAX => Ok(Rule::Ports(port..port + 1)),
        PbPermission::DestinationPort(_) => Err(format!("destination_port: is more than {PORT_MAX}")),
        PbPermission::DestinationPortRange(range) => ports(range).map(Rule::Ports).at("destination_port_range"),
        PbPermission::RequestedServerName(name) => {
            string(name).map(Rule::ServerName).at("requested_server_name")
        }
        // Deprecated for one that says where from.
        #[allow(deprecated)]
        PbPermission::Metadata(given) => claim(given).map(Rule::Claim).at("metadata"),
        PbPermission::SourcedMetadata(given) => sourced(given).map(Rule::Claim).at("sourced_metadata"),
        _ => Err(
            "rule: only any, and_rules, or_rules, not_rule, header, url_path, destination_ip, destination_port, destination_port_range, requested_server_name, metadata and sourced_metadata are supported"
                .to_owned(),
        ),
    }
}

fn principal(pb: Principal) -> Result<Rule, Reason> {
    match required(pb.identifier).at("identifier")? {
        PbPrincipal::Any(true) => Ok(Rule::Always),
        PbPrincipal::AndIds(set) => principals(set.ids, "and_ids.ids").map(Rule::All),
        PbPrincipal::OrIds(set) => principals(set.ids, "or_ids.ids").map(Rule::OneOf),
        PbPrincipal::NotId(id) => {
            let rule = principal(*id).at("not_id")?;
            Ok(Rule::Not(Box::new(rule)))
        }
        PbPrincipal::Header(given) => header(given).map(Rule::Header).at("header"),
        PbPrincipal::UrlPath(given) => path(given).at("url_path"),
        // No header is trusted: the client is whose the connection is, which only a listener's own filters may say.
        PbPrincipal::DirectRemoteIp(range) => block(range).map(Rule::Direct).at("direct_remote_ip"),
        PbPrincipal::RemoteIp(range) => block(range).map(Rule::Client).at("remote_ip"),
        #[allow(deprecated, reason = "no header says it, but what a connection begins with")]
        PbPrincipal::SourceIp(range) => block(range).map(Rule::Client).at("source_ip"),
        #[allow(deprecated, reason = "its successor says where from, and many do not yet")]
        PbPrincipal::Metadata(given) => claim(given).map(Rule::Claim).at("metadata"),
        PbPrincipal::SourcedMetadata(given) => sourced(given).map(Rule::Claim).at("sourced_metadata"),
        PbPrincipal::Authenticated(mut who) => {
            let name = who.principal_name.take().map(string);
            let name = name.transpose().at("authenticated.principal_name")?;
            done(&who).at("authenticated")?;
            Ok(Rule::Authenticated(name))
        }
        _ => Err(
            "identifier: only any, and_ids, or_ids, not_id, authenticated, header, url_path, direct_remote_ip, remote_ip, source_ip, metadata and sourced_metadata are supported"
                .to_owned(),
        ),
    }
}

fn sourced(mut pb: SourcedMetadata) -> Result<ClaimMatcher, Reason> {
    let matcher = claim(required(pb.metadata_matcher.take()).at("metadata_matcher")?);
    only_enum(take(&mut pb.metadata_source), &[MetadataSource::Dynamic as i32]).at("metadata_source")?;
    done(&pb)?;
    matcher.at("metadata_matcher")
}

fn claim(mut pb: MetadataMatcher) -> Result<ClaimMatcher, Reason> {
    let namespace = take(&mut pb.filter);
    if namespace != JWT_NAMESPACE {
        return Err(format!("filter: only {JWT_NAMESPACE} is supported"));
    }
    let mut path = Vec::new();
    for (index, segment) in take(&mut pb.path).into_iter().enumerate() {
        let Some(Segment::Key(key)) = segment.segment else {
            return Err(format!("path[{index}]: only key is supported"));
        };
        path.push(key.into());
    }
    let wanted = value(required(pb.value.take()).at("value")?).at("value")?;
    let inverted = take(&mut pb.invert);
    done(&pb)?;
    if path.is_empty() {
        return Err("path: at least one is required".to_owned());
    }
    Ok(ClaimMatcher {
        path: path.into(),
        wanted,
        inverted,
    })
}

fn value(pb: PbValueMatcher) -> Result<ValueMatcher, Reason> {
    Ok(match required(pb.match_pattern).at("match_pattern")? {
        ValuePattern::NullMatch(_) => ValueMatcher::Null,
        ValuePattern::DoubleMatch(number) => {
            ValueMatcher::Number(match required(number.match_pattern).at("double_match")? {
                NumberPattern::Exact(number) => NumberMatcher::Exact(number),
                NumberPattern::Range(range) => NumberMatcher::Within(range.start..range.end),
            })
        }
        ValuePattern::StringMatch(text) => ValueMatcher::Text(string(text).at("string_match")?),
        ValuePattern::BoolMatch(wanted) => ValueMatcher::Bool(wanted),
        ValuePattern::PresentMatch(true) => ValueMatcher::Present,
        // Envoy takes it, and it matches nothing.
        ValuePattern::PresentMatch(false) => {
            return Err("present_match: false is not supported, only true".to_owned());
        }
        ValuePattern::ListMatch(list) => {
            let Some(ListPattern::OneOf(item)) = list.match_pattern else {
                return Err("list_match: one_of is required".to_owned());
            };
            ValueMatcher::Item(Box::new(value(*item).at("list_match.one_of")?))
        }
        ValuePattern::OrMatch(set) => {
            let given = set.value_matchers.into_iter().enumerate();
            let some = given.map(|(index, one)| value(one).at_index("or_match.value_matchers", index));
            ValueMatcher::OneOf(some.collect::<Result<_, _>>()?)
        }
    })
}

/// Half-open, and not empty, as Envoy has them.
fn ports(pb: Int32Range) -> Result<Range<u32>, Reason> {
    let port = |port: i32| u32::try_from(port).ok();
    let range = port(pb.start).zip(port(pb.end));
    let range = range.filter(|(start, end)| start < end && *end <= PORT_MAX + 1);
    range.map(|(start, end)| start..end).ok_or_else(|| {
        format!(
            "must be two numbers of 0 to {}, the greater one last",
            PORT_MAX + 1
        )
    })
}

fn path(pb: PathMatcher) -> Result<Rule, Reason> {
    match required(pb.rule).at("path")? {
        PbPath::Path(text) => string(text).map(Rule::Path).at("path"),
    }
}

fn block(mut pb: CidrRange) -> Result<AddressBlock, Reason> {
    let text = take(&mut pb.address_prefix);
    let address: std::net::IpAddr = text
        .parse()
        .map_err(|_| format!("address_prefix: {text:?} is not an IP address"))?;
    let bits = pb.prefix_len.take().map_or(0, |bits| bits.value);
    done(&pb)?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = u8::try_from(bits).ok().filter(|bits| *bits <= bits_max);
    let prefix_bits = prefix_bits.ok_or_else(|| format!("prefix_len: {bits} is more than {bits_max}"))?;
    Ok(AddressBlock { address, prefix_bits })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_must_be_missing_is_refused() {
        let of = |wanted| {
            let match_pattern = Some(ValuePattern::PresentMatch(wanted));
            value(PbValueMatcher { match_pattern })
        };
        assert!(of(true).is_ok());
        assert_eq!(
            of(false).unwrap_err(),
            "present_match: false is not supported, only true"
        );
    }
}
