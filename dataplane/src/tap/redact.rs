//! What of a head is nobody's to see: what its name says to be a secret, what looks like one, and the queries of URLs. Pure.

use std::borrow::Cow;

/// What names of headers, and of what stands in paths, have in them where the value is nobody's to see.
const SECRET: [&str; 11] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "api-key",
    "apikey",
    "credential",
    "signature",
    "session",
    "jwt",
];
/// Headers whose values are URLs, be they relative or between other things.
const URLS: [&str; 5] = ["referer", "location", "content-location", "link", "refresh"];
/// Headers that say which credentials are wanted, and hold none.
const CHALLENGES: [&str; 2] = ["www-authenticate", "proxy-authenticate"];
/// How a token begins, and its claims: an object of JSON in base64, with its first name, a space or a line's end.
const TOKEN: [&str; 3] = ["eyJ", "eyA", "ewo"];
const TOKEN_CHARS_MIN: usize = 16;
/// What is drawn to be guessed by nobody has as many characters, of all kinds; ids and digests in hexadecimal have not.
const DRAWN_CHARS_MIN: usize = 24;
const REDACTED: &str = "[redacted]";

/// The value of a header, whose name is in lower case.
pub(super) fn value(name: &str, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    if is_secret_name(name) || !CHALLENGES.contains(&name) && has_credentials(&text) {
        return REDACTED.to_owned();
    }
    let is_url = text.starts_with('/') || text.contains("://") || URLS.contains(&name);
    let shown = if is_url { urls(&text) } else { text.into_owned() };
    if has_token(&shown) {
        return REDACTED.to_owned();
    }
    shown
}

/// A path without its query.
pub(super) fn path(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut is_behind_name = false;
    let segments = text.split('/').map(|segment| {
        let shown = match segment {
            value if is_behind_name && may_be_secret(value) => Cow::Borrowed(REDACTED),
            segment => parameters(segment),
        };
        is_behind_name = !segment.contains('=') && is_secret_name(&segment.to_ascii_lowercase());
        shown
    });
    segments.collect::<Vec<_>>().join("/")
}

fn is_secret_name(name: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part))
}

/// Of what stands behind the name of a secret: words of an API have no digits and are short.
fn may_be_secret(segment: &str) -> bool {
    segment.bytes().any(|byte| byte.is_ascii_digit()) || segment.len() >= TOKEN_CHARS_MIN
}

/// `segment;name=value`, as it may be seen.
fn parameters(segment: &str) -> Cow<'_, str> {
    if let Some((segment, _)) = segment.split_once(';') {
        return Cow::Owned(format!("{};{REDACTED}", parameters(segment)));
    }
    match segment.split_once('=') {
        Some((name, _)) if is_secret_name(&name.to_ascii_lowercase()) => {
            Cow::Owned(format!("{name}={REDACTED}"))
        }
        _ if has_token(segment) || is_drawn(segment) => Cow::Borrowed(REDACTED),
        _ => Cow::Borrowed(segment),
    }
}

/// A URL, or several as in `link`.
fn urls(text: &str) -> String {
    if !text.contains('<') {
        return url(text);
    }
    let pieces = text.split('<').enumerate().map(|(nth, piece)| {
        let end = if nth == 0 {
            0
        } else {
            piece.find('>').unwrap_or(piece.len())
        };
        let (inside, outside) = piece.split_at(end);
        let shown = if nth == 0 { String::new() } else { url(inside) };
        shown + outside
    });
    pieces.collect::<Vec<_>>().join("<")
}

/// Without who asks, the query and the fragment, and what is secret in its path.
fn url(text: &str) -> String {
    let (before, query) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let (scheme, rest) = before.split_at(before.find("://").map_or(0, |at| at + "://".len()));
    let slash = match scheme {
        "" => 0,
        _ => rest.find('/').unwrap_or(rest.len()),
    };
    let (authority, path) = rest.split_at(slash);
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("[redacted]@", host),
        None => ("", authority),
    };
    let query = query.get(..1).map(|sign| format!("{sign}{REDACTED}"));
    let (path, query) = (self::path(path.as_bytes()), query.unwrap_or_default());
    format!("{scheme}{user}{host}{path}{query}")
}

/// Whether it says who somebody is as `authorization` does.
fn has_credentials(text: &str) -> bool {
    let is = |word: &str, scheme: &str| word.eq_ignore_ascii_case(scheme);
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let first = words.next().unwrap_or_default();
    let is_scheme = ["bearer", "basic", "negotiate"]
        .into_iter()
        .any(|scheme| is(first, scheme));
    is_scheme && text.trim_end().contains(' ') || words.any(|word| is(word, "bearer"))
}

/// Whether there is a token in it, or the claims of one.
fn has_token(text: &str) -> bool {
    let is_of_base64 =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '+');
    let is_token =
        |run: &str| run.len() >= TOKEN_CHARS_MIN && TOKEN.iter().any(|begin| run.starts_with(begin));
    text.split(|letter| !is_of_base64(letter)).any(is_token)
}

fn is_drawn(segment: &str) -> bool {
    let has = |is: fn(&u8) -> bool| segment.bytes().any(|byte| is(&byte));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    segment.len() >= DRAWN_CHARS_MIN
        && segment.bytes().all(is_plain)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln";
    const DRAWN: &str = "Zk3xQ9_pL-v7Rb2TnW8sYd1M";

    #[test]
    fn what_is_secret_in_a_head_is_not_seen() {
        let within = format!("a={SIGNED}; b");
        for (name, given, expected) in [
            ("x-shown", "shown", "shown"),
            ("x-api-key", "k", REDACTED),
            ("x-session-id", "k", REDACTED),
            ("x-user", "Bearer abc", REDACTED),
            ("x-user", "bearer abc", REDACTED),
            ("x-user", "for=a; auth=Bearer abc", REDACTED),
            ("x-user", "Basic YTpi", REDACTED),
            ("x-plan", "basic", "basic"),
            ("x-plan", "the basic one", "the basic one"),
            ("x-user", SIGNED, REDACTED),
            ("x-user", &within, REDACTED),
            ("x-payload", "eyJzdWIiOiJhbm5hIn0=", REDACTED),
            ("x-eye", "eyJ", "eyJ"),
            ("user-agent", "a (b; what?)", "a (b; what?)"),
            ("www-authenticate", "Bearer realm=\"r\"", "Bearer realm=\"r\""),
            (
                "www-authenticate",
                "Bearer realm=\"http://h/a?code=1\"",
                "Bearer realm=\"http://h/a?[redacted]",
            ),
            ("referer", "https://h/p?code=1", "https://h/p?[redacted]"),
            ("referer", "https://h", "https://h"),
            ("referer", "https://a:b@h:8/p", "https://[redacted]@h:8/p"),
            ("location", "/p#access=1", "/p#[redacted]"),
            ("location", "p?a", "p?[redacted]"),
            ("location", "/@me/a@b", "/@me/a@b"),
            ("refresh", "5; url=p?a", "5;[redacted]?[redacted]"),
            (
                "link",
                "</a?b>; rel=\"next\", <https://h/c?d>; title=\"e\"",
                "</a?[redacted]>; rel=\"next\", <https://h/c?[redacted]>; title=\"e\"",
            ),
            ("link", "</a?b", "</a?[redacted]"),
            ("x-original-url", "/p?a=1", "/p?[redacted]"),
            ("origin", "https://h", "https://h"),
            (
                "x-from",
                "https://h/token/a1?a",
                "https://h/token/[redacted]?[redacted]",
            ),
        ] {
            assert_eq!(value(name, given.as_bytes()), expected, "{name}: {given}");
        }
    }

    #[test]
    fn what_is_secret_in_a_path_is_not_seen() {
        for (given, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a//b/", "/a//b/"),
            ("/users/17/orders", "/users/17/orders"),
            (
                "/123e4567-e89b-12d3-a456-426614174000",
                "/123e4567-e89b-12d3-a456-426614174000",
            ),
            (
                "/app.0123456789abcdef0123456789abcdef.js",
                "/app.0123456789abcdef0123456789abcdef.js",
            ),
            ("/tokens/list", "/tokens/list"),
            ("/token/a1/d", "/token/[redacted]/d"),
            ("/Password-Reset/abcdefghijklmnop", "/Password-Reset/[redacted]"),
            ("/a;jsessionid=1/b", "/a;[redacted]/b"),
            ("/token=1/a=2", "/token=[redacted]/a=2"),
        ] {
            assert_eq!(path(given.as_bytes()), expected, "{given}");
        }
        for secret in [SIGNED, DRAWN] {
            let given = format!("/a/{secret}/b");
            assert_eq!(path(given.as_bytes()), "/a/[redacted]/b", "{secret}");
        }
    }
}
