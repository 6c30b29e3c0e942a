//! JSON that strangers send: whole in memory, so it is bounded by who reads it; as deep as serde_json goes, which is 128; and of one
//! meaning, so that a name that is there twice is refused.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Beyond it a number is not known to the last digit.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

pub(crate) type Object = BTreeMap<Box<str>, Json>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// As JavaScript and Envoy have them.
    Number(f64),
    Text(Box<str>),
    List(Vec<Self>),
    Object(Object),
}

impl Json {
    /// None where it is not JSON, or another kind of it.
    pub(crate) fn object(bytes: &[u8]) -> Option<Object> {
        match serde_json::from_slice(bytes) {
            Ok(Self::Object(object)) => Some(object),
            Ok(_) | Err(_) => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// What is at the end of `path`, which begins in `object`.
pub(crate) fn at<'a>(object: &'a Object, path: &[Box<str>]) -> Option<&'a Json> {
    let (first, rest) = path.split_first()?;
    let found = object.get(first)?;
    match (rest, found) {
        ([], found) => Some(found),
        (rest, Json::Object(inner)) => at(inner, rest),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((name, value)) = fields.next_entry::<Box<str>, Json>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) if value.fract() == 0.0 && value.abs() < INTEGER_MAX => {
                serializer.serialize_i64(*value as i64)
            }
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_in_one_way_or_not_at_all() {
        let deep = |depth| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for (text, is_one) in [
            ("{}", true),
            (r#" {"a":[1,-2.5e3,null,true,"\u0041"],"b":{"c":{}}} "#, true),
            (&deep(100), true),
            (&deep(200), false),
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"a":1,"\u0061":2}"#, false),
            (r#"{"a":{"b":1,"b":2}}"#, false),
            ("[1]", false),
            ("1", false),
            ("", false),
            ("{} {}", false),
            (r#"{"a":NaN}"#, false),
            (r#"{"a":1e999}"#, false),
            ("{\"a\":\"\u{1}\"}", false),
        ] {
            assert_eq!(Json::object(text.as_bytes()).is_some(), is_one, "{text}");
        }
        assert!(Json::object(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn what_is_read_is_written() {
        let text = r#"{"a":[1,2.5,null,true,"x"],"b":{"c":12345678901}}"#;
        let object = Json::object(text.as_bytes()).unwrap();
        assert_eq!(
            serde_json::to_string(&Json::Object(object.clone())).unwrap(),
            text
        );
        let path = |path: &str| path.split('.').map(Box::from).collect::<Vec<_>>();
        assert_eq!(at(&object, &path("b.c")), Some(&Json::Number(12_345_678_901.0)));
        for missing in ["c", "b.d", "b.c.d", "a.0"] {
            assert_eq!(at(&object, &path(missing)), None, "{missing}");
        }
        assert_eq!(at(&object, &[]), None);
    }
}
