//! Postgres going away: nothing lost, nothing half-applied, and no restart of management needed.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use futures::future::{Either, select};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_runtime::plane_id::Plane;
use tombolo_tests::eventually;
use tombolo_tests::postgres::Postgres;

use crate::central::Central;
use crate::support::{ACME, Api, Management, two_teams};
use crate::wire::{Fault, Wire};

const DEADLINE: Duration = Duration::from_secs(60);

/// What keeps every write at its audit record, until it is dropped.
async fn block_audit(management: &Management) -> PgConnection {
    let mut blocker = PgConnection::connect(management.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE audit IN EXCLUSIVE MODE")
        .execute(&mut blocker)
        .await
        .unwrap();
    blocker
}

async fn a_write_waits(management: &Management) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit'::regclass";
    eventually(DEADLINE, || async {
        ensure!(
            management.count(waiting).await == 1,
            "the write does not wait yet"
        );
        Ok(())
    })
    .await;
}

async fn becomes_ready(api: &Api) {
    eventually(DEADLINE, || async {
        let ready = api.get("/readyz").await;
        ensure!(ready.status == 200, "{}", ready.text);
        Ok(())
    })
    .await;
}

async fn becomes_unready(api: &Api, because: &str) {
    eventually(DEADLINE, || async {
        let ready = api.get("/readyz").await;
        ensure!(
            ready.status == 503 && ready.text.contains(because),
            "{}",
            ready.text
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn postgres_killed_in_the_middle_of_a_write_loses_nothing_and_applies_no_half() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let management = Management::start_on(postgres.url().to_owned()).await;
    two_teams(&management).await;
    let before = management.traces().await;
    let admin = &management.admin;

    // The write gets as far as its audit record, and waits there.
    let blocker = block_audit(&management).await;
    let name = format!("{ACME}/tenants/half");
    let collection = format!("{ACME}/tenants");
    let writing = admin.post(&collection, json!({ "name": name }));
    let killing = async {
        a_write_waits(&management).await;
        let killed = Command::new("kill")
            .args(["-9", &postgres.pid().to_string()])
            .status();
        assert!(killed.unwrap().success());
    };
    let (answer, ()) = futures::join!(writing, killing);
    answer.refused(503, "database");
    assert_eq!(answer.headers["retry-after"], "1");

    becomes_unready(admin, "postgres:").await;
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
    becomes_ready(admin).await;
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

/// Processes of a test's own server that do not run; they go on when this is dropped, however the test ends.
struct Frozen(Vec<i32>);

impl Frozen {
    /// The first of them; of the others some may have ended by now, which is as silent.
    fn new(pids: Vec<i32>) -> Frozen {
        let frozen = Frozen(pids);
        assert!(frozen.signal("-STOP").first().is_some_and(|stopped| *stopped));
        frozen
    }

    /// Whom it reached.
    fn signal(&self, signal: &str) -> Vec<bool> {
        let each = self.0.iter().map(|pid| {
            let status = Command::new("kill").arg(signal).arg(pid.to_string()).status();
            status.is_ok_and(|status| status.success())
        });
        each.collect()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[tokio::test]
async fn a_postgres_that_freezes_in_the_middle_of_a_write_stops_the_writer_for_a_while_only() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let management = Management::start_on(postgres.url().to_owned()).await;
    two_teams(&management).await;
    let before = management.traces().await;
    let admin = &management.admin;
    let mut blocker = block_audit(&management).await;
    let name = format!("{ACME}/tenants/half");
    let collection = format!("{ACME}/tenants");
    let writing = admin.post(&collection, json!({ "name": name }));
    let freezing = async {
        a_write_waits(&management).await;
        let clients: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        .fetch_all(&mut blocker)
        .await
        .unwrap();
        let server = i32::try_from(postgres.pid()).unwrap();
        Frozen::new([server].into_iter().chain(clients).collect())
    };
    let both = tokio::time::timeout(DEADLINE, futures::future::join(writing, freezing));
    let (answer, frozen) = both.await.unwrap();
    answer.refused(503, "the database has not answered");
    becomes_unready(admin, "postgres:").await;
    // Whoever asks meanwhile is answered, and the writer takes up its jobs.
    let reading = tokio::time::timeout(DEADLINE, admin.get(ACME)).await.unwrap();
    assert_eq!(reading.status, 503, "{}", reading.text);

    drop(frozen);
    drop(blocker);
    becomes_ready(admin).await;
    assert_eq!(management.traces().await, before, "nothing of the write");
    admin.create(json!({ "name": name })).await;
    assert_eq!(admin.get("audit:verify").await.json()["ok"], true);
    management.stop().await;
    postgres.stop().await;
}

#[tokio::test]
async fn one_connection_that_hangs_keeps_nobody_else_from_being_looked_up() {
    // Shorter than a look-up is waited for, longer than one takes.
    const HANGS: Duration = Duration::from_secs(2);
    // Of management, each with a connection of its own.
    const LOOPS: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let management = Management::start_on(postgres.url().to_owned()).await;
    let admin = &management.admin;
    // The loops take turns.
    for _ in 0..LOOPS {
        assert_eq!(admin.get(ACME).await.status, 200);
    }
    let look_ups = management
        .text("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE query LIKE 'SELECT * FROM look_up(%'")
        .await;
    let look_ups: Vec<i32> = look_ups.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(look_ups.len(), LOOPS);
    let frozen = Frozen::new(look_ups[..1].to_vec());

    let mut hanging = None;
    for _ in 0..LOOPS {
        let mut read = Box::pin(admin.get(ACME));
        match tokio::time::timeout(HANGS, &mut read).await {
            Ok(answer) => assert_eq!(answer.status, 200, "{}", answer.text),
            Err(_) => {
                hanging = Some(read);
                break;
            }
        }
    }
    let hanging = hanging.expect("one of the loops has the frozen connection");
    let others = async {
        for _ in 0..5 {
            let answer = admin.get(ACME).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    };
    // While the one still hangs.
    match select(hanging, Box::pin(others)).await {
        Either::Left((answer, _)) => panic!("the others have waited for {}: {}", answer.status, answer.text),
        Either::Right(((), hanging)) => {
            let answer = hanging.await;
            assert_eq!(answer.status, 503, "{}", answer.text);
        }
    }
    drop(frozen);
    management.stop().await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_not_called_an_unreachable_database() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let admin = &management.admin;
    let blocker = block_audit(&management).await;
    let name = format!("{ACME}/tenants/slow");
    admin
        .post(&format!("{ACME}/tenants"), json!({ "name": name }))
        .await
        .refused(503, "it took the database longer than 5000 ms; try again");
    assert_eq!(admin.get("/readyz").await.status, 200);
    drop(blocker);
    assert_eq!(management.traces().await, before);
    admin.create(json!({ "name": name })).await;
    management.stop().await;
}

#[tokio::test]
async fn a_restored_database_stops_writes_until_somebody_adopts_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    management.sql("UPDATE organizations SET revision = 1").await;
    let admin = &management.admin;
    becomes_unready(admin, "was it restored from a backup?").await;
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
async fn invariant_2_a_central_that_holds_more_than_a_restored_database_stops_writes_until_it_is_adopted() {
    // The process has started on the restored database: only the central knows of what is lost.
    let management = Management::start().await;
    two_teams(&management).await;
    let (replica, other) = management.replica().await;
    let admin = &management.admin;
    let stamp = Stamp {
        version: Version {
            epoch: 1,
            revision: 40,
        },
        source: "management".to_owned(),
        sequence: 0,
    };
    let held = Held {
        stamp: Some(stamp),
        ..Held::default()
    };
    let central = Central::connect_holding(&management, "a", Plane::Central, None, held).await;
    becomes_unready(admin, "was it restored from a backup?").await;
    assert!(
        admin
            .get("/metrics")
            .await
            .text
            .contains("tombolo_management_database_behind 1")
    );
    let before = management.traces().await;
    let name = format!("{ACME}/tenants/x");
    let collection = format!("{ACME}/tenants");
    admin
        .post(&collection, json!({ "name": name }))
        .await
        .refused(503, "the database is at 1.2, behind 1.40");
    let ann = management.anonymous();
    ann.post(&format!("{ACME}:adopt"), json!({}))
        .await
        .refused(401, "send a token");
    assert_eq!(management.traces().await, before);

    let adopted = admin.post(&format!("{ACME}:adopt"), json!({})).await;
    assert_eq!(adopted.status, 200, "{}", adopted.text);
    assert_eq!(adopted.json()["epoch"], 2);
    assert_eq!(adopted.json()["revision"], 41);
    eventually(DEADLINE, || async {
        let ready = admin.get("/readyz").await;
        ensure!(ready.status == 200, "{}", ready.text);
        let version = central.state().stamp.map(|stamp| stamp.version);
        let expected = Version {
            epoch: 2,
            revision: 41,
        };
        ensure!(version == Some(expected), "the central holds {version:?}");
        Ok(())
    })
    .await;
    let created = admin.create(json!({ "name": name })).await;
    assert_eq!(created["revision"], 42);
    eventually(DEADLINE, || async {
        let there = other.get(&name).await;
        ensure!(
            there.status == 200,
            "the other replica does not follow: {}",
            there.text
        );
        Ok(())
    })
    .await;
    let listed = admin.get("audit?pageSize=5").await.text;
    assert!(listed.contains("\"adopt\""), "{listed}");
    assert_eq!(admin.get("audit:verify").await.json()["ok"], true);
    replica.stop().await.unwrap();
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

/// Management behind a wire; what the test asks of the database itself goes past it.
async fn behind_a_wire() -> (Management, Wire) {
    let url = Postgres::start().create_database().await;
    let wire = Wire::start(&url).await;
    let mut management = Management::start_on(wire.url(&url)).await;
    management.config.database_url = Some(url);
    two_teams(&management).await;
    (management, wire)
}

#[tokio::test]
async fn a_commit_without_an_answer_is_called_unknown_and_is_whole_or_not_at_all() {
    for (fault, took_place) in [
        (Fault::CutBefore("COMMIT"), false),
        (Fault::CutAfter("COMMIT"), true),
    ] {
        let (management, wire) = behind_a_wire().await;
        let admin = &management.admin;
        let before = management.traces().await;
        let name = format!("{ACME}/tenants/unknown");
        wire.set(fault);
        let answer = admin
            .post(&format!("{ACME}/tenants"), json!({ "name": name }))
            .await;
        answer.refused(503, "read again to see whether the write took place");
        assert_eq!(answer.headers["retry-after"], "1");
        wire.set(Fault::None);
        becomes_ready(admin).await;
        if took_place {
            assert_eq!(admin.get(&name).await.json()["revision"], 3);
            let record = admin.get(&format!("audit?name={name}")).await.json();
            assert_eq!(record["items"][0]["verb"], "create", "{record}");
        } else {
            admin.get(&name).await.refused(404, "does not exist");
            assert_eq!(management.traces().await, before, "nothing of the write");
        }
        let next = admin
            .create(json!({"name": format!("{ACME}/tenants/next")}))
            .await;
        assert_eq!(
            next["revision"],
            if took_place { 4 } else { 3 },
            "the writer has caught up"
        );
        assert_eq!(admin.get("audit:verify").await.json()["ok"], true);
        management.stop().await;
    }
}

#[tokio::test]
async fn a_transaction_of_which_each_statement_is_just_in_time_ends_after_ten_seconds() {
    let (management, wire) = behind_a_wire().await;
    let admin = &management.admin;
    let before = management.traces().await;
    let name = format!("{ACME}/tenants/slow");
    let collection = format!("{ACME}/tenants");
    let mut answer;
    let mut attempts = 0;
    loop {
        // The seven statements of a write take fourteen seconds. One with the rollback of another before it takes four, of
        // the six that it has: a machine that is busy has two to lose.
        wire.set(Fault::Slow(Duration::from_secs(2)));
        let writing = admin.post(&collection, json!({ "name": name }));
        answer = tokio::time::timeout(DEADLINE, writing).await.unwrap();
        wire.set(Fault::None);
        becomes_ready(admin).await;
        attempts += 1;
        // The writer may just look for what other replicas did, or have to connect again, which is as slow and ends
        // otherwise, with nothing written either.
        if attempts == 5 || answer.text.contains("has not ended the transaction") {
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.text);
    }
    answer.refused(503, "has not ended the transaction within 10 s");
    assert_eq!(management.traces().await, before, "nothing of the write");
    admin.create(json!({ "name": name })).await;
    management.stop().await;
}

#[tokio::test]
async fn a_replica_that_cannot_read_a_row_is_not_ready_and_names_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    becomes_ready(admin).await;
    let pay = format!("{ACME}/tenants/pay");
    let rewritten = |document: &str| {
        format!(
            "WITH head AS (UPDATE organizations SET revision = revision + 1 RETURNING revision) \
             UPDATE resources r SET revision = head.revision, document = {document} FROM head WHERE r.name = '{pay}'"
        )
    };
    management
        .sql(&rewritten("jsonb_set(document, '{spec}', '7')"))
        .await;
    becomes_unready(
        admin,
        &format!("postgres: the row of {pay} in resources cannot be read"),
    )
    .await;
    management.sql(&rewritten("document - 'spec'")).await;
    becomes_ready(admin).await;
    assert_eq!(admin.get(&format!("{pay}:tree")).await.status, 200);
    management.stop().await;
}
