//! A person of the provider, and the user that is made for one who comes for the first time.

use serde_json::Value;
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Label;

use crate::audit::hex;

/// Of one person. A provider that names more would be asked to leave some out.
const GROUPS_MAX: usize = 500;
/// Of a group's name.
const GROUP_BYTES_MAX: usize = 200;
/// Of a user's name, with room for what makes it its own.
const NAME_CHARS_MAX: usize = 48;
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
    pub(crate) groups: Vec<String>,
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
}

/// The names in a claim: a list of them, or a single one. What is none is left out.
pub(crate) fn groups(claim: Option<&Value>) -> Vec<String> {
    let texts: Vec<&str> = match claim {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let usable = |group: &&str| (1..=GROUP_BYTES_MAX).contains(&group.len()) && !group.contains('\0');
    let mut groups: Vec<String> = texts.into_iter().filter(usable).map(str::to_owned).collect();
    groups.sort();
    groups.dedup();
    groups.truncate(GROUPS_MAX);
    groups
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
            groups: Vec::new(),
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
            (json!(["x".repeat(201)]), vec![]),
        ] {
            assert_eq!(groups(Some(&claim)), expected);
        }
        assert!(groups(None).is_empty());
    }
}
