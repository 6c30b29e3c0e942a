//! Logging in with a password, and what a session is: a cookie that writes only from pages of ours, that ends, and that is
//! ended at once on every replica.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use tombolo_management::pages;
use tombolo_tests::eventually;

use crate::pages::in_pages;
use crate::support::{ACME, Answer, Api, Management};

const DEADLINE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "a horse that reads maps";
/// What a browser says of a request that a page of ours sends.
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

/// The administrator and a user `ann` who may read, with a password each.
async fn with_passwords() -> Management {
    let management = Management::start().await;
    management.user("ann", &[(ACME, "reader")]).await;
    for user in ["admin", "ann"] {
        let set = set_password(&management.admin, user, json!({ "password": PASSWORD })).await;
        assert_eq!(set.status, 200, "{}", set.text);
    }
    management
}

async fn set_password(api: &Api, user: &str, wish: Value) -> Answer {
    let path = format!("{ACME}/users/{user}/password");
    api.send(Method::PUT, &path, &[], wish.to_string()).await
}

async fn log_in(api: &Api, user: &str, password: &str) -> Answer {
    api.post("auth:login", json!({"user": user, "password": password}))
        .await
}

/// The cookie as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.headers["set-cookie"].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

/// Logs in, and gives the cookie and the id of the session.
async fn session(management: &Management, user: &str) -> (String, String) {
    let answer = log_in(&management.anonymous(), user, PASSWORD).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (cookie(&answer), answer.json()["id"].as_str().unwrap().to_owned())
}

async fn records(management: &Management, filter: &str) -> Vec<Value> {
    let page = management.admin.get(&format!("audit?{filter}")).await.json();
    page["items"].as_array().cloned().unwrap_or_default()
}

/// Of every form of the pages what it has, and nothing of it true.
const FORM: &str = "user=ann&password=guessed&code=BCDF-GHJK&decision=allow&device_code=guessed\
                    &grant_type=urn:ietf:params:oauth:grant-type:device_code";

/// What a stranger gets of each page, with GET and with POST of that form.
const OF_A_STRANGER: [(&str, u16, u16); 6] = [
    ("/auth/login", 200, 403),
    ("/auth/oidc", 404, 405),
    ("/auth/callback", 404, 405),
    ("/auth/device", 303, 401),
    // A code that nobody has confirmed is worth nothing.
    ("/auth/device_authorization", 405, 200),
    ("/auth/token", 405, 400),
];

#[tokio::test]
async fn no_page_serves_a_stranger_and_every_denial_is_on_record() {
    let management = with_passwords().await;
    let known: Vec<&str> = OF_A_STRANGER.iter().map(|(path, ..)| *path).collect();
    assert_eq!(
        known,
        pages().collect::<Vec<_>>(),
        "say here what a stranger gets of a new page"
    );
    let stranger = management.anonymous();
    let form = ("content-type", "application/x-www-form-urlencoded");
    let (mut wrong, mut denied) = (Vec::new(), Vec::new());
    for (path, of_get, of_post) in OF_A_STRANGER {
        let calls = [
            (Method::GET, of_get),
            (Method::POST, of_post),
            (Method::PUT, 405),
            (Method::DELETE, 405),
        ];
        for (method, expected) in calls {
            let what = format!("{method} {path}");
            let answer = stranger.send(method, path, &[form], FORM.to_owned()).await;
            if answer.status != expected {
                wrong.push(format!("{what}: {} {}", answer.status, answer.text));
            }
            assert!(
                !answer.headers.contains_key("set-cookie"),
                "{what} gives a cookie"
            );
            assert!(
                !answer.text.contains("organizations/"),
                "{what} tells {}",
                answer.text
            );
            if matches!(expected, 401 | 403) {
                denied.push(what);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    eventually(DEADLINE, || async {
        let [forbidden, unknown] = [
            records(&management, "outcome=denied").await,
            records(&management, "outcome=unauthenticated").await,
        ];
        let recorded = forbidden.len() + unknown.len();
        ensure!(recorded == denied.len(), "{denied:?}: {forbidden:?} {unknown:?}");
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn a_session_reads_is_listed_and_is_over_once_it_is_revoked() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let answer = log_in(&browser, "ann", PASSWORD).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let set = answer.headers["set-cookie"].to_str().unwrap();
    assert!(
        set.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let opened = answer.json();
    assert_eq!(opened["user"], format!("{ACME}/users/ann"));
    assert_eq!(opened["method"], "password");
    let cookie = cookie(&answer);
    let secret = cookie.split_once('=').unwrap().1;

    let who = browser
        .get_with("auth:whoami", &[("cookie", &cookie)])
        .await
        .json();
    assert_eq!(who["user"], format!("{ACME}/users/ann"));
    assert_eq!(who["credential"]["id"], opened["id"]);
    assert_eq!(browser.get_with(ACME, &[("cookie", &cookie)]).await.status, 200);
    let bearer = Api::new(management.admin.addr, Some(secret));
    bearer
        .get(ACME)
        .await
        .refused(401, "the token, key or session is unknown");

    let sessions = format!("{ACME}/users/ann/sessions");
    let listed = browser.get_with(&sessions, &[("cookie", &cookie)]).await.json();
    assert_eq!(listed["items"][0]["id"], opened["id"]);
    assert!(!listed.to_string().contains(secret));
    let held = "SELECT count(*) FROM sessions WHERE octet_length(sha256) = 32";
    assert_eq!(management.count(held).await, 1);

    // Another replica knows it, and forgets it with this one.
    let (running, replica) = management.replica().await;
    let replica = Api::new(replica.addr, None);
    assert_eq!(replica.get_with(ACME, &[("cookie", &cookie)]).await.status, 200);
    let gone = format!("{sessions}/{}", opened["id"].as_str().unwrap());
    let revoked = management.admin.send(Method::DELETE, &gone, &[], "").await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    for api in [&browser, &replica] {
        api.get_with(ACME, &[("cookie", &cookie)])
            .await
            .refused(401, "was revoked");
    }
    let again = management.admin.send(Method::DELETE, &gone, &[], "").await;
    again.refused(404, "does not exist");
    running.stop().await.unwrap();

    let done = records(&management, &format!("name={ACME}/users/ann&outcome=done")).await;
    let verbs: Vec<&str> = done.iter().filter_map(|record| record["verb"].as_str()).collect();
    assert_eq!(verbs[..3], ["revoke-session", "login", "set-password"]);
    assert_eq!(done[1]["actor"], format!("{ACME}/users/ann"));
    management.stop().await;
}

#[tokio::test]
async fn a_cookie_writes_from_pages_of_ours_only() {
    let management = with_passwords().await;
    let (cookie, _) = session(&management, "admin").await;
    let browser = management.anonymous();
    let tenant = |leaf: &str| json!({"name": format!("{ACME}/tenants/{leaf}")}).to_string();
    let collection = format!("{ACME}/tenants");
    let own = format!("http://{}", management.admin.addr);
    let from = |site| vec![("sec-fetch-site", site)];
    let at = |origin| vec![("origin", origin)];
    for (leaf, said, status) in [
        ("a", from("same-origin"), 201),
        ("b", at(own.as_str()), 201),
        ("c", [from("cross-site"), at(own.as_str())].concat(), 403),
        ("d", from("same-site"), 403),
        ("e", at("https://evil.example.com"), 403),
        ("f", vec![], 403),
    ] {
        let headers = [&[("cookie", cookie.as_str())], said.as_slice()].concat();
        let answer = browser
            .send(Method::POST, &collection, &headers, tenant(leaf))
            .await;
        assert_eq!(answer.status, status, "{said:?}: {}", answer.text);
        if status == 403 {
            answer.refused(403, "another site");
        }
    }
    eventually(DEADLINE, async || {
        let denied = records(&management, "outcome=unauthenticated&verb=create").await;
        ensure!(denied.len() == 4, "{denied:?}");
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_in_pages_newest_first() {
    let management = with_passwords().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(session(&management, "ann").await.1);
    }
    ids.reverse();
    let sessions = format!("{ACME}/users/ann/sessions");
    for size in [1, 2, 3] {
        let listed = in_pages(&management.admin, &sessions, size).await;
        let listed: Vec<&str> = listed.iter().filter_map(|item| item["id"].as_str()).collect();
        assert_eq!(listed, ids, "{size}");
    }
    management.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_logout_with_a_new_password_and_by_itself() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let (left, _) = session(&management, "ann").await;
    let out = browser
        .send(Method::POST, "auth:logout", &[("cookie", &left), OURS], "")
        .await;
    assert_eq!(out.status, 200, "{}", out.text);
    assert!(
        out.headers["set-cookie"]
            .to_str()
            .unwrap()
            .contains("=; Path=/; Max-Age=0;")
    );
    browser
        .get_with(ACME, &[("cookie", &left)])
        .await
        .refused(401, "was revoked");

    let (old, _) = session(&management, "ann").await;
    let (kept, _) = session(&management, "ann").await;
    let path = format!("{ACME}/users/ann/password");
    let change = async |wish: Value| {
        let headers = [("cookie", kept.as_str()), OURS];
        browser.send(Method::PUT, &path, &headers, wish.to_string()).await
    };
    let new = "a horse that draws maps";
    change(json!({ "password": new })).await.refused(400, "/current");
    change(json!({"password": new, "current": "not that one"}))
        .await
        .refused(403, "/current is not");
    change(json!({"password": "short", "current": PASSWORD}))
        .await
        .refused(400, "at least 12");
    let changed = change(json!({"password": new, "current": PASSWORD})).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    browser
        .get_with(ACME, &[("cookie", &old)])
        .await
        .refused(401, "was revoked");
    assert_eq!(browser.get_with(ACME, &[("cookie", &kept)]).await.status, 200);
    log_in(&browser, "ann", PASSWORD)
        .await
        .refused(401, "no such user");
    assert_eq!(log_in(&browser, "ann", new).await.status, 200);

    management.sql("UPDATE sessions SET expires_at = now()").await;
    browser
        .get_with(ACME, &[("cookie", &kept)])
        .await
        .refused(401, "has expired");
    management.stop().await;
}

#[tokio::test]
async fn a_login_that_fails_tells_nothing_is_counted_and_is_on_record() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let mut told = Vec::new();
    for user in ["ann", "nobody", "not a name", "organizations/acme"] {
        let answer = log_in(&browser, user, "not the password").await;
        answer.refused(401, "no such user with that password");
        told.push(answer.json()["detail"].clone());
    }
    assert!(told.iter().all(|detail| *detail == told[0]), "{told:?}");
    // A name that Postgres cannot keep is on record as well, and takes nothing off it.
    let form = [OURS, ("content-type", "application/x-www-form-urlencoded")];
    let answer = browser
        .send(Method::POST, "/auth/login", &form, "user=nul%00&password=x")
        .await;
    assert_eq!(answer.status, 401, "{}", answer.text);
    eventually(DEADLINE, async || {
        let kept = management
            .count("SELECT count(*) FROM audit WHERE name = U&'nul\\FFFD'")
            .await;
        ensure!(kept == 1, "{kept} records");
        Ok(())
    })
    .await;
    // The account is counted whether it exists or not, also for whoever knows the password.
    for user in ["ann", "nobody"] {
        let mut refused = None;
        for _ in 0..60 {
            let answer = log_in(&browser, user, "not the password").await;
            if answer.status == 429 {
                refused = Some(answer);
                break;
            }
        }
        refused
            .expect("never held back")
            .refused(429, "too many attempts");
    }
    let who = format!("name={ACME}/users/ann&verb=login&outcome=unauthenticated");
    eventually(DEADLINE, async || {
        let denied = records(&management, &who).await;
        let reasons: Vec<&str> = denied
            .iter()
            .filter_map(|record| record["reason"].as_str())
            .collect();
        ensure!(
            reasons.iter().any(|reason| reason.contains("no such user")),
            "{reasons:?}"
        );
        ensure!(
            reasons.iter().any(|reason| reason.contains("too many")),
            "{reasons:?}"
        );
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn who_guesses_keeps_nobody_out_where_the_account_has_logged_in_before() {
    let management = with_passwords().await;
    let anonymous = management.anonymous();
    let (home, abroad) = (anonymous.at([127, 0, 0, 9]), anonymous.at([127, 0, 0, 10]));
    // So long that it is not even compared; counted all the same.
    let guess = "x".repeat(5000);
    assert_eq!(log_in(&home, "ann", PASSWORD).await.status, 200);
    let one = anonymous.at([127, 0, 1, 0]);
    for _ in 0..10 {
        log_in(&one, "ann", &guess).await.refused(400, "password");
    }
    log_in(&one, "ann", PASSWORD)
        .await
        .refused(429, "too many attempts");
    assert_eq!(log_in(&abroad, "ann", PASSWORD).await.status, 200);

    // From many sources, until there is nothing left for whoever is not known.
    management
        .sql("DELETE FROM sessions WHERE source = '127.0.0.10'")
        .await;
    for host in 1..20 {
        let one = anonymous.at([127, 0, 1, host]);
        for _ in 0..10 {
            log_in(&one, "ann", &guess).await;
        }
    }
    log_in(&abroad, "ann", PASSWORD)
        .await
        .refused(429, "too many attempts");
    assert_eq!(log_in(&abroad, "admin", PASSWORD).await.status, 200);
    let told = log_in(&home, "ann", PASSWORD).await;
    assert_eq!(told.status, 200, "{}", told.text);
    // A thief at home has no more than anybody.
    for _ in 0..8 {
        log_in(&home, "ann", &guess).await.refused(400, "password");
    }
    log_in(&home, "ann", PASSWORD)
        .await
        .refused(429, "too many attempts");
    management.stop().await;
}

#[tokio::test]
async fn a_password_is_that_of_a_user_and_not_of_a_name() {
    let management = with_passwords().await;
    let (cookie, _) = session(&management, "ann").await;
    let name = format!("{ACME}/users/ann");
    let binding = format!("{ACME}/bindings/ann-reader");
    for gone in [&binding, &name] {
        let deleted = management.admin.delete(gone, "*").await;
        assert_eq!(deleted.status, 200, "{}", deleted.text);
    }
    management.admin.create(json!({ "name": name })).await;
    let browser = management.anonymous();
    log_in(&browser, "ann", PASSWORD)
        .await
        .refused(401, "no such user");
    browser
        .get_with(ACME, &[("cookie", &cookie)])
        .await
        .refused(401, "does not exist any more");
    management.stop().await;
}

#[tokio::test]
async fn a_password_takes_over_nobody_who_may_more_and_outlives_nothing() {
    let management = with_passwords().await;
    let admin = &management.admin;
    let hana = management.user("hana", &[]).await;
    management.user("nora", &[]).await;
    let role = format!("{ACME}/roles/helpdesk");
    let rules = json!([{"kinds": ["User"], "verbs": ["read", "tokens"]}]);
    admin
        .create(json!({"name": role, "spec": {"rules": rules}}))
        .await;
    let spec = json!({"role": role, "subjects": [format!("{ACME}/users/hana")]});
    admin
        .create(json!({"name": format!("{ACME}/bindings/helpdesk"), "spec": spec}))
        .await;
    let wish = || json!({"password": "a horse that draws maps"});
    for more in ["admin", "ann"] {
        set_password(&hana, more, wish())
            .await
            .refused(403, "cannot give what it does not hold itself");
    }
    assert_eq!(set_password(&hana, "nora", wish()).await.status, 200);
    assert_eq!(
        log_in(&management.anonymous(), "admin", PASSWORD).await.status,
        200,
        "the old one still holds"
    );

    // What ends leads to nothing that does not.
    let at = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let issued = admin
        .post(&format!("{ACME}/users/hana/tokens"), json!({"expireTime": at}))
        .await
        .json();
    let short = Api::new(admin.addr, issued["token"].as_str());
    set_password(&short, "hana", wish())
        .await
        .refused(403, "would outlive this session or token");
    assert_eq!(set_password(&hana, "hana", wish()).await.status, 200);
    management.stop().await;
}

#[tokio::test]
async fn what_was_issued_with_a_session_ends_with_it() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let tokens = format!("{ACME}/users/ann/tokens");
    let issue = async |cookie: &str| {
        let headers = [("cookie", cookie), OURS];
        browser.send(Method::POST, &tokens, &headers, "{}").await
    };
    let (cookie, id) = session(&management, "ann").await;
    let (other, _) = session(&management, "ann").await;
    let issued = [issue(&cookie).await, issue(&other).await];
    let [gone, kept] = issued.map(|issued| {
        assert_eq!(issued.status, 201, "{}", issued.text);
        assert!(issued.json()["expireTime"].is_string(), "{}", issued.text);
        Api::new(management.admin.addr, issued.json()["token"].as_str())
    });
    assert_eq!(gone.get(ACME).await.status, 200);
    let path = format!("{ACME}/users/ann/sessions/{id}");
    let revoked = management.admin.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    gone.get(ACME).await.refused(401, "was revoked");
    assert_eq!(kept.get(ACME).await.status, 200);
    // A new password ends the other sessions, and what came of them.
    let set = set_password(&management.admin, "ann", json!({ "password": PASSWORD })).await;
    assert_eq!(set.status, 200, "{}", set.text);
    kept.get(ACME).await.refused(401, "was revoked");
    management.stop().await;
}

/// Both have looked at the old password, and wait for the same lock.
#[tokio::test]
async fn a_login_with_a_password_that_is_changed_at_that_moment_fails() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let mut holder = management.hold_head().await;
    let changing = set_password(
        &management.admin,
        "ann",
        json!({"password": "a horse that draws maps"}),
    );
    let logging_in = async {
        management.waits(1).await;
        log_in(&browser, "ann", PASSWORD).await
    };
    let releasing = async {
        management.waits(2).await;
        sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    };
    let (changed, logged_in, ()) = futures::join!(changing, logging_in, releasing);
    assert_eq!(changed.status, 200, "{}", changed.text);
    logged_in.refused(401, "no such user with that password");
    let open = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL";
    assert_eq!(management.count(open).await, 0);
    management.stop().await;
}

#[tokio::test]
async fn no_other_site_logs_a_browser_in() {
    let management = with_passwords().await;
    let browser = management.anonymous();
    let wish = json!({"user": "ann", "password": PASSWORD}).to_string();
    for (from, status) in [
        (vec![OURS], 200),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("origin", "https://evil.example.com")], 403),
        (vec![("origin", "null")], 403),
        // A program.
        (vec![], 200),
    ] {
        let answer = browser
            .send(Method::POST, "auth:login", &from, wish.clone())
            .await;
        assert_eq!(answer.status, status, "{from:?}: {}", answer.text);
        assert_eq!(answer.headers.contains_key("set-cookie"), status == 200);
    }
    // The form, which only browsers send.
    let form = format!("user=ann&password={}", PASSWORD.replace(' ', "+"));
    for (from, status) in [
        (vec![OURS], 303),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("origin", "https://evil.example.com")], 403),
        (vec![], 403),
    ] {
        let headers = [
            &from[..],
            &[("content-type", "application/x-www-form-urlencoded")],
        ]
        .concat();
        let answer = browser
            .send(Method::POST, "/auth/login", &headers, form.clone())
            .await;
        assert_eq!(answer.status, status, "{from:?}: {}", answer.text);
        assert_eq!(answer.headers.contains_key("set-cookie"), status == 303);
    }
    management.stop().await;
}
