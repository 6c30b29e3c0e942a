//! Logging in at a real OpenID provider, over sockets, with a browser's cookies.

use std::time::Duration;

use serde_json::{Value, json};
use tombolo_management::LoginConfig;
use tombolo_tests::browser::{Browser, Page};
use tombolo_tests::eventually;
use tombolo_tests::oidc::OidcProvider;
use tombolo_tests::postgres::Postgres;

use crate::support::{ACME, Api, Management};

/// `2` is called as somebody whom management has already; `3` is in no group.
fn people() -> Value {
    json!({
        "1": {"preferred_username": "Bea.Lee@example.com", "name": "Bea Lee", "groups": ["platform", "on-call"]},
        "2": {"preferred_username": "admin", "groups": []},
        "3": {"preferred_username": "cal"},
    })
}

async fn with_provider() -> (OidcProvider, Management) {
    let provider = OidcProvider::start(&people()).await;
    let mut management = Management::prepare(Postgres::start().create_database().await);
    management.config.login = LoginConfig {
        oidc: Some(provider.config()),
        ..LoginConfig::default()
    };
    (provider, management.start_prepared().await)
}

/// The address at the provider to which management sends a browser, where `person` is let in.
async fn begin(management: &Management, browser: &mut Browser, person: &str) -> String {
    let start = format!(
        "http://{}/auth/oidc?return=/v1/auth:whoami",
        management.admin.addr
    );
    let sent = browser.get(&start).await.unwrap();
    assert_eq!(sent.status, 303, "{}", sent.text());
    format!("{}&login_hint={person}", sent.header("location"))
}

/// Goes on from the provider until it sends the browser back to management, and gives that address.
async fn at_provider(browser: &mut Browser, url: &str) -> String {
    let mut url = url.to_owned();
    for _ in 0..5 {
        let reply = browser.get(&url).await.unwrap();
        assert!(reply.status.is_redirection(), "{url}: {}", reply.text());
        let next = reply.header("location");
        if next.contains("/auth/callback") {
            return next;
        }
        let issuer = url.split('/').take(3).collect::<Vec<_>>().join("/");
        url = if next.starts_with('/') {
            format!("{issuer}{next}")
        } else {
            next
        };
    }
    panic!("never sent back: {url}");
}

async fn log_in(management: &Management, browser: &mut Browser, person: &str) -> Page {
    let there = begin(management, browser, person).await;
    let back = at_provider(browser, &there).await;
    browser.open(&back).await.unwrap()
}

async fn denied_for(management: &Management, reason: &str) {
    eventually(Duration::from_secs(20), async || {
        let page = management
            .admin
            .get("audit?verb=login&outcome=unauthenticated")
            .await
            .json();
        let records = page["items"].as_array().cloned().unwrap_or_default();
        let found = records.iter().any(|record| {
            record["reason"]
                .as_str()
                .is_some_and(|found| found.contains(reason))
        });
        anyhow::ensure!(found, "{records:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_person_logs_in_at_the_provider_and_is_a_user_until_the_session_is_revoked() {
    let (_provider, management) = with_provider().await;
    let mut browser = Browser::new();
    let page = log_in(&management, &mut browser, "1").await;
    assert_eq!(page.reply.status, 200, "{}", page.text());
    let who: Value = serde_json::from_str(&page.text()).unwrap();
    let bea = format!("{ACME}/users/bea-lee");
    assert_eq!(who["user"], bea);
    assert_eq!(who["groups"], json!(["on-call", "platform"]));

    let user = management.admin.get(&bea).await.json();
    assert_eq!(user["spec"]["displayName"], "Bea Lee");
    assert_eq!(user["uid"], who["uid"]);
    let own = management.admin.addr.to_string();
    assert!(
        !browser.cookies(&own).contains("tombolo-login"),
        "it was for once"
    );

    // Without a right, and with one.
    let tenants = format!("http://{own}/v1/{ACME}");
    assert_eq!(browser.get(&tenants).await.unwrap().status, 404);
    let spec = json!({"role": "reader", "subjects": [bea]});
    management
        .admin
        .create(json!({"name": format!("{ACME}/bindings/bea"), "spec": spec}))
        .await;
    assert_eq!(browser.get(&tenants).await.unwrap().status, 200);

    // Who comes again is who they were.
    let mut other = Browser::new();
    let again = log_in(&management, &mut other, "1").await;
    let again: Value = serde_json::from_str(&again.text()).unwrap();
    assert_eq!(again["uid"], who["uid"]);
    let sessions = management.admin.get(&format!("{bea}/sessions")).await.json();
    let methods: Vec<&Value> = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["method"])
        .collect();
    assert_eq!(methods, ["oidc", "oidc"]);

    let id = who["credential"]["id"].as_str().unwrap();
    let gone = format!("{bea}/sessions/{id}");
    assert_eq!(
        management
            .admin
            .send(http::Method::DELETE, &gone, &[], "")
            .await
            .status,
        200
    );
    assert_eq!(browser.get(&tenants).await.unwrap().status, 401);
    assert_eq!(other.get(&tenants).await.unwrap().status, 200);
    let logins = management
        .admin
        .get(&format!("audit?actor={bea}&verb=login"))
        .await
        .json();
    assert_eq!(logins["items"].as_array().unwrap().len(), 2);
    management.stop().await;
}

/// A first password would be a way in that the provider knows nothing of.
#[tokio::test]
async fn nobody_takes_over_a_person_of_the_provider_with_a_password() {
    let (_provider, management) = with_provider().await;
    let mut browser = Browser::new();
    log_in(&management, &mut browser, "1").await;
    let bea = format!("{ACME}/users/bea-lee");
    let bind = async |leaf: &str, role: &str, subject: &str| {
        let spec = json!({"role": role, "subjects": [subject]});
        let name = format!("{ACME}/bindings/{leaf}");
        management.admin.create(json!({"name": name, "spec": spec})).await;
    };
    bind("bea", "reader", &bea).await;
    let rules = json!([{"kinds": ["User"], "verbs": ["tokens"]}]);
    let role = format!("{ACME}/roles/helpdesk");
    management
        .admin
        .create(json!({"name": role, "spec": {"rules": rules}}))
        .await;
    let hana = management.user("hana", &[]).await;
    bind("hana", &role, &format!("{ACME}/users/hana")).await;

    let (path, wish) = (
        format!("{bea}/password"),
        json!({"password": "a horse that reads maps"}),
    );
    let put = async |api: &Api, headers: &[(&str, &str)]| {
        api.send(http::Method::PUT, &path, headers, wish.to_string())
            .await
    };
    put(&hana, &[])
        .await
        .refused(403, "cannot give what it does not hold itself");
    let cookies = browser.cookies(&management.admin.addr.to_string());
    let stolen = [("cookie", cookies.as_str()), ("sec-fetch-site", "same-origin")];
    put(&management.anonymous(), &stolen)
        .await
        .refused(403, "would outlive this session or token");
    assert_eq!(management.count("SELECT count(*) FROM passwords").await, 0);
    management.stop().await;
}

#[tokio::test]
async fn who_is_called_like_a_user_is_somebody_else() {
    let (_provider, management) = with_provider().await;
    let mut browser = Browser::new();
    let page = log_in(&management, &mut browser, "2").await;
    let who: Value = serde_json::from_str(&page.text()).unwrap();
    let name = who["user"].as_str().unwrap();
    assert!(name.starts_with(&format!("{ACME}/users/admin-")), "{name}");
    let organization = format!("http://{}/v1/{ACME}", management.admin.addr);
    assert_eq!(browser.get(&organization).await.unwrap().status, 404);

    // One who was deleted comes back as somebody who has nothing of theirs.
    assert_eq!(management.admin.delete(name, "*").await.status, 200);
    assert_eq!(browser.get(&organization).await.unwrap().status, 401);
    let page = log_in(&management, &mut browser, "2").await;
    let again: Value = serde_json::from_str(&page.text()).unwrap();
    assert_ne!(again["uid"], who["uid"]);
    management.stop().await;
}

#[tokio::test]
async fn a_login_ends_once_in_the_browser_that_began_it_and_in_time() {
    let (_provider, management) = with_provider().await;
    let mut browser = Browser::new();
    let there = begin(&management, &mut browser, "3").await;
    let back = at_provider(&mut browser, &there).await;

    // Somebody else's link, in a browser that began nothing, and in one that began another login.
    let mut other = Browser::new();
    let page = other.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    begin(&management, &mut other, "3").await;
    let page = other.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    denied_for(&management, "another browser").await;

    // Once, also when a copy of the browser comes first.
    let mut copy = browser.clone();
    let page = browser.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 200, "{}", page.text());
    let page = copy.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    denied_for(&management, "this login is over").await;

    let there = begin(&management, &mut browser, "3").await;
    let back = at_provider(&mut browser, &there).await;
    management
        .sql("UPDATE login_attempts SET expires_at = now()")
        .await;
    let page = browser.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    assert!(page.text().contains("took too long"), "{}", page.text());
    management.stop().await;
}

#[tokio::test]
async fn a_token_that_was_made_for_another_login_is_refused() {
    let (_provider, management) = with_provider().await;
    let mut browser = Browser::new();
    let there = begin(&management, &mut browser, "3").await;
    let nonce = there.split("nonce=").nth(1).unwrap().split('&').next().unwrap();
    let other = there.replace(nonce, &"x".repeat(nonce.len()));
    let back = at_provider(&mut browser, &other).await;
    let page = browser.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    denied_for(&management, "nonce").await;

    // A code of another login: the provider holds it to the secret of the browser that asked for it.
    let there = begin(&management, &mut browser, "3").await;
    let back = at_provider(&mut browser, &there).await;
    let mut thief = Browser::new();
    let own = begin(&management, &mut thief, "3").await;
    let own = at_provider(&mut thief, &own).await;
    let code = |url: &str| {
        url.split("code=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap()
            .to_owned()
    };
    let page = thief.open(&own.replace(&code(&own), &code(&back))).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    denied_for(&management, "does not take the code").await;

    // Whom the provider does not know.
    let mut stranger = Browser::new();
    let there = begin(&management, &mut stranger, "nobody").await;
    let back = at_provider(&mut stranger, &there).await;
    let page = stranger.open(&back).await.unwrap();
    assert_eq!(page.reply.status, 401, "{}", page.text());
    denied_for(&management, "nobody of that name").await;
    management.stop().await;
}

#[tokio::test]
async fn any_replica_finishes_a_login_that_another_began() {
    let (_provider, management) = with_provider().await;
    let (running, replica) = management.replica().await;
    let mut browser = Browser::new();
    let there = begin(&management, &mut browser, "1").await;
    let back = at_provider(&mut browser, &there).await;
    // As behind a load balancer: the same name, another replica.
    let own = management.admin.addr.to_string();
    let path = back.strip_prefix(&format!("http://{own}")).unwrap();
    let cookies = browser.cookies(&own);
    let replica = Api::new(replica.addr, None);
    let headers = [("host", own.as_str()), ("cookie", cookies.as_str())];
    let done = replica.get_with(path, &headers).await;
    assert_eq!(done.status, 303, "{}", done.text);
    let sets = done.headers.get_all("set-cookie").iter();
    let sets: Vec<&str> = sets.filter_map(|set| set.to_str().ok()).collect();
    let session = sets
        .iter()
        .find(|set| set.starts_with("tombolo-session="))
        .unwrap();
    let session = session.split(';').next().unwrap();
    let who = management
        .anonymous()
        .get_with("auth:whoami", &[("cookie", session)])
        .await;
    assert_eq!(who.json()["user"], format!("{ACME}/users/bea-lee"));
    running.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn without_its_provider_management_serves_and_says_so() {
    let (provider, management) = with_provider().await;
    drop(provider);
    assert_eq!(management.admin.get(ACME).await.status, 200);
    let mut browser = Browser::new();
    let page = browser
        .open(&format!("http://{}/auth/oidc", management.admin.addr))
        .await
        .unwrap();
    assert_eq!(page.reply.status, 503, "{}", page.text());
    management.stop().await;
}

#[tokio::test]
async fn the_groups_of_the_provider_are_teams_as_of_the_last_login() {
    let (provider, management) = with_provider().await;
    let admin = &management.admin;
    let team = format!("{ACME}/teams/platform");
    admin
        .create(json!({"name": team, "spec": {"groups": ["platform"]}}))
        .await;
    let spec = json!({"role": "reader", "subjects": [team]});
    admin
        .create(json!({"name": format!("{ACME}/bindings/platform"), "spec": spec}))
        .await;
    let organization = format!("http://{}/v1/{ACME}", admin.addr);
    let bea = format!("{ACME}/users/bea-lee");

    // From the first login on, over the wall of the database too.
    let mut browser = Browser::new();
    let page = log_in(&management, &mut browser, "1").await;
    let who: Value = serde_json::from_str(&page.text()).unwrap();
    assert_eq!(who["teams"], json!([team]));
    assert_eq!(browser.get(&organization).await.unwrap().status, 200);
    let why = admin
        .post("iam:test", json!({"who": bea, "action": "read", "names": [ACME]}))
        .await;
    assert_eq!(why.status, 200, "{}", why.text);
    assert!(why.text.contains(&team), "{}", why.text);

    // Who is in no group of ours has nothing.
    let mut other = Browser::new();
    log_in(&management, &mut other, "3").await;
    assert_eq!(other.get(&organization).await.unwrap().status, 404);

    // What an administrator has written about the person stays; the groups are the provider's.
    let mut user = admin.get(&bea).await.json();
    user["spec"]["displayName"] = json!("B. Lee");
    let etag = user["etag"].as_str().unwrap().to_owned();
    let put = admin
        .send(http::Method::PUT, &bea, &[("if-match", &etag)], user.to_string())
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    let mut people = people();
    people["1"]["groups"] = json!(["on-call"]);
    provider.set_people(&people);
    log_in(&management, &mut Browser::new(), "1").await;
    let user = admin.get(&bea).await.json();
    assert_eq!(
        user["spec"],
        json!({"displayName": "B. Lee", "groups": ["on-call"]})
    );
    assert_eq!(browser.get(&organization).await.unwrap().status, 404);
    management.stop().await;
}

#[tokio::test]
async fn nobody_takes_a_group_into_a_team_that_may_more() {
    let management = Management::start().await;
    let admin = &management.admin;
    let keeper = management.user("keeper", &[]).await;
    let team = format!("{ACME}/teams/root");
    let role = format!("{ACME}/roles/keeper");
    let rules = json!([{"kinds": ["Organization", "Team", "User"], "verbs": ["read", "update"]}]);
    let subjects = |name: &str| json!([format!("{ACME}/{name}")]);
    for (name, spec) in [
        (role.clone(), json!({ "rules": rules })),
        (
            format!("{ACME}/bindings/keeper"),
            json!({"role": role, "subjects": subjects("users/keeper")}),
        ),
        (team.clone(), json!({})),
        (
            format!("{ACME}/bindings/root"),
            json!({"role": "admin", "subjects": subjects("teams/root")}),
        ),
    ] {
        admin.create(json!({"name": name, "spec": spec})).await;
    }
    let own = format!("{ACME}/users/keeper");
    for (name, spec) in [
        (&team, json!({"groups": ["anybody"]})),
        (&own, json!({"groups": ["ops"]})),
    ] {
        let document = json!({"name": name, "spec": spec}).to_string();
        let answer = keeper
            .send(http::Method::PUT, name, &[("if-match", "*")], document)
            .await;
        // Of a group that no team takes in, nobody has anything.
        match *name == team {
            true => answer.refused(403, "the provider's group anybody would get"),
            false => assert_eq!(answer.status, 200, "{}", answer.text),
        }
    }
    let document = json!({"name": team, "spec": {"groups": ["ops"]}}).to_string();
    let answer = keeper
        .send(http::Method::PUT, &team, &[("if-match", "*")], document)
        .await;
    answer.refused(403, "users/keeper would get");
    management.stop().await;
}
