//! `Idempotency-Key`: a write is done once however often it is sent, and each try is given the first answer.

use std::time::Duration;

use anyhow::ensure;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Answer, Api, Management};

const DEADLINE: Duration = Duration::from_secs(20);
const TENANTS: &str = "organizations/acme/tenants";

async fn keyed(api: &Api, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("idempotency-key", key), ("if-match", "*")];
    api.send(method, path, &headers, body.to_string()).await
}

fn tenant(leaf: &str) -> Value {
    json!({"name": format!("{TENANTS}/{leaf}")})
}

/// All that a client looks at.
fn told(answer: &Answer) -> (u16, &str, Option<&[u8]>, Option<&[u8]>) {
    let header = |name| answer.headers.get(name).map(http::HeaderValue::as_bytes);
    (
        answer.status.as_u16(),
        &answer.text,
        header("etag"),
        header("location"),
    )
}

fn is_again(answer: &Answer) -> bool {
    answer.headers.contains_key("idempotency-replayed")
}

#[tokio::test]
async fn a_retry_is_given_the_first_answer_and_writes_nothing() {
    let management = Management::start().await;
    let admin = &management.admin;
    let pay = format!("{TENANTS}/pay");
    let described = json!({"name": pay, "description": "x"});
    for (number, (method, path, body)) in [
        (Method::POST, TENANTS, tenant("pay")),
        (Method::PUT, pay.as_str(), described.clone()),
        (Method::POST, "changes?overwrite=true", json!([tenant("media"), described])),
        // Changes nothing, and its answer counts all the same.
        (Method::POST, "changes?overwrite=true", json!([described])),
        (Method::DELETE, pay.as_str(), json!({})),
        (Method::POST, "organizations/acme:rollback", json!({"revision": 2})),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("try-{number}");
        let first = keyed(admin, method.clone(), path, &key, &body).await;
        assert!(first.status.is_success(), "{method} {path}: {}", first.text);
        assert!(!is_again(&first), "{method} {path}");
        let before = management.traces().await;
        let second = keyed(admin, method.clone(), path, &key, &body).await;
        assert_eq!(told(&second), told(&first), "{method} {path}");
        assert!(is_again(&second), "{method} {path}");
        assert_eq!(management.traces().await, before, "{method} {path}");
    }
}

#[tokio::test]
async fn the_first_answer_outlives_what_it_tells_of_and_the_process_that_gave_it() {
    let management = Management::start().await;
    let admin = &management.admin;
    let first = keyed(admin, Method::POST, TENANTS, "k", &tenant("pay")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(admin.delete(&format!("{TENANTS}/pay"), "*").await.status, 200);
    let (replica, api) = management.replica().await;
    let second = keyed(&api, Method::POST, TENANTS, "k", &tenant("pay")).await;
    assert_eq!(told(&second), told(&first));
    assert_eq!(admin.get(&format!("{TENANTS}/pay")).await.status, 404);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_principal() {
    let management = Management::start().await;
    let admin = &management.admin;
    let first = keyed(admin, Method::POST, TENANTS, "k", &tenant("pay")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let before = management.traces().await;
    for (method, path, body) in [
        (Method::POST, TENANTS, tenant("media")),
        (Method::POST, "changes", tenant("pay")),
        (
            Method::POST,
            "organizations/acme/tenants?allowUnenforced=true",
            tenant("pay"),
        ),
        (Method::DELETE, "organizations/acme/tenants/pay", tenant("pay")),
    ] {
        let other = keyed(admin, method.clone(), path, "k", &body).await;
        other.refused(422, "k was the key of another request");
        assert_eq!(other.json()["type"], "urn:tombolo:problem:key-reused", "{method} {path}");
    }
    // The same request, and another state that it has seen.
    let headers = [("idempotency-key", "k")];
    let other = admin
        .send(Method::POST, TENANTS, &headers, tenant("pay").to_string())
        .await;
    other.refused(422, "k was the key of another request");
    assert_eq!(management.traces().await, before);

    let ann = management.user("ann", &[(ACME, "admin")]).await;
    let hers = keyed(&ann, Method::POST, TENANTS, "k", &tenant("media")).await;
    assert_eq!(hers.status, 201, "{}", hers.text);
    assert!(!is_again(&hers));
}

#[tokio::test]
async fn what_was_refused_is_decided_anew() {
    let management = Management::start().await;
    let admin = &management.admin;
    let workspace = json!({"name": format!("{TENANTS}/pay/workspaces/shop"), "spec": {"namespaces": ["*/shop"]}});
    let workspaces = format!("{TENANTS}/pay/workspaces");
    keyed(admin, Method::POST, &workspaces, "k", &workspace)
        .await
        .refused(404, "does not exist");
    // What is dry is no try.
    let dry = format!("{TENANTS}?dry_run=true");
    let planned = keyed(admin, Method::POST, &dry, "t", &tenant("pay")).await;
    assert_eq!(planned.status, 200, "{}", planned.text);
    let made = keyed(admin, Method::POST, TENANTS, "t", &tenant("pay")).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let second = keyed(admin, Method::POST, &workspaces, "k", &workspace).await;
    assert_eq!(second.status, 201, "{}", second.text);
    assert!(!is_again(&second));
}

#[tokio::test]
async fn of_many_tries_at_once_on_two_replicas_one_writes() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let tries = (0..12).map(|number| {
        let api = if number % 2 == 0 { &management.admin } else { &other };
        async move { keyed(api, Method::POST, TENANTS, "k", &tenant("pay")).await }
    });
    let answers = join_all(tries).await;
    for answer in &answers {
        assert_eq!(told(answer), told(&answers[0]));
    }
    let first = answers.iter().filter(|answer| !is_again(answer)).count();
    assert_eq!(first, 1);
    let records = "SELECT count(*) FROM audit WHERE name = 'organizations/acme/tenants/pay'";
    assert_eq!(management.count(records).await, 1);
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_day_a_key_is_free() {
    let management = Management::start().await;
    let admin = &management.admin;
    for leaf in ["old", "new"] {
        let made = keyed(admin, Method::POST, TENANTS, leaf, &tenant(leaf)).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    management
        .sql("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")
        .await;
    // Each process looks when it starts.
    let (replica, _) = management.replica().await;
    eventually(DEADLINE, || async {
        let left = management.count("SELECT count(*) FROM idempotency_keys").await;
        ensure!(left == 1, "{left} keys are left");
        Ok(())
    })
    .await;
    let again = keyed(admin, Method::POST, TENANTS, "new", &tenant("new")).await;
    assert!(is_again(&again), "{}", again.text);
    keyed(admin, Method::POST, TENANTS, "old", &tenant("old"))
        .await
        .refused(409, "exists already");
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_that_cannot_be_honoured_is_refused() {
    let management = Management::start().await;
    let admin = &management.admin;
    let long = "k".repeat(256);
    for key in ["", "a b", &long] {
        keyed(admin, Method::POST, TENANTS, key, &tenant("pay"))
            .await
            .refused(400, "Idempotency-Key: use 1 to 255");
    }
    let tokens = format!("{ACME}/users/admin/tokens");
    let id = "00000000-0000-0000-0000-000000000000";
    for (method, path) in [
        (Method::POST, tokens.clone()),
        (Method::DELETE, format!("{tokens}/{id}")),
        (Method::POST, format!("{ACME}:adopt")),
    ] {
        keyed(admin, method, &path, "k", &json!({}))
            .await
            .refused(400, "Idempotency-Key: ");
    }
}
