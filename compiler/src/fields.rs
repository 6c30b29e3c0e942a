//! Fields of a document that somebody keeps: which those are, what they come to beside what others have set, and which of
//! them differ. Server and command line ask here, so that both mean the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Of one document. One that sets more, such as an OpenAPI document, is kept by its larger parts.
const FIELDS_MAX: usize = 500;
/// Of those that a sentence names.
const NAMED_MAX: usize = 10;
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
        let coarser = [4, 3, 2, 1].map(|depth| Fields::down_to(document, depth));
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

    /// Those of a document that one takes the place of: what is there or below, or above it in the place of an object.
    fn in_place_of(field: &str, document: &Value) -> Fields {
        let is_in_the_way = |above: &&str| document.pointer(above).is_some_and(|value| !value.is_object());
        if let Some(above) = upwards(field).skip(1).filter(is_in_the_way).last() {
            return Fields([above.to_owned()].into());
        }
        let mut fields = Fields::default();
        if let Some(value) = document.pointer(field) {
            fields.add(field, value, usize::MAX);
        }
        fields
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

    /// What somebody else has set that would be otherwise, or gone, by what a manager newly sets.
    pub fn contested(&self, held: &Value, sent: &Value) -> Fields {
        let Kept::Fields(kept) = self else {
            return Fields::default();
        };
        let is_kept = |field: &str| upwards(field).any(|above| kept.0.contains(above));
        let mut others = Fields::default();
        for field in Fields::of(sent).iter().filter(|field| !is_kept(field)) {
            others.0.extend(Fields::in_place_of(field, held).0);
        }
        others.0.retain(|field| !is_kept(field));
        others.differing(held, sent)
    }
}

impl From<Fields> for Kept {
    fn from(fields: Fields) -> Kept {
        Kept::Fields(fields)
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named: Vec<&str> = self.iter().take(NAMED_MAX).collect();
        f.write_str(&named.join(", "))?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A key as a part of a JSON pointer.
fn step(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A field, and those that it is a part of.
fn upwards(field: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(field), |field| Some(field.rsplit_once('/')?.0))
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
        let wide: Map<String, Value> = (0..=FIELDS_MAX).map(|n| (format!("k{n}"), json!("x"))).collect();
        let wide = json!({"labels": wide, "spec": {"a": 1}});
        assert_eq!(Fields::of(&wide), fields(&["/labels", "/spec"]));
    }

    #[test]
    fn a_sentence_names_the_first_fields_and_counts_the_rest() {
        assert_eq!(fields(&["/a", "/b"]).to_string(), "/a, /b");
        let many = Fields((0..=NAMED_MAX).map(|n| format!("/{n:02}")).collect());
        assert_eq!(
            many.to_string(),
            "/00, /01, /02, /03, /04, /05, /06, /07, /08, /09 and 1 more"
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
            // Above what is newly set.
            (
                json!({"spec": {"a": 1, "b": {"deep": {"er": 1}}}}),
                vec!["/spec/b"],
            ),
        ] {
            assert_eq!(kept.contested(&held, &sent), fields(&expected), "{sent}");
            assert!(Kept::Whole.contested(&held, &sent).is_empty());
        }
    }

    /// Whoever keeps one part of an object and sets all of it would take the other parts from those who have set them.
    #[test]
    fn what_others_have_set_below_is_contested() {
        let held = json!({"labels": {"a": "1", "b": "by hand"}, "spec": {"c": {"d": 1, "e": {}}, "f": [{"g": 1}], "h": null}});
        let kept = Kept::Fields(fields(&["/labels/a", "/spec/c/d", "/spec/i"]));
        for (sent, expected) in [
            (json!({"labels": {}}), vec!["/labels/b"]),
            (json!({"labels": {"a": "2"}}), vec![]),
            (json!({"labels": {"b": "by hand"}}), vec![]),
            (json!({"spec": {"c": [1]}}), vec!["/spec/c/e"]),
            (json!({"spec": {"c": {"d": {"deep": 1}}}}), vec![]),
            // A person's empty object takes more.
            (json!({"spec": {"c": {"e": {"more": 1}}}}), vec![]),
            // What is in a list is the list's, and nothing is a value as well.
            (json!({"spec": {"f": {"0": {"g": 1}}}}), vec!["/spec/f"]),
            (json!({"spec": {"h": {"i": 1}}}), vec!["/spec/h"]),
            (json!({"spec": {"i": {"j": 1}}}), vec![]),
        ] {
            assert_eq!(kept.contested(&held, &sent), fields(&expected), "{sent}");
        }
        // Of very many fields, the larger parts are set.
        let many: Map<String, Value> = (0..=FIELDS_MAX).map(|n| (format!("p{n}"), json!(n))).collect();
        let held = json!({"spec": {"openapi": {"info": {}, "paths": {"p0": 0, "by hand": 1}}}});
        let kept = Kept::Fields(fields(&["/spec/openapi/paths/p0"]));
        let sent = json!({"spec": {"openapi": {"info": {}, "paths": many}}});
        assert_eq!(
            kept.contested(&held, &sent),
            fields(&["/spec/openapi/paths/by hand"])
        );
    }
}
