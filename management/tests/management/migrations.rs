//! Migrations are safe with data: on a database that an ordinary owner has written at each version that there was, this
//! version starts, and nothing of it is lost.

use std::collections::BTreeMap;
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tombolo_compiler::name::Fqn;
use tombolo_management::audit::{Chain, ChainHead, Outcome, Record, Verb, seal};
use tombolo_management::embedded::EmbeddedPostgres;
use uuid::Uuid;

use crate::audit_keeping::verify_export;
use crate::support::{ACME, Answer, Api, Management};

const PAY: &str = "organizations/acme/tenants/pay";
const CI: &str = "organizations/acme/tenants/pay/serviceaccounts/ci";
const PASSWORD: &str = "a horse that reads maps";

/// Writes by SQL what management of a version wrote.
struct Old {
    connection: PgConnection,
    version: i64,
    revision: i64,
    writes: ChainHead,
    /// Of what was written, by name.
    uids: BTreeMap<String, Uuid>,
    documents: BTreeMap<String, Value>,
}

/// What somebody has held since before: its text is shown to management, which keeps its hash.
#[derive(Clone, Copy)]
struct Credential(u8);

const ADMIN: Credential = Credential(1);
const ANN: Credential = Credential(2);
const REVOKED: Credential = Credential(3);
const ENDED: Credential = Credential(4);
const PIPELINE: Credential = Credential(5);
const SESSION: Credential = Credential(6);
const LATER_SESSION: Credential = Credential(7);

impl Credential {
    fn bytes(self) -> [u8; 32] {
        [self.0; 32]
    }

    fn text(self) -> String {
        format!("tb_{}", URL_SAFE_NO_PAD.encode(self.bytes()))
    }

    fn id(self) -> Uuid {
        Uuid::from_u128(self.0.into())
    }

    fn hash(self) -> String {
        bytes(&Sha256::digest(self.bytes()))
    }
}

/// As a literal of SQL.
fn bytes(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{hex}'::bytea")
}

/// As a literal of SQL.
fn json_text(value: &Value) -> String {
    format!("$json${value}$json$::jsonb")
}

/// As a literal of SQL.
fn at(time: DateTime<Utc>) -> String {
    format!("'{}'::timestamptz", time.to_rfc3339())
}

/// Which each version has written.
fn tenant(version: i64) -> String {
    format!("{ACME}/tenants/of-{version}")
}

impl Old {
    async fn sql(&mut self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut self.connection)
            .await
            .unwrap_or_else(|error| panic!("version {}: {error}: {statement}", self.version));
    }

    /// Rows, by table.
    async fn counts(&mut self) -> BTreeMap<String, i64> {
        let tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                      AND relkind IN ('r', 'p') AND NOT relispartition";
        let tables = sqlx::query(tables).fetch_all(&mut self.connection).await.unwrap();
        let mut counts = BTreeMap::new();
        for table in tables.iter().map(|row| row.get::<String, _>(0)) {
            let counting = format!("SELECT count(*) FROM {table}");
            let count = sqlx::query_scalar(AssertSqlSafe(counting)).fetch_one(&mut self.connection);
            counts.insert(table, count.await.unwrap());
        }
        counts
    }

    /// The next version, which has as many rows of each table as the one before, or more.
    async fn migrate(&mut self, migrator: &Migrator, version: i64) {
        let before = self.counts().await;
        migrator.run_to(version, &mut self.connection).await.unwrap();
        self.version = version;
        self.has_lost_nothing(&before).await;
    }

    async fn has_lost_nothing(&mut self, before: &BTreeMap<String, i64>) {
        let after = self.counts().await;
        // The words of the record are found in its postings from version 22 on.
        let is_kept = |table: &str| self.version < 22 || table != "audit_words";
        for (table, before) in before.iter().filter(|(table, _)| is_kept(table)) {
            let after = after.get(table).unwrap_or(&0);
            assert!(
                after >= before,
                "version {}: {table} had {before} rows, and has {after}",
                self.version
            );
        }
    }

    /// A record behind the others of its chain.
    async fn append(&mut self, chain: Chain, head: ChainHead, mut record: Record) -> ChainHead {
        if self.version < 3 {
            record.kind.clear();
        }
        let (sealed, head) = seal(chain, head, record);
        let index = sealed.record.index();
        let [time, record, previous, hash] = [
            at(index.time),
            bytes(&sealed.bytes),
            bytes(&sealed.previous),
            bytes(&sealed.hash),
        ];
        let (columns, more) = match self.version {
            ..3 => ("", String::new()),
            // What its keys were is read by no version that is left.
            3..22 => (
                ", kind, actor_key, class_key",
                format!(", '{}', 1, 2", index.kind),
            ),
            _ => (", kind", format!(", '{}'", index.kind)),
        };
        self.sql(&format!(
            "INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, name, outcome{columns}) \
             VALUES ('acme', '{chain}', {}, {record}, {previous}, {hash}, {time}, '{}', '{}', '{}', '{}'{more})",
            sealed.sequence, index.actor, index.verb, index.name, index.outcome
        ))
        .await;
        head
    }

    /// What [`Old::append`] has put behind the writes is all there is, with as many revisions.
    async fn set_head(&mut self) {
        let mut columns = format!(
            "revision = {}, audit_sequence = {}, audit_hash = {}",
            self.revision,
            self.writes.sequence,
            bytes(&self.writes.hash)
        );
        if self.version >= 3 {
            columns.push_str(&format!(", audit_time = {}", at(self.writes.time)));
        }
        self.sql(&format!("UPDATE organizations SET {columns}")).await;
    }

    async fn create(&mut self, name: &str, spec: Value) {
        let kind = name.parse::<Fqn>().unwrap().kind().to_string();
        let document = json!({"kind": kind, "name": name, "spec": spec});
        self.revision += 1;
        let record = Record {
            revision: Some(self.revision.cast_unsigned()),
            after: Some(document.clone()),
            ..Record::new("system", Verb::Create, name, Outcome::Done)
        };
        self.writes = self.append(Chain::Writes, self.writes, record).await;
        let uid = Uuid::now_v7();
        let (revision, body, time) = (self.revision, json_text(&document), at(self.writes.time));
        self.sql(&format!(
            "INSERT INTO resources (name, organization, uid, kind, document, etag, revision, created_at, updated_at) \
             VALUES ('{name}', 'acme', '{uid}', '{kind}', {body}, 'e{revision}', {revision}, {time}, {time})"
        ))
        .await;
        if self.version >= 4 {
            self.sql(&format!(
                "INSERT INTO history (organization, name, revision, uid, action, actor, time, document, etag, created_at) \
                 VALUES ('acme', '{name}', {revision}, '{uid}', 'create', 'system', {time}, {body}, 'e{revision}', {time})"
            ))
            .await;
        }
        self.set_head().await;
        self.uids.insert(name.to_owned(), uid);
        self.documents.insert(name.to_owned(), document);
    }

    async fn issue(&mut self, credential: Credential, user: &str) {
        let (id, hash, uid) = (credential.id(), credential.hash(), self.uids[user]);
        self.sql(&format!(
            "INSERT INTO tokens (id, organization, sha256, user_uid, description, created_at) \
             VALUES ('{id}', 'acme', {hash}, '{uid}', 'of version {}', now())",
            self.version
        ))
        .await;
    }

    async fn open_session(&mut self, credential: Credential) {
        let (id, hash, uid) = (
            credential.id(),
            credential.hash(),
            self.uids[&format!("{ACME}/users/ann")],
        );
        self.sql(&format!(
            "INSERT INTO sessions (id, organization, sha256, user_uid, method, groups, source, agent, created_at, expires_at) \
             VALUES ('{id}', 'acme', {hash}, '{uid}', 'password', '{{}}', '127.0.0.1', 'a browser', now(), \
             now() + interval '1 day')"
        ))
        .await;
    }

    /// The first start.
    async fn begin(&mut self) {
        self.sql(&format!(
            "INSERT INTO organizations (name, epoch, revision, audit_sequence, audit_hash) VALUES ('acme', 1, 0, 0, {})",
            bytes(&self.writes.hash)
        ))
        .await;
        let (admin, ann) = (format!("{ACME}/users/admin"), format!("{ACME}/users/ann"));
        self.create(ACME, json!({})).await;
        self.create(&admin, json!({})).await;
        let spec = json!({"role": "admin", "subjects": [admin]});
        self.create(&format!("{ACME}/bindings/admin"), spec).await;
        self.create(&ann, json!({})).await;
        self.create(&format!("{ACME}/clusters/us-east"), json!({"region": "us"}))
            .await;
        self.create(PAY, json!({})).await;
        self.create(
            &format!("{PAY}/workspaces/shop"),
            json!({"namespaces": ["*/shop"]}),
        )
        .await;
        let spec = json!({"role": "writer", "subjects": [ann]});
        self.create(&format!("{PAY}/bindings/ann"), spec).await;
        self.issue(ADMIN, &admin).await;
        self.issue(REVOKED, &admin).await;
        self.issue(ENDED, &admin).await;
        self.issue(ANN, &ann).await;
        let cluster = self.uids[&format!("{ACME}/clusters/us-east")];
        let denied = Record::new(ann, Verb::Delete, PAY, Outcome::Denied);
        let denials = self.append(Chain::Denials, ChainHead::default(), denied).await;
        let hash = bytes(&denials.hash);
        self.sql(&format!(
            "UPDATE tokens SET revoked_at = now() WHERE id = '{}';
             UPDATE tokens SET expires_at = now() - interval '1 day' WHERE id = '{}';
             INSERT INTO tombstones (name, organization, uid, revision)
                VALUES ('{ACME}/tenants/gone', 'acme', '{}', {});
             INSERT INTO joined_clusters (uid, organization, revision, joined_at)
                VALUES ('{cluster}', 'acme', {}, now());
             INSERT INTO denial_heads (organization, sequence, hash) VALUES ('acme', 1, {hash})",
            REVOKED.id(),
            ENDED.id(),
            Uuid::now_v7(),
            self.revision,
            self.revision,
        ))
        .await;
    }

    /// What this version was the first to have.
    async fn write_what_is_new(&mut self) {
        let (admin, ann) = (format!("{ACME}/users/admin"), format!("{ACME}/users/ann"));
        let uid = |name: &str| self.uids[name];
        match self.version {
            5 => {
                self.sql(&format!(
                    "UPDATE resources SET managed_by = 'sync/{PAY}', managed_revision = revision \
                     WHERE name = '{PAY}/workspaces/shop'"
                ))
                .await;
            }
            6 => {
                let plan = ADMIN.id();
                let documents = json_text(&json!([{"name": tenant(6), "description": "new"}]));
                let statement = format!(
                    "INSERT INTO plans (id, organization, node, author, author_uid, description, plan, documents,
                        created_at, expires_at, state)
                        VALUES ('{plan}', 'acme', '{PAY}', '{admin}', '{}', 'a plan', '1-{}', {documents}, now(),
                        now() + interval '1 day', 'open');
                     INSERT INTO plan_votes (plan_id, organization, node, voter, voter_uid, approves, comment, time)
                        VALUES ('{plan}', 'acme', '{PAY}', '{ann}', '{}', true, 'seen', now())",
                    uid(&admin),
                    "00".repeat(32),
                    uid(&ann),
                );
                self.sql(&statement).await;
            }
            7 => {
                self.create(CI, json!({})).await;
                self.issue(PIPELINE, CI).await;
                let statement = format!(
                    "UPDATE tokens SET issued_by = '{}' WHERE id = '{}';
                     UPDATE resources SET owner = '{}' WHERE name = '{}'",
                    ADMIN.id(),
                    PIPELINE.id(),
                    self.uids[&ann],
                    tenant(7),
                );
                self.sql(&statement).await;
            }
            8 => {
                let hash: PasswordHash = Argon2::default().hash_password(PASSWORD.as_bytes()).unwrap();
                let statement = format!(
                    "INSERT INTO passwords (user_uid, organization, hash, set_at) VALUES ('{}', 'acme', '{hash}', now());
                     INSERT INTO identities (organization, issuer, subject, user_uid)
                        VALUES ('acme', 'https://login.example.com', 'ann', '{}')",
                    uid(&ann),
                    uid(&ann),
                );
                self.sql(&statement).await;
                self.open_session(SESSION).await;
            }
            9 => {
                let statement = format!(
                    "INSERT INTO idempotency_keys (organization, principal, key, request, status, body, created_at) \
                     VALUES ('acme', '{}', 'once', {}, 200, {}, now())",
                    uid(&admin),
                    bytes(&[0; 32]),
                    bytes(b"{}"),
                );
                self.sql(&statement).await;
            }
            10 => {
                let statement = format!(
                    "INSERT INTO tokens (id, organization, sha256, user_uid, description, created_at, public_key) \
                     VALUES ('{}', 'acme', {}, '{}', 'a key', now(), {})",
                    Uuid::from_u128(10),
                    bytes(&[10; 32]),
                    uid(CI),
                    bytes(&[10; 32]),
                );
                self.sql(&statement).await;
            }
            13 => {
                self.open_session(LATER_SESSION).await;
                let (made, with) = (LATER_SESSION.id(), SESSION.id());
                self.sql(&format!(
                    "UPDATE sessions SET issued_by = '{with}' WHERE id = '{made}'"
                ))
                .await;
            }
            14 => {
                self.sql(&format!(
                    "INSERT INTO spent_assertions (organization, sha256, expires_at) VALUES ('acme', {}, now())",
                    bytes(&[14; 32])
                ))
                .await;
            }
            _ => {}
        }
    }
}

/// An owner like that of docs/operations.md, who made the roles by hand.
async fn owned_database(postgres: &EmbeddedPostgres) -> String {
    let mut superuser = PgConnection::connect(postgres.url()).await.unwrap();
    for statement in [
        "CREATE ROLE plain LOGIN",
        "CREATE ROLE tombolo_app NOLOGIN; GRANT tombolo_app TO plain",
        "CREATE ROLE tombolo_publisher NOLOGIN; GRANT tombolo_publisher TO plain",
        "CREATE ROLE tombolo_system NOLOGIN; GRANT tombolo_system TO plain",
        "CREATE DATABASE old OWNER plain",
    ] {
        sqlx::raw_sql(statement).execute(&mut superuser).await.unwrap();
    }
    let url = postgres.url().replacen("//tombolo@", "//plain@", 1);
    url.replacen("/tombolo?", "/old?", 1)
}

fn written(answer: &Answer) -> Value {
    let found = answer.json();
    json!({"kind": found["kind"], "name": found["name"], "spec": found["spec"]})
}

#[tokio::test]
async fn a_database_of_every_version_before_is_one_of_this_version() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let url = owned_database(&postgres).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let migrator = Migrator::new(folder).await.unwrap();
    let versions: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
    let (last, before) = versions.split_last().unwrap();
    let mut old = Old {
        connection: PgConnection::connect(&url).await.unwrap(),
        version: 0,
        revision: 0,
        writes: ChainHead::default(),
        uids: BTreeMap::new(),
        documents: BTreeMap::new(),
    };
    for version in before {
        old.migrate(&migrator, *version).await;
        if old.version == 1 {
            old.begin().await;
        }
        old.create(&tenant(*version), json!({})).await;
        old.write_what_is_new().await;
    }
    let (rows, records) = (old.counts().await, old.writes.sequence);

    let management = Management::start_on(url).await;
    assert_eq!(management.admin.token, None, "the organization is there already");
    old.version = *last;
    old.has_lost_nothing(&rows).await;
    let api = |credential: Credential| Api::new(management.admin.addr, Some(&credential.text()));
    let (admin, ann) = (api(ADMIN), api(ANN));
    for (name, document) in &old.documents {
        assert_eq!(written(&admin.get(name).await), *document);
    }
    admin.get(&format!("{ACME}/tenants/gone")).await.refused(404, "");
    let of_history = tenant(*before.last().unwrap());
    let latest = admin
        .get(&format!("{of_history}?revision={}", old.revision))
        .await;
    assert_eq!(written(&latest), old.documents[&of_history]);

    for ended in [REVOKED, ENDED] {
        api(ended)
            .get(PAY)
            .await
            .refused(401, "was revoked or has expired");
    }
    assert_eq!(ann.get(PAY).await.status, 200);
    ann.get(&tenant(1)).await.refused(404, "");
    assert_eq!(ann.get(&tenant(7)).await.status, 200, "ann owns it");
    let shop = format!("{PAY}/workspaces/shop");
    let shop = admin.get(&shop).await.json();
    assert_eq!(shop["managedBy"], format!("sync/{PAY}"));
    assert_eq!(api(PIPELINE).get("auth:whoami").await.json()["user"], CI);
    for session in [SESSION, LATER_SESSION] {
        assert_eq!(api(session).get(PAY).await.status, 200);
    }
    let wish = json!({"user": "ann", "password": PASSWORD});
    assert_eq!(management.anonymous().post("auth:login", wish).await.status, 200);
    let plan = admin.get(&format!("plans/{}", ADMIN.id())).await.json();
    assert_eq!(plan["votes"][0]["comment"], "seen", "{plan}");
    let keys = admin.get(&format!("{CI}/keys")).await.json();
    assert_eq!(keys["items"][0]["description"], "a key", "{keys}");

    admin.create(json!({"name": format!("{ACME}/tenants/new")})).await;
    let verified = admin.get("audit:verify").await.json();
    assert_eq!(verified["ok"], true, "{verified}");
    let report = verify_export(&admin, &[]).await;
    assert!(report.is_whole(), "{report:?}");
    assert!(report.chains[0].records > records, "{report:?}");
    assert!(report.chains[1].records > 0, "{report:?}");
    management.stop().await;
}
