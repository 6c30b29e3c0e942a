//! Which records are asked for: as terms that segments are asked for, and as conditions on the columns, which decide.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};

use super::page::Place;
use super::segment::Sought;
use crate::audit::{Record, Term};

/// Which records to list. All conditions must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) since: Option<DateTime<Utc>>,
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) actor: Option<String>,
    /// This name, and all below it.
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) verb: Option<String>,
    pub(crate) outcome: Option<String>,
    /// Words that a record holds, all of them.
    pub(crate) words: BTreeSet<String>,
    /// The nodes that the caller may read, with all below them.
    pub(crate) nodes: Vec<String>,
    /// Only what stands behind this place in the list.
    pub(crate) after: Option<Place>,
}

/// Each is looked up in every segment; what holds these and not the others is dropped when it is read.
const WORDS_SOUGHT: usize = 8;
/// What may be on record about the whole organization need not have a name of ours.
const WHOLE_DEPTH: usize = 1;

impl Filter {
    /// Apart from what may be read.
    pub(crate) fn lets_all_through(&self) -> bool {
        let Filter {
            since,
            until,
            actor,
            name,
            kind,
            verb,
            outcome,
            words,
            nodes: _,
            after,
        } = self;
        let fields = [actor, name, kind, verb, outcome];
        since.is_none()
            && until.is_none()
            && after.is_none()
            && words.is_empty()
            && fields.iter().all(|field| field.is_none())
    }

    /// The time of the newest that it lets through, as far as it says.
    pub(super) fn newest(&self) -> Option<DateTime<Utc>> {
        let after = self.after.map(|place| place.time);
        [self.until, after].into_iter().flatten().min()
    }

    /// None when there is nothing that the caller may read.
    pub(super) fn sought(&self) -> Option<Sought> {
        let scope = self.scope();
        if scope.is_empty() {
            return None;
        }
        let fields = [
            self.actor.as_deref().map(Term::Actor),
            self.kind.as_deref().map(Term::Kind),
            self.verb.as_deref().map(Term::Verb),
            self.outcome.as_deref().map(Term::Outcome),
        ];
        let words = self.words.iter().take(WORDS_SOUGHT).map(|word| Term::Word(word));
        let all = fields.into_iter().flatten().chain(words);
        let any = match is_whole(&scope) {
            true => BTreeSet::new(),
            false => scope.iter().map(|node| Term::Node(node).key()).collect(),
        };
        Some(Sought {
            all: all.map(Term::key).collect(),
            any,
        })
    }

    /// The nodes that are asked for and may be read, none of them below another.
    fn scope(&self) -> Vec<&str> {
        let readable = self.nodes.iter().map(String::as_str);
        let wanted: Vec<&str> = match self.name.as_deref() {
            None => readable.collect(),
            Some(name) if readable.clone().any(|node| is_within(name, node)) => vec![name],
            Some(name) => readable.filter(|node| is_within(node, name)).collect(),
        };
        let mut outermost: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|node| !wanted.iter().any(|other| other != node && is_within(node, other)))
            .collect();
        outermost.sort_unstable();
        outermost.dedup();
        outermost
    }

    /// All that a record must be, in the words of its columns: what a term has found is compared with the text. Apart
    /// from the words, which [`Filter::finds_words_in`] tells.
    pub(super) fn push(&self, statement: &mut QueryBuilder<Postgres>) {
        if let Some(since) = self.since {
            statement.push(" AND time >= ").push_bind(since);
        }
        if let Some(until) = self.until {
            statement.push(" AND time < ").push_bind(until);
        }
        for (column, wanted) in [
            ("actor", &self.actor),
            ("kind", &self.kind),
            ("verb", &self.verb),
            ("outcome", &self.outcome),
        ] {
            if let Some(wanted) = wanted {
                statement.push(format!(" AND {column} = "));
                statement.push_bind(wanted.clone());
            }
        }
        let scope = self.scope();
        if !is_whole(&scope) {
            // Names hold no character that LIKE reads in its own way.
            let below: Vec<String> = scope.iter().map(|node| format!("{node}/%")).collect();
            let nodes: Vec<String> = scope.into_iter().map(str::to_owned).collect();
            statement.push(" AND (name = ANY(").push_bind(nodes);
            statement.push("::text[]) OR name LIKE ANY(").push_bind(below);
            statement.push("::text[]))");
        }
        if let Some(place) = &self.after {
            statement.push(" AND time <= ").push_bind(place.time);
            statement.push(" AND (time, chain, sequence) < (");
            statement.push_bind(place.time).push(", ");
            statement.push_bind(place.chain.to_string()).push(", ");
            statement.push_bind(place.sequence.cast_signed()).push(")");
        }
    }

    /// Whether the record has the words that are asked for.
    pub(super) fn finds_words_in(&self, record: &[u8]) -> bool {
        self.words.is_empty()
            || serde_json::from_slice(record)
                .is_ok_and(|record: Record| self.words.is_subset(&record.words()))
    }
}

fn is_whole(scope: &[&str]) -> bool {
    scope.iter().any(|node| depth(node) <= WHOLE_DEPTH)
}

/// Pairs of collection and leaf.
fn depth(name: &str) -> usize {
    name.split('/').count() / 2
}

fn is_within(name: &str, node: &str) -> bool {
    name.strip_prefix(node)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "organizations/acme";
    const PAY: &str = "organizations/acme/tenants/pay";
    const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
    const MEDIA: &str = "organizations/acme/tenants/media";

    fn filter(nodes: &[&str]) -> Filter {
        Filter {
            nodes: nodes.iter().map(ToString::to_string).collect(),
            ..Filter::default()
        }
    }

    #[test]
    fn the_scope_is_what_is_asked_for_and_readable() {
        let cases: [(&[&str], Option<&str>, &[&str]); 7] = [
            (&[ACME], None, &[ACME]),
            (&[ACME, PAY], None, &[ACME]),
            (&[PAY, SHOP, MEDIA], None, &[MEDIA, PAY]),
            (&[ACME], Some(SHOP), &[SHOP]),
            (&[SHOP], Some(PAY), &[SHOP]),
            (&[MEDIA], Some(PAY), &[]),
            (&["organizations/acme/tenants/pa"], Some(PAY), &[]),
        ];
        for (readable, name, expected) in cases {
            let filter = Filter {
                name: name.map(str::to_owned),
                ..filter(readable)
            };
            assert_eq!(filter.scope(), expected, "{readable:?} {name:?}");
        }
    }

    #[test]
    fn every_filter_is_sought_by_its_term() {
        let text = |text: &str| Some(text.to_owned());
        let keys = |terms: &[Term<'_>]| terms.iter().map(|term| term.key()).collect::<BTreeSet<u32>>();
        let sought = |all: &[Term<'_>], any: &[Term<'_>]| {
            let (all, any) = (keys(all), keys(any));
            Some(Sought { all, any })
        };
        let all_fields = Filter {
            actor: text("ann"),
            kind: text("Tenant"),
            verb: text("create"),
            outcome: text("done"),
            words: ["shop".to_owned()].into(),
            ..filter(&[ACME])
        };
        let terms = [
            Term::Actor("ann"),
            Term::Kind("Tenant"),
            Term::Verb("create"),
            Term::Outcome("done"),
            Term::Word("shop"),
        ];
        let of_media = Filter {
            name: text(MEDIA),
            ..filter(&[ACME])
        };
        let cases = [
            (filter(&[]), None),
            (filter(&[ACME]), sought(&[], &[])),
            (all_fields, sought(&terms, &[])),
            (
                filter(&[PAY, MEDIA]),
                sought(&[], &[Term::Node(PAY), Term::Node(MEDIA)]),
            ),
            (of_media, sought(&[], &[Term::Node(MEDIA)])),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.sought(), expected, "{filter:?}");
        }
    }
}
