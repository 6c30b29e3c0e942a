//! By whom the hosts that have issuers' keys are believed: the certificates of a file, save those that our proxy could make nothing
//! of. It refuses a list for one of these, and so would have no keys at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Where Debian and Alpine, Red Hat, and SUSE keep them.
const OF_SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Of a file that was named; the system's own may be as they are.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    #[error("cannot read {path}, by whose certificates the hosts of issuers' keys are believed")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} holds no certificate of an authority in PEM, by which the hosts of issuers' keys could be believed"
    )]
    None { path: PathBuf },
}

/// Those of the file, or of the first that a system has, in PEM. `None` where that has none: then no keys are fetched.
pub(crate) fn load(file: Option<&Path>) -> Result<Option<Arc<str>>, BadAuthorities> {
    match file {
        Some(path) => read(path).map(Some),
        None => Ok(first(&OF_SYSTEM.map(Path::new))),
    }
}

fn first(paths: &[&Path]) -> Option<Arc<str>> {
    for path in paths.iter().filter(|path| path.is_file()) {
        match read(path) {
            Ok(found) => return Some(found),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "passed over"),
        }
    }
    tracing::warn!(
        "this system has no certificates of authorities: gateways refuse all tokens, for no issuer's keys are fetched; use --issuer-ca"
    );
    None
}

fn read(path: &Path) -> Result<Arc<str>, BadAuthorities> {
    let bytes = std::fs::read(path).map_err(|source| BadAuthorities::Read {
        path: path.to_owned(),
        source,
    })?;
    // What stands around certificates may be of any alphabet.
    let text = String::from_utf8_lossy(&bytes);
    let (good, bad): (Vec<String>, Vec<String>) = certificates(&text).partition(|pem| is_good(pem));
    if !bad.is_empty() {
        tracing::warn!(
            path = %path.display(),
            left_out = bad.len(),
            "some certificates of authorities are not what a proxy could believe"
        );
    }
    if good.is_empty() {
        return Err(BadAuthorities::None {
            path: path.to_owned(),
        });
    }
    Ok(good.concat().into())
}

/// Each in PEM, without what stands around it.
fn certificates(text: &str) -> impl Iterator<Item = String> {
    let begun = text.split(BEGIN).skip(1);
    begun.map(|rest| {
        let body = rest.split_once(END).map_or("", |(body, _)| body);
        format!("{BEGIN}{body}{END}\n")
    })
}

fn is_good(pem: &str) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|certificate| RootCertStore::empty().add(certificate).is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Of P-256, by itself.
    const GOOD: &str = "-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUJ2qmsO6aV0UMJj6TZXGShjdFpSkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJYXV0aG9yaXR5MCAXDTI2MTEyMzEzMTcxNVoYDzIxMjYxMDMw
MTMxNzE1WjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATVc/IoV5exGSCofkqHBZhqimhpPKZwtWivryS16odu8xjGEX+QWAVQ
iiYKBE8l6vu/PXWKeqFNlUZbfHXQHPsXo1MwUTAdBgNVHQ4EFgQUnyfgbiV+jO9n
b6ITyMFM8ezscE0wHwYDVR0jBBgwFoAUnyfgbiV+jO9nb6ITyMFM8ezscE0wDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBBMByape9ZFjjW/yjv/+XQ
7t0G6d3iLFhBB0VJ9GTlVAIgUeK4FJDH7eYMf7gm6qAKPfJkIGyVi410dv4CJFtI
ZZ4=
-----END CERTIFICATE-----
";

    #[test]
    fn what_no_proxy_could_believe_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let held = |file: &[u8]| {
            std::fs::write(&path, file).unwrap();
            read(&path).ok().map(|found| found.to_string())
        };
        let one = || Some(GOOD.to_owned());
        let bad = format!("{BEGIN}\nAAAA\n{END}\n");
        let worse = format!("{BEGIN}\n%\n{END}\n");
        assert_eq!(held(GOOD.as_bytes()), one());
        assert_eq!(held(format!("{bad}# a\n{GOOD}{worse}").as_bytes()), one());
        assert_eq!(held(&[b"\xff\xfe\n", GOOD.as_bytes()].concat()), one());
        assert_eq!(held(format!("{GOOD}{BEGIN}\nAAAA").as_bytes()), one());
        assert_eq!(held(format!("{GOOD}{GOOD}").as_bytes()), Some(GOOD.repeat(2)));
        for none in ["", "# a", &bad, &worse] {
            assert_eq!(held(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn only_a_file_that_was_named_has_to_be_good() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (empty, good, gone) = (at("empty", ""), at("good", GOOD), dir.path().join("gone"));
        assert!(matches!(load(Some(&empty)), Err(BadAuthorities::None { .. })));
        assert!(matches!(load(Some(&gone)), Err(BadAuthorities::Read { .. })));
        assert_eq!(load(Some(&good)).unwrap().as_deref(), Some(GOOD));
        assert_eq!(first(&[&gone, &empty]), None);
        assert_eq!(first(&[&empty, &good]).as_deref(), Some(GOOD));
    }
}
