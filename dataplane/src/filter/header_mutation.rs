//! `envoy.filters.http.header_mutation`: changes to heads that the listener, the table, the host and the route say, all of them one
//! after the other.

use std::sync::Arc;

use http::header::HeaderName;

use super::Verdict;
use super::changes::{Changed, Changes};
use crate::config::HeaderEdits;
use crate::header_changes::{Change, HeaderChanges, is_like};
use crate::matcher::RequestView;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeaderMutation {
    /// In the order in which they are done.
    pub(crate) mutations: Vec<Arc<Mutations>>,
    /// Whether what is most specific is done last, and not first.
    pub(crate) most_specific_last: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mutations {
    pub(crate) request: HeaderChanges,
    pub(crate) answer: HeaderChanges,
}

impl HeaderMutation {
    pub(super) fn judge(&self, request: &impl RequestView, verdict: &mut Verdict) {
        for change in self.mutations.iter().flat_map(|one| one.request.iter()) {
            let edits = edits(change, &Changed::new(request, &verdict.request));
            verdict.request.extend(Changes {
                edits,
                ..Changes::default()
            });
        }
        self.change(&mut verdict.mutations);
    }

    /// What the answer's head becomes, before filters that came earlier change it, as in Envoy.
    pub(super) fn change(&self, answer: &mut HeaderChanges) {
        let mut changes = HeaderChanges::default();
        for mutations in &self.mutations {
            changes.extend(mutations.answer.clone());
        }
        changes.extend(std::mem::take(answer));
        *answer = changes;
    }

    /// With those of the next less specific place that has some; the listener's own come first.
    pub(super) fn with(mut self, less_specific: &Arc<Mutations>) -> Self {
        let own = 1;
        let place = if self.most_specific_last {
            own.min(self.mutations.len())
        } else {
            self.mutations.len()
        };
        self.mutations.insert(place, Arc::clone(less_specific));
        self
    }

    pub(super) fn is_idle(&self) -> bool {
        self.mutations.iter().all(|one| **one == Mutations::default())
    }
}

/// What a change comes to for a request that is like that.
fn edits(change: &Change, request: &Changed<'_, impl RequestView>) -> HeaderEdits {
    let is_there = |name: &HeaderName| request.lines(name).next().is_some();
    let mut edits = HeaderEdits::default();
    match change {
        Change::Remove(name) => edits.remove.push(name.clone()),
        Change::RemoveLike(like) => request.names(&mut |name| {
            let name = HeaderName::from_bytes(name).ok();
            let name = name.filter(|name| is_like(name, like) && !edits.remove.contains(name));
            edits.remove.extend(name);
        }),
        Change::Set(name, value) => edits.set.push((name.clone(), value.clone())),
        Change::SetIfThere(name, value) if is_there(name) => edits.set.push((name.clone(), value.clone())),
        Change::AddIfAbsent(name, value) if !request.goes_on(name) => {
            edits.add.push((name.clone(), value.clone()));
        }
        Change::Add(name, value) | Change::Append(name, value) => {
            edits.add.push((name.clone(), value.clone()));
        }
        Change::SetIfThere(..) | Change::AddIfAbsent(..) => {}
    }
    edits
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::header::{HeaderMap, HeaderValue};
    use http::{Request, Response};

    use super::*;
    use crate::matcher::{Case, StringMatcher, Text};

    fn name(name: &str) -> HeaderName {
        name.parse().unwrap()
    }

    fn value(value: &str) -> HeaderValue {
        value.parse().unwrap()
    }

    fn like(prefix: &str) -> Change {
        let text = Text::new(prefix.to_owned(), Case::Matters);
        Change::RemoveLike(StringMatcher::Prefix(text))
    }

    fn shown(headers: &HeaderMap) -> String {
        let lines = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines.join(" ")
    }

    /// The same changes make the same of a request's head and of an answer's.
    #[test]
    fn changes_are_done_one_after_the_other() {
        use Change::{Add, AddIfAbsent, Remove, Set, SetIfThere};
        let set = |n, v| Set(name(n), value(v));
        let add = |n, v| Add(name(n), value(v));
        for (changes, expected) in [
            (vec![], "a=1 b=2 host=h"),
            (vec![Remove(name("a"))], "b=2 host=h"),
            (vec![set("a", "3")], "a=3 b=2 host=h"),
            (vec![add("a", "3")], "a=1 a=3 b=2 host=h"),
            (vec![AddIfAbsent(name("a"), value("3"))], "a=1 b=2 host=h"),
            (vec![AddIfAbsent(name("c"), value("3"))], "a=1 b=2 c=3 host=h"),
            (vec![SetIfThere(name("a"), value("3"))], "a=3 b=2 host=h"),
            (vec![SetIfThere(name("c"), value("3"))], "a=1 b=2 host=h"),
            // What was done before is seen.
            (
                vec![Remove(name("a")), AddIfAbsent(name("a"), value("3"))],
                "a=3 b=2 host=h",
            ),
            (
                vec![set("c", "3"), SetIfThere(name("c"), value("4"))],
                "a=1 b=2 c=4 host=h",
            ),
            (
                vec![add("c", "3"), set("c", "4"), add("c", "5")],
                "a=1 b=2 c=4 c=5 host=h",
            ),
            (vec![add("c", "3"), Remove(name("c"))], "a=1 b=2 host=h"),
            (vec![like("b")], "a=1 host=h"),
            (vec![add("bb", "3"), like("b"), add("b", "4")], "a=1 b=4 host=h"),
            (vec![like("h")], "a=1 b=2 host=h"),
        ] {
            let mutation = HeaderMutation {
                mutations: vec![Arc::new(Mutations {
                    request: changes.iter().cloned().collect(),
                    answer: changes.iter().cloned().collect(),
                })],
                ..HeaderMutation::default()
            };
            let request = Request::get("/").header("a", "1").header("b", "2");
            let mut request = request.header("host", "h").body(()).unwrap().into_parts().0;
            let mut verdict = Verdict::default();
            mutation.judge(&request, &mut verdict);
            verdict.request.edits.apply(&mut request.headers);
            assert_eq!(shown(&request.headers), expected, "{changes:?}");
            let answer = Response::builder().header("a", "1").header("b", "2");
            let mut answer = answer.header("host", "h").body(()).unwrap();
            verdict.mutations.apply(answer.headers_mut());
            assert_eq!(shown(answer.headers()), expected, "{changes:?}");
        }
    }

    #[test]
    fn all_places_are_heard_in_their_order() {
        let says = |said: &str| {
            Arc::new(Mutations {
                request: [Change::Add(name("x"), value(said))].into_iter().collect(),
                answer: HeaderChanges::default(),
            })
        };
        for (most_specific_last, expected) in [
            (false, "x=listener x=route x=host x=table"),
            (true, "x=listener x=table x=host x=route"),
        ] {
            let listener = HeaderMutation {
                mutations: vec![says("listener")],
                most_specific_last,
            };
            let places = ["route", "host", "table"].map(says);
            let mutation = places.iter().fold(listener, HeaderMutation::with);
            let mut request = Request::get("/").body(()).unwrap().into_parts().0;
            let mut verdict = Verdict::default();
            mutation.judge(&request, &mut verdict);
            verdict.request.edits.apply(&mut request.headers);
            let lines = request.headers.get_all("x").iter();
            let lines: Vec<_> = lines
                .map(|line| format!("x={}", line.to_str().unwrap()))
                .collect();
            assert_eq!(lines.join(" "), expected);
        }
    }
}
