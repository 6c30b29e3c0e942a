//! Which requests a log is about. What filters ask of heads is noted when they are there, as what formats ask of them is.

use super::format::{Captured, Cursor};
use super::{Ended, Requested};
use crate::matcher::{HeaderMatcher, Headers, Of};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Filter {
    Status(Comparison),
    DurationMs(Comparison),
    /// One of them, or any at all.
    Flags(Box<[Box<str>]>),
    /// Those of which rules have said so, and maybe those of which none has said anything.
    Hint {
        wanted: bool,
        takes_unsaid: bool,
    },
    /// Of the request.
    Header(HeaderMatcher),
    All(Box<[Filter]>),
    Any(Box<[Filter]>),
    /// As there are no requests that only ask how the proxy is.
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) relation: Relation,
    pub(crate) to: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    AtLeast,
    AtMost,
    Differs,
}

impl Filter {
    /// Notes what it asks of a request's head: one value, or none, for each header.
    pub(super) fn capture(&self, asked: &Requested<'_, impl Headers>, captured: &mut Captured) {
        match self {
            Self::Header(matcher) => {
                let is_it = asked.matches(matcher);
                captured.push(is_it.then_some(&b""[..]).into_iter(), None);
            }
            Self::All(filters) | Self::Any(filters) => {
                filters.iter().for_each(|filter| filter.capture(asked, captured));
            }
            Self::Status(_) | Self::DurationMs(_) | Self::Flags(_) | Self::Hint { .. } | Self::Everything => {
            }
        }
    }

    /// All that was noted for it is read, whatever that comes to. `hint` is whether rules want it logged.
    pub(super) fn takes(&self, ended: &Ended<'_>, hint: Option<bool>, asked: &mut Cursor<'_>) -> bool {
        match self {
            Self::Status(comparison) => comparison.holds(ended.status.into()),
            Self::DurationMs(comparison) => comparison.holds(ended.took.as_millis()),
            Self::Flags(any) if any.is_empty() => ended.flags.words().next().is_some(),
            Self::Flags(one) => ended
                .flags
                .words()
                .any(|word| one.iter().any(|one| **one == *word)),
            Self::Hint { wanted, takes_unsaid } => hint.map_or(*takes_unsaid, |hint| hint == *wanted),
            Self::Header(_) => asked.next().is_some(),
            Self::All(filters) => taking(filters, ended, hint, asked) == filters.len(),
            Self::Any(filters) => taking(filters, ended, hint, asked) > 0,
            Self::Everything => true,
        }
    }
}

/// How many of them take it.
fn taking(filters: &[Filter], ended: &Ended<'_>, hint: Option<bool>, asked: &mut Cursor<'_>) -> usize {
    let filters = filters.iter();
    filters.filter(|filter| filter.takes(ended, hint, asked)).count()
}

impl Comparison {
    fn holds(self, value: u128) -> bool {
        let to = u128::from(self.to);
        match self.relation {
            Relation::Equal => value == to,
            Relation::AtLeast => value >= to,
            Relation::AtMost => value <= to,
            Relation::Differs => value != to,
        }
    }
}

impl<H: Headers> Requested<'_, H> {
    fn matches(&self, matcher: &HeaderMatcher) -> bool {
        let one = |value| matcher.matches_lines([value].into_iter());
        match &matcher.of {
            Of::Method => one(self.method.as_str().as_bytes()),
            Of::Authority => one(self.authority),
            Of::Target => one(self.target),
            Of::Scheme => one(b"http"),
            Of::Header(name) => matcher.matches_lines(self.headers.lines(name)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

    use super::*;
    use crate::channel::PLAIN;
    use crate::exchange::{Flag, Flags};
    use crate::matcher::{StringMatcher, Wanted};

    fn ended(status: u16, ms: u64, flags: Flags) -> Ended<'static> {
        Ended {
            status,
            flags,
            took: Duration::from_millis(ms),
            retries: 0,
            bytes_received: 0,
            bytes_sent: 0,
            client: ([127, 0, 0, 1], 1).into(),
            channel: &PLAIN,
            code: None,
            trace: None,
        }
    }

    fn header(of: Of, value: &str, inverted: bool) -> Filter {
        Filter::Header(HeaderMatcher {
            of,
            wanted: Wanted::Text(StringMatcher::exact(value)),
            inverted,
            missing_is_empty: false,
        })
    }

    #[test]
    fn filters_choose_requests() {
        let than = |relation, to| Comparison { relation, to };
        let user = |value| header(Of::Header(HeaderName::from_static("x-user")), value, false);
        let status = |to| Filter::Status(than(Relation::AtLeast, to));
        let cases = [
            (status(500), true),
            (status(504), false),
            (Filter::Status(than(Relation::AtMost, 503)), true),
            (Filter::Status(than(Relation::AtMost, 502)), false),
            (Filter::Status(than(Relation::Equal, 503)), true),
            (Filter::Status(than(Relation::Differs, 503)), false),
            (Filter::DurationMs(than(Relation::AtLeast, 20)), true),
            (Filter::DurationMs(than(Relation::AtLeast, 21)), false),
            (Filter::Flags(Box::default()), true),
            (Filter::Flags(["UF".into()].into()), true),
            (Filter::Flags(["NR".into(), "URX".into()].into()), true),
            (Filter::Flags(["NR".into()].into()), false),
            (user("a"), true),
            (user("b"), false),
            (header(Of::Method, "GET", false), true),
            (header(Of::Target, "/a?b", false), true),
            (header(Of::Authority, "h", true), false),
            (Filter::Everything, true),
            (Filter::All([status(500), user("a")].into()), true),
            (Filter::All([status(504), user("a")].into()), false),
            (Filter::Any([status(504), user("a")].into()), true),
            (Filter::Any([status(500), user("b")].into()), true),
            (Filter::Any([status(504), user("b")].into()), false),
        ];
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static("a"))]);
        let asked = Requested {
            method: &Method::GET,
            target: b"/a?b",
            authority: b"h",
            protocol: Version::HTTP_11,
            request_id: b"",
            peer: None,
            route: "",
            headers: &headers,
        };
        for (filter, expected) in cases {
            let mut captured = Captured::default();
            filter.capture(&asked, &mut captured);
            captured.push([&b"next"[..]].into_iter(), None);
            let mut cursor = captured.cursor();
            let flags = Flags::of(Flag::ConnectFailure, Flag::RetriesUsedUp);
            assert_eq!(
                filter.takes(&ended(503, 20, flags), None, &mut cursor),
                expected,
                "{filter:?}"
            );
            assert_eq!(
                cursor.next(),
                Some(&b"next"[..]),
                "{filter:?} leaves what is not its own"
            );
        }
        let silent = ended(200, 0, Flags::of(Flag::None, Flag::None));
        let mut nothing = Cursor::default();
        assert!(!Filter::Flags(Box::default()).takes(&silent, None, &mut nothing));
        assert!(
            !user("a").takes(&silent, None, &mut nothing),
            "its head was never read"
        );
    }

    #[test]
    fn rules_say_what_is_logged() {
        let quiet = ended(200, 0, Flags::of(Flag::None, Flag::None));
        for (wanted, takes_unsaid, hint, expected) in [
            (true, true, None, true),
            (true, false, None, false),
            (true, false, Some(true), true),
            (true, true, Some(false), false),
            (false, false, Some(false), true),
        ] {
            let filter = Filter::Hint { wanted, takes_unsaid };
            let taken = filter.takes(&quiet, hint, &mut Cursor::default());
            assert_eq!(taken, expected, "{filter:?} {hint:?}");
        }
    }
}
