//! `/v1/<user or service account>/tokens` and `/v1/<service account>/keys`: issue, list, revoke.

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

use super::body::Body;
use super::paging::PageParams;
use super::{App, Params, login};
use crate::account_key;
use crate::audit::{self, Verb};
use crate::caller::Caller;
use crate::iam::Action;
use crate::problem::Problem;
use crate::token::{self, CredentialKind, Issued, Order, TokenInfo};

/// Of a description.
const DESCRIPTION_BYTES_MAX: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wish {
    #[serde(default)]
    description: String,
    expire_time: Option<DateTime<Utc>>,
}

/// The user or service account that the path names, and what of it; nothing is told of sessions and passwords.
#[derive(Debug)]
pub(crate) struct Collection {
    pub(super) holder: Fqn,
    kind: CredentialKind,
}

pub(crate) async fn issue(
    State(app): State<App>,
    caller: Caller,
    Collection { holder, kind }: Collection,
    body: Body,
) -> Result<Response, Problem> {
    let verb = kind.issuing();
    find(&app, &caller, &holder, verb)?;
    if caller.keyed.is_some() {
        let detail = format!(
            "Idempotency-Key: a {kind} is shown once, and is not kept to be shown again; leave it out"
        );
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
    let order = Order {
        user: holder.clone(),
        description: wish.description,
        expires_at: wish.expire_time,
    };
    let snapshot = app.writes.snapshot();
    let refused = |error| Problem::of_token(error, &caller.principal, verb);
    let answer = match kind {
        CredentialKind::Token => {
            let token = login::generate()?;
            let issued = token::issue(&app.store, &snapshot, &caller, order, Issued::Token(&token)).await;
            shown(&issued.map_err(refused)?, "token", json!(token.reveal()))
        }
        CredentialKind::Key => {
            let (key, file) = account_key::generate(&holder).map_err(|error| no_randomness(&error))?;
            let issued = token::issue(&app.store, &snapshot, &caller, order, Issued::Key(&key)).await;
            shown(&issued.map_err(refused)?, "key", json!(file))
        }
    };
    let location = format!(
        "/v1/{holder}/{kind}s/{}",
        answer["id"].as_str().unwrap_or_default()
    );
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(answer)).into_response())
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Collection { holder, kind }: Collection,
    Params(paging): Params<PageParams>,
) -> Result<Json<Value>, Problem> {
    let user_uid = find(&app, &caller, &holder, Verb::List)?;
    let mut tx = app.store.begin_as(&caller.principal).await?;
    let rows = app.store.tokens_of(&mut tx, user_uid).await?.into_iter();
    let of_kind = rows.filter(|row| row.kind() == kind).map(TokenInfo::from);
    let page = paging.cut(of_kind, |token| token.id)?;
    Ok(Json(page.told_in(json!({ "items": page.items }))))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Collection { holder, kind }: Collection,
    Path(path): Path<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    find(&app, &caller, &holder, kind.revoking())?;
    let id = path.get("id").map_or("", String::as_str);
    let missing = || Problem::not_found(format!("{kind} {id} of {holder}"));
    let uuid: Uuid = id.parse().map_err(|_| missing())?;
    let revoked = token::revoke(&app.store, &app.writes.snapshot(), &caller, &holder, (kind, uuid)).await;
    let revoked = revoked.map_err(|error| Problem::of_token(error, &caller.principal, kind.revoking()))?;
    let answer = revoked.ok_or_else(missing)?;
    tracing::info!(%holder, %uuid, "revoked a {kind}");
    Ok(answer.into_response())
}

impl<S: Send + Sync> FromRequestParts<S> for Collection {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Collection, Problem> {
        let path = parts.uri.path().trim_start_matches("/v1/");
        let (kind, holder) = split(path);
        let missing = |error: BadName| Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string());
        Ok(Collection {
            holder: holder.parse().map_err(missing)?,
            kind,
        })
    }
}

/// A name has an even number of segments, and what stands behind it one or two.
fn split(path: &str) -> (CredentialKind, &str) {
    let behind = 2 - path.split('/').count() % 2;
    let (collection, holder) = match behind {
        1 => path.rsplit_once('/'),
        _ => path
            .rsplit_once('/')
            .and_then(|(collection, _)| collection.rsplit_once('/')),
    }
    .map_or(("", path), |(holder, collection)| (collection, holder));
    let kind = match collection {
        "keys" => CredentialKind::Key,
        _ => CredentialKind::Token,
    };
    (kind, holder)
}

/// With what is shown this once.
fn shown(issued: &TokenInfo, field: &str, secret: Value) -> Value {
    let mut answer = json!(issued);
    answer[field] = secret;
    answer
}

pub(super) fn no_randomness(error: &dyn std::error::Error) -> Problem {
    tracing::error!(%error, "the system gives no randomness");
    let detail = "cannot generate what is to be secret";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

/// The uid of the one whose tokens and keys they are, when the caller may keep them.
pub(super) fn find(app: &App, caller: &Caller, holder: &Fqn, verb: Verb) -> Result<Uuid, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow(&snapshot, caller, Action::Tokens, holder, verb)?;
    let stored = snapshot.get(holder).ok_or_else(|| Problem::not_found(holder))?;
    Ok(stored.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_holder_and_what_it_holds() {
        let keys = "organizations/acme/serviceaccounts/keys";
        for (path, kind) in [
            (format!("{keys}/tokens"), CredentialKind::Token),
            (format!("{keys}/keys"), CredentialKind::Key),
            (format!("{keys}/tokens/keys"), CredentialKind::Token),
            (format!("{keys}/keys/1"), CredentialKind::Key),
        ] {
            assert_eq!(split(&path), (kind, keys), "{path}");
        }
    }
}
