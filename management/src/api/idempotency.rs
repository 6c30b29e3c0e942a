//! `Idempotency-Key`: who sends a write again is given the first answer. Around every request, and inside of what frames it.

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::body;
use super::caller::Bearer;
use crate::caller::Caller;
use crate::idempotency::{BadKey, Key, Keyed};
use crate::managed::{FORCE, MANAGER};
use crate::problem::Problem;
use crate::reply::Answer;
use crate::writer::Committed;

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that the answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// What headers add to what a request asks for.
const ASKING: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::IF_MATCH,
    super::plans::IF_PLAN,
    MANAGER,
    FORCE,
];

pub(crate) async fn once(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    let Some(given) = request.headers().get(IDEMPOTENCY_KEY) else {
        return Ok(next.run(request).await);
    };
    if request.method().is_safe() {
        return Ok(next.run(request).await);
    }
    let key: Result<Key, BadKey> = given.to_str().unwrap_or_default().parse();
    let key = key.map_err(|error| Problem::bad_request(error.to_string()))?;
    let (mut parts, body) = request.into_parts();
    let bearer = Bearer::from_request_parts(&mut parts, &app).await?;
    let caller = app.identify(bearer).await?;
    let uid = caller
        .principal
        .uid()
        .expect("invariant: management itself sends no requests");
    let turn = app
        .in_flight
        .enter(uid, &key)
        .ok_or_else(|| still_running(&key))?;
    let bytes = body::read(&parts.headers, body).await?;
    let caller = Caller {
        keyed: Some(asked(key, &parts, &bytes)),
        ..caller
    };
    if let Some(answer) = replay(&app, &caller).await? {
        return Ok(answer.into_response());
    }
    parts.extensions.insert(caller.clone());
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    // Another replica may have done it meanwhile, and what was tried here came too late.
    let replayed = match response.status().is_success() {
        true => None,
        false => replay(&app, &caller).await?,
    };
    drop(turn);
    Ok(replayed.map_or(response, IntoResponse::into_response))
}

fn asked(key: Key, parts: &Parts, body: &[u8]) -> Keyed {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let mut asked = vec![parts.method.as_str().as_bytes(), target.as_bytes()];
    asked.extend(
        ASKING
            .iter()
            .map(|name| parts.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes)),
    );
    asked.push(body);
    Keyed::new(key, &asked)
}

/// The answer that was given before to the caller's request.
async fn replay(app: &App, caller: &Caller) -> Result<Option<Answer>, Problem> {
    let mut tx = app.store.read_as(&caller.principal).await?;
    let kept = app.store.kept_answer(&mut tx, caller).await?;
    Ok(caller.open(kept)?)
}

fn still_running(key: &Key) -> Problem {
    let detail = format!(
        "the first request with the Idempotency-Key {} is still being worked on; send it again in a moment",
        key.as_str()
    );
    Problem::new(StatusCode::CONFLICT, "still-running", detail)
}

impl IntoResponse for Committed {
    fn into_response(self) -> Response {
        tracing::Span::current().record("revision", self.revision);
        self.answer.into_response()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, self.body).into_response();
        let etag = self.etag.map(|etag| format!("\"{etag}\""));
        let replayed = self.is_replayed.then(|| "true".to_owned());
        let told = [
            (header::CONTENT_TYPE, Some("application/json".to_owned())),
            (header::LOCATION, self.location),
            (header::ETAG, etag),
            (REPLAYED, replayed),
        ];
        for (name, value) in told {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
