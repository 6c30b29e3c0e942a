//! Fields of a document that somebody keeps: which those are, what they come to beside what others have set, and which of
//! them differ. Server and command line ask here, so that both mean the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Of one document. One that sets more, such as an OpenAPI document, is kept by its larger parts.
const FIELDS_MAX: usize = 500;
/// Who a resource is, which nobody can set otherwise.
const IDENTITY: [&str; 2] = ["kind", "name"];
/// The part that each kind has; it says nothing by being there.
const SPEC: &str = "/spec";

/// JSON pointers, such as `/spec/namespaces`. A list is one field, and so is an object that is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(BTreeSet<String>);

/// What of a resource its manager keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it: so it was before managers had fields.
    Whole,
    Fields(Fields),
}

impl Fields {
    /// Those that a document sets.
    pub fn of(document: &Value) -> Fields {
        // Deeper than any resource is nested; each step back makes larger parts.
        let whole = Fields::down_to(document, usize::MAX);
        if whole.0.len() <= FIELDS_MAX {
            return whole;
        }
        let coarser = [4, 3, 2].map(|depth| Fields::down_to(document, depth));
        let fits = coarser.iter().find(|fields| fields.0.len() <= FIELDS_MAX);
        fits.or(coarser.last()).cloned().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Those that are not the same in both documents.
    pub fn differing(&self, one: &Value, other: &Value) -> Fields {
        let differ = |field: &&str| one.pointer(field) != other.pointer(field);
        Fields(self.iter().filter(differ).map(str::to_owned).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn down_to(document: &Value, depth: usize) -> Fields {
        let mut fields = Fields::default();
        for (key, value) in document.as_object().into_iter().flatten() {
            if !IDENTITY.contains(&key.as_str()) {
                fields.add(&step("", key), value, depth.saturating_sub(1));
            }
        }
        fields
    }

    fn add(&mut self, at: &str, value: &Value, depth: usize) {
        match value {
            Value::Object(object) if object.is_empty() && at == SPEC => {}
            Value::Object(object) if !object.is_empty() && depth > 0 => {
                for (key, value) in object {
                    self.add(&step(at, key), value, depth - 1);
                }
            }
            _ => drop(self.0.insert(at.to_owned())),
        }
    }
}

impl Kept {
    /// The fields of the manager that are not the same in both documents.
    pub fn differing(&self, one: &Value, other: &Value) -> Fields {
        match self {
            Kept::Fields(fields) => fields.differing(one, other),
            Kept::Whole => Fields(
                Fields::of(one)
                    .0
                    .union(&Fields::of(other).0)
                    .filter(|field| one.pointer(field) != other.pointer(field))
                    .cloned()
                    .collect(),
            ),
        }
    }

    /// What a document comes to that its manager sends: what it sets, without what it kept and sets no more, beside what
    /// others have set.
    pub fn merged(&self, held: &Value, sent: &Value) -> Value {
        let Kept::Fields(kept) = self else {
            return sent.clone();
        };
        let set = Fields::of(sent);
        let mut merged = held.clone();
        for field in kept.0.difference(&set.0) {
            remove(&mut merged, field);
        }
        for field in set.iter() {
            if let Some(value) = sent.pointer(field) {
                put(&mut merged, field, value.clone());
            }
        }
        merged
    }

    /// What a manager would newly set that somebody else has set otherwise.
    pub fn contested(&self, held: &Value, sent: &Value) -> Fields {
        let Kept::Fields(kept) = self else {
            return Fields::default();
        };
        let newly = Fields::of(sent).0.into_iter().filter(|field| {
            let is_kept = kept
                .iter()
                .any(|kept| kept == field || is_below(kept, field) || is_below(field, kept));
            !is_kept && held.pointer(field).is_some()
        });
        Fields(newly.collect()).differing(held, sent)
    }
}

impl From<Fields> for Kept {
    fn from(fields: Fields) -> Kept {
        Kept::Fields(fields)
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

/// A key as a part of a JSON pointer.
fn step(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn is_below(field: &str, above: &str) -> bool {
    field
        .strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// With the objects around it that are empty then.
fn remove(document: &mut Value, field: &str) {
    let Some((parent, key)) = field.rsplit_once('/') else {
        return;
    };
    let Some(Value::Object(object)) = document.pointer_mut(parent) else {
        return;
    };
    object.remove(&unescaped(key));
    if object.is_empty() && parent != SPEC && !parent.is_empty() {
        remove(document, parent);
    }
}

/// With the objects around it that are not there.
fn put(document: &mut Value, field: &str, value: Value) {
    let mut place = document;
    for key in field.split('/').skip(1) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else { return };
        place = object.entry(unescaped(key)).or_insert(Value::Null);
    }
    *place = value;
}

fn unescaped(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(all: &[&str]) -> Fields {
        Fields(all.iter().map(|field| (*field).to_owned()).collect())
    }

    #[test]
    fn a_document_sets_its_leaves_and_its_lists() {
        for (document, expected) in [
            (json!({"kind": "Tenant", "name": "x", "spec": {}}), vec![]),
            (json!({"name": "x", "description": ""}), vec!["/description"]),
            (
                json!({"labels": {"a/b": "1", "~": "2"}, "spec": {"namespaces": ["a"], "retry": {"attempts": 2, "none": {}}}}),
                vec![
                    "/labels/a~1b",
                    "/labels/~0",
                    "/spec/namespaces",
                    "/spec/retry/attempts",
                    "/spec/retry/none",
                ],
            ),
        ] {
            assert_eq!(Fields::of(&document), fields(&expected), "{document}");
        }
    }

    #[test]
    fn a_document_of_very_many_fields_is_kept_by_its_larger_parts() {
        let many: Map<String, Value> = (0..=FIELDS_MAX)
            .map(|n| (format!("p{n}"), json!({"get": n})))
            .collect();
        let document = json!({"description": "x", "spec": {"openapi": {"info": {}, "paths": many}}});
        let found = Fields::of(&document);
        assert_eq!(
            found,
            fields(&["/description", "/spec/openapi/info", "/spec/openapi/paths"])
        );
    }

    #[test]
    fn what_others_have_set_stays_and_what_is_no_longer_set_goes() {
        let held =
            json!({"name": "x", "description": "by hand", "spec": {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}});
        let kept = Kept::Fields(fields(&["/spec/a", "/spec/b/c", "/spec/e"]));
        for (sent, expected) in [
            (
                json!({"name": "x", "spec": {"a": 9, "b": {"c": 2}, "e": [1]}}),
                json!({"name": "x", "description": "by hand", "spec": {"a": 9, "b": {"c": 2, "d": 3}, "e": [1]}}),
            ),
            (
                json!({"name": "x", "spec": {"f": {"g": 1}}}),
                json!({"name": "x", "description": "by hand", "spec": {"b": {"d": 3}, "f": {"g": 1}}}),
            ),
            (
                json!({"name": "x", "spec": {"e": {"h": 1}}}),
                json!({"name": "x", "description": "by hand", "spec": {"b": {"d": 3}, "e": {"h": 1}}}),
            ),
        ] {
            assert_eq!(kept.merged(&held, &sent), expected, "{sent}");
            assert_eq!(Kept::Whole.merged(&held, &sent), sent);
        }
        let emptied = Kept::Fields(fields(&["/spec/b/c", "/spec/b/d"])).merged(&held, &json!({"spec": {}}));
        assert_eq!(
            emptied["spec"],
            json!({"a": 1, "e": [1]}),
            "no empty object is left behind"
        );
    }

    #[test]
    fn who_changes_what_is_told_by_field() {
        let before = json!({"description": "x", "spec": {"a": 1, "b": {"c": 2}}});
        let after = json!({"spec": {"a": 1, "b": [], "d": 4}});
        let kept = Kept::Fields(fields(&["/spec/a", "/spec/b/c"]));
        assert_eq!(kept.differing(&before, &after), fields(&["/spec/b/c"]));
        assert_eq!(
            Kept::Whole.differing(&before, &after),
            fields(&["/description", "/spec/b", "/spec/b/c", "/spec/d"])
        );
    }

    #[test]
    fn what_somebody_else_has_set_otherwise_is_contested() {
        let held = json!({"description": "by hand", "spec": {"a": 1, "b": 2}});
        let kept = Kept::Fields(fields(&["/spec/a"]));
        for (sent, expected) in [
            (json!({"description": "by hand", "spec": {"a": 2}}), vec![]),
            (
                json!({"description": "mine", "spec": {"a": 2, "c": 1}}),
                vec!["/description"],
            ),
            (json!({"spec": {"a": {"deep": 1}, "b": 3}}), vec!["/spec/b"]),
        ] {
            assert_eq!(kept.contested(&held, &sent), fields(&expected), "{sent}");
            assert!(Kept::Whole.contested(&held, &sent).is_empty());
        }
    }
}
