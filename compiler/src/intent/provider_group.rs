//! Groups of people, as the OpenID provider that they log in at names them.

use serde::{Deserialize, Serialize};

pub(crate) const PROVIDER_GROUP_BYTES_MAX: usize = 200;

/// A group's name as it stands in the provider's tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderGroup(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group's name has 1 to {PROVIDER_GROUP_BYTES_MAX} bytes, and no control characters")]
pub struct BadProviderGroup;

impl ProviderGroup {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProviderGroup {
    type Error = BadProviderGroup;

    fn try_from(text: String) -> Result<Self, BadProviderGroup> {
        let fits = (1..=PROVIDER_GROUP_BYTES_MAX).contains(&text.len());
        match fits && !text.contains(char::is_control) {
            true => Ok(ProviderGroup(text)),
            false => Err(BadProviderGroup),
        }
    }
}

impl From<ProviderGroup> for String {
    fn from(group: ProviderGroup) -> String {
        group.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_short_line_of_text() {
        for (text, is_group) in [
            ("Platform Engineers (EU)".to_owned(), true),
            ("/realm/ops".to_owned(), true),
            ("x".repeat(200), true),
            ("x".repeat(201), false),
            (String::new(), false),
            ("a\u{0}b".to_owned(), false),
            ("a\nb".to_owned(), false),
        ] {
            assert_eq!(
                ProviderGroup::try_from(text.clone()).is_ok(),
                is_group,
                "{text:?}"
            );
        }
    }
}
