//! A token (RFC 7519) as it is sent: read in one way or refused, with the words that Envoy has for what is wrong with it. Who has
//! signed it is another question.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{Json, Object};
use crate::jwks::{Algorithm, Signed};

/// Tokens have one or two thousand bytes, those that list many groups some more; each is decoded in memory.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What is wrong with a request's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Missing,
    Form,
    HeaderBase64,
    HeaderJson,
    Algorithm,
    AlgorithmUnknown,
    KeyName,
    PayloadBase64,
    PayloadJson,
    Claim(&'static str),
    SignatureBase64,
    Issuer,
    NotYet,
    Expired,
    Audience,
    NoKeys,
    NoKey,
    Unverified,
}

/// What a token says, be it true or not.
#[derive(Debug, PartialEq)]
pub(crate) struct Token {
    /// As it came, in base64.
    pub(crate) payload: Box<str>,
    pub(crate) claims: Object,
    pub(crate) issuer: Box<str>,
    pub(crate) subject: Box<str>,
    pub(crate) audiences: Box<[Box<str>]>,
    /// In seconds since 1970, as the next.
    pub(crate) not_before: u64,
    pub(crate) expires: Option<u64>,
}

/// A token with what is to be held against its issuer's keys.
#[derive(Debug)]
pub(crate) struct Unproven<'a> {
    pub(crate) token: Token,
    algorithm: Algorithm,
    key: Option<Box<str>>,
    message: &'a str,
    signature: Vec<u8>,
}

impl Flaw {
    /// What Envoy says.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::Algorithm => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmUnknown => "Jwt header [alg] is not supported",
            Self::KeyName => "Jwt header [kid] field is not a string",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::Claim(text) => text,
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::Issuer => "Jwt issuer is not configured",
            Self::NotYet => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Unverified => "Jwt verification fails",
        }
    }
}

impl<'a> Unproven<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, Flaw> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Flaw::Form);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Form);
        };
        let decode = |part: &str, flaw| URL_SAFE_NO_PAD.decode(part).map_err(|_| flaw);
        let bytes = decode(header, Flaw::HeaderBase64)?;
        let fields = Json::object(&bytes).ok_or(Flaw::HeaderJson)?;
        let algorithm = fields.get("alg").and_then(Json::text).ok_or(Flaw::Algorithm)?;
        let algorithm = Algorithm::of(algorithm).ok_or(Flaw::AlgorithmUnknown)?;
        let key = match fields.get("kid") {
            None => None,
            Some(Json::Text(name)) => Some(name.clone()).filter(|name| !name.is_empty()),
            Some(_) => return Err(Flaw::KeyName),
        };
        let bytes = decode(payload, Flaw::PayloadBase64)?;
        let claims = Json::object(&bytes).ok_or(Flaw::PayloadJson)?;
        let token = Token::new(payload, claims)?;
        let signature = decode(signature, Flaw::SignatureBase64)?;
        // Something that must be understood, and is not (RFC 7515, section 4.1.11).
        if fields.contains_key("crit") {
            return Err(Flaw::Unverified);
        }
        Ok(Self {
            token,
            algorithm,
            key,
            message: &text[..header.len() + 1 + payload.len()],
            signature,
        })
    }

    pub(crate) fn signed(&self) -> Signed<'_> {
        Signed {
            algorithm: self.algorithm,
            key: self.key.as_deref(),
            message: self.message.as_bytes(),
            signature: &self.signature,
        }
    }
}

impl Token {
    fn new(payload: &str, claims: Object) -> Result<Self, Flaw> {
        let text = |name: &str, fault| match claims.get(name) {
            None => Ok(Box::default()),
            Some(Json::Text(text)) => Ok(text.clone()),
            Some(_) => Err(Flaw::Claim(fault)),
        };
        let issuer = text("iss", "Jwt payload [iss] field is not a string")?;
        let subject = text("sub", "Jwt payload [sub] field is not a string")?;
        text("jti", "Jwt payload [jti] field is not a string")?;
        seconds(
            &claims,
            "iat",
            "Jwt payload [iat] field is not an integer",
            "Jwt payload [iat] field is not a positive 64 bit integer",
        )?;
        let not_before = seconds(
            &claims,
            "nbf",
            "Jwt payload [nbf] field is not an integer",
            "Jwt payload [nbf] field is not a positive 64 bit integer",
        )?;
        let expires = seconds(
            &claims,
            "exp",
            "Jwt payload [exp] field is not an integer",
            "Jwt payload [exp] field is not a positive 64 bit integer",
        )?;
        let audiences = audiences(claims.get("aud")).ok_or(Flaw::Claim(
            "Jwt payload [aud] field is not a string or string list",
        ))?;
        Ok(Self {
            payload: payload.into(),
            issuer,
            subject,
            audiences,
            not_before: not_before.unwrap_or(0),
            expires,
            claims,
        })
    }
}

/// Whole seconds, of which a part of one is left out.
fn seconds(
    claims: &Object,
    name: &str,
    no_number: &'static str,
    out_of_range: &'static str,
) -> Result<Option<u64>, Flaw> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(number)) if (0.0..1.8e19).contains(number) => Ok(Some(*number as u64)),
        Some(Json::Number(_)) => Err(Flaw::Claim(out_of_range)),
        Some(_) => Err(Flaw::Claim(no_number)),
    }
}

fn audiences(claim: Option<&Json>) -> Option<Box<[Box<str>]>> {
    match claim {
        None => Some(Box::default()),
        Some(Json::Text(one)) => Some([one.clone()].into()),
        Some(Json::List(many)) => many.iter().map(|one| one.text().map(Box::from)).collect(),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jwks::samples::encoded;

    fn fault(header: &str, payload: &str) -> Option<Flaw> {
        let text = format!("{}.{}.AAAA", encoded(header), encoded(payload));
        Unproven::read(&text).err()
    }

    #[test]
    fn what_is_no_token_is_told_so() {
        let good = encoded(json!({"alg": "RS256"}).to_string());
        for (text, expected) in [
            ("", Flaw::Form),
            ("abc", Flaw::Form),
            (".", Flaw::Form),
            (&format!("{good}.{good}"), Flaw::Form),
            (&format!("{good}.{good}.AAAA.AAAA"), Flaw::Form),
            ("a.b.c", Flaw::HeaderBase64),
            ("..", Flaw::HeaderJson),
            (&format!("{good}=.{good}.AAAA"), Flaw::HeaderBase64),
            (&format!("{good}.a.AAAA"), Flaw::PayloadBase64),
            (&format!("{good}..AAAA"), Flaw::PayloadJson),
            (&format!("{good}.{good}.A"), Flaw::SignatureBase64),
            // Bits that nobody reads would make two texts of one token.
            (&format!("{good}.{good}.AB"), Flaw::SignatureBase64),
            (&format!("{good}.{good}.AA=="), Flaw::SignatureBase64),
            (&format!("{good}.{good}. AAA"), Flaw::SignatureBase64),
            (
                &format!("{good}.{}.AAAA", "A".repeat(TOKEN_BYTES_MAX)),
                Flaw::Form,
            ),
        ] {
            assert_eq!(Unproven::read(text).err(), Some(expected), "{text:.60}");
        }
        assert!(Unproven::read(&format!("{good}.{good}.")).is_ok());
    }

    #[test]
    fn algorithms_without_a_public_key_are_none() {
        for (header, expected) in [
            (json!({"alg": "RS256"}), None),
            (json!({"alg": "EdDSA", "kid": "", "typ": "at+jwt"}), None),
            (json!({}), Some(Flaw::Algorithm)),
            (json!({"alg": 1}), Some(Flaw::Algorithm)),
            (json!({"alg": null}), Some(Flaw::Algorithm)),
            (json!({"alg": "none"}), Some(Flaw::AlgorithmUnknown)),
            (json!({"alg": "None"}), Some(Flaw::AlgorithmUnknown)),
            (json!({"alg": "HS256"}), Some(Flaw::AlgorithmUnknown)),
            (json!({"alg": "rs256"}), Some(Flaw::AlgorithmUnknown)),
            (json!({"alg": "RS256", "kid": 1}), Some(Flaw::KeyName)),
            (
                json!({"alg": "RS256", "crit": ["b64"], "b64": false}),
                Some(Flaw::Unverified),
            ),
        ] {
            assert_eq!(fault(&header.to_string(), "{}"), expected, "{header}");
        }
        assert_eq!(
            fault(r#"{"alg":"none","alg":"RS256"}"#, "{}"),
            Some(Flaw::HeaderJson)
        );
        assert_eq!(fault("[]", "{}"), Some(Flaw::HeaderJson));
    }

    #[test]
    fn claims_are_what_they_must_be() {
        let said = |payload: &str| fault(r#"{"alg":"RS256"}"#, payload).map(Flaw::text);
        for (payload, expected) in [
            ("{}", None),
            (
                r#"{"iss":"a","sub":"b","aud":["c"],"exp":1.5,"nbf":0,"iat":1}"#,
                None,
            ),
            ("1", Some("Jwt payload is an invalid JSON")),
            (r#"{"iss":"a","iss":"a"}"#, Some("Jwt payload is an invalid JSON")),
            (r#"{"iss":1}"#, Some("Jwt payload [iss] field is not a string")),
            (r#"{"sub":[]}"#, Some("Jwt payload [sub] field is not a string")),
            (
                r#"{"exp":"1"}"#,
                Some("Jwt payload [exp] field is not an integer"),
            ),
            (
                r#"{"exp":null}"#,
                Some("Jwt payload [exp] field is not an integer"),
            ),
            (
                r#"{"exp":-1}"#,
                Some("Jwt payload [exp] field is not a positive 64 bit integer"),
            ),
            (
                r#"{"nbf":1e30}"#,
                Some("Jwt payload [nbf] field is not a positive 64 bit integer"),
            ),
            (
                r#"{"aud":1}"#,
                Some("Jwt payload [aud] field is not a string or string list"),
            ),
            (
                r#"{"aud":["a",1]}"#,
                Some("Jwt payload [aud] field is not a string or string list"),
            ),
        ] {
            assert_eq!(said(payload), expected, "{payload}");
        }
    }
}
