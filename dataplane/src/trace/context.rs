//! Which trace a request belongs to, as its headers say it: W3C's Trace Context, and B3 in one header or in several. Pure.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::matcher::Headers;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The hexadecimal digits of a span's id.
pub(crate) type SpanDigits = [u8; 16];

/// The ways in which a trace is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forms {
    w3c: bool,
    b3: bool,
    b3_multi: bool,
}

/// Who asked, as a client says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
}

/// Whether spans are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampled {
    No,
    Yes,
    /// And by whoever samples behind the proxy as well, which only B3 can say.
    Debug,
}

/// What a head says of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// All that came, be it understood or not.
    forms: Forms,
    pub(crate) parent: Option<Parent>,
    /// None where it is left to the proxy.
    pub(crate) sampled: Option<Sampled>,
    /// Whether what `tracestate` says is about that parent.
    has_state: bool,
    /// The trace's id came in 16 digits, and goes on so in B3.
    is_short: bool,
}

/// What a host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: u128,
    /// That of whoever asks the host.
    pub(crate) span: u64,
    pub(crate) sampled: Sampled,
    given: Given,
}

impl Sampled {
    pub(crate) fn is_yes(self) -> bool {
        self != Self::No
    }
}

impl Given {
    /// What comes first is believed: W3C's, B3 in one line, B3 in several.
    pub(crate) fn of(headers: &impl Headers) -> Self {
        let w3c = headers.lines(&TRACEPARENT).next().is_some();
        let b3 = headers.lines(&B3).next().is_some();
        let b3_multi = [&B3_TRACE, &B3_SAMPLED, &B3_FLAGS]
            .into_iter()
            .any(|name| headers.lines(name).next().is_some());
        let forms = Forms { w3c, b3, b3_multi };
        let read = || match only(headers, &TRACEPARENT).and_then(traceparent) {
            Some((parent, sampled)) => Some(Self {
                parent: Some(parent),
                sampled: Some(sampled),
                has_state: true,
                ..Self::default()
            }),
            None => only(headers, &B3)
                .and_then(b3_single)
                .or_else(|| b3_lines(headers)),
        };
        let read = (w3c || b3 || b3_multi).then(read).flatten();
        Self {
            forms,
            ..read.unwrap_or_default()
        }
    }
}

impl Context {
    /// `fresh` is the id of a trace that begins here.
    pub(crate) fn new(given: Given, fresh: u128, span: u64, sampled: Sampled) -> Self {
        Self {
            trace: given.parent.map_or(fresh, |parent| parent.trace),
            span,
            sampled,
            given,
        }
    }

    /// Of a request that is not sampled.
    #[cfg(test)]
    pub(crate) fn told_by(headers: &impl Headers, fresh: u128, span: u64) -> Self {
        Self::new(Given::of(headers), fresh, span, Sampled::No)
    }

    pub(crate) fn with_span(self, span: u64) -> Self {
        Self { span, ..self }
    }

    pub(crate) fn parent(&self) -> Option<u64> {
        self.given.parent.map(|parent| parent.span)
    }

    /// A bit for the length of each name of which no line stays, as [`encode`](crate::h1) has them.
    pub(crate) fn lengths(&self) -> u64 {
        self.replaced()
            .fold(0, |lengths, name| lengths | 1 << name.as_str().len())
    }

    /// Whether lines of that name do not stay as they are.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        self.replaced()
            .any(|replaced| name.eq_ignore_ascii_case(replaced.as_str().as_bytes()))
    }

    /// The names of which no line stays as it is.
    fn replaced(&self) -> impl Iterator<Item = HeaderName> {
        let Given { forms, has_state, .. } = self.given;
        let w3c = [
            (true, TRACEPARENT),
            // What is said of a trace that nobody knows is said of none.
            (!has_state, TRACESTATE),
            (forms.b3, B3),
        ];
        let multi = [B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS].map(|name| (forms.b3_multi, name));
        let all = w3c.into_iter().chain(multi);
        all.filter_map(|(is_replaced, name)| is_replaced.then_some(name))
    }

    /// Every line that it takes, in the forms in which the client spoke of it, or W3C's; a value is in parts.
    pub(crate) fn lines(&self, mut line: impl FnMut(HeaderName, &[&[u8]])) {
        let forms = self.given.forms;
        let (trace, span) = (hex(self.trace), digits(self.span));
        let short = if self.given.is_short {
            &trace[16..]
        } else {
            &trace[..]
        };
        let parent = self.parent().map(digits);
        if forms.w3c || !(forms.b3 || forms.b3_multi) {
            let flags: &[u8] = if self.sampled.is_yes() { b"-01" } else { b"-00" };
            line(TRACEPARENT, &[b"00-", &trace, b"-", &span, flags]);
        }
        if forms.b3 {
            let sampled: &[u8] = match self.sampled {
                Sampled::No => b"-0",
                Sampled::Yes => b"-1",
                Sampled::Debug => b"-d",
            };
            match &parent {
                Some(parent) => line(B3, &[short, b"-", &span, sampled, b"-", parent]),
                None => line(B3, &[short, b"-", &span, sampled]),
            }
        }
        if forms.b3_multi {
            line(B3_TRACE, &[short]);
            line(B3_SPAN, &[&span]);
            if let Some(parent) = &parent {
                line(B3_PARENT, &[parent]);
            }
            match self.sampled {
                Sampled::No => line(B3_SAMPLED, &[b"0"]),
                Sampled::Yes => line(B3_SAMPLED, &[b"1"]),
                Sampled::Debug => line(B3_FLAGS, &[b"1"]),
            }
        }
    }

    /// Says it in `headers`, whatever they said before.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in self.replaced() {
            headers.remove(name);
        }
        self.lines(|name, value| {
            // Digits and dashes are a value.
            if let Ok(value) = HeaderValue::from_bytes(&value.concat()) {
                headers.insert(name, value);
            }
        });
    }
}

pub(crate) fn state(headers: &impl Headers) -> String {
    let name = TRACESTATE;
    let lines: Vec<&[u8]> = headers.lines(&name).collect();
    String::from_utf8_lossy(&lines.join(&b',')).into_owned()
}

pub(crate) fn digits(span: u64) -> SpanDigits {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| HEX[usize::from(span.to_be_bytes()[at / 2] >> (4 * (1 - at % 2)) & 0xf)])
}

fn hex(trace: u128) -> [u8; 32] {
    let (high, low) = (digits((trace >> 64) as u64), digits(trace as u64));
    std::array::from_fn(|at| if at < 16 { high[at] } else { low[at - 16] })
}

/// The only line of a name.
fn only<'a>(headers: &'a impl Headers, name: &'a HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.lines(name);
    match (lines.next(), lines.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// `VERSION-TRACE-SPAN-FLAGS` (<https://www.w3.org/TR/trace-context/>, section 3.2).
fn traceparent(value: &[u8]) -> Option<(Parent, Sampled)> {
    /// Of version 00; later ones may have more behind a dash.
    const BYTES: usize = 55;
    let (known, rest) = value.split_at_checked(BYTES)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let mut part = |length| parts.next().filter(|part| part.len() == length);
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let version = lower(version)?;
    if version == 0xff || !(rest.is_empty() || (version > 0 && rest[0] == b'-')) {
        return None;
    }
    let parent = parent(lower(trace)?, lower(span)?)?;
    let sampled = if lower(flags)? & 1 == 1 {
        Sampled::Yes
    } else {
        Sampled::No
    };
    Some((parent, sampled))
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or `SAMPLED` alone (<https://github.com/openzipkin/b3-propagation>).
fn b3_single(value: &[u8]) -> Option<Given> {
    let parts: Vec<&[u8]> = value.split(|byte| *byte == b'-').collect();
    let sampled = |said: &[u8]| match said {
        b"0" => Some(Sampled::No),
        b"1" => Some(Sampled::Yes),
        b"d" => Some(Sampled::Debug),
        _ => None,
    };
    match parts[..] {
        [said] => Some(Given {
            sampled: Some(sampled(said)?),
            ..Given::default()
        }),
        [trace, span] => b3_ids(trace, span, None),
        [trace, span, said] => b3_ids(trace, span, Some(sampled(said)?)),
        [trace, span, said, above] => {
            any(above, &[16])?;
            b3_ids(trace, span, Some(sampled(said)?))
        }
        _ => None,
    }
}

fn b3_lines(headers: &impl Headers) -> Option<Given> {
    let sampled = match (only(headers, &B3_FLAGS), only(headers, &B3_SAMPLED)) {
        (Some(b"1"), _) => Some(Sampled::Debug),
        (_, Some(b"1" | b"true")) => Some(Sampled::Yes),
        (_, Some(b"0" | b"false")) => Some(Sampled::No),
        _ => None,
    };
    match (only(headers, &B3_TRACE), only(headers, &B3_SPAN)) {
        (Some(trace), Some(span)) => b3_ids(trace, span, sampled),
        _ => sampled.map(|sampled| Given {
            sampled: Some(sampled),
            ..Given::default()
        }),
    }
}

fn b3_ids(trace: &[u8], span: &[u8], sampled: Option<Sampled>) -> Option<Given> {
    let is_short = trace.len() == 16;
    let span = u64::try_from(any(span, &[16])?).ok()?;
    Some(Given {
        parent: Some(parent(any(trace, &[16, 32])?, span.into())?),
        sampled,
        is_short,
        ..Given::default()
    })
}

/// Ids of zeros are none.
fn parent(trace: u128, span: u128) -> Option<Parent> {
    let span = u64::try_from(span).ok()?;
    (trace != 0 && span != 0).then_some(Parent { trace, span })
}

/// In lower case only, as W3C has it.
fn lower(digits: &[u8]) -> Option<u128> {
    let is_lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits
        .iter()
        .all(is_lower)
        .then(|| any(digits, &[digits.len()]))?
}

/// In any case of letters, as B3's libraries read it, in so many digits.
fn any(digits: &[u8], lengths: &[usize]) -> Option<u128> {
    let is_one = lengths.contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_one)?;
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_client_says_which_trace_it_is_in() {
        let parent = Some((TRACE, SPAN));
        let short = Some(("0000000000000000a3ce929d0e0e4736", SPAN));
        let (yes, no, debug) = (Some(Sampled::Yes), Some(Sampled::No), Some(Sampled::Debug));
        let w3c = |rest: &str| format!("00-{TRACE}-{SPAN}-{rest}");
        let b3 = |rest: &str| format!("{TRACE}-{SPAN}{rest}");
        let later = format!("01-{TRACE}-{SPAN}-01-more");
        for (name, value, ids, sampled) in [
            ("traceparent", w3c("01"), parent, yes),
            ("traceparent", w3c("00"), parent, no),
            ("traceparent", w3c("03"), parent, yes),
            ("traceparent", later, parent, yes),
            ("traceparent", format!("01-{TRACE}-{SPAN}-01"), parent, yes),
            ("traceparent", format!("01-{TRACE}-{SPAN}-01more"), None, None),
            ("traceparent", w3c("01-more"), None, None),
            ("traceparent", format!("ff-{TRACE}-{SPAN}-01"), None, None),
            ("traceparent", w3c("01").to_uppercase(), None, None),
            (
                "traceparent",
                format!("00-{}-{SPAN}-01", "0".repeat(32)),
                None,
                None,
            ),
            (
                "traceparent",
                format!("00-{TRACE}-{}-01", "0".repeat(16)),
                None,
                None,
            ),
            ("traceparent", format!("00-{TRACE}-{SPAN}-0"), None, None),
            ("traceparent", format!("00-{TRACE}-{SPAN}-+1"), None, None),
            ("traceparent", format!("0-0{TRACE}-{SPAN}-01"), None, None),
            ("traceparent", String::new(), None, None),
            ("b3", b3(""), parent, None),
            ("b3", b3("-1"), parent, yes),
            ("b3", b3("-0"), parent, no),
            ("b3", b3("-d"), parent, debug),
            ("b3", b3("-1-05e3ac9a4f6e3b90"), parent, yes),
            ("b3", b3("-1").to_uppercase(), parent, yes),
            ("b3", format!("a3ce929d0e0e4736-{SPAN}-1"), short, yes),
            ("b3", "0".to_owned(), None, no),
            ("b3", "1".to_owned(), None, yes),
            ("b3", b3("-2"), None, None),
            ("b3", b3("-1-x"), None, None),
            ("b3", format!("{TRACE}-0"), None, None),
            ("b3", format!("abc-{SPAN}-1"), None, None),
            ("x-b3-sampled", "0".to_owned(), None, no),
            ("x-b3-sampled", "true".to_owned(), None, yes),
            ("x-b3-flags", "1".to_owned(), None, debug),
            ("x-b3-traceid", TRACE.to_owned(), None, None),
        ] {
            let given = Given::of(&headers(&[(name, &value)]));
            let ids = ids.map(|(trace, span)| Parent {
                trace: u128::from_str_radix(trace, 16).unwrap(),
                span: u64::from_str_radix(span, 16).unwrap(),
            });
            assert_eq!((given.parent, given.sampled), (ids, sampled), "{name}: {value}");
        }
        let twice = headers(&[("traceparent", &w3c("01")), ("traceparent", &w3c("01"))]);
        assert_eq!(Given::of(&twice).parent, None);
    }

    #[test]
    fn it_goes_on_in_the_forms_in_which_it_came() {
        let w3c = format!("00-{TRACE}-{SPAN}-01");
        let b3 = format!("{TRACE}-{SPAN}-0");
        type Lines<'a> = &'a [(&'static str, &'a str)];
        let fresh = "00-0000000000000000000000000000000f-000000000000000a-00";
        let cases: [(Lines<'_>, Lines<'_>); 7] = [
            (&[], &[("traceparent", fresh)]),
            (&[("tracestate", "a=1")], &[("traceparent", fresh)]),
            (
                &[("traceparent", "no"), ("tracestate", "a=1")],
                &[("traceparent", fresh)],
            ),
            (
                &[("traceparent", &w3c), ("tracestate", "a=1")],
                &[
                    (
                        "traceparent",
                        "00-4bf92f3577b34da6a3ce929d0e0e4736-000000000000000a-00",
                    ),
                    ("tracestate", "a=1"),
                ],
            ),
            (
                &[("b3", &b3)],
                &[(
                    "b3",
                    "4bf92f3577b34da6a3ce929d0e0e4736-000000000000000a-0-00f067aa0ba902b7",
                )],
            ),
            (
                &[("b3", "0")],
                &[("b3", "0000000000000000000000000000000f-000000000000000a-0")],
            ),
            (
                &[
                    ("x-b3-traceid", "a3ce929d0e0e4736"),
                    ("x-b3-spanid", SPAN),
                    ("x-b3-flags", "1"),
                ],
                &[
                    ("x-b3-parentspanid", SPAN),
                    ("x-b3-sampled", "0"),
                    ("x-b3-spanid", "000000000000000a"),
                    ("x-b3-traceid", "a3ce929d0e0e4736"),
                ],
            ),
        ];
        for (given, expected) in cases {
            let mut headers = headers(given);
            let context = Context::new(Given::of(&headers), 15, 10, Sampled::No);
            for (name, _) in given {
                let stays = expected.contains(&("tracestate", "a=1")) && *name == "tracestate";
                assert_eq!(context.replaces(name.as_bytes()), !stays, "{name} of {given:?}");
                assert!(
                    stays || context.lengths() & 1 << name.len() != 0,
                    "{name} of {given:?}"
                );
            }
            context.apply(&mut headers);
            let mut got: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            got.sort_unstable();
            assert_eq!(got, expected, "{given:?}");
        }
    }
}
