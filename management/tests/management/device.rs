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
