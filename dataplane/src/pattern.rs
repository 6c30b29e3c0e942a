//! A regular expression that matches the whole of a text, or not at all.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a compiled expression; those of our edge need a thousandth of it.
const COMPILED_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// `text` in the syntax that RE2 and the `regex` crate share, over bytes.
    pub(crate) fn new(text: &str) -> Result<Pattern, String> {
        // By itself first: a group around it could close what it leaves open.
        compiled(text)?;
        compiled(&format!(r"\A(?:{text})\z")).map(Pattern)
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

fn compiled(text: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .build();
    // The lines before the last show where it is.
    compiled.map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        format!("is not a regular expression that can be had: {reason}")
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_matches() {
        for (pattern, text, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("a|ab", "ab", true),
            ("", "", true),
            ("", "a", false),
            (r"(?:[!-\~])*", "/x?y", true),
        ] {
            let found = Pattern::new(pattern).unwrap().matches(text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
        for bad in ["(", "a)|(b", "a{1000}{1000}"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}
