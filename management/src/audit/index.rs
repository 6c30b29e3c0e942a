//! What the columns of a record say, which repeat parts of the stored bytes for the search, and the verifier holds both
//! equal; and the terms that a record is found by.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Record, kind_of};

/// Distinct words of one record that the search finds; the names and the reason come first.
const WORDS_MAX: usize = 512;
/// Fields of a document that change with every write; nobody knows them to search for.
const OF_STORE: [&str; 4] = ["etag", "revision", "createTime", "updateTime"];
/// Of one word; the rest of it is not compared.
const WORD_BYTES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub time: DateTime<Utc>,
    pub actor: String,
    pub verb: String,
    pub kind: String,
    pub name: String,
    pub outcome: String,
}

/// What records are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Term<'a> {
    Actor(&'a str),
    Kind(&'a str),
    Verb(&'a str),
    Outcome(&'a str),
    /// The name, or a node above it.
    Node(&'a str),
    Word(&'a str),
}

impl Term<'_> {
    /// The first four bytes of a SHA-256: short, so that the postings of ten million records are. What it finds is
    /// compared with the text itself.
    pub fn key(self) -> u32 {
        let (field, text) = match self {
            Term::Actor(text) => ("actor", text),
            Term::Kind(text) => ("kind", text),
            Term::Verb(text) => ("verb", text),
            Term::Outcome(text) => ("outcome", text),
            Term::Node(text) => ("node", text),
            Term::Word(text) => ("word", text),
        };
        let hash: [u8; 32] = Sha256::new()
            .chain_update(field)
            .chain_update("\n")
            .chain_update(text)
            .finalize()
            .into();
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
    }
}

/// The words of a text as a caller gives it, and as the search compares them: letters, digits and hyphens, lower case.
pub fn words_of_text(text: &str) -> BTreeSet<String> {
    words(text).map(written).collect()
}

impl Index {
    /// Of the fields that a page can be filtered by.
    pub fn terms(&self) -> impl Iterator<Item = Term<'_>> {
        let fields = [
            Term::Actor(&self.actor),
            Term::Kind(&self.kind),
            Term::Verb(&self.verb),
            Term::Outcome(&self.outcome),
        ];
        fields.into_iter().chain(nodes(&self.name).map(Term::Node))
    }
}

impl Record {
    pub fn index(&self) -> Index {
        // Records of before kinds were recorded.
        let kind = match self.kind.is_empty() {
            true => kind_of(&self.name),
            false => self.kind.clone(),
        };
        Index {
            time: self.time,
            actor: self.actor.clone(),
            verb: self.verb.to_string(),
            kind,
            name: self.name.clone(),
            outcome: self.outcome.to_string(),
        }
    }

    /// At most 512.
    pub fn words(&self) -> BTreeSet<String> {
        let mut words = Words::default();
        let verb = self.verb.to_string();
        let outcome = self.outcome.to_string();
        for text in [
            &self.actor,
            &self.name,
            &self.kind,
            &verb,
            &outcome,
            &self.reason,
            &self.source,
            &self.request_id,
        ] {
            words.text(text);
        }
        for team in &self.teams {
            words.text(team);
        }
        if let Some(revision) = self.revision {
            words.text(&revision.to_string());
        }
        for value in [&self.after, &self.before].into_iter().flatten() {
            let fields = value.as_object().into_iter().flatten();
            for (name, value) in fields.filter(|(name, _)| !OF_STORE.contains(&name.as_str())) {
                words.text(name);
                words.value(value);
            }
        }
        words.0
    }
}

/// The name and those above it. A name is pairs of collection and leaf; as text, because what was denied need not be a
/// name of ours.
fn nodes(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
    ends.skip(1).step_by(2).map(|end| &name[..end])
}

#[derive(Debug, Default)]
struct Words(BTreeSet<String>);

impl Words {
    /// Each word, and the parts of one that hyphens join: `us-east` is found by `east` too. An id is only itself.
    fn text(&mut self, text: &str) {
        for word in words(text) {
            self.insert(word);
            if word.contains('-') && Uuid::try_parse(word).is_err() {
                word.split('-').for_each(|part| self.insert(part));
            }
        }
    }

    fn insert(&mut self, word: &str) {
        if self.0.len() < WORDS_MAX && !word.is_empty() {
            self.0.insert(written(word));
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(bool) => self.text(if *bool { "true" } else { "false" }),
            Value::Number(number) => self.text(&number.to_string()),
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.text(name);
                    self.value(value);
                }
            }
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '-')
        .map(|word| word.trim_matches('-'))
        .filter(|word| !word.is_empty())
}

fn written(word: &str) -> String {
    word[..word.floor_char_boundary(WORD_BYTES_MAX)].to_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::{Outcome, Verb};
    use super::*;

    #[test]
    fn a_name_is_below_each_node_above_it() {
        let (acme, pay) = ("organizations/acme", "organizations/acme/tenants/pay");
        let shop = "organizations/acme/tenants/pay/workspaces/shop";
        let cases: [(&str, &[&str]); 5] = [
            (acme, &[acme]),
            (pay, &[acme, pay]),
            (shop, &[acme, pay, shop]),
            ("", &[]),
            ("nothing of ours", &[]),
        ];
        for (name, expected) in cases {
            assert_eq!(nodes(name).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[test]
    fn equal_texts_of_different_fields_are_different_terms() {
        let all = [
            Term::Actor,
            Term::Kind,
            Term::Verb,
            Term::Outcome,
            Term::Node,
            Term::Word,
        ];
        let keys: BTreeSet<u32> = all.into_iter().map(|term| term("pay").key()).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn a_record_is_found_by_its_words() {
        let record = Record {
            reason: "needs the role Admin".to_owned(),
            request_id: "0198f5b2-0e1c-7000-8000-00000000beef".to_owned(),
            after: Some(
                json!({"etag": "tag7", "spec": {"hosts": ["Shop.example.com"], "region": "us-east"}}),
            ),
            ..Record::new(
                "organizations/acme/users/ann",
                Verb::Update,
                "organizations/acme/tenants/pay",
                Outcome::Denied,
            )
        };
        let words = record.words();
        for text in [
            "ann",
            "PAY",
            "role admin",
            "shop.example.com",
            "region: us-east",
            "east",
            "0198f5b2-0e1c-7000-8000-00000000beef",
        ] {
            assert!(words_of_text(text).is_subset(&words), "{text}: {words:?}");
        }
        for text in ["ann bob", "beef", "west", "tag7"] {
            assert!(!words_of_text(text).is_subset(&words), "{text}: {words:?}");
        }
    }

    #[test]
    fn a_large_record_has_a_bounded_number_of_words() {
        let many: Vec<String> = (0..2000).map(|number| format!("w{number}")).collect();
        let record = Record {
            after: Some(json!({ "spec": many })),
            ..Record::new("system", Verb::Create, "organizations/acme", Outcome::Done)
        };
        assert_eq!(record.words().len(), WORDS_MAX);
        assert_eq!(
            words_of_text(&"é".repeat(100)).first().unwrap().len(),
            WORD_BYTES_MAX
        );
    }
}
