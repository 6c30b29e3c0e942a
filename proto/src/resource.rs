//! Named resources with content hashes, and the digest of a set of them.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tombolo_compiler::persistent::Map;

/// Longer than any name of the resource model, short enough that a list of names stays small.
pub const NAME_BYTES_MAX: usize = 512;
/// One resource must fit one frame, with room for its name and the frame's own fields.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The first 16 bytes of the SHA-256 of a resource's body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 16]);

/// The digest of a set of (name, hash) pairs: the wrapping sum of 128 bits of the SHA-256 of each pair. A sum
/// has no order and can be updated for one name without looking at the others; that it could be forged with
/// some effort does not matter between two ends that trust each other and want to notice an accident.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(u128);

/// What a feed carries. Its body is opaque here; the planes put the canonical JSON of their nouns in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    name: String,
    hash: ContentHash,
    body: Bytes,
}

/// All that a publisher has, by name. A copy costs nothing, and two sets are compared by what they do not share.
pub type Set = Map<String, Resource>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadResource {
    #[error("a resource name of {given} bytes: use 1 to {NAME_BYTES_MAX}")]
    NameLength { given: usize },
    #[error("the resource name {given:?} holds a control character")]
    NameCharacter { given: String },
    #[error("the body of {name} has {given} bytes and may have {BODY_BYTES_MAX}")]
    BodyLength { name: String, given: usize },
    #[error("the body of {name} does not have the hash {given}")]
    Hash { name: String, given: ContentHash },
}

impl Resource {
    /// # Errors
    /// When the name or the body is not within its limits.
    pub fn new(name: impl Into<String>, body: impl Into<Bytes>) -> Result<Self, BadResource> {
        let (name, body) = (name.into(), body.into());
        check_name(&name)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(BadResource::BodyLength {
                name,
                given: body.len(),
            });
        }
        Ok(Self {
            hash: ContentHash::of(&body),
            name,
            body,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Builds one from the wire, where the hash is given too.
    pub(crate) fn verified(name: String, body: Bytes, hash: ContentHash) -> Result<Self, BadResource> {
        let resource = Self::new(name, body)?;
        if resource.hash == hash {
            return Ok(resource);
        }
        Err(BadResource::Hash {
            name: resource.name,
            given: hash,
        })
    }
}

impl ContentHash {
    pub fn of(body: &[u8]) -> Self {
        Self(first_half(&Sha256::digest(body).into()))
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Digest {
    pub fn of<'a>(names: impl IntoIterator<Item = (&'a String, &'a ContentHash)>) -> Self {
        let mut digest = Self::default();
        for (name, hash) in names {
            digest.add(name, *hash);
        }
        digest
    }

    pub(crate) fn add(&mut self, name: &str, hash: ContentHash) {
        self.0 = self.0.wrapping_add(pair(name, hash));
    }

    pub(crate) fn remove(&mut self, name: &str, hash: ContentHash) {
        self.0 = self.0.wrapping_sub(pair(name, hash));
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// # Errors
/// When `name` cannot be the name of a resource.
pub(crate) fn check_name(name: &str) -> Result<(), BadResource> {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Err(BadResource::NameLength { given: name.len() });
    }
    if name.chars().any(char::is_control) {
        return Err(BadResource::NameCharacter {
            given: name.to_owned(),
        });
    }
    Ok(())
}

fn pair(name: &str, hash: ContentHash) -> u128 {
    // The hash comes first because its length is fixed: no two pairs give the same bytes.
    let sum = Sha256::new().chain_update(hash.0).chain_update(name).finalize();
    u128::from_be_bytes(first_half(&sum.into()))
}

fn first_half(sum: &[u8; 32]) -> [u8; 16] {
    *sum.first_chunk()
        .expect("invariant: 16 bytes are the first half of 32")
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.to_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.to_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{BODY_BYTES_MAX, BadResource, ContentHash, Digest, Resource};

    #[test]
    fn a_digest_has_no_order_and_can_be_undone() {
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        let mut forth = Digest::default();
        forth.add("web", a);
        let one = forth;
        forth.add("api", b);
        let mut back = Digest::default();
        back.add("api", b);
        back.add("web", a);
        assert_eq!(forth, back);
        back.remove("api", b);
        assert_eq!(back, one);
        assert_ne!(Digest::of([(&"web".to_owned(), &b)]), one);
        assert_eq!(Digest::from_bytes(one.to_bytes()), one);
    }

    #[test]
    fn bad_resources_say_what_is_wrong() {
        let long = "x".repeat(513);
        assert_eq!(
            Resource::new("", "").unwrap_err().to_string(),
            "a resource name of 0 bytes: use 1 to 512"
        );
        assert_eq!(
            Resource::new(long, "").unwrap_err(),
            BadResource::NameLength { given: 513 }
        );
        assert_eq!(
            Resource::new("a\nb", "").unwrap_err().to_string(),
            "the resource name \"a\\nb\" holds a control character"
        );
        let body = vec![0; BODY_BYTES_MAX + 1];
        assert!(matches!(
            Resource::new("a", body),
            Err(BadResource::BodyLength { .. })
        ));
        let error = Resource::verified("a".into(), "x".into(), ContentHash::of(b"y")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body of a does not have the hash a1fce4363854ff888cff4b8e7875d600"
        );
    }
}
