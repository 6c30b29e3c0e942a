//! Extractors that answer with problem details: the body within its limit, and the query.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::document::{self, BODY_BYTES_MAX, BODY_TIME_MAX, BadBody, Format};
use crate::problem::Problem;

/// The bytes of a body of a media type that we read.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
}

impl Body {
    /// The one document that it holds.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let value = document::parse_one(self.format, &self.bytes)?;
        serde_json::from_value(value).map_err(|error| Problem::bad_request(error.to_string()))
    }
}

/// The query of a request.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Body, Problem> {
        let (parts, body) = request.into_parts();
        check_length(&parts.headers)?;
        let format = Format::from_content_type(text(&parts.headers, &header::CONTENT_TYPE))?;
        let bytes = read(&parts.headers, body).await?.into();
        Ok(Body { format, bytes })
    }
}

/// The whole of a body, within its limit.
pub(crate) async fn read(headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, BadBody> {
    check_length(headers)?;
    within(body, BODY_BYTES_MAX, BODY_TIME_MAX).await
}

/// All of it, of at most so many bytes, and within that time.
pub(super) async fn within(
    body: axum::body::Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, BadBody> {
    let bytes = timeout(time_max, to_bytes(body, bytes_max)).await;
    bytes.map_err(|_| BadBody::TooSlow)?.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return BadBody::TooLarge;
            }
            cause = error.source();
        }
        BadBody::CutOff
    })
}

fn check_length(headers: &HeaderMap) -> Result<(), BadBody> {
    match text(headers, &header::CONTENT_LENGTH).parse::<usize>() {
        Ok(length) if length > BODY_BYTES_MAX => Err(BadBody::TooLarge),
        _ => Ok(()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params<T>, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Params(params))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_body_that_goes_on_for_ever_is_given_up() {
        let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
        let endless = Body::from_stream(begun.chain(stream::pending()));
        let read = within(endless, 100, Duration::ZERO).await;
        assert_eq!(read, Err(BadBody::TooSlow));
        let read = within(Body::from("{}"), 100, BODY_TIME_MAX).await;
        assert_eq!(read, Ok(Bytes::from_static(b"{}")));
        let read = within(Body::from("{}"), 1, BODY_TIME_MAX).await;
        assert_eq!(read, Err(BadBody::TooLarge));
    }
}
