//! `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`, and `HeaderMutationPerRoute` of routes.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as PbChange;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as PbHeaderMutation, HeaderMutationPerRoute, Mutations as PbMutations,
};
use envoy_types::pb::google::protobuf::Any;

use crate::decode::fields::{At, Reason, any, done, edited_name, header_to_set, required};
use crate::decode::matcher::string;
use crate::filter::{Adjustment, HeaderMutation, Mutations, Override};
use crate::header_changes::{Change, HeaderChanges};

pub(super) fn of_listener(config: &Any) -> Result<HeaderMutation, Reason> {
    let mut pb: PbHeaderMutation = any(config)?;
    let own = mutations(pb.mutations.take())?;
    let most_specific_last = take(&mut pb.most_specific_header_mutations_wins);
    done(&pb)?;
    Ok(HeaderMutation {
        mutations: vec![Arc::new(own)],
        most_specific_last,
    })
}

/// Beside those of the listener, and of other places.
pub(super) fn of_route(config: &Any) -> Result<Override, Reason> {
    let mut pb: HeaderMutationPerRoute = any(config)?;
    let own = mutations(pb.mutations.take())?;
    done(&pb)?;
    Ok(Override::Adjusted(Adjustment::HeaderMutation(Arc::new(own))))
}

fn mutations(pb: Option<PbMutations>) -> Result<Mutations, Reason> {
    let mut pb = pb.unwrap_or_default();
    let request = changes(take(&mut pb.request_mutations), "request_mutations").at("mutations")?;
    let answer = changes(take(&mut pb.response_mutations), "response_mutations").at("mutations")?;
    done(&pb).at("mutations")?;
    Ok(Mutations { request, answer })
}

fn changes(given: Vec<PbChange>, field: &str) -> Result<HeaderChanges, Reason> {
    let given = given.into_iter().enumerate();
    given
        .map(|(index, pb)| change(pb).at_index(field, index))
        .collect()
}

fn change(pb: PbChange) -> Result<Change, Reason> {
    match required(pb.action).at("action")? {
        Action::Remove(name) => edited_name(&name).map(Change::Remove).at("remove"),
        Action::Append(option) => line(option).at("append"),
        Action::RemoveOnMatch(mut pb) => {
            let like = required(pb.key_matcher.take()).and_then(string);
            done(&pb).at("remove_on_match")?;
            like.map(Change::RemoveLike)
                .at("key_matcher")
                .at("remove_on_match")
        }
    }
}

fn line(mut option: HeaderValueOption) -> Result<Change, Reason> {
    let keeps_empty = take(&mut option.keep_empty_value);
    let action = HeaderAppendAction::try_from(take(&mut option.append_action));
    let action = action.map_err(|_| "append_action: is unknown".to_owned())?;
    let (name, value) = header_to_set(option, &[0])?;
    if value.is_empty() && !keeps_empty {
        return Err("header.value: is empty, which is nothing without keep_empty_value".to_owned());
    }
    Ok(match action {
        HeaderAppendAction::AppendIfExistsOrAdd => Change::Add(name, value),
        HeaderAppendAction::AddIfAbsent => Change::AddIfAbsent(name, value),
        HeaderAppendAction::OverwriteIfExistsOrAdd => Change::Set(name, value),
        HeaderAppendAction::OverwriteIfExists => Change::SetIfThere(name, value),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::RemoveOnMatch;
    use envoy_types::pb::envoy::config::core::v3::{HeaderValue, KeyValueMutation};
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as PbStringMatcher;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    use envoy_types::util::pack_any;

    use super::*;
    use crate::matcher::{Case, StringMatcher, Text};

    fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        }
    }

    fn decoded(action: Option<Action>) -> Result<Change, Reason> {
        let mutations = PbMutations {
            request_mutations: vec![PbChange { action }],
            ..PbMutations::default()
        };
        let pb = PbHeaderMutation {
            mutations: Some(mutations),
            ..PbHeaderMutation::default()
        };
        let decoded = of_listener(&pack_any(pb))?;
        let change = decoded.mutations[0].request.iter().next();
        Ok(change.cloned().unwrap())
    }

    #[test]
    fn changes_are_what_is_said_or_refused() {
        use HeaderAppendAction::{
            AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd,
        };
        let (name, value) = ("x-a".parse().unwrap(), "1".parse().unwrap());
        let append = |key: &str, value: &str, action| Some(Action::Append(option(key, value, action)));
        let empty = HeaderValueOption {
            keep_empty_value: true,
            ..option("x-a", "", OverwriteIfExistsOrAdd)
        };
        let like = |match_pattern| {
            Some(Action::RemoveOnMatch(RemoveOnMatch {
                key_matcher: Some(PbStringMatcher {
                    match_pattern,
                    ignore_case: false,
                }),
            }))
        };
        let text = Text::new("x-", Case::Matters);
        let refused = |reason: &str| Err(format!("mutations.request_mutations[0].{reason}"));
        for (action, expected) in [
            (
                append("x-a", "1", AppendIfExistsOrAdd),
                Ok(Change::Add(name, value)),
            ),
            (
                append("x-a", "1", AddIfAbsent),
                Ok(Change::AddIfAbsent("x-a".parse().unwrap(), "1".parse().unwrap())),
            ),
            (
                append("x-a", "1", OverwriteIfExists),
                Ok(Change::SetIfThere("x-a".parse().unwrap(), "1".parse().unwrap())),
            ),
            (
                append("X-A", "100%%", OverwriteIfExistsOrAdd),
                Ok(Change::Set("x-a".parse().unwrap(), "100%".parse().unwrap())),
            ),
            (
                Some(Action::Append(empty)),
                Ok(Change::Set("x-a".parse().unwrap(), "".parse().unwrap())),
            ),
            (
                Some(Action::Remove("x-a".to_owned())),
                Ok(Change::Remove("x-a".parse().unwrap())),
            ),
            (
                like(Some(MatchPattern::Prefix("x-".to_owned()))),
                Ok(Change::RemoveLike(StringMatcher::Prefix(text))),
            ),
            (None, refused("action: is required")),
            (
                like(None),
                refused("remove_on_match.key_matcher.match_pattern: is required"),
            ),
            (
                Some(Action::Remove("host".to_owned())),
                refused("remove: host cannot be changed"),
            ),
            (
                append("content-length", "1", AddIfAbsent),
                refused("append.header.key: content-length cannot be changed"),
            ),
            (
                append("x-a", "", AddIfAbsent),
                refused("append.header.value: is empty, which is nothing without keep_empty_value"),
            ),
            (
                append("x-a", "%REQ(x)%", AddIfAbsent),
                refused("append.header.value: \"%REQ(x)%\" has a %, and substitutions are not supported"),
            ),
        ] {
            assert_eq!(decoded(action.clone()), expected, "{action:?}");
        }
    }

    #[test]
    fn what_else_a_filter_could_change_is_refused() {
        let pb = PbMutations {
            query_parameter_mutations: vec![KeyValueMutation::default()],
            ..PbMutations::default()
        };
        let pb = HeaderMutationPerRoute { mutations: Some(pb) };
        assert_eq!(
            of_route(&pack_any(pb)),
            Err("mutations.query_parameter_mutations: is not supported by this proxy".to_owned())
        );
    }
}
