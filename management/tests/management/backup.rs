//! A backup that is restored: by pg_dump and pg_restore, as an ordinary owner, while management writes on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_management::start;
use tombolo_proto::held::{Held, Version};
use tombolo_runtime::plane_id::Plane;
use tombolo_tests::eventually;

use crate::central::Central;
use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);
const PAY: &str = "organizations/acme/tenants/pay";

/// One of Postgres' own programs, as docs/operations.md says to run it.
fn run(program: &str, arguments: &[&str], file: &Path) {
    let binaries = std::env::var_os("TOMBOLO_POSTGRES_BIN")
        .expect("set TOMBOLO_POSTGRES_BIN, as `cargo xtask test` does: this test needs pg_dump");
    let ran = Command::new(Path::new(&binaries).join(program))
        .args(arguments)
        .arg(file)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[tokio::test]
async fn invariant_2_a_restored_backup_rolls_no_cluster_back_before_somebody_adopts_it() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let mut superuser = PgConnection::connect(postgres.url()).await.unwrap();
    for statement in [
        "CREATE ROLE plain LOGIN CREATEROLE",
        "CREATE DATABASE before OWNER plain",
        "CREATE DATABASE after OWNER plain",
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut superuser)
            .await
            .unwrap();
    }
    let url = |database: &str| {
        let url = postgres.url().replacen("//tombolo@", "//plain@", 1);
        url.replacen("/tombolo?", &format!("/{database}?"), 1)
    };
    let mut management = Management::start_on(url("before")).await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let saved = management.admin.get("audit:verify").await.json();

    let dump = dir.path().join("backup.dump");
    run(
        "pg_dump",
        &[
            "--format=custom",
            "--enable-row-security",
            "--dbname",
            &url("before"),
            "--file",
        ],
        &dump,
    );
    let lost = format!("{ACME}/tenants/lost");
    management.admin.create(json!({ "name": lost })).await;
    let central = Central::connect(&management, "a").await;
    let latest = eventually(DEADLINE, || async {
        let state = central.state();
        ensure!(
            state.items.contains_key(&lost),
            "the central does not hold it yet"
        );
        Ok(state)
    })
    .await;
    central.disconnect();
    management.running.take().unwrap().stop().await.unwrap();

    run(
        "pg_restore",
        &["--exit-on-error", "--dbname", &url("after")],
        &dump,
    );
    management.config.database_url = Some(url("after"));
    let running = start(management.config.clone()).await.unwrap();
    let admin = Api::new(running.api_addr(), management.admin.token.as_deref());
    management.running = Some(running);
    let held = Held {
        stamp: latest.stamp.clone(),
        ..Held::default()
    };
    let central = Central::connect_holding(&management, "a", Plane::Central, None, held).await;
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
    assert_eq!(central.state().steps, [], "what the central holds stays");
    admin
        .post(
            &format!("{ACME}/tenants"),
            json!({"name": format!("{ACME}/tenants/x")}),
        )
        .await
        .refused(503, "writes are refused");
    assert_eq!(admin.get(PAY).await.status, 200);
    assert_eq!(
        admin.get("audit:verify").await.json(),
        saved,
        "the record is whole"
    );
    let ann = Api::new(admin.addr, ann.token.as_deref());
    assert_eq!(ann.get(PAY).await.status, 200, "realms and policies came with it");
    ann.get(ACME).await.refused(404, "is not yours to see");

    let adopted = admin.post(&format!("{ACME}:adopt"), json!({})).await;
    assert_eq!(adopted.status, 200, "{}", adopted.text);
    let behind = latest.stamp.unwrap().version;
    let version = Version {
        epoch: behind.epoch + 1,
        revision: behind.revision + 1,
    };
    eventually(DEADLINE, || async {
        let state = central.state();
        let found = state.stamp.as_ref().map(|stamp| stamp.version);
        ensure!(found == Some(version), "the central holds {found:?}");
        ensure!(!state.items.contains_key(&lost), "what was lost is given up");
        Ok(())
    })
    .await;
    admin.create(json!({ "name": lost })).await;
    central.disconnect();
    management.stop().await;
    postgres.stop().await;
}
