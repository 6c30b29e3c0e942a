//! `/v1/<user or service account>/tokens`: issue, list, revoke.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::{BadName, Fqn};
use uuid::Uuid;

use super::App;
use super::body::Body;
use crate::audit::{self, Verb};
use crate::iam::Action;
use crate::problem::Problem;
use crate::token::{self, Order, Token, TokenInfo};
use crate::writer::Caller;

/// Of a token's description.
const DESCRIPTION_BYTES_MAX: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wish {
    #[serde(default)]
    description: String,
    expire_time: Option<DateTime<Utc>>,
}

/// The user or service account that the path names.
#[derive(Debug)]
pub(crate) struct Holder(Fqn);

pub(crate) async fn issue(
    State(app): State<App>,
    caller: Caller,
    Holder(user): Holder,
    body: Body,
) -> Result<Response, Problem> {
    find(&app, &caller, &user, Verb::IssueToken)?;
    if caller.keyed.is_some() {
        let detail = "Idempotency-Key: a token is shown once, and its text is not kept to be shown again; leave it out";
        return Err(Problem::bad_request(detail));
    }
    let wish: Wish = body.parse()?;
    if wish.description.len() > DESCRIPTION_BYTES_MAX {
        let detail = format!("/description: longer than {DESCRIPTION_BYTES_MAX} bytes");
        return Err(Problem::bad_request(detail));
    }
    if wish.expire_time.is_some_and(|at| at <= audit::now()) {
        return Err(Problem::bad_request("/expireTime: lies in the past"));
    }
    let token = Token::generate().map_err(|error| {
        tracing::error!(%error, "the system gives no randomness");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "cannot generate a token",
        )
    })?;
    let order = Order {
        user: user.clone(),
        description: wish.description,
        expires_at: wish.expire_time,
    };
    let issued = token::issue(&app.store, &app.writes.snapshot(), &caller, order, &token).await;
    let issued = issued.map_err(|error| Problem::of_token(error, &caller.principal, Verb::IssueToken))?;
    let mut answer = json!(issued);
    answer["token"] = token.reveal().into();
    let location = format!("/v1/{user}/tokens/{}", issued.id);
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(answer)).into_response())
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Holder(user): Holder,
) -> Result<Json<Value>, Problem> {
    let user_uid = find(&app, &caller, &user, Verb::List)?;
    let mut tx = app.store.begin_as(&caller.principal).await?;
    let tokens = app.store.tokens_of(&mut tx, user_uid).await?;
    let items: Vec<TokenInfo> = tokens.into_iter().map(TokenInfo::from).collect();
    Ok(Json(json!({ "items": items })))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Holder(user): Holder,
    Path(path): Path<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    find(&app, &caller, &user, Verb::RevokeToken)?;
    let id = path.get("id").map_or("", String::as_str);
    let missing = || Problem::not_found(format!("token {id} of {user}"));
    let uuid: Uuid = id.parse().map_err(|_| missing())?;
    let revoked = token::revoke(&app.store, &app.writes.snapshot(), &caller, &user, uuid).await;
    let revoked = revoked.map_err(|error| Problem::of_token(error, &caller.principal, Verb::RevokeToken))?;
    let answer = revoked.ok_or_else(missing)?;
    tracing::info!(%user, %uuid, "revoked a token");
    Ok(answer.into_response())
}

impl<S: Send + Sync> FromRequestParts<S> for Holder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Holder, Problem> {
        let path = parts.uri.path().trim_start_matches("/v1/");
        let name = path.rsplit_once("/tokens").map_or(path, |(name, _)| name);
        name.parse()
            .map(Holder)
            .map_err(|error: BadName| Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string()))
    }
}

/// The uid of the one whose tokens they are, when the caller may keep them.
fn find(app: &App, caller: &Caller, holder: &Fqn, verb: Verb) -> Result<Uuid, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow(&snapshot, caller, Action::Tokens, holder, verb)?;
    let stored = snapshot.get(holder).ok_or_else(|| Problem::not_found(holder))?;
    Ok(stored.uid)
}
