//! Keys of service accounts over HTTP: what is signed with one lets in once, until it ends or its key does.

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use http::Method;
use serde_json::{Value, json};
use tombolo_management::account_key::assertion::Signer;

use crate::support::{ACME, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const ACCOUNT: &str = "organizations/acme/tenants/pay/serviceaccounts/ci";
const KEYS: &str = "organizations/acme/tenants/pay/serviceaccounts/ci/keys";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// A service account that may change gateways.
async fn with_account() -> Management {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    admin.create(json!({ "name": ACCOUNT })).await;
    let spec = json!({"role": "gateway-admin", "subjects": [ACCOUNT]});
    admin
        .create(json!({"name": format!("{PAY}/bindings/ci"), "spec": spec}))
        .await;
    management
}

/// What the API tells of a new key.
async fn issue(api: &Api) -> Value {
    let issued = api.post(KEYS, json!({})).await;
    assert_eq!(issued.status, 201, "{}", issued.text);
    assert_eq!(issued.headers["cache-control"], "no-store");
    issued.json()
}

/// Who signs each request with the key.
fn holder(api: &Api, issued: &Value) -> Api {
    let signer = Signer::new(&issued["key"].to_string()).unwrap();
    Api::with_key(api.addr, signer)
}

/// As other software would sign it, whatever it says.
fn signed(issued: &Value, header: &Value, claims: &Value) -> String {
    let pem = issued["key"]["privateKey"].as_str().unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&STANDARD.decode(der).unwrap()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()));
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_service_account_signs_for_itself_and_its_private_key_stays_with_it() {
    let management = with_account().await;
    let admin = &management.admin;
    let issued = issue(admin).await;
    let ci = holder(admin, &issued);
    assert_eq!(ci.get(SHOP).await.status, 200);
    let listed = ci.get(&format!("{SHOP}/gatewaygroups")).await;
    assert_eq!(listed.json()["items"].as_array().unwrap().len(), 1);
    // With a key for retries, as the command line does.
    let group = json!({"name": format!("{SHOP}/gatewaygroups/ci")}).to_string();
    let headers = [("idempotency-key", "k")];
    let created = ci
        .send(Method::POST, &format!("{SHOP}/gatewaygroups"), &headers, group)
        .await;
    assert_eq!(created.json()["owner"], ACCOUNT, "{}", created.text);
    let group = json!({"name": format!("{SHOP}/trafficgroups/ci")});
    ci.post(&format!("{SHOP}/trafficgroups"), group)
        .await
        .refused(403, "needs the role traffic-admin");

    // It is listed without its private half, which nothing that is stored tells.
    let keys = admin.get(KEYS).await;
    assert_eq!(keys.json()["items"][0]["publicKey"], issued["key"]["publicKey"]);
    assert!(!keys.text.contains("PRIVATE"), "{}", keys.text);
    assert_eq!(
        admin.get(&format!("{ACCOUNT}/tokens")).await.json()["items"],
        json!([])
    );
    let seed = issued["key"]["privateKey"]
        .as_str()
        .unwrap()
        .lines()
        .nth(1)
        .unwrap();
    let stored = management
        .text("SELECT string_agg(t::text, '') || (SELECT string_agg(a::text, '') FROM audit a) FROM tokens t")
        .await;
    let seed_bytes: String = STANDARD.decode(seed).unwrap()[16..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(!stored.contains(seed) && !stored.contains(&seed_bytes));
    let records = admin.get("audit?verb=issue-key").await.json();
    assert_eq!(records["items"][0]["name"], ACCOUNT, "{records}");
    let told = records["items"][0]["reason"].as_str().unwrap();
    let made = format!("key {} with ", issued["id"].as_str().unwrap());
    assert!(told.starts_with(&made), "{told}");

    // Nobody has keys but service accounts, and not everybody issues them.
    let users = format!("{ACME}/users/admin/keys");
    assert_eq!(admin.post(&users, json!({})).await.status, 404);
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    ann.post(KEYS, json!({}))
        .await
        .refused(403, "needs the role admin to manage the tokens of");
    management.stop().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_lets_nobody_in_anywhere() {
    let management = with_account().await;
    let admin = &management.admin;
    let (replica, there) = management.replica().await;
    let (first, second) = (issue(admin).await, issue(admin).await);
    let ci = holder(admin, &first);
    let elsewhere = ci.on(&there);
    // A token that was issued with it ends no later, and with it.
    let token = ci.post(&format!("{ACCOUNT}/tokens"), json!({})).await.json();
    assert!(token["expireTime"].is_string(), "{token}");
    let made = token["id"].as_str().unwrap();
    let token = Api::new(ci.addr, token["token"].as_str());
    for api in [&ci, &elsewhere, &token] {
        assert_eq!(api.get(SHOP).await.status, 200);
    }
    let id = first["id"].as_str().unwrap();
    let as_token = format!("{ACCOUNT}/tokens/{id}");
    assert_eq!(admin.send(Method::DELETE, &as_token, &[], "").await.status, 404);
    let revoked = admin.send(Method::DELETE, &format!("{KEYS}/{id}"), &[], "").await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    for api in [&ci, &elsewhere, &token] {
        api.get(SHOP).await.refused(401, "was revoked or has expired");
    }
    let records = admin.get("audit?verb=revoke-key").await.json();
    let told = format!("key {id}; with it token {made}");
    assert_eq!(records["items"][0]["reason"], told, "{records}");
    // The other one goes on, and ends with its account, also when there is another one of that name.
    let ci = holder(admin, &second);
    assert_eq!(ci.get(SHOP).await.status, 200);
    for name in [format!("{PAY}/bindings/ci"), ACCOUNT.to_owned()] {
        assert_eq!(admin.delete(&name, "*").await.status, 200);
    }
    ci.get(SHOP).await.refused(401, "was revoked or has expired");
    admin.create(json!({ "name": ACCOUNT })).await;
    ci.get(SHOP).await.refused(401, "was revoked or has expired");
    replica.stop().await.unwrap();
    management.stop().await;
}

/// Whoever overhears it, or finds it in a log, is too late.
#[tokio::test]
async fn what_is_signed_lets_in_once_on_one_replica() {
    let management = with_account().await;
    let (replica, there) = management.replica().await;
    let issued = issue(&management.admin).await;
    let signer = Signer::new(&issued["key"].to_string()).unwrap();
    let used = "the assertion was used already; sign one for each request";
    let group = json!({"name": format!("{SHOP}/gatewaygroups/ci")});
    // A read, which looks up the key in its own statement; a write; and one that is to be done once.
    for (method, path, headers, body) in [
        (Method::GET, SHOP.to_owned(), vec![], String::new()),
        (
            Method::GET,
            format!("{SHOP}/gatewaygroups"),
            vec![],
            String::new(),
        ),
        (
            Method::POST,
            format!("{SHOP}/gatewaygroups"),
            vec![("idempotency-key", "k")],
            group.to_string(),
        ),
    ] {
        let text = signer.sign(Utc::now(), MINUTE);
        let ours = Api::new(management.admin.addr, Some(&text));
        let first = ours.send(method.clone(), &path, &headers, body.clone()).await;
        assert!(first.status.is_success(), "{path}: {}", first.text);
        for again in [&ours, &Api::new(there.addr, Some(&text))] {
            let answer = again.send(method.clone(), &path, &headers, body.clone()).await;
            answer.refused(401, used);
        }
    }
    // Two at once: one of them is the first.
    let text = signer.sign(Utc::now(), MINUTE);
    let (ours, theirs) = (
        Api::new(management.admin.addr, Some(&text)),
        Api::new(there.addr, Some(&text)),
    );
    let (one, other) = futures::join!(ours.get(SHOP), theirs.get(SHOP));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);

    // What has ended is forgotten while others come.
    let kept = "SELECT count(*) FROM spent_assertions";
    assert_eq!(management.count(kept).await, 4);
    management
        .sql("UPDATE spent_assertions SET expires_at = expires_at - interval '2 hours'")
        .await;
    assert_eq!(holder(&management.admin, &issued).get(SHOP).await.status, 200);
    assert_eq!(management.count(kept).await, 1);
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn what_is_not_signed_for_us_for_now_and_by_its_key_is_refused() {
    let management = with_account().await;
    let admin = &management.admin;
    let other = format!("{ACME}/serviceaccounts/other");
    admin.create(json!({ "name": other })).await;
    let issued = issue(admin).await;
    let stranger = admin.post(&format!("{other}/keys"), json!({})).await.json();
    let now = Utc::now().timestamp();
    let kid = &issued["key"]["publicKey"];
    let header = json!({"alg": "EdDSA", "kid": kid});
    let claims = json!({"sub": ACCOUNT, "aud": ACME, "iat": now, "exp": now + 60});
    let with = |field: &str, value: Value| {
        let mut claims = claims.clone();
        claims[field] = value;
        claims
    };
    let good = signed(&issued, &header, &claims);
    assert_eq!(Api::new(admin.addr, Some(&good)).get(SHOP).await.status, 200);

    let later = signed(&issued, &header, &with("exp", json!(now + 200)));
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mut tampered, later) = (parts(&good), parts(&later));
    tampered[1].clone_from(&later[1]);
    let none = |signature: &str| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.{signature}",
            part(&json!({"alg": "none", "kid": kid})),
            part(&claims)
        )
    };
    let unknown = json!({"alg": "EdDSA", "kid": stranger["key"]["publicKey"]});
    let theirs = signed(&stranger, &unknown, &with("sub", json!(other)));
    assert_eq!(Api::new(admin.addr, Some(&theirs)).get(ACME).await.status, 404);
    let expired = with("exp", json!(now - 1));
    for (text, reason) in [
        (signed(&issued, &header, &expired), "the assertion expired at"),
        (
            signed(&issued, &header, &with("aud", json!("organizations/other"))),
            "for another audience",
        ),
        (
            signed(&issued, &header, &with("exp", json!(now + 301))),
            "lives longer",
        ),
        (
            signed(&issued, &header, &with("iat", json!(now + 300))),
            "not good before",
        ),
        (tampered.join("."), "signature is not that of the key"),
        (none(""), "says alg \"none\""),
        (none(&tampered[2]), "says alg \"none\""),
        // With a key that was never issued, with another's, and for somebody else.
        (
            signed(&stranger, &header, &claims),
            "signature is not that of the key",
        ),
        (signed(&stranger, &unknown, &claims), "sub is not whose key it is"),
        (
            signed(
                &issued,
                &header,
                &with("sub", json!(format!("{ACME}/users/admin"))),
            ),
            "sub is not whose key it is",
        ),
        // The public half is no token.
        (
            format!("tb_{}", kid.as_str().unwrap()),
            "the token, key or session is unknown",
        ),
    ] {
        let api = Api::new(admin.addr, Some(&text));
        api.get(SHOP).await.refused(401, reason);
        api.get(&format!("{SHOP}/gatewaygroups"))
            .await
            .refused(401, reason);
        let group = json!({"name": format!("{SHOP}/gatewaygroups/bad")});
        api.post(&format!("{SHOP}/gatewaygroups"), group)
            .await
            .refused(401, reason);
    }
    let gone = "DELETE FROM tokens WHERE public_key IS NOT NULL";
    management.sql(gone).await;
    Api::new(admin.addr, Some(&good))
        .get(SHOP)
        .await
        .refused(401, "the token, key or session is unknown");
    management.stop().await;
}

#[tokio::test]
async fn a_key_may_end_by_itself() {
    let management = with_account().await;
    let admin = &management.admin;
    let past = json!({"expireTime": "2020-01-01T00:00:00Z"});
    admin
        .post(KEYS, past)
        .await
        .refused(400, "/expireTime: lies in the past");
    let issued = admin
        .post(
            KEYS,
            json!({"expireTime": "2096-01-01T00:00:00Z", "description": "the pipeline"}),
        )
        .await
        .json();
    assert_eq!(issued["description"], "the pipeline");
    let ci = holder(admin, &issued);
    assert_eq!(ci.get(SHOP).await.status, 200);
    management
        .sql("UPDATE tokens SET expires_at = now() WHERE public_key IS NOT NULL")
        .await;
    ci.get(SHOP).await.refused(401, "was revoked or has expired");
    management.stop().await;
}
