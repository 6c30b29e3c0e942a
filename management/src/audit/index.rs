//! What the columns of a record say. They repeat parts of the stored bytes for the search, and the verifier holds
//! both equal.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Record, kind_of};

/// How many ancestors of a name have a key: those at the depths from two on.
pub const NODE_KEYS: usize = 4;
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
    pub actor_key: i32,
    pub class_key: i32,
    /// Of the ancestors of the name, itself included, from the one at depth two on.
    pub node_keys: [Option<i32>; NODE_KEYS],
}

/// The first four bytes of the SHA-256: short, so that an index of ten million is. What it finds is compared with the
/// text itself.
pub fn key(text: &str) -> i32 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    i32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// The words of a text as a caller gives it, and as the search compares them: letters, digits and hyphens, lower case.
pub fn words_of_text(text: &str) -> BTreeSet<String> {
    words(text).map(written).collect()
}

impl Record {
    /// `organization` is the label: equal actors and classes of two organizations have different keys.
    pub fn index(&self, organization: &str) -> Index {
        // Records of before kinds were recorded.
        let kind = match self.kind.is_empty() {
            true => kind_of(&self.name),
            false => self.kind.clone(),
        };
        Index {
            time: self.time,
            actor_key: actor_key(organization, &self.actor),
            class_key: class_key(
                organization,
                &kind,
                &self.verb.to_string(),
                &self.outcome.to_string(),
            ),
            node_keys: node_keys(&self.name),
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

pub(crate) fn actor_key(organization: &str, actor: &str) -> i32 {
    key(&format!("{organization}\n{actor}"))
}

fn class_key(organization: &str, kind: &str, verb: &str, outcome: &str) -> i32 {
    key(&format!("{organization}\n{kind}\n{verb}\n{outcome}"))
}

/// A name is pairs of collection and leaf; as text, because what was denied need not be a name of ours.
fn node_keys(name: &str) -> [Option<i32>; NODE_KEYS] {
    let mut keys = [None; NODE_KEYS];
    let ends = name
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([name.len()])
        .skip(1)
        .step_by(2);
    for (slot, end) in keys.iter_mut().zip(ends.skip(1)) {
        *slot = Some(key(&name[..end]));
    }
    keys
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
    fn a_name_has_a_key_for_each_node_above_it() {
        let (acme, pay) = ("organizations/acme", "organizations/acme/tenants/pay");
        let shop = "organizations/acme/tenants/pay/workspaces/shop";
        let deep = "organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/edge/gateways/g/trafficsettings/default";
        let group = "organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/edge";
        let gateway = "organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/edge/gateways/g";
        let cluster = "organizations/acme/clusters/us-east";
        let cases: [(&str, &[&str]); 7] = [
            (acme, &[]),
            (pay, &[pay]),
            (shop, &[pay, shop]),
            (deep, &[pay, shop, group, gateway]),
            (cluster, &[cluster]),
            ("", &[]),
            ("nothing of ours", &[]),
        ];
        for (name, nodes) in cases {
            let keys: Vec<i32> = node_keys(name).into_iter().flatten().collect();
            let expected: Vec<i32> = nodes.iter().map(|node| key(node)).collect();
            assert_eq!(keys, expected, "{name}");
        }
    }

    #[test]
    fn a_key_is_what_the_migration_makes_of_a_text() {
        // ('x' || left(encode(sha256('abc'), 'hex'), 8))::bit(32)::int
        assert_eq!(key("abc"), 0xba78_16bf_u32.cast_signed());
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
