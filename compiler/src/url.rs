//! Places on the web that a document names, and how what is fetched from there is told from anything else.

use crate::name::text_newtype;

/// Longer than any that a person writes, and short enough for a log line.
pub(crate) const URL_BYTES_MAX: usize = 2048;
const HTTPS_PORT: u16 = 443;
/// RFC 1035, section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 253;
/// SHA-256 in hexadecimal.
const DIGEST_BYTES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("{0:?} is not a URL of https; write https:// and a host")]
    Https(String),
    #[error("{0:?} is not the URL of a module; write oci:// or https:// and a host")]
    Module(String),
    #[error("{0:?} is not a SHA-256 sum; write {DIGEST_BYTES} hexadecimal digits in lower case")]
    Digest(String),
    #[error(
        "{0:?} is not an origin as browsers send it; write a scheme and a host in lower case, and a port if it is not the \
         scheme's own, such as https://app.example.com or https://*.example.com, or * for any"
    )]
    Origin(String),
}

text_newtype!(
    /// `https://login.example.com/keys`
    HttpsUrl,
    check_https,
    BadUrl
);
text_newtype!(
    /// `oci://images.example.com/filters/geo:1.2`, or one of https.
    ModuleUrl,
    check_module,
    BadUrl
);
text_newtype!(
    /// A SHA-256 sum in hexadecimal digits.
    Digest,
    check_digest,
    BadUrl
);

text_newtype!(
    /// Where a page is from: `https://app.example.com`, `https://*.example.com` for all below a name, or `*` for anywhere.
    WebOrigin,
    check_origin,
    BadUrl
);

impl HttpsUrl {
    /// Whom to ask for it, in small letters, and at which port; `None` where no proxy could ask.
    pub fn authority(&self) -> Option<(&str, u16)> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%?".contains(&byte);
        let rest = self.as_str().strip_prefix("https://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']')?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port {
            "" => HTTPS_PORT,
            port => {
                let digits = port.strip_prefix(':')?;
                let all = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse().ok().filter(|port| all && *port != 0)?
            }
        };
        // As a certificate's is compared: in one spelling.
        let is_address = host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_ipv6() == authority.starts_with('[') && ip.to_string() == host);
        // An Envoy takes all that is before the first slash for the host.
        let fits = !path.starts_with('?') && path.bytes().all(letter) && (is_address || is_name(host));
        fits.then_some((host, port))
    }
}

impl WebOrigin {
    pub fn is_any(&self) -> bool {
        self.as_str() == "*"
    }

    /// What stands before and behind the star, if there is one for the labels of a host.
    pub fn wildcard(&self) -> Option<(&str, &str)> {
        self.as_str().split_once('*').filter(|_| !self.is_any())
    }
}

/// A browser sends one thing only for each origin; what it never sends would never match.
fn check_origin(text: &str) -> Result<(), BadUrl> {
    let read = || {
        let (scheme, rest) = text.split_once("://")?;
        let own_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((host, port)) => (host, Some(port)),
        };
        let labels = host.strip_prefix("*.").unwrap_or(host);
        let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = |label: &str| !label.is_empty() && label.bytes().all(letter);
        let port = port.map_or(Some(0), |port| port.parse::<u16>().ok())?;
        (port != own_port && labels.split('.').all(fits)).then_some(())
    };
    let fits = text == "*" || (text.len() <= URL_BYTES_MAX && read().is_some());
    fits.then_some(()).ok_or_else(|| BadUrl::Origin(text.to_owned()))
}

/// One that is asked of a DNS, and that stands in a certificate: of letters, and no number that could be an address.
fn is_name(host: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let fits = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or(host);
    host.len() <= NAME_BYTES_MAX
        && host.split('.').all(fits)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn check_https(text: &str) -> Result<(), BadUrl> {
    if has_host(text, "https://") {
        Ok(())
    } else {
        Err(BadUrl::Https(text.to_owned()))
    }
}

fn check_module(text: &str) -> Result<(), BadUrl> {
    if has_host(text, "https://") || has_host(text, "oci://") {
        Ok(())
    } else {
        Err(BadUrl::Module(text.to_owned()))
    }
}

fn check_digest(text: &str) -> Result<(), BadUrl> {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() == DIGEST_BYTES && text.bytes().all(hexadecimal) {
        Ok(())
    } else {
        Err(BadUrl::Digest(text.to_owned()))
    }
}

fn has_host(text: &str, scheme: &str) -> bool {
    let host = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    text.len() <= URL_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.strip_prefix(scheme).is_some_and(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_from_a_host_that_can_be_asked() {
        for (url, expected) in [
            ("https://login.example.com", Some(("login.example.com", 443))),
            (
                "https://login.example.com/keys?v=1",
                Some(("login.example.com", 443)),
            ),
            ("https://login.example.com/?v=1", Some(("login.example.com", 443))),
            ("https://localhost:8443/a%20b", Some(("localhost", 8443))),
            ("https://10.0.0.1:8443/", Some(("10.0.0.1", 8443))),
            ("https://[::1]:8443/", Some(("::1", 8443))),
            ("https://[::1]", Some(("::1", 443))),
            ("https://login.example.com?v=1", None),
            ("https://login.example.com?/keys", None),
            ("https://login.example.com:+443/", None),
            ("https://[0::1]/", None),
            ("https://[2001:DB8::1]/", None),
            ("https://[2001:db8::1]/", Some(("2001:db8::1", 443))),
            ("https://a@b/keys", None),
            ("https://Login.example.com/", None),
            ("https://a.example.com:0/", None),
            ("https://a.example.com:/", None),
            ("https://a.example.com:65536/", None),
            ("https://a..example.com/", None),
            ("https://a_b/", None),
            ("https://10.0.0/", None),
            ("https://[10.0.0.1]/", None),
            ("https://[::1]a/", None),
            ("https://a/{b}", None),
            ("https://a/#b", None),
            ("https://a/\\", None),
        ] {
            assert_eq!(url.parse::<HttpsUrl>().unwrap().authority(), expected, "{url}");
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for good in [
            "*",
            "https://app.example.com",
            "http://localhost:3000",
            "http://127.0.0.1",
            "https://*.example.com",
            "https://*.example.com:8443",
        ] {
            assert!(good.parse::<WebOrigin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "null",
            "app.example.com",
            "https://",
            "https://A.example.com",
            "https://a.example.com/",
            "https://a.example.com:443",
            "http://a.example.com:80",
            "https://a.example.com:",
            "https://a.example.com:http",
            "https://a..example.com",
            "https://*",
            "https://a.*.com",
            "ftp://a.example.com",
        ] {
            assert!(bad.parse::<WebOrigin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_have_a_known_scheme_and_a_host() {
        for (text, https, module) in [
            ("https://example.com/keys", true, true),
            ("https://[::1]:8443/keys", true, true),
            ("oci://images.example.com/geo:1.2", false, true),
            ("http://example.com", false, false),
            ("https:///keys", false, false),
            ("https://exa mple.com", false, false),
            ("example.com", false, false),
        ] {
            assert_eq!(text.parse::<HttpsUrl>().is_ok(), https, "{text}");
            assert_eq!(text.parse::<ModuleUrl>().is_ok(), module, "{text}");
        }
        assert!("0a".repeat(32).parse::<Digest>().is_ok());
        assert!("0A".repeat(32).parse::<Digest>().is_err());
        assert!("0a".repeat(31).parse::<Digest>().is_err());
    }
}
