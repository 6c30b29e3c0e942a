//! Which requests a route's matcher takes.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    CookieMatcher, HeaderMatcher, QueryParameterMatcher, RouteMatch,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::BoolValue;
use http::Method;

use super::{Ask, BOTH, Site, at, prefix, says, with};
use crate::case::{Case, Expect, GET};

struct Row {
    name: &'static str,
    matcher: RouteMatch,
    taken: Vec<Case>,
    left: Vec<Case>,
}

/// A host for each row, whose first route has the row's matcher.
pub(super) fn sites() -> Vec<Site> {
    let rows = [paths(), headers(), heads(), queries(), cookies()];
    let site = |(number, row): (usize, Row)| {
        let host = format!("row{number}.test");
        let ask = |case: Case, expect| Ask {
            host: host.clone(),
            case,
            expect,
        };
        let taken = row.taken.into_iter().map(|case| ask(case, Expect::Says("taken")));
        let left = row.left.into_iter().map(|case| ask(case, Expect::Says("left")));
        Site {
            name: row.name,
            domains: vec![host.clone()],
            versions: BOTH,
            routes: vec![says(row.matcher, "taken"), says(prefix("/"), "left")],
            asks: taken.chain(left).collect(),
        }
    };
    rows.into_iter().flatten().enumerate().map(site).collect()
}

fn row(name: &'static str, matcher: RouteMatch, taken: Vec<Case>, left: Vec<Case>) -> Row {
    Row {
        name,
        matcher,
        taken,
        left,
    }
}

fn of_path(specifier: PathSpecifier) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(specifier),
        ..RouteMatch::default()
    }
}

fn in_any_case(matcher: RouteMatch) -> RouteMatch {
    RouteMatch {
        case_sensitive: Some(BoolValue { value: false }),
        ..matcher
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..RegexMatcher::default()
    }
}

fn paths() -> Vec<Row> {
    use PathSpecifier::{Path, PathSeparatedPrefix, Prefix, SafeRegex};
    let path = |text: &str| of_path(Path(text.to_owned()));
    let begins = |text: &str| of_path(Prefix(text.to_owned()));
    let below = |text: &str| of_path(PathSeparatedPrefix(text.to_owned()));
    vec![
        row(
            "a path",
            path("/a"),
            vec![at("/a"), at("/a?b=c"), at("/x/../a"), at("/%61"), at("/a?")],
            vec![at("/"), at("/a/"), at("/A"), at("/ab"), at("/x/a")],
        ),
        row(
            "a path in any case",
            in_any_case(path("/a/Bc")),
            vec![at("/a/Bc"), at("/A/bC"), at("/A/BC?d")],
            vec![at("/a/b"), at("/a/bcd")],
        ),
        row(
            "a prefix",
            begins("/a"),
            vec![at("/a"), at("/a/"), at("/ab"), at("/a?b"), at("/a/b/c")],
            vec![at("/"), at("/b/a"), at("/A"), at("/a/../b")],
        ),
        row(
            "a prefix that ends in a slash",
            begins("/a/"),
            vec![at("/a/"), at("/a/b"), at("/a/./b")],
            vec![at("/a"), at("/ab/")],
        ),
        row(
            "a prefix in any case",
            in_any_case(begins("/Ab")),
            vec![at("/ab"), at("/ABC"), at("/aB/c")],
            vec![at("/a"), at("/ba")],
        ),
        row(
            "a prefix of segments",
            below("/a/b"),
            vec![at("/a/b"), at("/a/b/"), at("/a/b/c"), at("/a/b?c")],
            vec![at("/a"), at("/a/bc"), at("/a/b%2fc"), at("/A/b")],
        ),
        row(
            "a prefix of segments in any case",
            in_any_case(below("/a/b")),
            vec![at("/A/b"), at("/a/B/c")],
            vec![at("/a/bc"), at("/A")],
        ),
        row(
            "an expression",
            of_path(SafeRegex(regex("/[ab]+"))),
            vec![at("/a"), at("/abba"), at("/a?c=d")],
            vec![at("/"), at("/abc"), at("/A"), at("/a/b")],
        ),
        row(
            "an expression of alternatives",
            of_path(SafeRegex(regex("/a|/b/.*"))),
            vec![at("/a"), at("/b/"), at("/b/c/d")],
            vec![at("/a/b/c"), at("/b")],
        ),
        row(
            "an expression, where a path may be in any case",
            in_any_case(of_path(SafeRegex(regex("/a")))),
            vec![at("/a")],
            vec![at("/A")],
        ),
    ]
}

fn header(name: &str, specifier: Option<HeaderMatchSpecifier>) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: specifier,
        ..HeaderMatcher::default()
    }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

fn text(pattern: MatchPattern) -> Option<HeaderMatchSpecifier> {
    Some(HeaderMatchSpecifier::StringMatch(string(pattern)))
}

fn any_case(pattern: MatchPattern) -> Option<HeaderMatchSpecifier> {
    Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
        ignore_case: true,
        ..string(pattern)
    }))
}

fn of_headers(headers: Vec<HeaderMatcher>) -> RouteMatch {
    RouteMatch {
        headers,
        ..prefix("/")
    }
}

fn exact(text: &str) -> MatchPattern {
    MatchPattern::Exact(text.to_owned())
}

fn headers() -> Vec<Row> {
    use MatchPattern::{Contains, Prefix, SafeRegex, Suffix};
    let one = |specifier| of_headers(vec![header("x-a", specifier)]);
    let inverted = |specifier| {
        of_headers(vec![HeaderMatcher {
            invert_match: true,
            ..header("x-a", specifier)
        }])
    };
    let or_empty = |specifier, invert_match| {
        of_headers(vec![HeaderMatcher {
            invert_match,
            treat_missing_header_as_empty: true,
            ..header("x-a", specifier)
        }])
    };
    let present = |present| Some(HeaderMatchSpecifier::PresentMatch(present));
    let range = |start, end| Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end }));
    vec![
        row(
            "a header's value",
            one(text(exact("v"))),
            vec![with(&[("x-a", "v")]), with(&[("X-A", "v")])],
            vec![
                GET,
                with(&[("x-a", "V")]),
                with(&[("x-a", "")]),
                with(&[("x-b", "v")]),
            ],
        ),
        row(
            "a header of two lines",
            one(text(exact("v"))),
            vec![
                with(&[("x-a", "v"), ("x-a", "w")]),
                with(&[("x-a", "w"), ("x-a", "v")]),
            ],
            vec![with(&[("x-a", "w"), ("x-a", "w")]), with(&[("x-a", "v,w")])],
        ),
        row(
            "a header of two lines as one value",
            one(text(exact("v,w"))),
            vec![with(&[("x-a", "v,w")])],
            vec![with(&[("x-a", "v"), ("x-a", "w")])],
        ),
        row(
            "a header's value in any case",
            one(any_case(exact("Vw"))),
            vec![with(&[("x-a", "vW")])],
            vec![with(&[("x-a", "v")]), GET],
        ),
        row(
            "what a header begins with",
            one(text(Prefix("v".to_owned()))),
            vec![with(&[("x-a", "v")]), with(&[("x-a", "vw")])],
            vec![with(&[("x-a", "wv")]), with(&[("x-a", "V")]), GET],
        ),
        row(
            "what a header begins with in any case",
            one(any_case(Prefix("v".to_owned()))),
            vec![with(&[("x-a", "Vw")])],
            vec![with(&[("x-a", "wv")])],
        ),
        row(
            "what a header ends with",
            one(text(Suffix("v".to_owned()))),
            vec![with(&[("x-a", "v")]), with(&[("x-a", "wv")])],
            vec![with(&[("x-a", "vw")]), GET],
        ),
        row(
            "what a header ends with in any case",
            one(any_case(Suffix("v".to_owned()))),
            vec![with(&[("x-a", "wV")])],
            vec![with(&[("x-a", "Vw")])],
        ),
        row(
            "what is in a header",
            one(text(Contains("vw".to_owned()))),
            vec![with(&[("x-a", "vw")]), with(&[("x-a", "uvwx")])],
            vec![with(&[("x-a", "v w")]), with(&[("x-a", "VW")]), GET],
        ),
        row(
            "what is in a header in any case",
            one(any_case(Contains("vw".to_owned()))),
            vec![with(&[("x-a", "uVwx")])],
            vec![with(&[("x-a", "wv")])],
        ),
        row(
            "an expression for a header",
            one(text(SafeRegex(regex("v+|w")))),
            vec![with(&[("x-a", "vv")]), with(&[("x-a", "w")])],
            vec![with(&[("x-a", "vw")]), with(&[("x-a", "uv")]), GET],
        ),
        row(
            "a header",
            one(None),
            vec![with(&[("x-a", "v")]), with(&[("x-a", "")])],
            vec![GET],
        ),
        row(
            "a header that is there",
            one(present(true)),
            vec![with(&[("x-a", "")])],
            vec![GET],
        ),
        row(
            "a header that is not there",
            one(present(false)),
            vec![GET],
            vec![with(&[("x-a", "")])],
        ),
        row(
            "not a header that is there",
            inverted(present(true)),
            vec![GET],
            vec![with(&[("x-a", "v")])],
        ),
        row(
            "not a header that is not there",
            inverted(present(false)),
            vec![with(&[("x-a", "v")])],
            vec![GET],
        ),
        row(
            "a number",
            one(range(-10, 10)),
            vec![
                with(&[("x-a", "-10")]),
                with(&[("x-a", "0")]),
                with(&[("x-a", "9")]),
            ],
            vec![
                with(&[("x-a", "10")]),
                with(&[("x-a", "-11")]),
                with(&[("x-a", "1.0")]),
                with(&[("x-a", "one")]),
                with(&[("x-a", "")]),
                GET,
            ],
        ),
        row(
            "not a number",
            inverted(range(0, 10)),
            vec![with(&[("x-a", "10")]), with(&[("x-a", "one")])],
            vec![with(&[("x-a", "5")]), GET],
        ),
        row(
            "not a header's value",
            inverted(text(exact("v"))),
            vec![with(&[("x-a", "w")])],
            vec![with(&[("x-a", "v")]), GET],
        ),
        row(
            "not a header's value, or nothing",
            or_empty(text(exact("v")), true),
            vec![with(&[("x-a", "w")]), GET],
            vec![with(&[("x-a", "v")])],
        ),
        row(
            "an empty value, or nothing",
            or_empty(text(exact("")), false),
            vec![with(&[("x-a", "")]), GET],
            vec![with(&[("x-a", "v")])],
        ),
        row(
            "two headers",
            of_headers(vec![
                header("x-a", text(exact("v"))),
                header("x-b", text(exact("w"))),
            ]),
            vec![with(&[("x-b", "w"), ("x-a", "v")])],
            vec![with(&[("x-a", "v")]), with(&[("x-b", "w")]), GET],
        ),
    ]
}

fn heads() -> Vec<Row> {
    let one = |name, pattern| of_headers(vec![header(name, text(pattern))]);
    let method = |method| Case { method, ..GET };
    vec![
        row(
            "a method",
            one(":method", exact("PUT")),
            vec![method(Method::PUT)],
            vec![GET, method(Method::POST)],
        ),
        row(
            "one of some methods",
            one(":method", MatchPattern::SafeRegex(regex("GET|DELETE"))),
            vec![GET, method(Method::DELETE)],
            vec![method(Method::OPTIONS), method(Method::PUT)],
        ),
        row(
            "a path with its query",
            one(":path", exact("/a?b")),
            vec![at("/a?b"), at("/x/../a?b")],
            vec![at("/a"), at("/a?b&c"), at("/a?B")],
        ),
        row(
            "what a path and its query end with",
            one(":path", MatchPattern::Suffix("=1".to_owned())),
            vec![at("/a?b=1")],
            vec![at("/a?b=1&c"), at("/")],
        ),
        row(
            "an authority",
            one(":authority", MatchPattern::Prefix("row".to_owned())),
            vec![GET],
            vec![],
        ),
        row(
            "a host",
            one("host", MatchPattern::Suffix(".test".to_owned())),
            vec![GET],
            vec![],
        ),
    ]
}

fn queries() -> Vec<Row> {
    let one = |specifier| RouteMatch {
        query_parameters: vec![QueryParameterMatcher {
            name: "q".to_owned(),
            query_parameter_match_specifier: specifier,
        }],
        ..prefix("/")
    };
    let string = |pattern| Some(QueryParameterMatchSpecifier::StringMatch(string(pattern)));
    vec![
        row(
            "a parameter's value",
            one(string(exact("v"))),
            vec![at("/?q=v"), at("/?p=1&q=v&r=2"), at("/a?q=v&q=w")],
            vec![
                at("/"),
                at("/?q=w"),
                at("/?q=w&q=v"),
                at("/?Q=v"),
                at("/?q"),
                at("/?q=V"),
                at("/?qq=v"),
            ],
        ),
        row(
            "what a parameter begins with",
            one(string(MatchPattern::Prefix("v".to_owned()))),
            vec![at("/?q=vw")],
            vec![at("/?q=wv"), at("/?q=")],
        ),
        row(
            "what a parameter ends with",
            one(string(MatchPattern::Suffix("v".to_owned()))),
            vec![at("/?q=wv")],
            vec![at("/?q=vw")],
        ),
        row(
            "what is in a parameter",
            one(string(MatchPattern::Contains("v".to_owned()))),
            vec![at("/?q=uvw")],
            vec![at("/?q=uw"), at("/?p=v")],
        ),
        row(
            "an expression for a parameter",
            one(string(MatchPattern::SafeRegex(regex("[0-9]+")))),
            vec![at("/?q=10")],
            vec![at("/?q=10a"), at("/?q=")],
        ),
        row(
            "a parameter",
            one(Some(QueryParameterMatchSpecifier::PresentMatch(true))),
            vec![at("/?q"), at("/?q="), at("/?p&q=1")],
            vec![at("/"), at("/?p=q"), at("/?Q")],
        ),
        row(
            "a parameter of which nothing is said",
            one(None),
            vec![at("/?q"), at("/?q=1")],
            vec![at("/")],
        ),
    ]
}

fn cookies() -> Vec<Row> {
    let one = |pattern, invert_match| RouteMatch {
        cookies: vec![CookieMatcher {
            name: "c".to_owned(),
            string_match: Some(string(pattern)),
            invert_match,
        }],
        ..prefix("/")
    };
    vec![
        row(
            "a cookie's value",
            one(exact("v"), false),
            vec![
                with(&[("cookie", "c=v")]),
                with(&[("cookie", "a=b; c=v")]),
                with(&[("cookie", "c=\"v\"")]),
                with(&[("cookie", "c=v; c=w")]),
            ],
            vec![
                GET,
                with(&[("cookie", "c=w")]),
                with(&[("cookie", "C=v")]),
                with(&[("cookie", "c=w; c=v")]),
                with(&[("x-cookie", "c=v")]),
            ],
        ),
        row(
            "not a cookie's value",
            one(exact("v"), true),
            vec![with(&[("cookie", "c=w")])],
            vec![with(&[("cookie", "c=v")])],
        ),
        row(
            "what a cookie begins with",
            one(MatchPattern::Prefix("v".to_owned()), false),
            vec![with(&[("cookie", "c=vw")])],
            vec![with(&[("cookie", "c=wv")])],
        ),
    ]
}
