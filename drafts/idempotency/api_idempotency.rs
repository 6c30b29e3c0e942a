//! `Idempotency-Key`: writes on behalf of a request, at most once when it carries that header.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{App, dry_run};
use crate::audit::Verb;
use crate::iam::Principal;
use crate::idempotency::{Answer, Keyed, Once};
use crate::problem::Problem;
use crate::snapshot::Stored;
use crate::wish::Wish;
use crate::writer::{Caller, Committed};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that the answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The head of a request that writes.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    key: Option<HeaderValue>,
    /// What it asks for, beside its body.
    method: String,
    target: String,
    if_match: Vec<u8>,
}

/// How a wish is to be fulfilled.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Of the request, for a denial.
    pub(crate) verb: Verb,
    pub(crate) dry_run: bool,
    pub(crate) keyed: Option<Keyed>,
}

impl<S: Send + Sync> FromRequestParts<S> for Head {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Head, Infallible> {
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let if_match = parts.headers.get(header::IF_MATCH);
        Ok(Head {
            key: parts.headers.get(IDEMPOTENCY_KEY).cloned(),
            method: parts.method.to_string(),
            target: target.to_owned(),
            if_match: if_match.map_or_else(Vec::new, |etag| etag.as_bytes().to_vec()),
        })
    }
}

impl Head {
    /// The whole request, when it has a key.
    pub(crate) fn keyed(&self, caller: &Caller, body: &[u8]) -> Result<Option<Keyed>, Problem> {
        let (Some(key), Principal::User { uid, .. }) = (&self.key, &caller.principal) else {
            return Ok(None);
        };
        let key = key.to_str().unwrap_or_default().parse();
        let key = key.map_err(|error: crate::idempotency::BadKey| Problem::bad_request(error.to_string()))?;
        let parts = [
            self.method.as_bytes(),
            self.target.as_bytes(),
            &self.if_match,
            body,
        ];
        Ok(Some(Keyed::new(*uid, key, &parts)))
    }

    /// For a request whose answer is not kept.
    pub(crate) fn has_no_key(&self, because: &str) -> Result<(), Problem> {
        match self.key {
            None => Ok(()),
            Some(_) => Err(Problem::bad_request(format!(
                "Idempotency-Key: {because}; leave it out"
            ))),
        }
    }
}

impl App {
    /// Writes, or tells what a write would do.
    pub(crate) async fn write(
        &self,
        caller: Caller,
        wish: Wish,
        manner: Manner,
        answer: impl Fn(&Committed) -> Answer + Send + Sync + 'static,
    ) -> Result<Response, Problem> {
        let actor = caller.principal.clone();
        let of_write = |error| Problem::of_write(error, &actor, manner.verb);
        if manner.dry_run {
            let prepared = self.writes.dry_run(&actor, &wish).await.map_err(of_write)?;
            return Ok(dry_run::answer(&caller, &prepared, &self.mesh.borrow().clone()));
        }
        let answer = Arc::new(answer);
        let once = manner.keyed.map(|keyed| Once {
            keyed,
            answer: answer.clone(),
        });
        let mut committed = self.writes.write(caller, wish, once).await.map_err(of_write)?;
        tracing::Span::current().record("revision", committed.snapshot.version.revision);
        let told = committed.answer.take();
        Ok(told.unwrap_or_else(|| answer(&committed)).into_response())
    }
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Answer {
        Answer {
            status: status.as_u16(),
            location: None,
            etag: None,
            body: body.to_string().into_bytes(),
            is_again: false,
        }
    }

    /// A resource after its write.
    pub(crate) fn resource(status: StatusCode, stored: Option<&Stored>) -> Answer {
        match stored {
            Some(stored) => Answer {
                etag: Some(stored.etag.clone()),
                ..Answer::json(status, &stored.to_json())
            },
            // Written, and deleted by somebody else before we could look.
            None => Answer {
                status: StatusCode::NO_CONTENT.as_u16(),
                location: None,
                etag: None,
                body: Vec::new(),
                is_again: false,
            },
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, self.body).into_response();
        let etag = self.etag.map(|etag| format!("\"{etag}\""));
        let again = self.is_again.then(|| "true".to_owned());
        let told = [
            (header::CONTENT_TYPE, Some("application/json".to_owned())),
            (header::LOCATION, self.location),
            (header::ETAG, etag),
            (REPLAYED, again),
        ];
        for (name, value) in told {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
