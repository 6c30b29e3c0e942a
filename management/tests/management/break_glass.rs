//! The break-glass credential: it works when nobody else can, and never in silence.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::{Value, json};
use tombolo_management::start;
use tombolo_tests::postgres::Postgres;

use crate::support::{ACME, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";

async fn sealed() -> Management {
    let mut management = Management::prepare(Postgres::start().create_database().await);
    management.config.break_glass = Some(management.dir.path().join("sealed"));
    let management = management.start_prepared().await;
    two_teams(&management).await;
    management
}

/// With what is in the file.
fn broken(management: &Management) -> Api {
    let path = management.config.break_glass.as_ref().unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(path).unwrap();
    Api::new(management.admin.addr, Some(text.trim()))
}

async fn restart(mut management: Management) -> Management {
    management.running.take().unwrap().stop().await.unwrap();
    let running = start(management.config.clone()).await.unwrap();
    management.admin = Api::new(running.api_addr(), management.admin.token.as_deref());
    management.running = Some(running);
    management
}

fn verbs(records: &Value) -> Vec<&str> {
    let items = records["items"].as_array().unwrap().iter();
    items
        .filter(|record| record["actor"] == "break-glass")
        .map(|record| record["verb"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn it_lets_in_when_there_is_no_user_and_no_binding_left_and_each_use_is_on_record() {
    let management = sealed().await;
    let gone = "DELETE FROM realms; DELETE FROM tokens WHERE description NOT LIKE 'break glass%'; \
                DELETE FROM resources WHERE kind IN ('Binding', 'User')";
    management.sql(gone).await;
    let management = restart(management).await;
    management
        .admin
        .get(PAY)
        .await
        .refused(401, "the token, key or session is unknown");
    let glass = broken(&management);
    assert_eq!(glass.get(PAY).await.status, 200);
    glass
        .get(&format!("{ACME}/tenants/none"))
        .await
        .refused(404, "does not exist");
    glass
        .post("organizations", json!({"name": "organizations/other"}))
        .await
        .refused(403, "the break-glass credential is for organizations/acme alone");
    // An administrator again.
    let admin = format!("{ACME}/users/admin");
    let binding =
        json!({"name": format!("{ACME}/bindings/admin"), "spec": {"role": "admin", "subjects": [admin]}});
    let headers = [("idempotency-key", "k")];
    let both = json!([{ "name": admin }, binding]).to_string();
    let written = glass.send(Method::POST, "changes", &headers, both).await;
    assert_eq!(written.status, 200, "{}", written.text);
    let issued = glass.post(&format!("{admin}/tokens"), json!({})).await;
    assert_eq!(issued.status, 201, "{}", issued.text);
    let again = Api::new(glass.addr, issued.json()["token"].as_str());

    let records = again.get("audit?pageSize=100").await.json();
    let used = verbs(&records).into_iter().filter(|verb| *verb == "break-glass");
    assert_eq!(used.count(), 5, "{records}");
    for verb in ["create", "issue-token"] {
        assert!(verbs(&records).contains(&verb), "{records}");
    }
    assert!(
        records
            .to_string()
            .contains("GET /v1/organizations/acme/tenants/none")
    );
    let metrics = glass.get("/metrics").await.text;
    assert!(
        metrics.contains("tombolo_management_break_glass_uses_total 5"),
        "{metrics}"
    );
    assert_eq!(again.get("audit:verify").await.status, 200);
    management.stop().await;
}

#[tokio::test]
async fn it_ends_and_is_sealed_anew_when_its_file_is_taken_away() {
    let management = sealed().await;
    let first = broken(&management).token.unwrap();
    let management = restart(management).await;
    let kept = broken(&management);
    assert_eq!(kept.token.as_ref(), Some(&first), "what is sealed stays sealed");
    assert_eq!(kept.get(PAY).await.status, 200);

    // People keep it elsewhere: that is not to end it.
    let path = management.config.break_glass.clone().unwrap();
    fs::write(&path, "").unwrap();
    let management = restart(management).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    let metrics = management.admin.get("/metrics").await.text;
    assert!(
        !metrics.contains("break_glass_expires_timestamp_seconds 0"),
        "{metrics}"
    );
    assert_eq!(
        Api::new(management.admin.addr, Some(&first))
            .get(PAY)
            .await
            .status,
        200
    );

    fs::remove_file(&path).unwrap();
    let management = restart(management).await;
    let new = broken(&management);
    assert_eq!(new.get(PAY).await.status, 200);
    let old = Api::new(management.admin.addr, Some(&first));
    old.get(PAY).await.refused(401, "revoked or has expired");
    let expiry = management.text("SELECT (expires_at - created_at)::text FROM tokens WHERE description LIKE 'break glass%' AND revoked_at IS NULL");
    assert_eq!(expiry.await, "90 days");

    // None that it makes outlives it, and it is not for ever.
    let late = json!({"expireTime": "2999-01-01T00:00:00Z"});
    new.post(&format!("{ACME}/users/admin/tokens"), late)
        .await
        .refused(400, "it would outlive");
    management
        .sql("UPDATE tokens SET expires_at = now() WHERE description LIKE 'break glass%'")
        .await;
    new.get(PAY).await.refused(401, "revoked or has expired");
    let management = restart(management).await;
    let metrics = management.admin.get("/metrics").await.text;
    let none = "tombolo_management_break_glass_expires_timestamp_seconds 0";
    assert!(metrics.contains(none), "{metrics}");
    management.stop().await;
}
