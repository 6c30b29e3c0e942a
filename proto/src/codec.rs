//! Nouns to resources and back: canonical JSON. Structs and ordered maps give the same bytes for the same
//! value, which is what makes the content hash mean something.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::resource::{BadResource, Resource};

#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("cannot write {name} as JSON")]
    Json {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Resource(#[from] BadResource),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the body of {name}: check that both planes run versions that know each other")]
pub struct DecodeError {
    pub name: String,
    #[source]
    pub source: serde_json::Error,
}

/// # Errors
/// When the value has no JSON form (a map with keys that are no strings) or is too large.
pub fn encode<T: Serialize>(name: impl Into<String>, value: &T) -> Result<Resource, EncodeError> {
    let name = name.into();
    match serde_json::to_vec(value) {
        Ok(body) => Ok(Resource::new(name, body)?),
        Err(source) => Err(EncodeError::Json { name, source }),
    }
}

/// # Errors
/// When the body is not such a noun; the error names the resource.
pub fn decode<T: DeserializeOwned>(resource: &Resource) -> Result<T, DecodeError> {
    serde_json::from_slice(resource.body()).map_err(|source| DecodeError {
        name: resource.name().to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::{decode, encode};
    use crate::resource::Resource;

    #[test]
    fn a_noun_comes_back_and_its_hash_is_stable() {
        let weights = BTreeMap::from([("v2", 5u8), ("v1", 95)]);
        let resource = encode("routes/web", &weights).unwrap();
        assert_eq!(resource.body().as_ref(), br#"{"v1":95,"v2":5}"#);
        assert_eq!(encode("routes/web", &weights).unwrap(), resource);
        let back: BTreeMap<String, u8> = decode(&resource).unwrap();
        assert_eq!(back["v1"], 95);
    }

    #[test]
    fn a_body_that_is_no_noun_names_the_resource() {
        let error = decode::<u8>(&Resource::new("routes/web", "{").unwrap()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read the body of routes/web"),
            "{error}"
        );
    }

    #[test]
    fn a_value_without_json_names_the_resource() {
        let error = encode("routes/web", &BTreeMap::from([(Some(()), 1)])).unwrap_err();
        assert_eq!(error.to_string(), "cannot write routes/web as JSON");
    }
}
