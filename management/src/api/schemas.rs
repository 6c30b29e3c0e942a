//! `GET /v1/schemas` and `GET /v1/schemas/<kind>`: what documents look like.

use axum::Json;
use axum::extract::Path;
use serde_json::{Value, json};
use tombolo_compiler::name::Kind;
use tombolo_compiler::schema;

use crate::caller::Caller;
use crate::problem::Problem;

pub(crate) async fn list(_caller: Caller) -> Json<Value> {
    let items = Kind::ALL.map(|kind| {
        json!({
            "kind": kind.to_string(),
            "collection": kind.collection(),
            "schema": format!("/v1/schemas/{kind}"),
        })
    });
    Json(json!({ "items": items }))
}

pub(crate) async fn get(_caller: Caller, Path(kind): Path<String>) -> Result<Json<Value>, Problem> {
    let found = Kind::ALL.into_iter().find(|known| known.to_string() == kind);
    let found = found.ok_or_else(|| Problem::not_found(format!("a schema of {kind}")))?;
    Ok(Json(schema::document(found)))
}
