//! The least that answers the same row: axum, a pool of the same size, one statement by the primary key.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// As many as management's.
const CONNECTIONS_MAX: u32 = 16;

/// Stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Bare {
    addr: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Bare {
    /// As the owner: no row-level security in its way.
    pub(crate) async fn start(url: &str) -> Result<Bare> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .test_before_acquire(false)
            .connect(url)
            .await
            .context("cannot connect to postgres")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let router = Router::new().route("/v1/{*name}", get(answer)).with_state(pool);
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Bare { addr, task })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(pool): State<PgPool>, Path(name): Path<String>) -> Response {
    match read(&pool, &name).await {
        Ok((etag, document)) => ([(header::ETAG, format!("\"{etag}\""))], Json(document)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// What management shows of a resource.
async fn read(pool: &PgPool, name: &str) -> Result<(String, Value), sqlx::Error> {
    let query = "SELECT uid::text AS uid, document, etag, revision, \
                 to_json(created_at) AS created_at, to_json(updated_at) AS updated_at FROM resources WHERE name = $1";
    let row = sqlx::query(query).bind(name).fetch_one(pool).await?;
    let etag: String = row.try_get("etag")?;
    let mut document: Value = row.try_get("document")?;
    document["uid"] = row.try_get::<String, _>("uid")?.into();
    document["etag"] = etag.clone().into();
    document["revision"] = row.try_get::<i64, _>("revision")?.into();
    document["createTime"] = row.try_get("created_at")?;
    document["updateTime"] = row.try_get("updated_at")?;
    Ok((etag, document))
}
