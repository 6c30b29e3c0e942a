//! Extractors that answer with problem details: the body within its limit, and the query.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::document::{BODY_BYTES_MAX, BadBody, Format};
use crate::problem::Problem;

/// The bytes of a body of a media type that we read.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
}

/// The query of a request.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Body, Problem> {
        let (parts, body) = request.into_parts();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let length: Option<usize> = header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if length.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(BadBody::TooLarge.into());
        }
        let format = Format::from_content_type(header(header::CONTENT_TYPE).unwrap_or_default())?;
        let bytes = to_bytes(body, BODY_BYTES_MAX).await;
        let bytes = bytes.map_err(|error| {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(error) = cause {
                if error.is::<http_body_util::LengthLimitError>() {
                    return BadBody::TooLarge;
                }
                cause = error.source();
            }
            BadBody::CutOff
        })?;
        Ok(Body {
            format,
            bytes: bytes.into(),
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params<T>, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Params(params))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}
