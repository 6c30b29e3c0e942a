//! Who the other end of a connection is, by the certificate that it has shown: its names, once they are believed.

use std::fmt::Write;

use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::matcher::StringMatcher;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Of alternative names: URIs, then names of hosts.
    names: Vec<Box<str>>,
    /// As RFC 2253 writes it.
    subject: Box<str>,
}

impl Peer {
    /// Nobody in particular where the certificate cannot be read.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self::default();
        };
        let others = certificate.subject_alternative_name().ok().flatten();
        let others = others.map_or(&[][..], |others| &others.value.general_names);
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some(Box::from(*uri)),
            _ => None,
        };
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(Box::from(*name)),
            _ => None,
        };
        Self {
            names: others
                .iter()
                .filter_map(uri)
                .chain(others.iter().filter_map(host))
                .collect(),
            subject: subject(certificate.subject()).into(),
        }
    }

    pub(crate) fn is(&self, wanted: &StringMatcher) -> bool {
        let mut names = self.names.iter().chain([&self.subject]);
        names.any(|name| wanted.matches(name.as_bytes()))
    }
}

/// Its parts from the last to the first.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
    format!("{kind}={}", escaped(attribute.as_str().unwrap_or_default()))
}

/// RFC 2253, section 2.4, and what is no printable ASCII in hexadecimal.
fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', byte.into()]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn peer(names: Vec<SanType>, said: &[(DnType, &str)]) -> Peer {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in said {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        Peer::of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn any_of_its_names_will_do() {
        let names = vec![
            SanType::DnsName("web.shop".try_into().unwrap()),
            SanType::URI("spiffe://acme/ns/shop/sa/web".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
        ];
        let web = peer(names, &[(DnType::CommonName, "web")]);
        for (wanted, is) in [
            ("spiffe://acme/ns/shop/sa/web", true),
            ("web.shop", true),
            ("CN=web", true),
            ("web", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(web.is(&StringMatcher::exact(wanted)), is, "{wanted:?}");
        }
        assert_eq!(Peer::of(b"no certificate"), Peer::default());
    }

    #[test]
    fn a_subject_is_written_as_openssl_does() {
        use DnType::{CommonName, CountryName, OrganizationName, OrganizationalUnitName};
        for (said, subject) in [
            (
                &[
                    (CountryName, "DE"),
                    (OrganizationName, "Acme"),
                    (CommonName, "web"),
                ][..],
                "CN=web,O=Acme,C=DE",
            ),
            (
                &[
                    (OrganizationName, "Acme, \"Inc.\""),
                    (OrganizationalUnitName, "#1 a+b"),
                ],
                "OU=\\#1 a\\+b,O=Acme\\, \\\"Inc.\\\"",
            ),
            (&[(CommonName, " ö ")], "CN=\\ \\C3\\B6\\ "),
            (&[], ""),
        ] {
            assert_eq!(&*peer(vec![], said).subject, subject);
        }
    }
}
