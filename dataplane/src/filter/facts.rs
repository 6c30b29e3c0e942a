//! What filters know of a request that it does not say by itself, for those behind them: the claims of its tokens.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::jwt::{Provider, Token};
use crate::json::{Json, at};
use crate::matcher::StringMatcher;

/// Envoy's name for where it keeps them.
pub(crate) const JWT_NAMESPACE: &str = "envoy.filters.http.jwt_authn";

#[derive(Clone, Default)]
pub(crate) struct Facts(Vec<Fact>);

#[derive(Clone)]
struct Fact {
    key: Arc<str>,
    worded: Arc<[Box<str>]>,
    token: Rc<Token>,
}

/// A claim that a token must have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimMatcher {
    /// What the provider calls its claims, and then the claim within them.
    pub(crate) path: Box<[Box<str>]>,
    pub(crate) wanted: ValueMatcher,
    pub(crate) inverted: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ValueMatcher {
    Null,
    Number(NumberMatcher),
    Text(StringMatcher),
    Bool(bool),
    Present,
    /// One item of a list.
    Item(Box<Self>),
    OneOf(Box<[Self]>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NumberMatcher {
    Exact(f64),
    Within(std::ops::Range<f64>),
}

/// What is found, if anything.
enum Value<'a> {
    Missing,
    /// All of a token's.
    Claims,
    Claim(&'a Json),
    /// Of a claim that is a list of them.
    Words(&'a str),
}

impl Facts {
    pub(super) fn extend(&mut self, provider: &Provider, token: Rc<Token>) {
        self.0.extend(provider.metadata.as_ref().map(|key| Fact {
            key: Arc::clone(key),
            worded: Arc::clone(&provider.worded),
            token,
        }));
    }

    fn at(&self, path: &[Box<str>]) -> Value<'_> {
        let Some((key, path)) = path.split_first() else {
            return Value::Missing;
        };
        // What was said later is said instead.
        let Some(fact) = self.0.iter().rev().find(|fact| *fact.key == **key) else {
            return Value::Missing;
        };
        let claims = &fact.token.claims;
        match (path, at(claims, path)) {
            ([], _) => Value::Claims,
            (_, None) => Value::Missing,
            ([name], Some(Json::Text(text))) if fact.worded.contains(name) => Value::Words(text),
            (_, Some(claim)) => Value::Claim(claim),
        }
    }
}

/// Of the same tokens.
impl PartialEq for Facts {
    fn eq(&self, other: &Self) -> bool {
        let is_same =
            |(one, other): (&Fact, &Fact)| one.key == other.key && Rc::ptr_eq(&one.token, &other.token);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(is_same)
    }
}

/// Without what is in the tokens.
impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|fact| &fact.key))
            .finish()
    }
}

impl ClaimMatcher {
    pub(crate) fn matches(&self, facts: &Facts) -> bool {
        self.wanted.matches(&facts.at(&self.path)) != self.inverted
    }
}

impl ValueMatcher {
    fn matches(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::OneOf(some), value) => some.iter().any(|one| one.matches(value)),
            (Self::Present, value) => !matches!(value, Value::Missing),
            (Self::Item(wanted), Value::Words(words)) => words.split_ascii_whitespace().any(|word| {
                let word = Json::Text(word.into());
                wanted.matches(&Value::Claim(&word))
            }),
            (wanted, Value::Claim(claim)) => wanted.matches_claim(claim),
            (_, Value::Missing | Value::Claims | Value::Words(_)) => false,
        }
    }

    fn matches_claim(&self, claim: &Json) -> bool {
        match (self, claim) {
            (Self::Null, Json::Null) => true,
            (Self::Number(NumberMatcher::Exact(wanted)), Json::Number(number)) => wanted == number,
            (Self::Number(NumberMatcher::Within(range)), Json::Number(number)) => range.contains(number),
            (Self::Text(wanted), Json::Text(text)) => wanted.matches(text.as_bytes()),
            (Self::Bool(wanted), Json::Bool(value)) => wanted == value,
            (Self::Item(wanted), Json::List(items)) => {
                items.iter().any(|item| wanted.matches(&Value::Claim(item)))
            }
            _ => false,
        }
    }
}
