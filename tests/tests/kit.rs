//! The kit itself: the real parts start, answer and go away.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tombolo_management::embedded::{EmbeddedError, EmbeddedPostgres};
use tombolo_tests::envoy::Envoy;
use tombolo_tests::postgres::Postgres;
use tombolo_tests::{eventually, free_port};

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let postgres = Postgres::start();
    let (one, other) = (postgres.create_database().await, postgres.create_database().await);
    assert_eq!(execute(&one, "CREATE TABLE t (n int)").await, Ok(()));
    assert_eq!(execute(&one, "INSERT INTO t VALUES (1)").await, Ok(()));
    let error = execute(&other, "INSERT INTO t VALUES (1)").await.unwrap_err();
    assert!(error.contains("relation \"t\" does not exist"), "{error}");
    assert_eq!(Postgres::start().pid(), postgres.pid(), "one server per process");
}

#[tokio::test]
async fn a_private_postgres_keeps_what_it_has_committed() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    execute(postgres.url(), "CREATE TABLE t (n int)").await.unwrap();
    postgres.stop().await;

    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    execute(postgres.url(), "INSERT INTO t VALUES (1)").await.unwrap();
    kill(postgres.pid());
    eventually(DEADLINE, || async {
        ensure!(
            execute(postgres.url(), "SELECT 1").await.is_err(),
            "it still answers"
        );
        Ok(())
    })
    .await;
    drop(postgres);

    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    assert_eq!(
        execute(
            postgres.url(),
            "DO $$ BEGIN ASSERT (SELECT count(*) FROM t) = 1; END $$"
        )
        .await,
        Ok(())
    );
    postgres.stop().await;
}

#[tokio::test]
async fn a_dropped_postgres_can_be_started_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedPostgres::start(dir.path()).await.unwrap());
    EmbeddedPostgres::start(dir.path()).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_private_postgres_listens_on_no_tcp_port() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    let addresses: String = sqlx::query_scalar("SHOW listen_addresses")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(addresses, "");
    connection.close().await.unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let error = EmbeddedPostgres::start(dir.path()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    assert_eq!(
        execute(postgres.url(), "SELECT 1").await,
        Ok(()),
        "the first is untouched"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn a_cluster_of_another_major_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let version = dir.path().join("cluster/PG_VERSION");
    std::fs::create_dir(dir.path().join("cluster")).unwrap();
    std::fs::write(&version, "9\n").unwrap();
    let error = EmbeddedPostgres::start(dir.path()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was written by postgres 9, but the server found is"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&version).unwrap(), "9\n");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = EmbeddedPostgres::start(&dir.path().join("x".repeat(90)))
        .await
        .unwrap_err();
    assert!(
        matches!(error, EmbeddedError::SocketPathTooLong { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    EmbeddedPostgres::start(dir.path()).await.unwrap().stop().await;
    std::fs::write(dir.path().join("cluster/postgresql.conf"), "no such setting\n").unwrap();
    let error = EmbeddedPostgres::start(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("syntax error in file"), "{error}");
}

#[tokio::test]
async fn envoy_starts_answers_and_goes_away() {
    let port = free_port();
    let envoy = Envoy::start(&bootstrap(port)).await.unwrap();
    let version = envoy.admin_get("/server_info").await.unwrap();
    assert!(version.contains("/1.40.0/"), "{version}");
    assert!(envoy.admin_get("/no-such-page").await.is_err());

    let pid = envoy.pid();
    drop(envoy);
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "envoy outlived its handle"
    );
}

#[tokio::test]
async fn an_envoy_that_refuses_its_bootstrap_says_why() {
    let error = Envoy::start("admin: {nonsense: 1}").await.unwrap_err();
    assert!(format!("{error:#}").contains("nonsense"), "{error:#}");
}

#[tokio::test]
#[should_panic(expected = "not within 50ms: still waiting")]
async fn waiting_ends_with_the_last_error() {
    eventually(Duration::from_millis(50), || async {
        anyhow::bail!("still waiting") as anyhow::Result<()>
    })
    .await;
}

async fn execute(url: &str, statement: &str) -> Result<(), String> {
    let run = async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await?;
        connection.close().await
    };
    run.await.map_err(|error: sqlx::Error| error.to_string())
}

fn kill(pid: u32) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -KILL {pid}")])
        .status()
        .unwrap();
    assert!(status.success());
}

fn bootstrap(port: u16) -> String {
    format!(
        "
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
static_resources:
  listeners:
  - name: fixed
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: fixed
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hello}}}}}}]
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}
