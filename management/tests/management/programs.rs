//! What programs rely on: asking again costs nothing while nothing has changed, a watch misses nothing, and one that asks
//! too fast is told so.

use std::num::NonZeroU32;

use axum::body::BodyDataStream;
use futures::StreamExt;
use serde_json::{Value, json};
use tombolo_management::start;

use crate::support::{ACME, Api, Management};

const TENANTS: &str = "organizations/acme/tenants";

/// A watch, one event at a time.
struct Events {
    body: BodyDataStream,
    text: String,
}

#[derive(Debug)]
struct Event {
    kind: String,
    id: Option<u64>,
    data: Value,
}

impl Events {
    async fn open(api: &Api, path: &str, headers: &[(&str, &str)]) -> Events {
        Events {
            body: api.stream(path, headers).await.into_data_stream(),
            text: String::new(),
        }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = parse(&event) {
                    return event;
                }
                continue;
            }
            let bytes = self.body.next().await.unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The events up to the next `synced`, as `kind leaf`, and its id.
    async fn batch(&mut self) -> (Vec<String>, u64) {
        let mut told = Vec::new();
        loop {
            let event = self.next().await;
            if event.kind == "synced" {
                return (told, event.id.unwrap());
            }
            assert_eq!(event.id, None, "only where everything was told can one come back");
            let name = event.data["name"].as_str().unwrap_or_default();
            let leaf = name.rsplit('/').next().unwrap();
            told.push(format!("{} {leaf}", event.kind).trim_end().to_owned());
        }
    }
}

/// `None` for a comment that keeps the connection alive.
fn parse(event: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    Some(Event {
        kind: field("event")?,
        id: field("id").map(|id| id.parse().unwrap()),
        data: serde_json::from_str(&field("data")?).unwrap(),
    })
}

async fn tenant(api: &Api, leaf: &str) -> Value {
    api.create(json!({"name": format!("{TENANTS}/{leaf}")})).await
}

#[tokio::test]
async fn a_resource_that_was_seen_is_not_sent_again() {
    let management = Management::start().await;
    let admin = &management.admin;
    tenant(admin, "pay").await;
    let name = format!("{TENANTS}/pay");
    let etag = admin.get(&name).await.etag();
    for seen in [etag.as_str(), "*", &format!("\"other\", W/{etag}")] {
        let answer = admin.get_with(&name, &[("if-none-match", seen)]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.as_str()),
            (304, ""),
            "{seen}"
        );
        assert_eq!(answer.etag(), etag);
    }
    let described = json!({"name": name, "description": "money"});
    assert_eq!(admin.put(&etag, described).await.status, 200);
    let answer = admin.get_with(&name, &[("if-none-match", &etag)]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["description"], "money");
}

#[tokio::test]
async fn a_watch_tells_what_is_what_changes_and_what_was_missed() {
    let management = Management::start().await;
    let admin = &management.admin;
    tenant(admin, "a").await;
    let path = format!("{TENANTS}?watch=true");
    let mut events = Events::open(admin, &path, &[]).await;
    let (told, _) = events.batch().await;
    assert_eq!(told, ["reset", "put a"]);

    let b = tenant(admin, "b").await;
    let (told, known) = events.batch().await;
    assert_eq!(told, ["put b"]);
    drop(events);

    // While nobody watches: one goes, one comes, one goes and comes back, and something else changes.
    let c = tenant(admin, "c").await;
    for gone in [&b, &c] {
        let deleted = admin
            .delete(gone["name"].as_str().unwrap(), gone["etag"].as_str().unwrap())
            .await;
        assert_eq!(deleted.status, 200, "{}", deleted.text);
    }
    tenant(admin, "c").await;
    admin
        .create(json!({"name": format!("{ACME}/clusters/us"), "spec": {"region": "us"}}))
        .await;
    let mut events = Events::open(admin, &format!("{path}&revision={known}"), &[]).await;
    let (told, later) = events.batch().await;
    assert_eq!(told, ["delete b", "put c"]);
    assert!(later > known);

    // A browser comes back to the same address with what it has seen last.
    let mut events = Events::open(
        admin,
        &format!("{path}&revision=1"),
        &[("last-event-id", &later.to_string())],
    )
    .await;
    assert_eq!(events.batch().await, (vec![], later));

    let ahead = admin.get(&format!("{path}&revision={}", later + 1000)).await;
    ahead.refused(400, "is not drawn yet");
}

#[tokio::test]
async fn a_watch_shows_what_its_caller_may_read_and_begins_anew_when_rights_change() {
    let management = Management::start().await;
    let admin = &management.admin;
    tenant(admin, "mine").await;
    let other = tenant(admin, "other").await;
    let ann = management
        .user("ann", &[(&format!("{TENANTS}/mine"), "reader")])
        .await;
    let path = format!("{TENANTS}?watch=true");
    let mut events = Events::open(&ann, &path, &[]).await;
    let (told, known) = events.batch().await;
    assert_eq!(told, ["reset", "put mine"]);

    let described = json!({"name": other["name"], "description": "secret"});
    assert_eq!(
        admin.put(other["etag"].as_str().unwrap(), described).await.status,
        200
    );
    let spec = json!({"role": "reader", "subjects": [format!("{ACME}/users/ann")]});
    admin
        .create(json!({"name": format!("{TENANTS}/other/bindings/ann"), "spec": spec}))
        .await;
    let (told, _) = events.batch().await;
    assert_eq!(
        told,
        ["put other"],
        "it appears when it may be read, and not before"
    );

    // Its last change is older than that right: whoever was away must learn of it all the same.
    let mut events = Events::open(&ann, &format!("{path}&revision={known}"), &[]).await;
    let (told, _) = events.batch().await;
    assert_eq!(told, ["reset", "put mine", "put other"]);
}

#[tokio::test]
async fn who_asks_too_fast_is_told_and_nobody_else_suffers() {
    let management = Management::start().await;
    let config = tombolo_management::Config {
        requests_max: NonZeroU32::new(3).unwrap(),
        ..management.config.clone()
    };
    let ann = management.user("ann", &[(ACME, "reader")]).await;
    let slow = start(config).await.unwrap();
    let admin = Api::new(slow.api_addr(), management.admin.token.as_deref());
    let ann = Api::new(slow.api_addr(), ann.token.as_deref());
    let first = admin.get(ACME).await;
    assert_eq!(first.headers["ratelimit-limit"], "3");
    assert_eq!(first.headers["ratelimit-remaining"], "2");
    assert_eq!(first.headers["ratelimit-reset"], "1");
    let many = futures::future::join_all((0..50).map(|_| admin.get(ACME))).await;
    let refused: Vec<_> = many.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty());
    refused[0].refused(429, "more than 3 requests in a second");
    assert_eq!(refused[0].headers["retry-after"], "1");
    assert_eq!(refused[0].headers["ratelimit-remaining"], "0");
    assert_eq!(ann.get(ACME).await.status, 200);
    slow.stop().await.unwrap();
}
