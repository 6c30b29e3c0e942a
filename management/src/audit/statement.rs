//! What the keepers of the record sign: how many records each chain has, and the hash of the last one. A statement that
//! has left the system shows that the record up to it was made anew, or is missing.
//!
//! Ed25519 over the exact bytes of the statement: nothing is brought into a canonical form first.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Chain, Mark};
use crate::pem;

/// Before the bytes of a statement, so that a signature of ours fits nothing else.
const CONTEXT: &[u8] = b"tombolo audit statement 1\n";
/// What stands before an Ed25519 key in its DER form (RFC 8410).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PUBLIC: &str = "PUBLIC KEY";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    pub kind: StatementKind,
    pub organization: String,
    /// Statements of an organization are numbered from one.
    pub number: u64,
    pub time: DateTime<Utc>,
    pub writes: Mark,
    pub denials: Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatementKind {
    /// Both chains reached as far.
    Checkpoint,
    /// Retention has dropped the records of both chains up to there.
    Boundary,
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    /// The JSON of a [`Statement`], as it was signed.
    pub statement: String,
    /// The [`KeyId`].
    pub key: KeyId,
    /// Base64.
    pub signature: String,
}

/// The first 16 hexadecimal digits of the SHA-256 of a public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The public keys whose statements are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(BTreeMap<KeyId, PublicKey>);

/// Signs. It lives in a file, never in the database that it vouches for.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot {doing} the audit key {path}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no Ed25519 private key in PEM (PKCS #8)", path = path.display())]
    NoPrivateKey { path: PathBuf },
    #[error("it holds no Ed25519 public key in PEM")]
    NoPublicKey,
    #[error("the system gives no randomness for the audit key")]
    Randomness,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStatement {
    #[error("it is signed by the key {0}, which is not among those given")]
    OtherKey(KeyId),
    #[error("its signature is not that of the key {0}")]
    Signature(KeyId),
    #[error("it cannot be read: {0}")]
    Syntax(String),
}

impl SigningKey {
    /// Reads the key, or creates it when there is no such file.
    pub fn open_or_create(path: &Path) -> Result<SigningKey, KeyError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
            Err(source) => {
                return Err(KeyError::Io {
                    doing: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let der = pem::blocks(&text, pem::PRIVATE).into_iter().next();
        der.and_then(|der| SigningKey::from_pkcs8(&der))
            .ok_or_else(|| KeyError::NoPrivateKey {
                path: path.to_owned(),
            })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, statement: &Statement) -> Signed {
        let text =
            serde_json::to_string(statement).expect("invariant: a statement has string keys and no floats");
        let signature = self.pair.sign(&signed_bytes(&text));
        Signed {
            statement: text,
            key: self.public.id(),
            signature: STANDARD.encode(signature),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Option<SigningKey> {
        let pair = Ed25519KeyPair::from_pkcs8(der).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(SigningKey { pair, public })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl PublicKey {
    pub fn id(&self) -> KeyId {
        let hash: [u8; 32] = Sha256::digest(self.0).into();
        KeyId(hex(&hash[..8]))
    }

    pub fn pem(&self) -> String {
        pem::encode(PUBLIC, &[&SPKI[..], &self.0].concat())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        bytes.try_into().ok().map(PublicKey)
    }
}

impl PublicKeys {
    /// All that stand in a PEM file, as `GET /v1/audit:key` and `openssl pkey -pubout` give them.
    pub fn from_pem(text: &str) -> Result<PublicKeys, KeyError> {
        let keys: Option<PublicKeys> = pem::blocks(text, PUBLIC)
            .iter()
            .map(|der| der.strip_prefix(&SPKI).and_then(PublicKey::from_bytes))
            .collect();
        keys.filter(|keys| !keys.0.is_empty())
            .ok_or(KeyError::NoPublicKey)
    }

    pub fn verify(&self, signed: &Signed) -> Result<Statement, BadStatement> {
        let other = || BadStatement::OtherKey(signed.key.clone());
        let key = self.0.get(&signed.key).ok_or_else(other)?;
        let wrong = || BadStatement::Signature(signed.key.clone());
        let signature = STANDARD.decode(&signed.signature).map_err(|_| wrong())?;
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&signed_bytes(&signed.statement), &signature)
            .map_err(|_| wrong())?;
        serde_json::from_str(&signed.statement).map_err(|error| BadStatement::Syntax(error.to_string()))
    }
}

impl FromIterator<PublicKey> for PublicKeys {
    fn from_iter<T: IntoIterator<Item = PublicKey>>(keys: T) -> Self {
        PublicKeys(keys.into_iter().map(|key| (key.id(), key)).collect())
    }
}

impl Statement {
    pub fn mark(&self, chain: Chain) -> Mark {
        match chain {
            Chain::Writes => self.writes,
            Chain::Denials => self.denials,
        }
    }
}

impl fmt::Display for StatementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StatementKind::Checkpoint => "checkpoint",
            StatementKind::Boundary => "boundary",
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for KeyId {
    fn from(text: String) -> KeyId {
        KeyId(text)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |at: usize| (*text.as_bytes().get(at)? as char).to_digit(16);
    let mut bytes = [0; 32];
    for (number, byte) in bytes.iter_mut().enumerate() {
        let both = digit(2 * number)? << 4 | digit(2 * number + 1)?;
        *byte = u8::try_from(both).ok()?;
    }
    (text.len() == 64).then_some(bytes)
}

fn signed_bytes(statement: &str) -> Vec<u8> {
    [CONTEXT, statement.as_bytes()].concat()
}

/// The text of a new key's file, which only its owner may read. Two that start at once agree on the first.
fn create(path: &Path) -> Result<String, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Randomness)?;
    let text = pem::encode(pem::PRIVATE, document.as_ref());
    let failed = |doing| {
        move |source| KeyError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("create the folder of"))?;
    }
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match opened {
        Ok(mut file) => {
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(failed("write"))?;
            Ok(text)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read_to_string(path).map_err(failed("read"))
        }
        Err(error) => Err(failed("create")(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            kind: StatementKind::Checkpoint,
            organization: "acme".to_owned(),
            number: 7,
            time: DateTime::UNIX_EPOCH,
            writes: Mark {
                sequence: 12,
                hash: [0xab; 32],
            },
            denials: Mark::default(),
        }
    }

    fn key() -> SigningKey {
        let dir = tempfile::tempdir().unwrap();
        SigningKey::open_or_create(&dir.path().join("deep/key.pem")).unwrap()
    }

    #[test]
    fn a_key_is_created_once_and_read_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit-key.pem");
        let created = SigningKey::open_or_create(&path).unwrap().public();
        assert_eq!(SigningKey::open_or_create(&path).unwrap().public(), created);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "no key").unwrap();
        let error = SigningKey::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("holds no Ed25519 private key"), "{error}");
    }

    #[test]
    fn a_statement_is_believed_only_as_it_was_signed() {
        let (ours, theirs) = (key(), key());
        let keys = PublicKeys::from_pem(&ours.public().pem()).unwrap();
        let signed = ours.sign(&statement());
        assert_eq!(keys.verify(&signed), Ok(statement()));
        assert_eq!(
            keys.verify(&theirs.sign(&statement())),
            Err(BadStatement::OtherKey(theirs.public().id()))
        );
        let wrong = Err(BadStatement::Signature(ours.public().id()));
        let edited = Signed {
            statement: signed.statement.replace("12", "11"),
            ..signed.clone()
        };
        assert_eq!(keys.verify(&edited), wrong);
        let posing = Signed {
            key: ours.public().id(),
            ..theirs.sign(&statement())
        };
        assert_eq!(keys.verify(&posing), wrong);
        let none = Signed {
            signature: String::new(),
            ..signed
        };
        assert_eq!(keys.verify(&none), wrong);
    }

    #[test]
    fn keys_are_read_from_pem() {
        let (one, other) = (key().public(), key().public());
        let text = format!("{}some words\n{}", one.pem(), other.pem());
        let expected: PublicKeys = [one, other].into_iter().collect();
        assert_eq!(PublicKeys::from_pem(&text).unwrap(), expected);
        for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert!(
                matches!(PublicKeys::from_pem(text), Err(KeyError::NoPublicKey)),
                "{text}"
            );
        }
    }

    #[test]
    fn hexadecimal_reads_back() {
        let bytes = [0x5a; 32];
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for text in ["", "5a", &"zz".repeat(32), &"5a".repeat(33)] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
