//! What TLS was agreed on with a client, in the names that Envoy's logs have: OpenSSL's.

use rustls::{CipherSuite, SupportedCipherSuite};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cipher(pub(crate) SupportedCipherSuite);

impl Cipher {
    pub(crate) fn version(self) -> &'static str {
        let Self(suite) = self;
        if suite.tls13().is_some() {
            "TLSv1.3"
        } else {
            "TLSv1.2"
        }
    }

    pub(crate) fn name(self) -> &'static str {
        let Self(suite) = self;
        name(suite.suite())
    }
}

fn name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        // There are no others in rustls.
        other => other.as_str().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_openssls_name() {
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            let cipher = Cipher(*suite);
            let is_13 = cipher.version() == "TLSv1.3";
            let begins = if is_13 { "TLS_" } else { "ECDHE-" };
            assert!(cipher.name().starts_with(begins), "{suite:?}: {}", cipher.name());
            assert!(
                is_13 || !cipher.name().contains('_'),
                "{suite:?}: {}",
                cipher.name()
            );
        }
    }
}
