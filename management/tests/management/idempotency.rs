//! `Idempotency-Key`: a write is done once however often it is sent, and each try is given the first answer.

use std::time::Duration;

use anyhow::ensure;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
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
        (
            Method::POST,
            "changes?overwrite=true",
            json!([tenant("media"), described]),
        ),
        // Changes nothing, and its answer counts all the same.
        (Method::POST, "changes?overwrite=true", json!([described])),
        (Method::DELETE, pay.as_str(), json!({})),
        (
            Method::POST,
            "organizations/acme:rollback",
            json!({"revision": 2}),
        ),
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
        assert_eq!(
            other.json()["type"],
            "urn:tombolo:problem:key-reused",
            "{method} {path}"
        );
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
    let workspace =
        json!({"name": format!("{TENANTS}/pay/workspaces/shop"), "spec": {"namespaces": ["*/shop"]}});
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
        let api = if number % 2 == 0 {
            &management.admin
        } else {
            &other
        };
        async move {
            loop {
                let answer = keyed(api, Method::POST, TENANTS, "k", &tenant("pay")).await;
                if answer.status != 409 {
                    return answer;
                }
                answer.refused(409, "is still being worked on");
            }
        }
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
async fn while_the_first_try_runs_its_replica_says_so_and_another_one_waits_for_it() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let admin = &management.admin;
    // Whoever holds the head's row keeps the first try running.
    let mut holder = PgConnection::connect(management.url()).await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::raw_sql("SELECT * FROM organizations FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let send = |api: &Api| {
        let api = api.clone();
        tokio::spawn(async move {
            loop {
                let answer = keyed(&api, Method::POST, TENANTS, "k", &tenant("pay")).await;
                // The probes below take the key for a moment, and on a slow machine the wait for the lock may have run into
                // its timeout.
                if !matches!(answer.status.as_u16(), 409 | 503) {
                    return answer;
                }
            }
        })
    };
    let first = send(admin);
    eventually(DEADLINE, || async {
        // Were it the first to come, it would be refused for what it is.
        let probe = keyed(admin, Method::POST, TENANTS, "k", &json!([])).await;
        ensure!(probe.status == 409, "{}", probe.text);
        probe.refused(
            409,
            "the first request with the Idempotency-Key k is still being worked on",
        );
        Ok(())
    })
    .await;
    let second = send(&other);
    lock.commit().await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(told(&second), told(&first));
    assert_eq!(
        [is_again(&first), is_again(&second)]
            .iter()
            .filter(|again| **again)
            .count(),
        1
    );
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
    keyed(admin, Method::POST, &tokens, "k", &json!({}))
        .await
        .refused(400, "Idempotency-Key: a token is shown once");
    keyed(
        &management.anonymous(),
        Method::POST,
        TENANTS,
        "k",
        &tenant("pay"),
    )
    .await
    .refused(401, "send a token");
}

#[tokio::test]
async fn what_is_no_write_of_resources_is_done_once_as_well() {
    let management = Management::start().await;
    let admin = &management.admin;
    let policy = json!({"name": format!("{ACME}/approvalpolicies/two"), "spec": {"approver": "admin"}});
    admin.create(policy).await;
    let break_glass = "breakGlass=test&overwrite=true";
    let ben = json!([{"name": format!("{ACME}/users/ben")}, {"name": format!("{ACME}/bindings/ben"),
        "spec": {"role": "admin", "subjects": [format!("{ACME}/users/ben")]}}]);
    assert_eq!(
        admin.post(&format!("changes?{break_glass}"), ben).await.status,
        200
    );
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let path = format!("{ACME}/users/ben/tokens");
        tokens.push(admin.post(&path, json!({})).await.json());
    }
    let ben = Api::new(admin.addr, tokens[0]["token"].as_str());

    let twice = async |api: &Api, method: Method, path: &str, body: &Value| {
        let first = keyed(api, method.clone(), path, path, body).await;
        assert!(first.status.is_success(), "{method} {path}: {}", first.text);
        let before = management.traces().await;
        let second = keyed(api, method, path, path, body).await;
        assert_eq!(told(&second), told(&first), "{path}");
        assert!(!is_again(&first) && is_again(&second), "{path}");
        assert_eq!(management.traces().await, before, "{path}");
        first
    };
    let submitted = twice(admin, Method::POST, "plans?submit=true", &tenant("pay")).await;
    assert_eq!(management.count("SELECT count(*) FROM plans").await, 1);
    let id = submitted.json()["id"].as_str().unwrap().to_owned();
    twice(&ben, Method::POST, &format!("plans/{id}:approve"), &json!({})).await;
    twice(admin, Method::POST, &format!("plans/{id}:apply"), &json!({})).await;
    let unused = tokens[1]["id"].as_str().unwrap();
    let unused = format!("{ACME}/users/ben/tokens/{unused}");
    twice(admin, Method::DELETE, &unused, &json!({})).await;
    twice(admin, Method::POST, &format!("{ACME}:adopt"), &json!({})).await;
}
