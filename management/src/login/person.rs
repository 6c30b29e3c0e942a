//! A person of the provider, and the user that is made for one who comes for the first time.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tombolo_compiler::intent::{ProviderGroup, Resource, Spec};
use tombolo_compiler::name::{Fqn, Label};

use crate::audit::hex;

/// Of one person. A provider that names more would be asked to leave some out.
const GROUPS_MAX: usize = 500;
/// Of a user's name, with room for what makes it its own.
const NAME_CHARS_MAX: usize = 48;
/// A line, and no page.
const DISPLAY_NAME_CHARS_MAX: usize = 200;
/// Of the hash that tells two people of one name apart.
const MARK_CHARS: usize = 6;

/// As the provider's token describes somebody. Issuer and subject together are who it is; the rest may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// What the person is called there, for the name of the user.
    pub(crate) login: Option<String>,
    pub(crate) display_name: Option<String>,
    pub(crate) groups: BTreeSet<ProviderGroup>,
}

impl Person {
    /// Names for the user, the best first. The second one nobody else has: who is called like somebody at the provider
    /// is not that user here.
    pub(crate) fn names(&self) -> Vec<Label> {
        let called = self.login.as_deref().unwrap_or_default();
        let local = called.split('@').next().unwrap_or_default();
        let mut name: String = local
            .chars()
            .take(NAME_CHARS_MAX)
            .map(|letter| match letter.to_ascii_lowercase() {
                letter @ ('a'..='z' | '0'..='9') => letter,
                _ => '-',
            })
            .collect();
        name = name.trim_matches('-').to_owned();
        if name.is_empty() {
            "user".clone_into(&mut name);
        }
        let who = Sha256::digest(format!("{}\n{}", self.issuer, self.subject));
        let mark: String = hex(&who).chars().take(MARK_CHARS).collect();
        let names = [name.clone(), format!("{name}-{mark}")];
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The document of the user that is made for the person.
    pub(crate) fn document(&self, name: &Fqn) -> Value {
        let mut spec = json!({});
        if let Some(display_name) = &self.display_name {
            spec["displayName"] = json!(display_name);
        }
        if !self.groups.is_empty() {
            spec["groups"] = json!(self.groups);
        }
        json!({"name": name, "spec": spec})
    }

    /// The document of a user that is there, with the groups that the person is in now; `None` when it has these.
    pub(crate) fn regrouped(&self, user: &Resource) -> Option<Value> {
        if matches!(&user.spec, Spec::User(user) if user.groups == self.groups) {
            return None;
        }
        let mut document = user.to_json();
        let spec = document["spec"].as_object_mut()?;
        spec.remove("groups");
        if !self.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(self.groups));
        }
        Some(document)
    }
}

/// The names in a claim: a list of them, or a single one. What is none is left out.
pub(crate) fn groups(claim: Option<&Value>) -> BTreeSet<ProviderGroup> {
    let texts: Vec<&str> = match claim {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let groups: BTreeSet<ProviderGroup> = texts
        .into_iter()
        .filter_map(|group| group.to_owned().try_into().ok())
        .collect();
    groups.into_iter().take(GROUPS_MAX).collect()
}

/// What a person is called for others to read; nothing when the claim is no text.
pub(crate) fn display_name(claim: Option<&Value>) -> Option<String> {
    let text = claim.and_then(Value::as_str)?;
    let line: String = text
        .chars()
        .filter(|letter| !letter.is_control())
        .take(DISPLAY_NAME_CHARS_MAX)
        .collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_is_called_as_at_the_provider_or_so_that_nobody_else_is() {
        let person = |login: Option<&str>, subject: &str| Person {
            issuer: "https://id.example.com".to_owned(),
            subject: subject.to_owned(),
            login: login.map(str::to_owned),
            display_name: None,
            groups: BTreeSet::new(),
        };
        for (login, name) in [
            (Some("ann"), "ann"),
            (Some("Ann.Lee@example.com"), "ann-lee"),
            (Some("ÅSA"), "sa"),
            (Some("--"), "user"),
            (None, "user"),
            (Some(&"x".repeat(90)), &"x".repeat(48)),
        ] {
            let names = person(login, "1").names();
            assert_eq!(names[0].as_str(), name);
            assert_eq!(names[1].as_str().len(), name.len() + 7);
        }
        assert_ne!(
            person(Some("ann"), "1").names()[1],
            person(Some("ann"), "2").names()[1]
        );
    }

    #[test]
    fn groups_are_a_list_or_one() {
        for (claim, expected) in [
            (json!(["b", "a", "b", 7, ""]), vec!["a", "b"]),
            (json!("a"), vec!["a"]),
            (json!({"a": 1}), vec![]),
            (json!(["x".repeat(201), "a\u{0}"]), vec![]),
        ] {
            let found = groups(Some(&claim));
            let found: Vec<&str> = found.iter().map(ProviderGroup::as_str).collect();
            assert_eq!(found, expected);
        }
        assert!(groups(None).is_empty());
        let many: Vec<String> = (0..GROUPS_MAX + 1).map(|number| number.to_string()).collect();
        assert_eq!(groups(Some(&json!(many))).len(), GROUPS_MAX);
    }

    #[test]
    fn a_display_name_is_a_line_of_text() {
        for (claim, expected) in [
            (json!("Bea Lee"), Some("Bea Lee")),
            (json!(" Bea\u{0}\n Lee "), Some("Bea Lee")),
            (json!("\u{7}"), None),
            (json!(7), None),
            (json!("x".repeat(201)), Some(&*"x".repeat(200))),
        ] {
            assert_eq!(display_name(Some(&claim)).as_deref(), expected, "{claim}");
        }
        assert_eq!(display_name(None), None);
    }

    #[test]
    fn the_groups_of_a_user_are_those_of_the_last_login_and_the_rest_stays() {
        let person = |names: &[&str]| Person {
            issuer: "https://id.example.com".to_owned(),
            subject: "1".to_owned(),
            login: None,
            display_name: Some("Bea".to_owned()),
            groups: groups(Some(&json!(names))),
        };
        let name: Fqn = "organizations/acme/users/bea".parse().unwrap();
        let made = Resource::from_json(person(&["ops"]).document(&name)).unwrap();
        let written = made.to_json();
        assert_eq!(written["spec"], json!({"displayName": "Bea", "groups": ["ops"]}));
        assert_eq!(person(&["ops"]).regrouped(&made), None);
        for (names, spec) in [
            (
                &["dev", "ops"][..],
                json!({"displayName": "B", "groups": ["dev", "ops"]}),
            ),
            (&[], json!({"displayName": "B"})),
        ] {
            let mut changed = written.clone();
            changed["spec"]["displayName"] = json!("B");
            changed["labels"] = json!({"team": "x"});
            let changed = Resource::from_json(changed).unwrap();
            let document = person(names).regrouped(&changed).unwrap();
            assert_eq!(document["spec"], spec);
            assert_eq!(document["labels"], json!({"team": "x"}));
        }
    }
}
