//! What keeps the audit record honest: checkpoints that leave the system, exports that are verified without it, and
//! retention that leaves the rest verifiable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use chrono::{Months, Utc};
use sha2::{Digest, Sha256};
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, Row};
use tokio::net::TcpListener;
use tombolo_management::audit::{
    Chain, ChainHead, Export, Found, Index, Outcome, PublicKeys, Record, Report, Signed, Statement,
    StatementKind, Verb, Verifier, seal,
};
use tombolo_management::delivery::{S3, S3Credentials, Target};
use tombolo_management::{AuditConfig, start};
use tombolo_tests::eventually;
use tombolo_tests::postgres::Postgres;

use crate::support::{ACME, Api, Management, append_audit, two_teams};

const DEADLINE: Duration = Duration::from_secs(60);
const ACCESS_KEY: &str = "tester";
const SECRET_KEY: &str = "very/secret+key";

/// A store and a webhook in one: what arrives, by path. It fails the first request of each path's folder, and refuses a
/// PUT whose signature it does not come to itself.
#[derive(Clone, Debug, Default)]
struct Receiver {
    arrived: Arc<Mutex<BTreeMap<String, Vec<Signed>>>>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start() -> (Receiver, SocketAddr) {
        let receiver = Receiver::default();
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, address)
    }

    /// The numbers of the statements that arrived below the path, in order of their arrival.
    fn numbers(&self, below: &str) -> Vec<u64> {
        let arrived = self.arrived.lock().unwrap();
        let arrived = arrived.iter().filter(|(path, _)| path.starts_with(below));
        arrived.flat_map(|(_, signed)| signed).map(number).collect()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let folder = uri.path().split('/').nth(1).unwrap_or_default().to_owned();
    let mut failed = receiver.failed.lock().unwrap();
    if !failed.contains(&folder) {
        failed.push(folder);
        return (StatusCode::INTERNAL_SERVER_ERROR, "not yet".to_owned());
    }
    if method == Method::PUT && !is_signed(&uri, &headers, &body) {
        return (StatusCode::FORBIDDEN, "SignatureDoesNotMatch".to_owned());
    }
    let signed = serde_json::from_slice(&body).unwrap();
    let mut arrived = receiver.arrived.lock().unwrap();
    arrived.entry(uri.path().to_owned()).or_default().push(signed);
    (StatusCode::OK, String::new())
}

/// AWS Signature Version 4 as a server checks it: from the request that arrived, by the headers that it names.
fn is_signed(uri: &Uri, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let authorization = header("authorization");
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}=")).unwrap_or_default();
        rest.split(',').next().unwrap_or_default().trim()
    };
    let (credential, names, signature) = (part("Credential"), part("SignedHeaders"), part("Signature"));
    let Some((access_key, scope)) = credential.split_once('/') else {
        return false;
    };
    let payload = hex(&Sha256::digest(body));
    let mut canonical = format!("PUT\n{}\n\n", uri.path());
    for name in names.split(';') {
        canonical.push_str(&format!("{name}:{}\n", header(name)));
    }
    canonical.push_str(&format!("\n{names}\n{payload}"));
    let canonical = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{canonical}", header("x-amz-date"));
    let key = scope
        .split('/')
        .fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, part| {
            mac(&key, part)
        });
    access_key == ACCESS_KEY
        && header("x-amz-content-sha256") == payload
        && ["host", "x-amz-date"]
            .iter()
            .all(|name| names.split(';').any(|signed| signed == *name))
        && signature == hex(&mac(&key, &text))
}

fn number(signed: &Signed) -> u64 {
    let statement: Statement = serde_json::from_str(&signed.statement).unwrap();
    statement.number
}

fn in_file(path: &Path) -> Vec<Signed> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn keys(api: &Api) -> PublicKeys {
    let answer = api.get("audit:key").await.json();
    let pem: String = answer["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["pem"].as_str().unwrap())
        .collect();
    PublicKeys::from_pem(&pem).unwrap()
}

/// Waits until a checkpoint covers every record that there is, and gives what has left the system.
async fn checkpointed(management: &Management, file: &Path) -> Vec<Signed> {
    eventually(DEADLINE, || async {
        let head = management.count("SELECT audit_sequence FROM organizations").await;
        let signed = in_file(file);
        let last = signed.last().context("nothing was signed yet")?;
        let last: Statement = serde_json::from_str(&last.statement)?;
        ensure!(
            last.writes.sequence == head.cast_unsigned(),
            "{last:?} and not {head}"
        );
        Ok(signed)
    })
    .await
}

pub(crate) async fn verify_export(api: &Api, checkpoints: &[Signed]) -> Report {
    let answer = api.get("audit:export").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut export = Export::new(keys(api).await, checkpoints).unwrap();
    for line in answer.text.split_inclusive('\n') {
        export.line(line.as_bytes()).unwrap();
    }
    export.finish().unwrap()
}

/// Makes the chain of writes anew, as whoever administers the database can: every hash fits again, and so does the head.
async fn make_anew(url: &str, mut change: impl FnMut(usize, &mut Record)) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query("SELECT record FROM audit WHERE chain = 'writes' ORDER BY sequence")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    sqlx::raw_sql("DELETE FROM audit WHERE chain = 'writes'")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut head = ChainHead::default();
    for (number, row) in rows.iter().enumerate() {
        let mut record: Record = serde_json::from_slice(row.get(0)).unwrap();
        change(number, &mut record);
        let (sealed, next) = seal(Chain::Writes, head, record);
        head = next;
        append_audit(&mut connection, sealed).await;
    }
    sqlx::query("UPDATE organizations SET audit_sequence = $1, audit_hash = $2, audit_time = $3")
        .bind(head.sequence.cast_signed())
        .bind(head.hash.to_vec())
        .bind(head.time)
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn checkpoints_leave_the_system_in_order_and_arrive_after_failures() {
    let (receiver, address) = Receiver::start().await;
    let credentials = S3Credentials::parse(&format!("{ACCESS_KEY}:{SECRET_KEY}")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoints.jsonl");
    let audit = AuditConfig {
        targets: vec![
            Target::File(file.clone()),
            Target::Webhook(format!("http://{address}/hook").parse().unwrap()),
            Target::S3(
                S3::new(
                    &format!("http://{address}/bucket/audit"),
                    "eu-central-1",
                    credentials,
                )
                .unwrap(),
            ),
        ],
        ..AuditConfig::default()
    };
    let url = Postgres::start().create_database().await;
    let management = Management::start_with(url, audit).await;
    checkpointed(&management, &file).await;
    two_teams(&management).await;
    let signed = checkpointed(&management, &file).await;
    let keys = keys(&management.admin).await;
    let statements: Vec<Statement> = signed.iter().map(|signed| keys.verify(signed).unwrap()).collect();
    let expected: Vec<u64> = (1..=statements.len() as u64).collect();
    assert!(expected.len() >= 2, "{statements:?}");
    assert_eq!(
        statements.iter().map(|one| one.number).collect::<Vec<_>>(),
        expected
    );
    eventually(DEADLINE, || async {
        for below in ["/hook", "/bucket/audit/acme/0000"] {
            let found = receiver.numbers(below);
            ensure!(found == expected, "{below}: {found:?} and not {expected:?}");
        }
        let metrics = management.admin.get("/metrics").await.text;
        for target in ["file", "webhook", "s3"] {
            let delivered = format!(
                "audit_delivered_statement{{target=\"{target}\"}} {}",
                expected.len()
            );
            ensure!(metrics.contains(&delivered), "no {delivered} in {metrics}");
        }
        Ok(())
    })
    .await;
    let metrics = management.admin.get("/metrics").await.text;
    for target in ["webhook", "s3"] {
        let failed = format!("audit_delivery_failures_total{{target=\"{target}\"}} 1");
        assert!(metrics.contains(&failed), "{metrics}");
    }
    assert_eq!(management.admin.get("/readyz").await.status, 200);
    management.stop().await;
}

/// What the check on the server cannot see: whoever administers the database sets the head to fit.
#[tokio::test]
async fn an_export_shows_what_was_done_to_the_database_before_it() {
    type Meddle = &'static str;
    const ANEW: Meddle = "";
    let cases: [(Meddle, &str); 5] = [
        (
            "UPDATE audit SET record = convert_to(replace(convert_from(record, 'UTF8'), 'admin', 'nobody'), 'UTF8') \
             WHERE sequence = 3",
            "its bytes do not have its hash",
        ),
        (
            "DELETE FROM audit WHERE sequence = 5",
            "it is missing: the next one is 6",
        ),
        (
            "UPDATE audit SET sequence = sequence - 13 WHERE sequence IN (6, 7); \
             UPDATE audit SET sequence = -sequence WHERE sequence < 0",
            "its bytes do not have its hash",
        ),
        (
            "DELETE FROM audit WHERE sequence > 10; UPDATE organizations SET (audit_sequence, audit_hash, audit_time) = \
             (SELECT sequence, hash, time FROM audit WHERE sequence = 10)",
            "it is missing: checkpoint",
        ),
        (ANEW, "it or a record before it was made anew"),
    ];
    for (meddle, reason) in cases {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("checkpoints.jsonl");
        let audit = AuditConfig {
            targets: vec![Target::File(file.clone())],
            ..AuditConfig::default()
        };
        let url = Postgres::start().create_database().await;
        let mut management = Management::start_with(url.clone(), audit.clone()).await;
        two_teams(&management).await;
        let checkpoints = checkpointed(&management, &file).await;
        let good = verify_export(&management.admin, &checkpoints).await;
        assert!(good.is_whole() && good.chains[0].vouched == 15, "{good:?}");

        management.running.take().unwrap().stop().await.unwrap();
        if meddle == ANEW {
            make_anew(&url, |number, record| {
                if number == 7 {
                    record.actor = "organizations/acme/users/eve".to_owned();
                }
            })
            .await;
        } else {
            management.sql(meddle).await;
        }
        let running = start(management.config.clone()).await.unwrap();
        let admin = Api::new(running.api_addr(), management.admin.token.as_deref());
        if meddle == ANEW {
            let fooled = admin.get("audit:verify").await.json();
            assert_eq!(
                fooled["ok"], true,
                "the server has nothing else to compare with: {fooled}"
            );
        }
        let bad = verify_export(&admin, &checkpoints).await;
        let broken = bad.chains[0]
            .broken
            .as_ref()
            .unwrap_or_else(|| panic!("{meddle} was not found"));
        assert!(broken.reason.contains(reason), "{meddle}: {broken:?}");
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn retention_drops_months_and_what_is_left_is_verified_from_the_boundary() {
    const OLD: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoints.jsonl");
    let url = Postgres::start().create_database().await;
    let mut management = Management::start_on(url.clone()).await;
    two_teams(&management).await;
    management.running.take().unwrap().stop().await.unwrap();
    let long_ago = Utc::now() - Months::new(5);
    management
        .sql(&format!(
            "SELECT audit_add_partitions('{long_ago}', now()); DELETE FROM audit_statements"
        ))
        .await;
    make_anew(&url, |number, record| {
        if number < OLD {
            record.time = record.time - Months::new(5);
        }
    })
    .await;

    let mut config = management.config.clone();
    config.audit = AuditConfig {
        retention_months: Some(1),
        targets: vec![Target::File(file.clone())],
        ..AuditConfig::default()
    };
    let running = start(config).await.unwrap();
    let admin = Api::new(running.api_addr(), management.admin.token.as_deref());
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit'::regclass";
    eventually(DEADLINE, || async {
        let months = management.count(partitions).await;
        ensure!(
            months == 5,
            "{months} months are left, and not the last two and three to come"
        );
        Ok(())
    })
    .await;
    let dropped = admin.get("audit?verb=prune").await.json();
    let reason = dropped["items"].as_array().unwrap().last().unwrap()["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        reason,
        format!(
            "dropped {}: writes up to {OLD}, denials up to 0",
            long_ago.format("%Y-%m")
        )
    );
    let verified = admin.get("audit:verify").await.json();
    assert_eq!(verified["ok"], true, "{verified}");
    let checkpoints = checkpointed(&management, &file).await;
    let boundary = |signed: &&Signed| {
        let statement: Statement = serde_json::from_str(&signed.statement).unwrap();
        statement.kind == StatementKind::Boundary
    };
    assert!(
        checkpoints.iter().any(|signed| boundary(&signed)),
        "{checkpoints:?}"
    );
    let report = verify_export(&admin, &checkpoints).await;
    assert!(
        report.is_whole() && report.chains[0].vouched > OLD as u64,
        "{report:?}"
    );

    management
        .sql("DELETE FROM audit_statements WHERE kind = 'boundary'")
        .await;
    let without = admin.get("audit:verify").await.json();
    assert_eq!(without["chains"][0]["broken"]["sequence"], 1, "{without}");
    running.stop().await.unwrap();
}

/// Whoever upgrades has a record in one table, without kinds; it is moved, and every column and hash fits.
#[tokio::test]
async fn a_record_of_before_its_months_is_moved_into_them() {
    // Its roles belong to the server, and what is prepared by hand below needs them.
    Management::start().await.stop().await;
    let url = Postgres::start().create_database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"));
    let mut migrator = Migrator::new(folder).await.unwrap();
    migrator.migrations = migrator
        .migrations
        .iter()
        .filter(|one| one.version < 3)
        .cloned()
        .collect();
    migrator.run(&mut connection).await.unwrap();

    let route = format!("{ACME}/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/front");
    let mut head = ChainHead::default();
    let names = [
        ACME,
        &format!("{ACME}/users/ann"),
        &format!("{ACME}/tenants/pay"),
        &route,
    ];
    sqlx::raw_sql("INSERT INTO organizations VALUES ('acme', 1, 4, 4, '')")
        .execute(&mut connection)
        .await
        .unwrap();
    for (months, name) in names.into_iter().enumerate().rev() {
        let record = Record {
            kind: String::new(),
            time: tombolo_management::audit::now() - Months::new(u32::try_from(months).unwrap()),
            ..Record::new("system", Verb::Create, name, Outcome::Done)
        };
        let (sealed, next) = seal(Chain::Writes, head, record);
        head = next;
        sqlx::query(
            "INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, name, outcome) \
             VALUES ('acme', 'writes', $1, $2, $3, $4, $5, 'system', 'create', $6, 'done')",
        )
        .bind(sealed.sequence.cast_signed())
        .bind(sealed.bytes)
        .bind(sealed.previous.to_vec())
        .bind(sealed.hash.to_vec())
        .bind(sealed.record.time)
        .bind(name)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    sqlx::query("UPDATE organizations SET audit_hash = $1")
        .bind(head.hash.to_vec())
        .execute(&mut connection)
        .await
        .unwrap();

    Management::start_on(url).await.stop().await;
    let rows = sqlx::query("SELECT * FROM audit WHERE sequence <= 4 ORDER BY sequence")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut verifier = Verifier::default();
    for row in &rows {
        let index = Index {
            time: row.get("time"),
            actor: row.get("actor"),
            verb: row.get("verb"),
            kind: row.get("kind"),
            name: row.get("name"),
            outcome: row.get("outcome"),
        };
        let found = Found {
            sequence: row.get::<i64, _>("sequence").cast_unsigned(),
            bytes: row.get("record"),
            previous: row.get("previous"),
            hash: row.get("hash"),
            index,
        };
        verifier.next(&found).unwrap();
    }
    verifier.finish(head.mark()).unwrap();
}
