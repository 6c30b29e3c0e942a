//! `metadata_filter`: of all metadata logs know the one that says which requests rules want logged.

use std::mem::take;

use envoy_types::pb::envoy::config::accesslog::v3::MetadataFilter;
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern;

use super::Filter;
use crate::decode::fields::{At, Reason, done, required};

/// What Envoy calls it.
const NAMESPACE: &str = "envoy.common";
const KEY: &str = "access_log_hint";

pub(super) fn hint(mut pb: MetadataFilter) -> Result<Filter, Reason> {
    let wanted = wanted(required(pb.matcher.take()).at("matcher")?).at("matcher")?;
    let takes_unsaid = pb.match_if_key_not_found.take();
    done(&pb)?;
    Ok(Filter::Hint {
        wanted,
        takes_unsaid: takes_unsaid.is_none_or(|takes| takes.value),
    })
}

fn wanted(mut pb: MetadataMatcher) -> Result<bool, Reason> {
    if take(&mut pb.filter) != NAMESPACE {
        return Err(format!("filter: only {NAMESPACE} is supported"));
    }
    let path = take(&mut pb.path);
    let is_it = |segment: &PathSegment| matches!(&segment.segment, Some(Segment::Key(key)) if key == KEY);
    if path.len() != 1 || !path.iter().all(is_it) {
        return Err(format!("path: only {KEY} is supported"));
    }
    let value = required(pb.value.take()).at("value")?;
    let Some(MatchPattern::BoolMatch(wanted)) = value.match_pattern else {
        return Err("value: only bool_match is supported".to_owned());
    };
    done(&pb)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::ValueMatcher;
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;

    fn asked(namespace: &str, key: &str, wanted: MatchPattern) -> MetadataFilter {
        MetadataFilter {
            matcher: Some(MetadataMatcher {
                filter: namespace.to_owned(),
                path: vec![PathSegment {
                    segment: Some(Segment::Key(key.to_owned())),
                }],
                value: Some(ValueMatcher {
                    match_pattern: Some(wanted),
                }),
                ..MetadataMatcher::default()
            }),
            match_if_key_not_found: None,
        }
    }

    #[test]
    fn the_hint_of_rules_is_known_and_nothing_else() {
        let is = MatchPattern::BoolMatch;
        let unsaid = MetadataFilter {
            match_if_key_not_found: Some(BoolValue { value: false }),
            ..asked(NAMESPACE, KEY, is(false))
        };
        let taken = |wanted, takes_unsaid| Ok(Filter::Hint { wanted, takes_unsaid });
        let refused = |reason: &str| Err(reason.to_owned());
        for (pb, expected) in [
            (asked(NAMESPACE, KEY, is(true)), taken(true, true)),
            (unsaid, taken(false, false)),
            (MetadataFilter::default(), refused("matcher: is required")),
            (
                asked("other", KEY, is(true)),
                refused("matcher.filter: only envoy.common is supported"),
            ),
            (
                asked(NAMESPACE, "other", is(true)),
                refused("matcher.path: only access_log_hint is supported"),
            ),
            (
                asked(NAMESPACE, KEY, MatchPattern::PresentMatch(true)),
                refused("matcher.value: only bool_match is supported"),
            ),
        ] {
            assert_eq!(hint(pb.clone()), expected, "{pb:?}");
        }
    }
}
