//! Postgres going away: nothing lost, nothing half-applied, and no restart of management needed.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_tests::eventually;

use crate::support::{ACME, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn postgres_killed_in_the_middle_of_a_write_loses_nothing_and_applies_no_half() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let management = Management::start_on(postgres.url().to_owned()).await;
    two_teams(&management).await;
    let before = management.traces().await;
    let admin = &management.admin;

    // The write gets as far as its audit record, and waits there.
    let mut blocker = PgConnection::connect(management.url()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
    sqlx::query("LOCK TABLE audit IN EXCLUSIVE MODE")
        .execute(&mut blocker)
        .await
        .unwrap();
    let name = format!("{ACME}/tenants/half");
    let collection = format!("{ACME}/tenants");
    let writing = admin.post(&collection, json!({ "name": name }));
    let killing = async {
        eventually(DEADLINE, || async {
            let waiting = management
                .count("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit'::regclass")
                .await;
            ensure!(waiting == 1, "the write does not wait yet");
            Ok(())
        })
        .await;
        let killed = Command::new("kill")
            .args(["-9", &postgres.pid().to_string()])
            .status();
        assert!(killed.unwrap().success());
    };
    let (answer, ()) = futures::join!(writing, killing);
    answer.refused(503, "database");
    assert_eq!(answer.headers["retry-after"], "1");

    eventually(DEADLINE, || async {
        let ready = admin.get("/readyz").await;
        ensure!(ready.status == 503, "still ready");
        ensure!(ready.text.contains("postgres:"), "{}", ready.text);
        Ok(())
    })
    .await;
    assert_eq!(admin.get("/healthz").await.status, 200);
    admin
        .get(ACME)
        .await
        .refused(503, "the database is not reachable");
    admin
        .post(&collection, json!({ "name": name }))
        .await
        .refused(503, "the database is not reachable");

    drop((blocker, postgres));
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    eventually(DEADLINE, || async {
        let ready = admin.get("/readyz").await;
        ensure!(ready.status == 200, "{}", ready.text);
        Ok(())
    })
    .await;
    assert_eq!(
        management.traces().await,
        before,
        "nothing of the write, everything before it"
    );
    admin.get(&name).await.refused(404, "does not exist");
    let created = admin.create(json!({ "name": name })).await;
    assert_eq!(created["revision"], 3);
    assert_eq!(admin.get("audit:verify").await.json()["ok"], true);
    management.stop().await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_restored_database_stops_writes_until_somebody_adopts_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    management.sql("UPDATE organizations SET revision = 1").await;
    let admin = &management.admin;
    eventually(DEADLINE, || async {
        let ready = admin.get("/readyz").await;
        ensure!(
            ready.text.contains("was it restored from a backup?"),
            "{}",
            ready.text
        );
        Ok(())
    })
    .await;
    let name = format!("{ACME}/tenants/x");
    admin
        .post(&format!("{ACME}/tenants"), json!({ "name": name }))
        .await
        .refused(503, "the database is at 1.1, behind 1.2");
    assert_eq!(
        admin.get(&format!("{ACME}/tenants/pay")).await.status,
        200,
        "reads go on"
    );
    management.stop().await;
}

#[tokio::test]
async fn a_restarted_management_continues_where_it_was() {
    let mut management = Management::start().await;
    two_teams(&management).await;
    let seen = management.admin.get(&format!("{ACME}/tenants/pay")).await.json();
    management.running.take().unwrap().stop().await.unwrap();
    let (running, api) = management.replica().await;
    assert_eq!(api.get(&format!("{ACME}/tenants/pay")).await.json(), seen);
    assert_eq!(
        api.create(json!({"name": format!("{ACME}/tenants/x")})).await["revision"],
        3
    );
    running.stop().await.unwrap();
}
