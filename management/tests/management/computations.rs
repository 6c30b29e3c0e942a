//! Who computes something over the whole organization leaves room for everybody else.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tombolo_tests::eventually;

use crate::support::{ACME, Answer, Api, Management, two_teams};

/// What has begun to be computed cannot go on before it is given up: all of it reads the history.
async fn hold_history(management: &Management) -> PgConnection {
    let mut holder = PgConnection::connect(management.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE history IN ACCESS EXCLUSIVE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

fn compiled(api: &Api) -> JoinHandle<Answer> {
    let api = api.clone();
    tokio::spawn(async move { api.get(&format!("{ACME}:compiled")).await })
}

async fn waiting(api: &Api, wanted: u32) {
    eventually(Duration::from_secs(30), async || {
        let metrics = api.get("/metrics").await.text;
        let line = format!("tombolo_management_computations_waiting {wanted}\n");
        anyhow::ensure!(metrics.contains(&line), "not {wanted} wait");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_reads_is_answered_while_others_compute_and_wait() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let holder = hold_history(&management).await;
    let computing = [compiled(admin), compiled(admin)];
    management.waits(2).await;

    let plan = tokio::spawn({
        let admin = admin.clone();
        let body = json!({"name": format!("{ACME}/tenants/new")});
        async move { admin.post("plans", body).await }
    });
    waiting(admin, 1).await;
    let hangs_up = compiled(admin);
    waiting(admin, 2).await;
    hangs_up.abort();
    waiting(admin, 1).await;

    let read = admin.get(&format!("{ACME}/tenants/pay")).await;
    assert_eq!(read.status, 200, "{}", read.text);
    assert!(!plan.is_finished(), "it has waited for nothing");

    holder.close().await.unwrap();
    for computed in computing {
        let answer = computed.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.json()["routes"].is_object());
    }
    let planned = plan.await.unwrap();
    assert_eq!(planned.status, 200, "{}", planned.text);
    let changes: Value = planned.json()["changes"].clone();
    assert_eq!(changes[0]["action"], "create", "{changes}");
    waiting(admin, 0).await;
    management.stop().await;
}
