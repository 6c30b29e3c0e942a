//! `envoy.config.route.v3.RouteMatch` and the matchers that filters have too.

use std::mem::take;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    CookieMatcher as PbCookieMatcher, HeaderMatcher as PbHeaderMatcher, QueryParameterMatcher,
    RouteMatch as PbRouteMatch,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher as PbStringMatcher};
use envoy_types::pb::envoy::r#type::v3::Int64Range;

use super::fields::{At, Reason, done, header_name, required};
use crate::matcher::{
    Case, CookieMatcher, HeaderMatcher, Of, ParameterMatcher, PathMatcher, RouteMatcher, StringMatcher, Text,
    Wanted,
};
use crate::pattern::Pattern;

pub(super) fn of_route(mut pb: PbRouteMatch) -> Result<RouteMatcher, Reason> {
    let case = match pb.case_sensitive.take() {
        Some(sensitive) if !sensitive.value => Case::Ignored,
        _ => Case::Matters,
    };
    let path = path(required(pb.path_specifier.take()).at("path_specifier")?, case)?;
    let mut headers = Vec::new();
    for (index, given) in take(&mut pb.headers).into_iter().enumerate() {
        headers.push(header(given).at_index("headers", index)?);
    }
    let mut query = Vec::new();
    for (index, given) in take(&mut pb.query_parameters).into_iter().enumerate() {
        query.push(parameter(given).at_index("query_parameters", index)?);
    }
    let mut cookies = Vec::new();
    for (index, given) in take(&mut pb.cookies).into_iter().enumerate() {
        cookies.push(cookie(given).at_index("cookies", index)?);
    }
    done(&pb)?;
    Ok(RouteMatcher {
        path,
        headers,
        query,
        cookies,
    })
}

fn path(specifier: PathSpecifier, case: Case) -> Result<PathMatcher, Reason> {
    match specifier {
        PathSpecifier::Path(path) => Ok(PathMatcher::Exact(Text::new(path, case))),
        PathSpecifier::Prefix(prefix) => Ok(PathMatcher::Prefix(Text::new(prefix, case))),
        PathSpecifier::PathSeparatedPrefix(prefix) => Ok(PathMatcher::Segments(Text::new(prefix, case))),
        // Letters say their case by themselves in an expression, as in Envoy.
        PathSpecifier::SafeRegex(regex) => Ok(PathMatcher::Regex(self::regex(regex).at("safe_regex")?)),
        PathSpecifier::ConnectMatcher(ConnectMatcher {}) => Ok(PathMatcher::Connect),
        _ => Err(
            "path_specifier: only path, prefix, path_separated_prefix, safe_regex and connect_matcher are supported"
                .to_owned(),
        ),
    }
}

/// An answer has no method, path or authority.
pub(super) fn of_answer(pb: PbHeaderMatcher) -> Result<HeaderMatcher, Reason> {
    let matcher = header(pb)?;
    match matcher.of {
        Of::Header(_) => Ok(matcher),
        Of::Method | Of::Authority | Of::Target | Of::Scheme => Err("name: is not of an answer".to_owned()),
    }
}

pub(super) fn header(mut pb: PbHeaderMatcher) -> Result<HeaderMatcher, Reason> {
    let of = match &*take(&mut pb.name) {
        ":method" => Of::Method,
        ":path" => Of::Target,
        ":authority" | "host" => Of::Authority,
        name => Of::Header(header_name(name).at("name")?),
    };
    let wanted = match pb.header_match_specifier.take() {
        None => Wanted::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => Wanted::Present(present),
        Some(HeaderMatchSpecifier::StringMatch(text)) => Wanted::Text(string(text).at("string_match")?),
        Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => Wanted::Number(start..end),
        Some(_) => {
            return Err(
                "header_match_specifier: only string_match, range_match and present_match are supported"
                    .to_owned(),
            );
        }
    };
    let inverted = take(&mut pb.invert_match);
    let missing_is_empty = take(&mut pb.treat_missing_header_as_empty);
    done(&pb)?;
    Ok(HeaderMatcher {
        of,
        wanted,
        inverted,
        missing_is_empty,
    })
}

pub(super) fn parameter(mut pb: QueryParameterMatcher) -> Result<ParameterMatcher, Reason> {
    let name = name(take(&mut pb.name))?;
    let wanted = match pb.query_parameter_match_specifier.take() {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err("present_match: false is not supported, only true".to_owned());
        }
        Some(QueryParameterMatchSpecifier::StringMatch(text)) => Some(string(text).at("string_match")?),
    };
    done(&pb)?;
    Ok(ParameterMatcher { name, wanted })
}

fn cookie(mut pb: PbCookieMatcher) -> Result<CookieMatcher, Reason> {
    let name = name(take(&mut pb.name))?;
    let wanted = string(required(pb.string_match.take()).at("string_match")?).at("string_match")?;
    let inverted = take(&mut pb.invert_match);
    done(&pb)?;
    Ok(CookieMatcher {
        name,
        wanted,
        inverted,
    })
}

fn name(name: String) -> Result<Box<str>, Reason> {
    if name.is_empty() {
        return Err("name: is required".to_owned());
    }
    Ok(name.into())
}

pub(super) fn string(mut pb: PbStringMatcher) -> Result<StringMatcher, Reason> {
    let ignores_case = take(&mut pb.ignore_case);
    let case = if ignores_case {
        Case::Ignored
    } else {
        Case::Matters
    };
    let some = |text: String, field: &str| {
        let text = Some(text).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| "is empty".to_owned()).at(field)?;
        Ok::<_, Reason>(Text::new(text, case))
    };
    let matcher = match required(pb.match_pattern.take()).at("match_pattern")? {
        MatchPattern::Exact(text) => StringMatcher::Exact(Text::new(text, case)),
        MatchPattern::Prefix(text) => StringMatcher::Prefix(some(text, "prefix")?),
        MatchPattern::Suffix(text) => StringMatcher::Suffix(some(text, "suffix")?),
        MatchPattern::Contains(text) => StringMatcher::Contains(some(text, "contains")?),
        MatchPattern::SafeRegex(_) if ignores_case => {
            return Err("ignore_case: is not supported beside safe_regex".to_owned());
        }
        MatchPattern::SafeRegex(regex) => StringMatcher::Regex(self::regex(regex).at("safe_regex")?),
        MatchPattern::Custom(_) => return Err("custom: is not supported by this proxy".to_owned()),
    };
    done(&pb)?;
    Ok(matcher)
}

fn regex(mut pb: RegexMatcher) -> Result<Pattern, Reason> {
    let text = take(&mut pb.regex);
    done(&pb)?;
    Pattern::new(&text).at("regex")
}
