//! A management plane per test, with a database of its own, and a client for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use chrono::{TimeDelta, Utc};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tempfile::TempDir;
use tombolo_management::account_key::assertion::Signer;
use tombolo_management::audit::Sealed;
use tombolo_management::{AuditConfig, Config, LoginConfig, Running, start};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::install_crypto;
use tombolo_tests::eventually;
use tombolo_tests::postgres::Postgres;

pub(crate) const ACME: &str = "organizations/acme";

pub(crate) struct Management {
    pub(crate) running: Option<Running>,
    pub(crate) config: Config,
    pub(crate) dir: TempDir,
    pub(crate) admin: Api,
}

/// A caller with a token.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
    /// Signs for each request, in place of a token.
    key: Option<Arc<Signer>>,
    client: Client<HttpConnector, Body>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// All that a write could have left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    revision: i64,
    audit_sequence: i64,
    rows: Vec<(String, String)>,
    records: i64,
    tombstones: i64,
}

impl Management {
    pub(crate) async fn start() -> Management {
        let url = Postgres::start().create_database().await;
        Management::start_on(url).await
    }

    pub(crate) async fn start_on(url: String) -> Management {
        Management::prepare(url).start_prepared().await
    }

    pub(crate) async fn start_with(url: String, audit: AuditConfig) -> Management {
        let mut management = Management::prepare(url);
        management.config.audit = audit;
        management.start_prepared().await
    }

    /// With its identity and its configuration, and not started yet.
    pub(crate) fn prepare(url: String) -> Management {
        install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create_or_open(&dir.path().join("authority"), "acme").unwrap();
        let id = PlaneId::new("acme", Plane::Management, "m1").unwrap();
        let identity = dir.path().join("identity");
        authority.issue(&id, &identity).unwrap();
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            feed_listen: ([127, 0, 0, 1], 0).into(),
            identity,
            organization: "acme".parse().unwrap(),
            data_dir: dir.path().join("data"),
            database_url: Some(url),
            audit: AuditConfig::default(),
            requests_max: 100_000.try_into().unwrap(),
            web_dir: None,
            break_glass: None,
            login: LoginConfig::default(),
        };
        Management {
            running: None,
            admin: Api::new(config.listen, None),
            config,
            dir,
        }
    }

    pub(crate) async fn start_prepared(self) -> Management {
        let running = start(self.config.clone()).await.unwrap();
        Management {
            admin: Api::new(running.api_addr(), running.bootstrap_token()),
            running: Some(running),
            ..self
        }
    }

    /// Another replica on the same database; the administrator keeps the first one's token.
    pub(crate) async fn replica(&self) -> (Running, Api) {
        let running = start(self.config.clone()).await.unwrap();
        assert_eq!(
            running.bootstrap_token(),
            None,
            "only the first start prints a token"
        );
        let api = Api::new(running.api_addr(), self.admin.token.as_deref());
        (running, api)
    }

    pub(crate) fn anonymous(&self) -> Api {
        Api::new(self.admin.addr, None)
    }

    /// A user with a token and, on each node, a role.
    pub(crate) async fn user(&self, leaf: &str, roles: &[(&str, &str)]) -> Api {
        let name = format!("{ACME}/users/{leaf}");
        self.admin.create(json!({ "name": name })).await;
        for (node, role) in roles {
            let binding = format!("{node}/bindings/{leaf}-{}", role.rsplit('/').next().unwrap());
            let spec = json!({"role": role, "subjects": [name]});
            self.admin.create(json!({"name": binding, "spec": spec})).await;
        }
        let answer = self
            .admin
            .send(Method::POST, &format!("{name}/tokens"), &[], "{}")
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        Api::new(self.admin.addr, answer.json()["token"].as_str())
    }

    pub(crate) fn url(&self) -> &str {
        self.config.database_url.as_deref().unwrap()
    }

    pub(crate) async fn sql(&self, statement: &str) {
        let mut connection = PgConnection::connect(self.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        let mut connection = PgConnection::connect(self.url()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    pub(crate) async fn text(&self, query: &str) -> String {
        let mut connection = PgConnection::connect(self.url()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    pub(crate) async fn traces(&self) -> Traces {
        let mut connection = PgConnection::connect(self.url()).await.unwrap();
        let head = sqlx::query("SELECT revision, audit_sequence FROM organizations")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let rows = sqlx::query("SELECT name, etag FROM resources ORDER BY name")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        Traces {
            revision: head.get(0),
            audit_sequence: head.get(1),
            rows: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            records: self
                .count("SELECT count(*) FROM audit WHERE chain = 'writes'")
                .await,
            tombstones: self.count("SELECT count(*) FROM tombstones").await,
        }
    }

    /// What keeps out all that goes by the organization's head, until it is dropped or commits.
    pub(crate) async fn hold_head(&self) -> PgConnection {
        let mut holder = PgConnection::connect(self.url()).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT FROM organizations FOR UPDATE")
            .execute(&mut holder)
            .await
            .unwrap();
        holder
    }

    /// Until so many wait for a lock.
    pub(crate) async fn waits(&self, count: i64) {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(Duration::from_secs(30), async || {
            let found = self.count(waiting).await;
            anyhow::ensure!(found == count, "{found} wait and not {count}");
            Ok(())
        })
        .await;
    }

    pub(crate) async fn stop(mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }
}

impl Api {
    pub(crate) fn new(addr: SocketAddr, token: Option<&str>) -> Api {
        Api {
            addr,
            token: token.map(str::to_owned),
            key: None,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Who signs each request with that key.
    pub(crate) fn with_key(addr: SocketAddr, key: Signer) -> Api {
        Api {
            key: Some(Arc::new(key)),
            ..Api::new(addr, None)
        }
    }

    /// The same caller at another replica.
    pub(crate) fn on(&self, replica: &Api) -> Api {
        Api {
            addr: replica.addr,
            ..self.clone()
        }
    }

    /// The same caller at another address of this machine.
    pub(crate) fn at(&self, local: [u8; 4]) -> Api {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(local.into()));
        Api {
            client: Client::builder(TokioExecutor::new()).build(connector),
            ..self.clone()
        }
    }

    /// `path` is below `/v1/` unless it begins with a slash.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/v1/{path}")
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr));
        let signed = self
            .key
            .as_ref()
            .map(|key| key.sign(Utc::now(), TimeDelta::minutes(1)));
        if let Some(token) = signed.as_ref().or(self.token.as_ref()) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }

    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path, headers);
        let response = self.client.request(request.body(body.into())?).await?;
        let (parts, body) = response.into_parts();
        // Events have no end to wait for: `stream` reads them.
        let is_endless = parts
            .headers
            .get("content-type")
            .is_some_and(|media| media == "text/event-stream");
        let bytes = match is_endless {
            true => Bytes::new(),
            false => to_bytes(Body::new(body), usize::MAX).await?,
        };
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec())?,
        })
    }

    /// The body of a successful answer, as it comes.
    pub(crate) async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Body {
        let request = self
            .request(Method::GET, path, headers)
            .body(Body::empty())
            .unwrap();
        let response = self.client.request(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        Body::new(response.into_body())
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, "").await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, document: Value) -> Answer {
        self.send(Method::POST, path, &[], document.to_string()).await
    }

    pub(crate) async fn put(&self, etag: &str, document: Value) -> Answer {
        let name = document["name"].as_str().unwrap().to_owned();
        self.send(Method::PUT, &name, &[("if-match", etag)], document.to_string())
            .await
    }

    pub(crate) async fn delete(&self, name: &str, etag: &str) -> Answer {
        self.send(Method::DELETE, name, &[("if-match", etag)], "").await
    }

    /// Creates, and must succeed.
    pub(crate) async fn create(&self, document: Value) -> Value {
        let name = document["name"].as_str().unwrap();
        let (collection, _) = name.rsplit_once('/').unwrap();
        let answer = self.post(collection, document.clone()).await;
        assert_eq!(answer.status, 201, "{name}: {}", answer.text);
        answer.json()
    }

    /// Applies YAML in one transaction, and must succeed.
    pub(crate) async fn apply(&self, yaml: &str) -> Value {
        let answer = self.apply_raw("changes", yaml).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    pub(crate) async fn apply_raw(&self, path: &str, yaml: &str) -> Answer {
        let headers = [("content-type", "application/yaml")];
        self.send(Method::POST, path, &headers, yaml.to_owned()).await
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn etag(&self) -> String {
        self.headers["etag"].to_str().unwrap().to_owned()
    }

    /// A problem of that status whose detail holds the text.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, detail: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        let found = problem["detail"].as_str().unwrap();
        assert!(found.contains(detail), "{found:?} does not hold {detail:?}");
        let id = self.headers["x-request-id"].to_str().unwrap();
        assert_eq!(problem["instance"], format!("urn:tombolo:request:{id}"));
    }
}

/// A record as it was sealed, beside whatever management does.
pub(crate) async fn append_audit(connection: &mut PgConnection, sealed: Sealed) {
    let index = sealed.record.index();
    sqlx::query(
        "INSERT INTO audit (organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome) \
         VALUES ('acme', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(sealed.chain.to_string())
    .bind(sealed.sequence.cast_signed())
    .bind(sealed.bytes)
    .bind(sealed.previous.to_vec())
    .bind(sealed.hash.to_vec())
    .bind(index.time)
    .bind(index.actor)
    .bind(index.verb)
    .bind(index.kind)
    .bind(index.name)
    .bind(index.outcome)
    .execute(connection)
    .await
    .unwrap();
}

/// Three clusters and two teams with a workspace each: what most tests begin with.
pub(crate) async fn two_teams(management: &Management) {
    management
        .admin
        .apply(
            "
name: organizations/acme/clusters/us-east
spec: {region: us-east}
---
name: organizations/acme/clusters/us-west
spec: {region: us-west}
---
name: organizations/acme/tenants/pay
---
name: organizations/acme/tenants/pay/workspaces/shop
spec: {namespaces: ['*/shop']}
---
name: organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web
---
name: organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/edge
---
name: organizations/acme/tenants/media
---
name: organizations/acme/tenants/media/workspaces/video
spec: {namespaces: ['*/video']}
---
name: organizations/acme/tenants/media/workspaces/video/trafficgroups/web
---
name: organizations/acme/tenants/media/workspaces/video/gatewaygroups/edge
",
        )
        .await;
}
