//! What a filter makes of a path, in the words of the Gateway API: a modifier as it is written, and the rewrite that knows
//! the prefix it replaces.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::{BadFilter, BadFilters};
use super::{HttpMatch, Path, PathMatch};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "PathModifierDocument", into = "PathModifierDocument")]
pub enum PathModifier {
    Full(Path),
    /// In place of the prefix that the rule matches.
    Prefix(Path),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PathModifierDocument {
    r#type: PathModifierType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_full_path: Option<Path>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_prefix_match: Option<Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// A path modifier that knows the prefix it replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    Full(Path),
    Prefix { from: Path, to: Path },
}

impl PathRewrite {
    /// What a modifier does in a rule with these matches.
    ///
    /// # Errors
    /// When a prefix is to be replaced and the matches have none, or not one.
    pub(super) fn of(
        modifier: Option<&PathModifier>,
        matches: &[HttpMatch],
    ) -> Result<Option<PathRewrite>, BadFilters> {
        let to = match modifier {
            None => return Ok(None),
            Some(PathModifier::Full(path)) => return Ok(Some(PathRewrite::Full(path.clone()))),
            Some(PathModifier::Prefix(to)) => to.clone(),
        };
        let prefixes: Option<BTreeSet<Path>> = matches
            .iter()
            .map(|matched| match &matched.path {
                None => Some(Path::root()),
                Some(PathMatch::PathPrefix(prefix)) => Some(prefix.clone()),
                Some(_) => None,
            })
            .collect();
        let prefixes = prefixes.ok_or(BadFilters::NoPrefix)?;
        let mut prefixes = prefixes.into_iter();
        match (prefixes.next(), prefixes.next()) {
            (None, _) => Ok(Some(PathRewrite::Prefix {
                from: Path::root(),
                to,
            })),
            (Some(from), None) => Ok(Some(PathRewrite::Prefix { from, to })),
            (Some(_), Some(_)) => Err(BadFilters::NoPrefix),
        }
    }

    /// `path` has no query. One that does not begin with the prefix stays as it is.
    pub fn apply(&self, path: &str) -> String {
        match self {
            PathRewrite::Full(full) => full.as_str().to_owned(),
            PathRewrite::Prefix { from, to } => {
                let rest = path.strip_prefix(from.as_str().trim_end_matches('/'));
                let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
                match rest.map(|rest| format!("{}{rest}", to.as_str().trim_end_matches('/'))) {
                    None => path.to_owned(),
                    Some(rewritten) if rewritten.is_empty() => "/".to_owned(),
                    Some(rewritten) => rewritten,
                }
            }
        }
    }

    /// A regular expression over the path, without its query, and what stands in place of what it matches; `\1` is
    /// its group. One form for every rewrite, because the route that carries it out may match less than the prefix.
    pub fn substitution(&self) -> (String, String) {
        match self {
            PathRewrite::Full(path) => ("^.*$".to_owned(), literal(path.as_str())),
            PathRewrite::Prefix { from, to } => {
                let from = from.as_str().trim_end_matches('/');
                let to = to.as_str().trim_end_matches('/');
                if from.is_empty() {
                    ("^/".to_owned(), literal(&format!("{to}/")))
                } else if to.is_empty() {
                    (format!("^{}(/|$)", escaped(from)), "/".to_owned())
                } else {
                    (format!("^{}(/|$)", escaped(from)), format!("{}\\1", literal(to)))
                }
            }
        }
    }
}

/// A backslash begins a group's number in a substitution.
fn literal(text: &str) -> String {
    text.replace('\\', "\\\\")
}

/// `text` as a regular expression that matches only it.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

impl TryFrom<PathModifierDocument> for PathModifier {
    type Error = BadFilter;

    fn try_from(document: PathModifierDocument) -> Result<Self, BadFilter> {
        let PathModifierDocument {
            r#type,
            replace_full_path,
            replace_prefix_match,
        } = document;
        match (r#type, replace_full_path, replace_prefix_match) {
            (PathModifierType::ReplaceFullPath, Some(path), None) => Ok(PathModifier::Full(path)),
            (PathModifierType::ReplacePrefixMatch, None, Some(path)) => Ok(PathModifier::Prefix(path)),
            (PathModifierType::ReplaceFullPath, ..) => Err(BadFilter::Field {
                wanted: "ReplaceFullPath",
                field: "replaceFullPath",
            }),
            (PathModifierType::ReplacePrefixMatch, ..) => Err(BadFilter::Field {
                wanted: "ReplacePrefixMatch",
                field: "replacePrefixMatch",
            }),
        }
    }
}

impl From<PathModifier> for PathModifierDocument {
    fn from(modifier: PathModifier) -> PathModifierDocument {
        match modifier {
            PathModifier::Full(path) => PathModifierDocument {
                r#type: PathModifierType::ReplaceFullPath,
                replace_full_path: Some(path),
                replace_prefix_match: None,
            },
            PathModifier::Prefix(path) => PathModifierDocument {
                r#type: PathModifierType::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some(path),
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The table of the Gateway API's `HTTPPathModifier`.
    #[test]
    fn prefixes_are_replaced_as_the_gateway_api_says() {
        for (path, from, to, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
            ("/other", "/foo", "/xyz", "/other"),
        ] {
            let parse = |text: &str| Path::try_from(text.to_owned()).unwrap();
            let rewrite = PathRewrite::Prefix {
                from: parse(from),
                to: parse(to),
            };
            assert_eq!(rewrite.apply(path), expected, "{path}: {from} to {to}");
        }
    }

    #[test]
    fn a_rewrite_is_one_substitution() {
        for (from, to, pattern, substitution) in [
            ("/foo", "/xyz", "^/foo(/|$)", "/xyz\\1"),
            ("/foo/", "/xyz/", "^/foo(/|$)", "/xyz\\1"),
            ("/foo", "/", "^/foo(/|$)", "/"),
            ("/", "/xyz", "^/", "/xyz/"),
            ("/", "/", "^/", "/"),
            ("/a.b", "/c", "^/a\\.b(/|$)", "/c\\1"),
        ] {
            let path = |text: &str| Path::try_from(text.to_owned()).unwrap();
            let rewrite = PathRewrite::Prefix {
                from: path(from),
                to: path(to),
            };
            let expected = (pattern.to_owned(), substitution.to_owned());
            assert_eq!(rewrite.substitution(), expected, "{from} to {to}");
        }
    }
}
