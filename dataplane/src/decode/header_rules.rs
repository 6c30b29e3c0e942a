//! What a route configuration, its virtual hosts and their routes do to headers. It comes to one list for each route here, so that a
//! request does not ask who said what.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use super::fields::{At, Reason, edited_name, header_to_set};
use crate::config::HeaderEdits;

/// Whose rules stand where those of several levels are about the same header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wins {
    /// Envoy's order, where nothing else is said: a route's come first, and a table's last.
    Outermost,
    MostSpecific,
}

/// Of a level and of those around it. Where a level has none of its own it has those of the one around it, not a copy.
#[derive(Clone)]
pub(super) struct HeaderRules {
    wins: Wins,
    pub(super) request: Arc<HeaderEdits>,
    pub(super) response: Arc<HeaderEdits>,
}

/// What a level says, field by field.
pub(super) struct Said {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

/// Takes the four fields out of a message of any level.
macro_rules! said {
    ($pb:expr) => {
        $crate::decode::header_rules::Said {
            request_add: std::mem::take(&mut $pb.request_headers_to_add),
            request_remove: std::mem::take(&mut $pb.request_headers_to_remove),
            response_add: std::mem::take(&mut $pb.response_headers_to_add),
            response_remove: std::mem::take(&mut $pb.response_headers_to_remove),
        }
    };
}
pub(super) use said;

impl HeaderRules {
    /// Those around a table: none.
    pub(super) fn none(wins: Wins) -> Self {
        Self {
            wins,
            request: Arc::default(),
            response: Arc::default(),
        }
    }

    /// Those of a level within this one.
    pub(super) fn with(&self, said: Said) -> Result<Self, Reason> {
        let request = request_edits(said.request_add, &said.request_remove)?;
        let response = header_edits(
            said.response_add,
            "response_headers_to_add",
            &said.response_remove,
            "response_headers_to_remove",
        )?;
        Ok(Self {
            wins: self.wins,
            request: merged(request, &self.request, self.wins),
            response: merged(response, &self.response, self.wins),
        })
    }
}

fn merged(own: HeaderEdits, outer: &Arc<HeaderEdits>, wins: Wins) -> Arc<HeaderEdits> {
    if own.is_empty() {
        return Arc::clone(outer);
    }
    let outer = HeaderEdits::clone(outer);
    let (mut first, last) = match wins {
        Wins::Outermost => (own, outer),
        Wins::MostSpecific => (outer, own),
    };
    first.extend(last);
    Arc::new(first)
}

pub(super) fn request_edits(add: Vec<HeaderValueOption>, remove: &[String]) -> Result<HeaderEdits, Reason> {
    header_edits(add, "request_headers_to_add", remove, "request_headers_to_remove")
}

/// The fields' names are for what is refused.
pub(super) fn header_edits(
    add: Vec<HeaderValueOption>,
    add_field: &'static str,
    remove: &[String],
    remove_field: &'static str,
) -> Result<HeaderEdits, Reason> {
    let mut edits = HeaderEdits::default();
    let appends = HeaderAppendAction::AppendIfExistsOrAdd as i32;
    for (index, header) in add.into_iter().enumerate() {
        let lines = if header.append_action == appends {
            &mut edits.add
        } else {
            &mut edits.set
        };
        let line = header_to_set(
            header,
            &[appends, HeaderAppendAction::OverwriteIfExistsOrAdd as i32],
        );
        lines.push(line.at_index(add_field, index)?);
    }
    for (index, name) in remove.iter().enumerate() {
        edits
            .remove
            .push(edited_name(name).at_index(remove_field, index)?);
    }
    Ok(edits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderValue;
    use http::HeaderMap;

    use super::*;

    /// Sets `x-l`, adds to `x-a`, and removes what `removed` names.
    fn level(value: &str, removed: &[&str]) -> Said {
        let line = |key: &str, action: HeaderAppendAction| HeaderValueOption {
            header: Some(HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        };
        let lines = vec![
            line("x-l", HeaderAppendAction::OverwriteIfExistsOrAdd),
            line("x-a", HeaderAppendAction::AppendIfExistsOrAdd),
        ];
        Said {
            request_add: lines.clone(),
            request_remove: Vec::new(),
            response_add: lines,
            response_remove: removed.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn nothing() -> Said {
        Said {
            request_add: Vec::new(),
            request_remove: Vec::new(),
            response_add: Vec::new(),
            response_remove: Vec::new(),
        }
    }

    fn changed(edits: &HeaderEdits) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "0".parse().unwrap());
        edits.apply(&mut headers);
        let of = |name: &str| {
            let lines = headers.get_all(name).into_iter();
            lines.map(|value| value.to_str().unwrap()).collect::<String>()
        };
        format!("{} {}", of("x-l"), of("x-a"))
    }

    #[test]
    fn levels_come_to_one_in_their_order() {
        // What each level removes of answers, and what becomes of a head with a line of `x-a`.
        for (wins, [table, host, route], request, response) in [
            (Wins::Outermost, [[].as_slice(), &[], &[]], "t 0rht", "t 0rht"),
            (Wins::MostSpecific, [&[], &[], &[]], "r 0thr", "r 0thr"),
            (Wins::Outermost, [&[], &[], &["x-a"]], "t 0rht", "t rht"),
            (Wins::Outermost, [&[], &["x-a"], &[]], "t 0rht", "t ht"),
            (Wins::Outermost, [&["x-a"], &[], &[]], "t 0rht", "t t"),
            (Wins::MostSpecific, [&["x-a"], &[], &[]], "r 0thr", "r thr"),
            (Wins::MostSpecific, [&[], &[], &["x-a"]], "r 0thr", "r r"),
            (Wins::MostSpecific, [&[], &[], &["x-l"]], "r 0thr", "r 0thr"),
        ] {
            let rules = HeaderRules::none(wins).with(level("t", table)).unwrap();
            let rules = rules.with(level("h", host)).unwrap();
            let rules = rules.with(level("r", route)).unwrap();
            let got = (&*changed(&rules.request), &*changed(&rules.response));
            assert_eq!(got, (request, response), "{wins:?} {table:?} {host:?} {route:?}");
        }
    }

    #[test]
    fn a_level_without_rules_shares_those_around_it() {
        let table = HeaderRules::none(Wins::Outermost).with(level("t", &[])).unwrap();
        let route = table.with(nothing()).unwrap().with(nothing()).unwrap();
        assert!(Arc::ptr_eq(&route.request, &table.request));
        assert!(Arc::ptr_eq(&route.response, &table.response));
    }
}
