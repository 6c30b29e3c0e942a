//! Following the audit record, and exporting it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);

/// A stream of server-sent events, as a browser reads it.
struct Events {
    body: axum::body::BodyDataStream,
    text: String,
    last_id: String,
    has_ended: bool,
}

impl Events {
    async fn open(api: &Api, query: &str, last_id: Option<&str>) -> Events {
        let mut request = Request::get(format!("http://{}/v1/audit:tail{query}", api.addr));
        let token = api.token.as_deref().unwrap();
        request = request.header("authorization", format!("Bearer {token}"));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response: Response<Incoming> = client
            .request(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events {
            body: Body::new(response.into_body()).into_data_stream(),
            text: String::new(),
            last_id: String::new(),
            has_ended: false,
        }
    }

    /// The next record.
    async fn next(&mut self) -> Result<Value> {
        loop {
            while let Some((event, rest)) = self.text.clone().split_once("\n\n") {
                self.text = rest.to_owned();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let Some(id) = field("id: ") {
                    self.last_id = id.to_owned();
                }
                if let Some(data) = field("data: ") {
                    return Ok(serde_json::from_str(data)?);
                }
            }
            let bytes = timeout(DEADLINE, self.body.next())
                .await
                .context("nothing came")?;
            self.has_ended = bytes.is_none();
            let bytes = bytes.context("the stream ended")??;
            self.text.push_str(std::str::from_utf8(&bytes)?);
        }
    }
}

#[tokio::test]
async fn a_follower_sees_each_record_once_and_resumes() {
    let management = Management::start().await;
    two_teams(&management).await;
    let pay = format!("{ACME}/tenants/pay");
    let ann = management.user("ann", &[(&pay, "auditor")]).await;
    let admin = &management.admin;
    let mut all = Events::open(admin, "", None).await;
    let mut own = Events::open(&ann, "?kind=workspace", None).await;
    let create = async |name: &str| {
        let namespaces = format!("*/{}", name.rsplit('/').next().unwrap());
        admin
            .create(json!({"name": name, "spec": {"namespaces": [namespaces]}}))
            .await
    };
    create(&format!("{ACME}/tenants/media/workspaces/a")).await;
    create(&format!("{pay}/workspaces/b")).await;
    for expected in [
        format!("{ACME}/tenants/media/workspaces/a"),
        format!("{pay}/workspaces/b"),
    ] {
        assert_eq!(all.next().await.unwrap()["name"], expected);
    }
    assert_eq!(
        own.next().await.unwrap()["name"],
        format!("{pay}/workspaces/b"),
        "not what it may not read"
    );
    ann.delete(&pay, "*").await.refused(403, "needs the role editor");
    let denied = all.next().await.unwrap();
    assert_eq!(
        (&denied["chain"], &denied["outcome"]),
        (&json!("denials"), &json!("denied"))
    );

    let id = all.last_id.clone();
    drop(all);
    create(&format!("{pay}/workspaces/c")).await;
    let mut resumed = Events::open(admin, "", Some(&id)).await;
    assert_eq!(
        resumed.next().await.unwrap()["name"],
        format!("{pay}/workspaces/c")
    );
    let headers = [("last-event-id", "soon")];
    let refused = admin.send(http::Method::GET, "audit:tail", &headers, "").await;
    refused.refused(400, "Last-Event-ID");
    admin.get("audit:tail?pageSize=3").await.refused(400, "pageSize");
    management.stop().await;
}

/// Long before they would have ended by themselves, on a replica that has revoked nothing itself.
#[tokio::test]
async fn who_follows_stops_with_what_they_came_with() {
    let management = Management::start().await;
    let ann = management.user("ann", &[(ACME, "auditor")]).await;
    let tokens = format!("{ACME}/users/ann/tokens");
    let issued = ann.post(&tokens, json!({})).await.json();
    let (replica, there) = management.replica().await;
    let lost = Api::new(there.addr, issued["token"].as_str());
    let kept = Api::new(there.addr, ann.token.as_deref());
    eventually(DEADLINE, || async {
        ensure!(
            lost.get(ACME).await.status == 200,
            "the replica does not know ann yet"
        );
        Ok(())
    })
    .await;
    let mut tail = Events::open(&lost, "", None).await;
    let mut others = Events::open(&kept, "", None).await;
    let path = format!("{ACME}/tenants?watch=true");
    let mut watch = lost.stream(&path, &[]).await.into_data_stream();
    let first = timeout(DEADLINE, watch.next()).await.unwrap();
    assert!(first.is_some(), "the watch has begun");
    let id = issued["id"].as_str().unwrap();
    let revoked = management
        .admin
        .send(http::Method::DELETE, &format!("{tokens}/{id}"), &[], "")
        .await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    let ending = async {
        while let Some(bytes) = watch.next().await {
            bytes.unwrap();
        }
    };
    timeout(DEADLINE, ending).await.expect("the watch goes on");
    let ended = async { while tail.next().await.is_ok() {} };
    timeout(DEADLINE, ended).await.expect("the tail goes on");
    assert!(tail.has_ended, "it says nothing any more and goes on");
    // Who came with something else hears of it.
    assert_eq!(others.next().await.unwrap()["verb"], "revoke-token");
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn an_export_is_what_the_reader_may_read_and_resumes() {
    let management = Management::start().await;
    two_teams(&management).await;
    let pay = format!("{ACME}/tenants/pay");
    let ann = management.user("ann", &[(&pay, "auditor")]).await;
    management.anonymous().get(&pay).await;
    let admin = &management.admin;
    eventually(DEADLINE, || async {
        let denials = management
            .count("SELECT count(*) FROM audit WHERE chain = 'denials'")
            .await;
        ensure!(denials == 1, "{denials} denials");
        Ok(())
    })
    .await;

    let whole = admin.get("audit:export?format=jsonl").await;
    assert_eq!(whole.headers["content-type"], "application/jsonl");
    let records = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("{\"chain\":"));
        lines.map(str::to_owned).collect()
    };
    let all = records(&whole.text);
    assert_eq!(whole.headers["x-tombolo-records"], all.len().to_string().as_str());
    assert!(
        whole.text.starts_with("{\"export\":{\"organization\":\"acme\""),
        "{}",
        whole.text
    );
    assert!(
        whole
            .text
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .starts_with("{\"end\":"),
        "{}",
        whole.text
    );
    assert!(
        all.last()
            .unwrap()
            .starts_with("{\"chain\":\"denials\",\"sequence\":1,"),
        "{all:?}"
    );

    let rest = admin.get("audit:export?after=writes.10").await;
    assert_eq!(records(&rest.text), all[10..]);
    let rest = admin.get("audit:export?after=denials.1").await;
    assert_eq!(records(&rest.text), Vec::<String>::new());
    admin
        .get("audit:export?after=writes")
        .await
        .refused(400, "CHAIN.SEQUENCE");

    let own = ann.get("audit:export").await;
    assert!(own.text.contains("\"complete\":false"), "{}", own.text);
    assert_eq!(own.headers.get("x-tombolo-records"), None);
    let own = records(&own.text);
    assert_eq!(own.len(), 6, "five creations and a denial: {own:?}");
    let in_pay = |line: &String| line.contains(&format!("\"name\":\"{pay}"));
    assert!(own.iter().all(in_pay), "{own:?}");

    let csv = admin.get("audit:export?format=csv&verb=create&kind=tenant").await;
    let lines: Vec<&str> = csv.text.lines().collect();
    assert_eq!(lines.len(), 3, "{}", csv.text);
    assert!(
        lines[0].starts_with("chain,sequence,time,outcome,actor,"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].contains(&format!("create,Tenant,{ACME}/tenants/")),
        "{}",
        lines[1]
    );
    management.stop().await;
}

#[tokio::test]
async fn an_export_ends_with_what_its_reader_came_with() {
    let management = Management::start().await;
    let ann = management.user("ann", &[(ACME, "auditor")]).await;
    // A record of the other chain, which is read after the first.
    management.anonymous().get(ACME).await;
    eventually(DEADLINE, || async {
        let denials = management
            .count("SELECT count(*) FROM audit WHERE chain = 'denials'")
            .await;
        ensure!(denials == 1, "{denials} denials");
        Ok(())
    })
    .await;
    let mut holder = PgConnection::connect(management.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    let mut export = ann.stream("audit:export", &[]).await.into_data_stream();
    // Those who keep the record may wait with it.
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(DEADLINE, || async {
        ensure!(
            management.count(waiting).await > 0,
            "the export does not wait yet"
        );
        Ok(())
    })
    .await;
    management
        .sql("UPDATE tokens t SET revoked_at = now() FROM resources u WHERE u.uid = t.user_uid AND u.name LIKE '%/ann'")
        .await;
    drop(holder);
    let mut text = String::new();
    let broken = loop {
        match timeout(DEADLINE, export.next()).await.unwrap() {
            Some(Ok(bytes)) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken && !text.contains("{\"end\":"), "{text}");
    assert!(!text.contains("\"chain\":\"denials\""), "{text}");
    management.stop().await;
}

#[tokio::test]
async fn a_follower_that_claims_to_have_seen_all_there_can_be_is_told_the_rest() {
    let management = Management::start().await;
    let id = format!("{}.0", u64::MAX);
    let mut tail = Events::open(&management.admin, "", Some(&id)).await;
    management.anonymous().get(ACME).await;
    assert_eq!(tail.next().await.unwrap()["chain"], "denials");
    management.stop().await;
}
