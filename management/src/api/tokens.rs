//! `/v1/organizations/<organization>/users/<user>/tokens`: issue, list, revoke.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::body::Body;
use super::{App, login, target};
use crate::audit::{self, Verb};
use crate::document;
use crate::iam::Action;
use crate::problem::Problem;
use crate::store;
use crate::token::{self, Order, TokenInfo};
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

pub(crate) async fn issue(
    State(app): State<App>,
    caller: Caller,
    Path((organization, user)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let (user, user_uid) = find(&app, &caller, &organization, &user, Verb::IssueToken)?;
    if caller.keyed.is_some() {
        let detail = "Idempotency-Key: a token is shown once, and its text is not kept to be shown again; leave it out";
        return Err(Problem::bad_request(detail));
    }
    let wish: Wish = serde_json::from_value(document::parse_one(body.format, &body.bytes)?)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    if wish.description.len() > DESCRIPTION_BYTES_MAX {
        let detail = format!("/description: longer than {DESCRIPTION_BYTES_MAX} bytes");
        return Err(Problem::bad_request(detail));
    }
    if wish.expire_time.is_some_and(|at| at <= audit::now()) {
        return Err(Problem::bad_request("/expireTime: lies in the past"));
    }
    let token = login::generate()?;
    let order = Order {
        user,
        user_uid,
        description: wish.description,
        expires_at: wish.expire_time,
    };
    let mut tx = app.store.begin_as(&caller.principal).await?;
    let issued = token::issue(&app.store, &mut tx, &caller, &order, &token).await?;
    store::commit(tx).await?;
    let mut answer = json!(issued);
    answer["token"] = token.reveal().into();
    let location = format!("/v1/{}/tokens/{}", order.user, issued.id);
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(answer)).into_response())
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path((organization, user)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (_, user_uid) = find(&app, &caller, &organization, &user, Verb::List)?;
    let mut tx = app.store.begin_as(&caller.principal).await?;
    let tokens = app.store.tokens_of(&mut tx, user_uid).await?;
    let items: Vec<TokenInfo> = tokens.into_iter().map(TokenInfo::from).collect();
    Ok(Json(json!({ "items": items })))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path((organization, user, id)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    let (user, user_uid) = find(&app, &caller, &organization, &user, Verb::RevokeToken)?;
    let missing = || Problem::not_found(format!("token {id} of {user}"));
    let uuid: Uuid = id.parse().map_err(|_| missing())?;
    let revoked = token::revoke(&app.store, &caller, &user, user_uid, uuid).await?;
    let answer = revoked.ok_or_else(missing)?;
    tracing::info!(%user, %uuid, "revoked a token");
    Ok(answer.into_response())
}

pub(super) fn find(
    app: &App,
    caller: &Caller,
    organization: &str,
    user: &str,
    verb: Verb,
) -> Result<(Fqn, Uuid), Problem> {
    let name = target::user(organization, user)
        .map_err(|error| Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string()))?;
    let snapshot = app.writes.snapshot();
    app.allow(&snapshot, caller, Action::Tokens, &name, verb)?;
    let stored = snapshot.get(&name).ok_or_else(|| Problem::not_found(&name))?;
    Ok((name, stored.uid))
}
