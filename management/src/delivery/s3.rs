//! Objects in an S3-compatible store: one signed PUT, with AWS Signature Version 4 and addresses by path, which every
//! such store understands.

use std::fmt;

use aws_lc_rs::hmac;
use chrono::{DateTime, Utc};
use http::{Request, Uri};
use sha2::{Digest, Sha256};

use crate::audit::hex;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A bucket, with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// `https://HOST/BUCKET/PREFIX`
    url: Uri,
    region: String,
    credentials: S3Credentials,
}

#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    pub access_key: String,
    pub secret_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadS3 {
    #[error("{0} is not the address of a bucket: use https://HOST/BUCKET or https://HOST/BUCKET/PREFIX")]
    Url(String),
    #[error("the credentials are not of the form ACCESS_KEY:SECRET_KEY")]
    Credentials,
}

/// What of a request is signed.
struct Signing<'a> {
    method: &'a str,
    path: &'a str,
    /// By name, in lower case and sorted.
    headers: &'a [(&'a str, &'a str)],
    payload_sha256: &'a str,
}

impl S3 {
    pub fn new(url: &str, region: &str, credentials: S3Credentials) -> Result<S3, BadS3> {
        let bad = || BadS3::Url(url.to_owned());
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| bad())?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let path = uri.path();
        let usable = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some()
            && uri.query().is_none()
            && path.len() > 1
            && path.bytes().all(is_plain);
        if !usable {
            return Err(bad());
        }
        Ok(S3 {
            url: uri,
            region: region.to_owned(),
            credentials,
        })
    }

    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    /// The request that stores `body` under the prefix. `key` has only letters, digits, `-`, `.` and `/`.
    pub(crate) fn put(&self, key: &str, body: Vec<u8>, now: DateTime<Utc>) -> Request<Vec<u8>> {
        let path = format!("{}/{key}", self.url.path());
        let authority = self.url.authority().map(http::uri::Authority::as_str);
        let host = authority.unwrap_or_default();
        let payload_sha256 = hex(&Sha256::digest(&body));
        let date = now.format("%Y%m%dT%H%M%SZ").to_string();
        let headers = [
            ("content-type", "application/json"),
            ("host", host),
            ("x-amz-content-sha256", payload_sha256.as_str()),
            ("x-amz-date", date.as_str()),
        ];
        let signing = Signing {
            method: "PUT",
            path: &path,
            headers: &headers,
            payload_sha256: &payload_sha256,
        };
        let authorization = self.authorization(&signing, now);
        let url = format!("{}://{host}{path}", self.url.scheme_str().unwrap_or("https"));
        let mut request = Request::put(url).header(http::header::AUTHORIZATION, authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request
            .body(body)
            .expect("invariant: the address was parsed, and the headers hold no other characters")
    }

    fn authorization(&self, signing: &Signing<'_>, now: DateTime<Utc>) -> String {
        let day = now.format("%Y%m%d").to_string();
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let names: Vec<&str> = signing.headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let headers: String = signing
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let canonical = format!(
            "{}\n{}\n\n{headers}\n{names}\n{}",
            signing.method, signing.path, signing.payload_sha256
        );
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{scope}\n{}",
            now.format("%Y%m%dT%H%M%SZ"),
            hex(&Sha256::digest(canonical))
        );
        let secret = format!("AWS4{}", self.credentials.secret_key);
        let key = [day.as_str(), &self.region, "s3", "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part));
        let signature = hex(&mac(&key, &to_sign));
        let access_key = &self.credentials.access_key;
        format!("{ALGORITHM} Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}")
    }
}

impl S3Credentials {
    /// `ACCESS_KEY:SECRET_KEY`, as a file holds them.
    pub fn parse(text: &str) -> Result<S3Credentials, BadS3> {
        let (access_key, secret_key) = text.trim().split_once(':').ok_or(BadS3::Credentials)?;
        let is_graphic = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_graphic(access_key) || !is_graphic(secret_key) {
            return Err(BadS3::Credentials);
        }
        Ok(S3Credentials {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        })
    }
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Credentials({}, …)", self.access_key)
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn example() -> S3 {
        let credentials =
            S3Credentials::parse("AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n").unwrap();
        S3::new(
            "https://examplebucket.s3.amazonaws.com/prefix",
            "us-east-1",
            credentials,
        )
        .unwrap()
    }

    /// The two examples of the AWS documentation that need no query, "Authenticating Requests: Using the Authorization
    /// Header".
    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let empty = hex(&Sha256::digest(""));
        let welcome = hex(&Sha256::digest("Welcome to Amazon S3."));
        let get = Signing {
            method: "GET",
            path: "/test.txt",
            headers: &[
                host,
                ("range", "bytes=0-9"),
                ("x-amz-content-sha256", &empty),
                ("x-amz-date", "20130524T000000Z"),
            ],
            payload_sha256: &empty,
        };
        let put = Signing {
            method: "PUT",
            path: "/test%24file.text",
            headers: &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                host,
                ("x-amz-content-sha256", &welcome),
                ("x-amz-date", "20130524T000000Z"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ],
            payload_sha256: &welcome,
        };
        for (signing, signature) in [
            (
                get,
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                put,
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
        ] {
            let found = example().authorization(&signing, now);
            assert!(found.ends_with(&format!(",Signature={signature}")), "{found}");
        }
    }

    #[test]
    fn a_put_names_its_object_below_the_prefix() {
        let request = example().put("acme/000000000007.json", b"{}".to_vec(), DateTime::UNIX_EPOCH);
        assert_eq!(
            request.uri(),
            "https://examplebucket.s3.amazonaws.com/prefix/acme/000000000007.json"
        );
        assert_eq!(request.headers()["host"], "examplebucket.s3.amazonaws.com");
        assert_eq!(request.headers()["x-amz-date"], "19700101T000000Z");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let credentials = example().credentials;
        for url in [
            "",
            "bucket",
            "https://host",
            "https://host/",
            "ftp://host/b",
            "https://host/b?x=1",
        ] {
            let refused = S3::new(url, "us-east-1", credentials.clone());
            assert_eq!(refused, Err(BadS3::Url(url.to_owned())));
        }
        for text in ["", "key", ":secret", "key:", "key:sec ret"] {
            assert_eq!(S3Credentials::parse(text), Err(BadS3::Credentials), "{text}");
        }
        assert_eq!(
            format!("{credentials:?}"),
            "S3Credentials(AKIAIOSFODNN7EXAMPLE, …)"
        );
    }
}
