//! What central's admin port has beyond every process's: the state of its links, and the word that lets braked removals
//! happen.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use serde::Deserialize;

use crate::peer::LinkStatus;
use crate::peers::Peers;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirm {
    /// `management`, or a cluster's name.
    link: String,
}

pub(crate) fn routes(peers: Arc<Peers>) -> Router {
    Router::new()
        .route("/links", get(links))
        .route("/brake/confirm", post(confirm))
        .with_state(peers)
}

async fn links(State(peers): State<Arc<Peers>>) -> Json<Vec<LinkStatus>> {
    Json(peers.statuses())
}

async fn confirm(
    State(peers): State<Arc<Peers>>,
    Query(Confirm { link }): Query<Confirm>,
) -> (StatusCode, String) {
    if peers.confirm_removals(&link) {
        tracing::warn!(link, "an operator confirmed the removals");
        return (
            StatusCode::ACCEPTED,
            format!("the removals that the brake holds for {link} are let through\n"),
        );
    }
    let text = format!("there is no link {link}: see GET /links for those there are\n");
    (StatusCode::NOT_FOUND, text)
}
