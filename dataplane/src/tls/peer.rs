//! Who the other end of a connection is, by the certificate that it has shown: its names, once they are believed.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::matcher::StringMatcher;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Of alternative names: URIs, then names of hosts.
    names: Vec<Box<str>>,
    /// So many of them are URIs.
    uris: usize,
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
        let mut names: Vec<Box<str>> = others.iter().filter_map(uri).collect();
        let uris = names.len();
        names.extend(others.iter().filter_map(host));
        Self {
            names,
            uris,
            subject: subject(certificate.subject()).into(),
        }
    }

    pub(crate) fn uris(&self) -> impl Iterator<Item = &str> {
        self.names[..self.uris].iter().map(|name| &**name)
    }

    pub(crate) fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.names[self.uris..].iter().map(|name| &**name)
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The one name that it goes by, as Envoy tells it: the first URI, else the first name of a host, else the subject.
    pub(crate) fn principal(&self) -> &str {
        self.names.first().unwrap_or(&self.subject)
    }

    pub(crate) fn is(&self, wanted: &StringMatcher) -> bool {
        let mut names = self.names.iter().chain([&self.subject]);
        names.any(|name| wanted.matches(name.as_bytes()))
    }
}

/// What OpenSSL calls the types of a name's parts; others go by number.
const KINDS: [(&str, &str); 18] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.42", "GN"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Its parts from the last to the first.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let mut attributes: Vec<String> = part.iter().map(attribute).collect();
            attributes.reverse();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    match KINDS.iter().find(|(known, _)| *known == number) {
        Some((_, kind)) => format!("{kind}={}", escaped(&text(value))),
        None => format!("{number}=#{}", dumped(value)),
    }
}

/// Of whatever kind of string.
fn text(value: &Any<'_>) -> String {
    let units = |width: usize| {
        value
            .data
            .chunks(width)
            .map(|unit| unit.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
    };
    match value.tag() {
        Tag::BmpString => {
            let units: Vec<u16> = units(2).filter_map(|unit| u16::try_from(unit).ok()).collect();
            String::from_utf16_lossy(&units)
        }
        Tag::UniversalString => units(4)
            .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        Tag::T61String => value.data.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(value.data).into_owned(),
    }
}

/// In DER, in hexadecimal.
fn dumped(value: &Any<'_>) -> String {
    let bytes = value.to_der_vec_raw().unwrap_or_default();
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
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
    fn it_goes_by_the_first_uri_else_by_a_host_else_by_its_subject() {
        let uri = |name: &str| SanType::URI(name.try_into().unwrap());
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        for (names, principal) in [
            (
                vec![dns("web.shop"), uri("spiffe://acme/web"), uri("urn:x")],
                "spiffe://acme/web",
            ),
            (vec![dns("web.shop"), dns("web")], "web.shop"),
            (vec![SanType::IpAddress([10, 0, 0, 1].into())], "CN=web"),
        ] {
            let peer = peer(names, &[(DnType::CommonName, "web")]);
            assert_eq!(peer.principal(), principal);
        }
        assert_eq!(Peer::default().principal(), "");
    }

    #[test]
    fn a_subject_is_written_as_openssl_does() {
        use DnType::{CommonName, CountryName, CustomDnType, OrganizationName, OrganizationalUnitName};
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
            (
                &[
                    (CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]), "a@b"),
                    (CustomDnType(vec![1, 2, 3]), "x"),
                ],
                "1.2.3=#0C0178,emailAddress=a@b",
            ),
            (&[], ""),
        ] {
            assert_eq!(&*peer(vec![], said).subject, subject);
        }
    }
}
