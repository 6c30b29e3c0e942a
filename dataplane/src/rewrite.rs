//! A path made into another by a regular expression, and the URL that a redirect leads to.

use std::borrow::Cow;

use regex::Regex;

use crate::config::Redirect;

/// What is replaced of a path, and by what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PathRewrite {
    /// Whatever an expression matches, everywhere.
    Pattern(Substitution),
    /// What the route's matcher has matched: the first bytes, or all.
    Matched {
        bytes: Option<usize>,
        by: Box<str>,
    },
    Whole(Box<str>),
}

#[derive(Clone, Debug)]
pub(crate) struct Substitution {
    pattern: Regex,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Group(usize),
}

/// What a redirect needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl PathRewrite {
    pub(crate) fn apply<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        match self {
            Self::Pattern(substitution) => substitution.apply(path),
            Self::Matched { bytes, by } => {
                let rest = bytes.and_then(|bytes| path.get(bytes..)).unwrap_or_default();
                Cow::Owned(format!("{by}{rest}"))
            }
            Self::Whole(path) => Cow::Borrowed(path),
        }
    }
}

impl Substitution {
    /// In a substitution `\\1` is the first group of the pattern, and `\\\\` a backslash, as in RE2.
    pub(crate) fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let pattern = Regex::new(pattern).map_err(|error| format!("pattern: {error}"))?;
        let pieces = pieces(substitution, pattern.captures_len())?;
        Ok(Self { pattern, pieces })
    }

    fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        self.pattern.replace_all(path, |captures: &regex::Captures<'_>| {
            let texts = self.pieces.iter().map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Group(group) => captures.get(*group).map_or("", |found| found.as_str()),
            });
            texts.collect::<String>()
        })
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.pieces == other.pieces
    }
}

fn pieces(substitution: &str, groups: usize) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            literal.push(character);
            continue;
        }
        match characters.next() {
            Some('\\') => literal.push('\\'),
            Some(digit) => {
                let group = digit.to_digit(10).and_then(|group| usize::try_from(group).ok());
                let group = group.filter(|group| *group < groups);
                let group =
                    group.ok_or_else(|| format!("substitution: \\{digit} is no group of the pattern"))?;
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Group(group));
            }
            None => return Err("substitution: ends in a backslash".to_owned()),
        }
    }
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

impl Redirect {
    pub(crate) fn location(&self, asked: Asked<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(asked.scheme);
        let name = || crate::router::without_port(asked.authority);
        let host = match (&self.host, self.port) {
            (Some(host), _) => host,
            (None, Some(_)) => name(),
            // The old scheme's port would be wrong for the new one.
            (None, None) if scheme != asked.scheme && has_default_port(asked) => name(),
            (None, None) => asked.authority,
        };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let path = match &self.path {
            Some(rewrite) => rewrite.apply(asked.path),
            None => Cow::Borrowed(asked.path),
        };
        let query = asked.query.filter(|_| self.keeps_query);
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

fn has_default_port(asked: Asked<'_>) -> bool {
    let port = if asked.scheme == "https" { ":443" } else { ":80" };
    asked.authority.ends_with(port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;

    use super::*;

    #[test]
    fn paths_are_rewritten_by_groups() {
        for (pattern, substitution, path, expected) in [
            ("^/foo(/|$)", "/xyz\\1", "/foo/bar", "/xyz/bar"),
            ("^/foo(/|$)", "/xyz\\1", "/foo", "/xyz"),
            ("^/foo(/|$)", "/xyz\\1", "/food", "/food"),
            ("^.*$", "/new", "/foo/bar", "/new"),
            ("a", "\\\\", "/a/a", "/\\/\\"),
            ("(x)?$", "-\\1", "/a", "/a-"),
        ] {
            let rewrite = Substitution::new(pattern, substitution).unwrap();
            assert_eq!(rewrite.apply(path), expected, "{pattern} {substitution} {path}");
        }
        for (pattern, substitution, expected) in [
            ("(", "", "pattern: "),
            ("a", "\\1", "\\1 is no group"),
            ("a", "\\x", "\\x is no group"),
            ("a", "\\", "ends in a backslash"),
        ] {
            let error = Substitution::new(pattern, substitution).unwrap_err();
            assert!(error.contains(expected), "{pattern} {substitution}: {error}");
        }
    }

    #[test]
    fn what_was_matched_is_replaced() {
        for (bytes, by, path, expected) in [
            (Some(2), "/b", "/a/c", "/b/c"),
            (Some(3), "/", "/a/c", "/c"),
            (Some(4), "/b", "/a/c", "/b"),
            (Some(1), "/b/", "/a", "/b/a"),
            (None, "/b", "/a/c", "/b"),
        ] {
            let rewrite = PathRewrite::Matched { bytes, by: by.into() };
            assert_eq!(rewrite.apply(path), expected, "{rewrite:?} {path}");
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let keep = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            keeps_query: true,
            status: StatusCode::FOUND,
            response_edits: Arc::default(),
        };
        let secure = Redirect {
            scheme: Some("https".into()),
            ..keep.clone()
        };
        let other = Redirect {
            host: Some("b".into()),
            ..keep.clone()
        };
        let port = Redirect {
            port: Some(90),
            ..keep.clone()
        };
        let path = Redirect {
            path: Some(PathRewrite::Pattern(
                Substitution::new("^/x(/|$)", "/z\\1").unwrap(),
            )),
            ..keep.clone()
        };
        let whole = Redirect {
            path: Some(PathRewrite::Whole("/w?v".into())),
            keeps_query: false,
            ..keep.clone()
        };
        for (redirect, authority, expected) in [
            (&keep, "a:8080", "http://a:8080/x/y?q"),
            (&secure, "a", "https://a/x/y?q"),
            (&secure, "a:80", "https://a/x/y?q"),
            (&secure, "a:8080", "https://a:8080/x/y?q"),
            (&other, "a:8080", "http://b/x/y?q"),
            (&port, "a:8080", "http://a:90/x/y?q"),
            (&path, "a", "http://a/z/y?q"),
            (&whole, "a", "http://a/w?v"),
        ] {
            let asked = Asked {
                scheme: "http",
                authority,
                path: "/x/y",
                query: Some("q"),
            };
            assert_eq!(redirect.location(asked), expected, "{redirect:?} {authority}");
        }
    }
}
