//! Letting a command line in, as any client of RFC 8628 does it.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tombolo_tests::browser::{Browser, Page};

use crate::support::{ACME, Answer, Api, Management};

const PASSWORD: &str = "a horse that reads maps";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";

async fn with_ann() -> (Management, Browser) {
    let management = Management::start().await;
    management.user("ann", &[(ACME, "reader")]).await;
    let wish = json!({ "password": PASSWORD }).to_string();
    let path = format!("{ACME}/users/ann/password");
    let set = management.admin.send(Method::PUT, &path, &[], wish).await;
    assert_eq!(set.status, 200, "{}", set.text);
    (management, Browser::new())
}

async fn begin(api: &Api) -> Value {
    let answer = api
        .send(
            Method::POST,
            "/auth/device_authorization",
            &[FORM, ("user-agent", "a <tool>")],
            "client_id=x",
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn ask(api: &Api, begun: &Value) -> Answer {
    let code = begun["device_code"].as_str().unwrap();
    let body = format!("grant_type={GRANT}&device_code={code}&client_id=x");
    api.send(Method::POST, "/auth/token", &[FORM], body).await
}

/// Follows the link, logs in on the way, and answers the question.
async fn decide(management: &Management, browser: &mut Browser, begun: &Value, decision: &str) -> Page {
    be_asked(management, browser, begun).await;
    answer(management, browser, begun, decision).await
}

async fn be_asked(management: &Management, browser: &mut Browser, begun: &Value) {
    let root = format!("http://{}", management.admin.addr);
    let link = begun["verification_uri_complete"].as_str().unwrap();
    let page = browser.open(link).await.unwrap();
    let page = match page.url.contains("/auth/login") {
        false => page,
        true => {
            let fields = [
                ("user", "ann"),
                ("password", PASSWORD),
                ("return", &link[root.len()..]),
            ];
            browser
                .submit(&format!("{root}/auth/login"), &fields)
                .await
                .unwrap()
        }
    };
    assert_eq!(page.reply.status, 200, "{}", page.text());
    assert!(page.text().contains("a &lt;tool&gt;"), "{}", page.text());
}

async fn answer(management: &Management, browser: &mut Browser, begun: &Value, decision: &str) -> Page {
    let root = format!("http://{}", management.admin.addr);
    let code = begun["user_code"].as_str().unwrap();
    let fields = [("code", code), ("decision", decision)];
    browser
        .submit(&format!("{root}/auth/device"), &fields)
        .await
        .unwrap()
}

#[track_caller]
fn refused(answer: &Answer, error: &str) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert_eq!(answer.json()["error"], error, "{}", answer.text);
}

#[tokio::test]
async fn a_command_line_is_let_in_once_by_somebody_with_a_session() {
    let (management, mut browser) = with_ann().await;
    let tool = management.anonymous();
    let begun = begin(&tool).await;
    refused(&ask(&tool, &begun).await, "authorization_pending");
    management
        .sql("UPDATE device_codes SET polled_at = now() + interval '1 hour'")
        .await;
    refused(&ask(&tool, &begun).await, "slow_down");

    let page = decide(&management, &mut browser, &begun, "allow").await;
    assert_eq!(page.reply.status, 200, "{}", page.text());
    let granted = ask(&tool, &begun).await;
    assert_eq!(granted.status, 200, "{}", granted.text);
    let token = granted.json()["access_token"].as_str().unwrap().to_owned();
    refused(&ask(&tool, &begun).await, "invalid_grant");

    let ann = Api::new(management.admin.addr, Some(&token));
    assert_eq!(ann.get(ACME).await.status, 200);
    let sessions = ann.get(&format!("{ACME}/users/ann/sessions")).await.json();
    let methods: Vec<&str> = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["method"].as_str())
        .collect();
    assert_eq!(methods, ["device", "password"]);
    let out = ann.post("auth:logout", json!({})).await;
    assert_eq!(out.status, 200, "{}", out.text);
    ann.get(ACME).await.refused(401, "was revoked");

    let done = management
        .admin
        .get(&format!("audit?actor={ACME}/users/ann"))
        .await
        .json();
    let verbs: Vec<&str> = done["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["verb"].as_str())
        .collect();
    assert_eq!(verbs, ["logout", "login", "grant-device", "login"]);
    management.stop().await;
}

/// Ann's sessions, newest first.
async fn sessions(management: &Management) -> Vec<Value> {
    let list = management.admin.get(&format!("{ACME}/users/ann/sessions")).await;
    list.json()["items"].as_array().unwrap().clone()
}

async fn end(management: &Management, session: &Value) {
    let path = format!("{ACME}/users/ann/sessions/{}", session["id"].as_str().unwrap());
    let ended = management.admin.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(ended.status, 200, "{}", ended.text);
}

/// Why the last one ended, as the record has it.
async fn reason(management: &Management, verb: &str) -> String {
    let page = management.admin.get(&format!("audit?verb={verb}")).await.json();
    page["items"][0]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_command_line_ends_with_the_session_that_let_it_in() {
    let (management, mut browser) = with_ann().await;
    let tool = management.anonymous();

    // Before it has asked.
    let begun = begin(&tool).await;
    decide(&management, &mut browser, &begun, "allow").await;
    let opened = sessions(&management).await;
    end(&management, &opened[0]).await;
    refused(&ask(&tool, &begun).await, "invalid_grant");
    let told = reason(&management, "revoke-session").await;
    let id = opened[0]["id"].as_str().unwrap();
    assert_eq!(
        told,
        format!("session {id}; with it command line let in by session {id}")
    );

    // Afterwards, with what it has made meanwhile. It lasts no longer by itself either.
    let mut browser = Browser::new();
    let begun = begin(&tool).await;
    decide(&management, &mut browser, &begun, "allow").await;
    management
        .sql("UPDATE sessions SET expires_at = now() + interval '100 seconds' WHERE method = 'password'")
        .await;
    let granted = ask(&tool, &begun).await.json();
    assert!(granted["expires_in"].as_i64().unwrap() <= 100, "{granted}");
    let ann = Api::new(management.admin.addr, granted["access_token"].as_str());
    let issued = ann
        .post(&format!("{ACME}/users/ann/tokens"), json!({}))
        .await
        .json();
    let token = Api::new(management.admin.addr, issued["token"].as_str());
    assert_eq!(token.get(ACME).await.status, 200);
    let opened = sessions(&management).await;
    assert_eq!(opened[0]["issuedBy"], opened[1]["id"]);
    end(&management, &opened[1]).await;
    for api in [&ann, &token] {
        api.get(ACME).await.refused(401, "was revoked");
    }
    let told = reason(&management, "revoke-session").await;
    for one in [opened[0]["id"].as_str(), issued["id"].as_str()] {
        assert!(told.contains(one.unwrap()), "{told}");
    }

    // Of a session that has ended by itself, nothing comes either.
    let mut browser = Browser::new();
    let begun = begin(&tool).await;
    decide(&management, &mut browser, &begun, "allow").await;
    management.sql("UPDATE sessions SET expires_at = now()").await;
    refused(&ask(&tool, &begun).await, "invalid_grant");
    management.stop().await;
}

#[tokio::test]
async fn a_session_that_is_revoked_at_that_moment_lets_nobody_in() {
    let (management, mut browser) = with_ann().await;
    let tool = management.anonymous();
    let begun = begin(&tool).await;
    be_asked(&management, &mut browser, &begun).await;
    let mut holder = management.hold_head().await;
    let answering = answer(&management, &mut browser, &begun, "allow");
    let revoking = async {
        management.waits(1).await;
        let both = "UPDATE sessions SET revoked_at = now(); COMMIT";
        sqlx::raw_sql(both).execute(&mut holder).await.unwrap();
    };
    let (page, ()) = futures::join!(answering, revoking);
    assert_eq!(page.reply.status, 404, "{}", page.text());
    refused(&ask(&tool, &begun).await, "authorization_pending");
    management.stop().await;
}

#[tokio::test]
async fn who_sets_a_password_on_a_command_line_stays_there() {
    let (management, mut browser) = with_ann().await;
    let tool = management.anonymous();
    let begun = begin(&tool).await;
    decide(&management, &mut browser, &begun, "allow").await;
    let granted = ask(&tool, &begun).await.json();
    let ann = Api::new(management.admin.addr, granted["access_token"].as_str());
    let wish = json!({"password": "a horse that draws maps", "current": PASSWORD}).to_string();
    let path = format!("{ACME}/users/ann/password");
    let set = ann.send(Method::PUT, &path, &[], wish).await;
    assert_eq!(set.status, 200, "{}", set.text);
    assert_eq!(ann.get(ACME).await.status, 200);
    let opened = sessions(&management).await;
    assert!(opened[1]["revokeTime"].is_string(), "{opened:?}");
    let told = reason(&management, "set-password").await;
    assert!(told.contains(opened[1]["id"].as_str().unwrap()), "{told}");
    management.stop().await;
}

#[tokio::test]
async fn a_command_line_is_not_let_in_by_who_may_not_or_does_not() {
    let (management, mut browser) = with_ann().await;
    let tool = management.anonymous();
    let denied = begin(&tool).await;
    decide(&management, &mut browser, &denied, "deny").await;
    refused(&ask(&tool, &denied).await, "access_denied");

    let late = begin(&tool).await;
    management.sql("UPDATE device_codes SET expires_at = now()").await;
    refused(&ask(&tool, &late).await, "expired_token");
    let page = browser
        .open(late["verification_uri_complete"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(page.reply.status, 404, "{}", page.text());

    // Another site cannot make the browser confirm, and a token makes itself no session.
    let begun = begin(&tool).await;
    let form = format!("code={}&decision=allow", begun["user_code"].as_str().unwrap());
    let cookies = browser.cookies(&management.admin.addr.to_string());
    let crossing = [
        FORM,
        ("cookie", cookies.as_str()),
        ("sec-fetch-site", "cross-site"),
    ];
    let crossed = tool
        .send(Method::POST, "/auth/device", &crossing, form.clone())
        .await;
    assert_eq!(crossed.status, 403, "{}", crossed.text);
    let by_token = management
        .admin
        .send(Method::POST, "/auth/device", &[FORM], form)
        .await;
    assert_eq!(by_token.status, 401, "{}", by_token.text);
    refused(&ask(&tool, &begun).await, "authorization_pending");

    let body = "grant_type=password&device_code=x";
    refused(
        &tool.send(Method::POST, "/auth/token", &[FORM], body).await,
        "unsupported_grant_type",
    );
    let body = format!("grant_type={GRANT}&device_code=tb_x");
    refused(
        &tool.send(Method::POST, "/auth/token", &[FORM], body).await,
        "invalid_grant",
    );
    management.stop().await;
}
