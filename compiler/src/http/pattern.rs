//! Regular expressions of rules: read in one syntax, bounded, and written for the proxies in what all engines read alike.

use std::fmt::Write as _;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, Hir, HirKind, Look, Repetition};
use serde::{Deserialize, Serialize};

/// Of the path of a request, without its query; the whole of it matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(Pattern);

/// Of the value of a header, a query parameter or a cookie; the whole of it matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ValuePattern(Pattern);

/// Compiled where it is matched: few ask for that but proxies, which compile it themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    written: String,
    canonical: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    #[error("{0:?} is not a regular expression: {1}")]
    Syntax(String, String),
    #[error("the regular expression is longer than {PATTERN_BYTES_MAX} bytes")]
    Long,
    #[error(
        "{0:?} is too large for a proxy, {1} steps of at most {STEPS_MAX}: write fewer alternatives, repetitions and literal characters, or several matches"
    )]
    Large(String, usize),
    #[error("{0:?} asks for {1:?}, which cannot stand there")]
    Character(String, char),
    #[error("a part of {0:?} matches no printable character of ASCII that can stand there")]
    Nothing(String),
    #[error("{0:?} asks for the start or the end of a word; only \\b and \\B are known")]
    Look(String),
}

pub(crate) const PATTERN_BYTES_MAX: usize = 1024;

/// Envoy refuses a whole table of routes for one expression of a program of more than 100 steps, unless its runtime says
/// otherwise (`re2.max_program_size.error_level`). The count here is close to RE2's, and mostly above it; what is left is for
/// the four steps with which each program begins and ends, and the five of what is put around an expression.
const STEPS_MAX: usize = 80;

/// Of a path: what can stand in one without being escaped, and no query.
const PATH: [(u8, u8); 2] = [(b'!', b'>'), (b'@', b'~')];
/// Of a value: printable, and tabs.
const VALUE: [(u8, u8); 2] = [(b'\t', b'\t'), (b' ', b'~')];

impl PathPattern {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0.written
    }

    /// The same for proxies: without `?`, so that it cannot match into a query.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        self.0.matches(path)
    }
}

impl ValuePattern {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0.written
    }

    /// The same for proxies.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        self.0.matches(value)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = BadPattern;

    fn try_from(written: String) -> Result<Self, BadPattern> {
        Pattern::parse(written, &PATH).map(PathPattern)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.0.written
    }
}

impl TryFrom<String> for ValuePattern {
    type Error = BadPattern;

    fn try_from(written: String) -> Result<Self, BadPattern> {
        Pattern::parse(written, &VALUE).map(ValuePattern)
    }
}

impl From<ValuePattern> for String {
    fn from(pattern: ValuePattern) -> String {
        pattern.0.written
    }
}

impl Pattern {
    fn parse(written: String, alphabet: &[(u8, u8)]) -> Result<Pattern, BadPattern> {
        if written.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern::Long);
        }
        let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
        let parsed = parser.parse(&written).map_err(|error| {
            let reason = match error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                other => other.to_string(),
            };
            BadPattern::Syntax(written.clone(), reason)
        })?;
        let mut canonical = Canonical {
            written: &written,
            alphabet: ClassBytes::new(alphabet.iter().map(|(from, to)| ClassBytesRange::new(*from, *to))),
            text: String::new(),
        };
        let steps = canonical.write(&parsed)?;
        if steps > STEPS_MAX {
            return Err(BadPattern::Large(written, steps));
        }
        let canonical = canonical.text;
        compiled(&canonical).map_err(|error| BadPattern::Syntax(written.clone(), error.to_string()))?;
        Ok(Pattern { written, canonical })
    }

    fn matches(&self, text: &str) -> bool {
        let compiled = compiled(&self.canonical).expect("invariant: it was compiled when it was parsed");
        compiled.is_match(text.as_bytes())
    }
}

fn compiled(canonical: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"\A(?:{canonical})\z"))
        .unicode(false)
        .build()
}

/// The part of regular expressions that RE2 and the `regex` crate read alike: literals, classes without negation, groups
/// that capture nothing, alternatives, greedy repetitions, and four assertions. What is lazy or captured makes no
/// difference to whether a whole text matches.
struct Canonical<'a> {
    written: &'a str,
    alphabet: ClassBytes,
    text: String,
}

impl Canonical<'_> {
    /// Writes a piece, and counts the steps of its program, rather too many than too few.
    fn write(&mut self, piece: &Hir) -> Result<usize, BadPattern> {
        match piece.kind() {
            HirKind::Empty => {
                self.text.push_str("(?:)");
                Ok(1)
            }
            HirKind::Literal(literal) => {
                for byte in &literal.0 {
                    self.literal(*byte)?;
                }
                Ok(literal.0.len())
            }
            HirKind::Class(class) => self.class(class),
            HirKind::Look(look) => {
                self.text.push_str(self.look(*look)?);
                Ok(1)
            }
            HirKind::Repetition(repetition) => self.repetition(repetition),
            HirKind::Capture(capture) => self.group(std::slice::from_ref(&*capture.sub), ""),
            HirKind::Concat(pieces) => self.group(pieces, ""),
            HirKind::Alternation(pieces) => self.group(pieces, "|"),
        }
    }

    fn group(&mut self, pieces: &[Hir], separator: &str) -> Result<usize, BadPattern> {
        let mut steps = if separator.is_empty() { 0 } else { pieces.len() };
        self.text.push_str("(?:");
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 {
                self.text.push_str(separator);
            }
            steps += self.write(piece)?;
        }
        self.text.push(')');
        Ok(steps)
    }

    fn repetition(&mut self, repetition: &Repetition) -> Result<usize, BadPattern> {
        let once = self.group(std::slice::from_ref(&*repetition.sub), "")?;
        let suffix = match (repetition.min, repetition.max) {
            (0, None) => "*".to_owned(),
            (1, None) => "+".to_owned(),
            (0, Some(1)) => "?".to_owned(),
            (least, None) => format!("{{{least},}}"),
            (least, Some(most)) => format!("{{{least},{most}}}"),
        };
        self.text.push_str(&suffix);
        // A copy for each time, and a step or two for each that may be left out or come again; more where a copy may match
        // nothing, so that no engine goes round in circles.
        let least = usize::try_from(repetition.min).unwrap_or(usize::MAX);
        let (most, optional) = match repetition.max {
            Some(most) => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                (most, most - least)
            }
            None => (least.max(1), 2),
        };
        let may_be_empty = repetition.sub.properties().minimum_len() == Some(0);
        let optional = optional.saturating_mul(if may_be_empty { 4 } else { 1 });
        Ok(once.saturating_mul(most).saturating_add(optional))
    }

    fn class(&mut self, class: &Class) -> Result<usize, BadPattern> {
        let class = match class {
            Class::Bytes(class) => Some(class.clone()),
            Class::Unicode(class) => {
                let mut class = class.clone();
                class.intersect(&ClassUnicode::new([regex_syntax::hir::ClassUnicodeRange::new(
                    '\0', '\x7f',
                )]));
                class.to_byte_class()
            }
        };
        let mut class = class.unwrap_or_else(ClassBytes::empty);
        class.intersect(&self.alphabet);
        let ranges = class.ranges();
        if ranges.is_empty() {
            return Err(BadPattern::Nothing(self.written.to_owned()));
        }
        self.text.push('[');
        for range in ranges {
            self.escaped(range.start());
            if range.end() > range.start() {
                self.text.push('-');
                self.escaped(range.end());
            }
        }
        self.text.push(']');
        Ok(ranges.len())
    }

    fn literal(&mut self, byte: u8) -> Result<(), BadPattern> {
        let holds = |range: &ClassBytesRange| (range.start()..=range.end()).contains(&byte);
        if !self.alphabet.ranges().iter().any(holds) {
            return Err(BadPattern::Character(self.written.to_owned(), char::from(byte)));
        }
        self.escaped(byte);
        Ok(())
    }

    /// What means something is escaped, and what cannot be seen is given by its code: both engines read these alike, within
    /// a class too.
    fn escaped(&mut self, byte: u8) {
        let character = char::from(byte);
        if regex_syntax::is_meta_character(character) {
            self.text.extend(['\\', character]);
        } else if character.is_ascii_graphic() {
            self.text.push(character);
        } else {
            write!(self.text, "\\x{byte:02X}").expect("invariant: a string takes all that is written to it");
        }
    }

    fn look(&self, look: Look) -> Result<&'static str, BadPattern> {
        match look {
            // No line ends within what is matched.
            Look::Start | Look::StartLF | Look::StartCRLF => Ok(r"\A"),
            Look::End | Look::EndLF | Look::EndCRLF => Ok(r"\z"),
            Look::WordAscii | Look::WordUnicode => Ok(r"\b"),
            Look::WordAsciiNegate | Look::WordUnicodeNegate => Ok(r"\B"),
            Look::WordStartAscii
            | Look::WordEndAscii
            | Look::WordStartUnicode
            | Look::WordEndUnicode
            | Look::WordStartHalfAscii
            | Look::WordEndHalfAscii
            | Look::WordStartHalfUnicode
            | Look::WordEndHalfUnicode => Err(BadPattern::Look(self.written.to_owned())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<PathPattern, BadPattern> {
        text.to_owned().try_into()
    }

    fn value(text: &str) -> Result<ValuePattern, BadPattern> {
        text.to_owned().try_into()
    }

    #[test]
    fn the_whole_text_matches() {
        for (pattern, text, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/ab", false),
            ("^/a$", "/a", true),
            ("/v[0-9]+/.*", "/v12/x/y", true),
            ("/v[0-9]+/.*", "/vx/y", false),
            (r"/\d{2,3}", "/12", true),
            (r"/\d{2,3}", "/1234", false),
            ("(?i)/ABC", "/aBc", true),
            ("/[^/]+/x", "/a/x", true),
            ("/[^/]+/x", "/a/b/x", false),
            (r"/a\b.*", "/a/b", true),
            (r"/a\b.*", "/ab", false),
            ("/(?P<name>a+?)b", "/aab", true),
            ("/a.c", "/aéc", false),
        ] {
            assert_eq!(path(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
        for (pattern, text, expected) in [
            (r"a\?b", "a?b", true),
            (r"x \S+", "x y", true),
            ("", "", true),
            ("", "a", false),
            (r"[\w-]*", "a-b_c", true),
        ] {
            assert_eq!(
                value(pattern).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn proxies_get_what_all_engines_read_alike() {
        for (pattern, canonical) in [
            ("/a.b", r"(?:/a[!->@-\~]b)"),
            (r"/\.well\-known", r"/\.well\-known"),
            ("/(?:a|bc)", "(?:/(?:a|bc))"),
            ("/a{2}", "(?:/(?:a){2,2})"),
            ("/[[:digit:]&&[^5]]*?", "(?:/(?:[0-46-9])*)"),
            ("/%41", "/%41"),
        ] {
            let found = path(pattern).unwrap();
            let again = path(found.canonical()).unwrap();
            assert_eq!(
                again.canonical(),
                found.canonical(),
                "{pattern} is read again as it was"
            );
            let simple = |text: &str| text.replace("(?:", "(");
            assert_eq!(simple(found.canonical()), simple(canonical), "{pattern}");
        }
    }

    #[test]
    fn what_no_proxy_could_run_is_refused() {
        for (pattern, expected) in [
            ("/(", "is not a regular expression: unclosed group"),
            ("/(?=a)", "look-around"),
            (r"/(a)\1", "backreferences"),
            (r"/a\?b", "asks for '?'"),
            ("/é", "cannot stand there"),
            (r"/\s", "matches no printable character"),
            (r"/\<a", "only \\b and \\B"),
            ("/[a-z]{200}", "too large for a proxy"),
            ("/(((a{50}){50}){50}){50}", "too large for a proxy"),
        ] {
            let error = path(pattern).unwrap_err().to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        assert_eq!(path(&long), Err(BadPattern::Long));
    }
}
