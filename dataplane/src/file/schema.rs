//! What the messages of Envoy's API are made of, as far as their form in JSON has to know it. Generated code knows numbers only;
//! names and types are in `schema.txt`, which is taken from the descriptors that come with it, and is read only where a file is.

use std::collections::HashMap;

const TEXT: &str = include_str!("schema.txt");

/// By full name.
pub(super) struct Schema(HashMap<&'static str, Type>);

pub(super) enum Type {
    Message(Vec<Field>),
    /// Names of values with their numbers.
    Enum(Vec<(&'static str, i32)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) label: Label,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Its default is as good as none.
    Single,
    Optional,
    Repeated,
    /// Repeated entries of a key and a value.
    Map,
    /// One of those of that name at most.
    OneOf(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Bytes,
    Double,
    Float,
    Int32,
    Int64,
    String,
    Uint32,
    Uint64,
    /// A message or an enum.
    Named(&'static str),
}

impl Schema {
    pub(super) fn read() -> Self {
        let mut types = HashMap::new();
        let mut lines = TEXT.lines().peekable();
        while let Some(line) = lines.next() {
            let (what, name) = line
                .split_once(' ')
                .expect("invariant: a type has a kind and a name");
            let members = std::iter::from_fn(|| lines.next_if(|line| line.starts_with(' ')));
            let read = match what {
                "enum" => Type::Enum(members.map_while(value).collect()),
                _ => Type::Message(members.map_while(field).collect()),
            };
            types.insert(name, read);
        }
        Self(types)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Type> {
        self.0.get(name)
    }
}

impl Field {
    /// Whether it is called so: by its own name, or in the way of JSON.
    pub(super) fn is_called(&self, key: &str) -> bool {
        self.name == key || camel_case(self.name) == key
    }
}

fn value(line: &'static str) -> Option<(&'static str, i32)> {
    let (number, name) = line.trim_start().split_once(' ')?;
    Some((name, number.parse().ok()?))
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let name = words.next()?;
    let (label, kind) = match words.next()? {
        "repeated" => (Label::Repeated, words.next()?),
        "optional" => (Label::Optional, words.next()?),
        "map" => (Label::Map, words.next()?),
        "oneof" => (Label::OneOf(words.next()?), words.next()?),
        kind => (Label::Single, kind),
    };
    Some(Field {
        number,
        name,
        label,
        kind: match kind {
            "bool" => Kind::Bool,
            "bytes" => Kind::Bytes,
            "double" => Kind::Double,
            "float" => Kind::Float,
            "int32" => Kind::Int32,
            "int64" => Kind::Int64,
            "string" => Kind::String,
            "uint32" => Kind::Uint32,
            "uint64" => Kind::Uint64,
            name => Kind::Named(name),
        },
    })
}

fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut is_next_upper = false;
    for letter in name.chars() {
        match letter {
            '_' => is_next_upper = true,
            _ if is_next_upper => {
                camel.push(letter.to_ascii_uppercase());
                is_next_upper = false;
            }
            _ => camel.push(letter),
        }
    }
    camel
}

#[cfg(test)]
mod tests;
