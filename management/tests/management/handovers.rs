//! Claims that change hands: by an offer and a write of the one to whom it is made, in one transaction, and no other way.

use chrono::{DateTime, TimeDelta};
use futures::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};

use crate::support::{ACME, Answer, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const MEDIA: &str = "organizations/acme/tenants/media";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";
/// Of each kind of race.
const RACES: usize = 20;

fn workspace(name: &str, namespaces: &[&str]) -> Value {
    json!({"name": name, "spec": {"namespaces": namespaces}})
}

fn offer(from: &str, leaf: &str, to: &str, claims: &Value) -> Value {
    let mut spec = claims.clone();
    spec["to"] = to.into();
    json!({"name": format!("{from}/claimoffers/{leaf}"), "spec": spec})
}

fn gateway(workspace: &str, leaf: &str, hosts: &[&str]) -> Value {
    json!({"name": format!("{workspace}/gatewaygroups/edge/gateways/{leaf}"), "spec": {
        "workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": hosts,
        "rules": [{"backendRefs": [{"namespace": workspace.rsplit('/').next(), "name": "web"}]}],
    }})
}

async fn post(api: &Api, document: &Value) -> Answer {
    let (collection, _) = document["name"].as_str().unwrap().rsplit_once('/').unwrap();
    api.post(collection, document.clone()).await
}

/// A writer of each tenant, where the first one's workspace has a namespace more.
async fn writers(management: &Management) -> (Api, Api) {
    two_teams(management).await;
    let ann = management.user("ann", &[(PAY, "writer"), (PAY, "auditor")]).await;
    let bob = management
        .user("bob", &[(MEDIA, "writer"), (MEDIA, "auditor")])
        .await;
    ann.put("*", workspace(SHOP, &["*/shop", "us-east/cart"])).await;
    (ann, bob)
}

async fn namespaces(api: &Api, name: &str) -> Value {
    api.get(name).await.json()["spec"]["namespaces"].take()
}

#[tokio::test]
async fn a_claim_changes_hands_when_both_sides_say_so() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let wanted = workspace(VIDEO, &["*/video", "us-east/cart"]);
    let held = "namespace selector us-east/cart is already held by";
    bob.put("*", wanted.clone()).await.refused(409, held);

    let made = offer(SHOP, "cart", VIDEO, &json!({"namespaces": ["us-east/cart"]}));
    post(&bob, &made).await.refused(403, "needs the role");
    ann.create(made.clone()).await;
    let name = made["name"].as_str().unwrap();
    // It is made to one workspace, and nothing happens until that one takes all of it.
    post(
        &bob,
        &workspace(&format!("{MEDIA}/workspaces/other"), &["us-east/cart"]),
    )
    .await
    .refused(409, held);
    bob.put("*", workspace(VIDEO, &["*/video", "*/cart"]))
        .await
        .refused(409, "is already held by");
    assert_eq!(namespaces(&ann, SHOP).await, json!(["*/shop", "us-east/cart"]));
    assert_eq!(ann.delete(name, "*").await.status, 200);
    bob.put("*", wanted.clone()).await.refused(409, held);
    ann.create(made.clone()).await;

    let offered = bob.get(&format!("{VIDEO}:offers")).await.json();
    assert_eq!(offered["items"][0]["name"], name);
    assert_eq!(offered["items"][0]["namespaces"], json!(["us-east/cart"]));
    assert_eq!(
        ann.get(&format!("{SHOP}:offers")).await.json()["items"],
        json!([])
    );
    ann.get(&format!("{VIDEO}:offers"))
        .await
        .refused(404, "is not yours");

    let planned = bob.post("plans?overwrite=true", wanted.clone()).await.json();
    assert_eq!(
        (&planned["handedOver"], &planned["handedOverHidden"]),
        (&json!([]), &json!(2)),
        "the workspace that loses it, and the offer: {planned}"
    );
    let planned = management
        .admin
        .post("plans?overwrite=true", wanted.clone())
        .await
        .json();
    let handed: Vec<(&Value, &Value)> = planned["handedOver"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (&change["action"], &change["name"]))
        .collect();
    assert_eq!(json!(handed), json!([["update", SHOP], ["delete", name]]));

    let taken = bob.put("*", wanted).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
    assert!(!taken.text.contains(PAY), "{}", taken.text);
    assert_eq!(namespaces(&bob, VIDEO).await, json!(["*/video", "us-east/cart"]));
    assert_eq!(namespaces(&ann, SHOP).await, json!(["*/shop"]));
    ann.get(name).await.refused(404, "does not exist");

    // Both sides have it on record, as what one person did in one revision.
    let revision = taken.json()["revision"].clone();
    let recorded = async |api: &Api, name: &str| {
        let page = api.get(&format!("audit?name={name}")).await.json();
        // Newest first, also of what stands below.
        let mut records = page["items"].as_array().unwrap().iter();
        let record = records.find(|record| record["name"] == name).unwrap().clone();
        assert_eq!(record["actor"], format!("{ACME}/users/bob"), "{record}");
        assert_eq!(record["revision"], revision, "{record}");
        record
    };
    recorded(&bob, VIDEO).await;
    let lost = recorded(&ann, SHOP).await;
    assert_eq!(lost["reason"], format!("{name} was accepted"));
    assert_eq!(
        lost["before"]["spec"]["namespaces"],
        json!(["*/shop", "us-east/cart"])
    );
    assert_eq!(recorded(&ann, name).await["verb"], "delete");
    assert_eq!(management.admin.get("audit:verify").await.json()["ok"], true);
    management.stop().await;
}

#[tokio::test]
async fn an_offer_that_nobody_takes_ends_by_itself() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let mut made = offer(SHOP, "cart", VIDEO, &json!({"namespaces": ["us-east/cart"]}));
    made["spec"]["lifetimeDays"] = 3.into();
    ann.create(made.clone()).await;
    let name = made["name"].as_str().unwrap();
    let offers = async |api: &Api| api.get(&format!("{VIDEO}:offers")).await.json()["items"].take();
    let offered = offers(&bob).await;
    let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let created = time(&ann.get(name).await.json()["createTime"]);
    assert_eq!(time(&offered[0]["expireTime"]) - created, TimeDelta::days(3));

    // A replica that starts later finds it as old as it is.
    let age = "UPDATE resources SET updated_at = updated_at - interval '3 days' WHERE kind = 'ClaimOffer'";
    management.sql(age).await;
    let (replica, there) = management.replica().await;
    let late = Api::new(there.addr, bob.token.as_deref());
    assert_eq!(offers(&late).await, json!([]));
    let wanted = workspace(VIDEO, &["*/video", "us-east/cart"]);
    late.put("*", wanted.clone())
        .await
        .refused(409, "namespace selector us-east/cart is already held by");

    // To renew it is to write it again.
    let there = Api::new(there.addr, ann.token.as_deref());
    made["spec"]["lifetimeDays"] = 4.into();
    assert_eq!(there.put("*", made).await.status, 200);
    assert_eq!(offers(&late).await.as_array().unwrap().len(), 1);
    let taken = late.put("*", wanted).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
    replica.stop().await.unwrap();
    management.stop().await;
}

/// As at the first sync after an upgrade from a version that knew no fields.
#[tokio::test]
async fn to_record_who_manages_an_offer_does_not_renew_it() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let mut made = offer(SHOP, "cart", VIDEO, &json!({"namespaces": ["us-east/cart"]}));
    made["spec"]["lifetimeDays"] = 3.into();
    let apply = async |api: &Api| {
        let path = "changes?overwrite=true";
        let ci = ("tombolo-manager", "sync/shop");
        let applied = api.send(Method::POST, path, &[ci], made.to_string()).await;
        assert_eq!(applied.status, 200, "{}", applied.text);
    };
    apply(&ann).await;
    let older = "UPDATE resources SET managed_fields = NULL, updated_at = updated_at - interval '3 days' \
        WHERE kind = 'ClaimOffer'";
    management.sql(older).await;
    let (replica, there) = management.replica().await;
    let ann = Api::new(there.addr, ann.token.as_deref());
    apply(&ann).await;
    let name = made["name"].as_str().unwrap();
    let recorded = ann.get(name).await.json()["managedFields"].clone();
    assert!(recorded.is_array(), "{recorded}");
    let bob = Api::new(there.addr, bob.token.as_deref());
    let offered = bob.get(&format!("{VIDEO}:offers")).await.json()["items"].take();
    assert_eq!(offered, json!([]));
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn what_a_pipeline_manages_is_handed_over_by_itself_or_by_force() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let ci = ("tombolo-manager", "sync/shop");
    let by = async |api: &Api, headers: &[(&str, &str)], document: &Value| {
        let path = "changes?overwrite=true";
        api.send(Method::POST, path, headers, document.to_string()).await
    };
    let held = workspace(SHOP, &["*/shop", "us-east/cart"]);
    assert_eq!(by(&ann, &[ci], &held).await.status, 200);
    let made = offer(SHOP, "cart", VIDEO, &json!({"namespaces": ["us-east/cart"]}));
    ann.create(made.clone()).await;
    let wanted = workspace(VIDEO, &["*/video", "us-east/cart"]);
    let refused = by(&bob, &[], &wanted).await;
    refused.refused(409, "is managed by a pipeline of its holder");
    assert!(!refused.text.contains("sync/shop"), "{}", refused.text);
    by(&bob, &[("tombolo-manager", "sync/video")], &wanted)
        .await
        .refused(409, "is managed by a pipeline of its holder");
    assert_eq!(namespaces(&ann, SHOP).await, json!(["*/shop", "us-east/cart"]));

    // The pipeline says so itself.
    let said = by(&ann, &[ci], &made).await;
    assert_eq!(said.status, 200, "{}", said.text);
    let taken = by(&bob, &[], &wanted).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
    assert_eq!(namespaces(&ann, SHOP).await, json!(["*/shop"]));

    // Or somebody insists.
    let back = workspace(VIDEO, &["*/video"]);
    assert_eq!(by(&bob, &[], &back).await.status, 200);
    assert_eq!(by(&ann, &[ci], &held).await.status, 200);
    ann.create(made).await;
    let forced = by(&bob, &[("tombolo-force", "true")], &wanted).await;
    assert_eq!(forced.status, 200, "{}", forced.text);
    let shop = ann.get(SHOP).await.json();
    assert_eq!(shop["managedBy"], "sync/shop", "{shop}");
    management.stop().await;
}

#[tokio::test]
async fn hosts_and_ports_change_hands_with_the_gateways_that_have_them() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    ann.create(gateway(SHOP, "in", &["a.example.com", "b.example.com"]))
        .await;
    let tcp = |workspace: &str| {
        let mut document = gateway(workspace, "db", &[]);
        document["spec"] = json!({"workload": "mesh/gateway", "type": "ingress", "protocol": "tcp", "port": 5432,
            "backendRefs": [{"namespace": workspace.rsplit('/').next(), "name": "db"}]});
        document
    };
    ann.create(tcp(SHOP)).await;
    let claims = json!({"hosts": ["a.example.com"], "ports": [{"workload": "mesh/gateway", "port": 5432}]});
    ann.create(offer(SHOP, "doors", VIDEO, &claims)).await;
    post(&bob, &tcp(VIDEO)).await.refused(409, "is already held by");

    let both = json!([gateway(VIDEO, "in", &["a.example.com"]), tcp(VIDEO)]);
    let applied = bob.post("changes", both).await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    let left = ann
        .get(&format!("{SHOP}/gatewaygroups/edge/gateways/in"))
        .await
        .json();
    assert_eq!(left["spec"]["hosts"], json!(["b.example.com"]));
    ann.get(&format!("{SHOP}/gatewaygroups/edge/gateways/db"))
        .await
        .refused(404, "does not exist");
    management.stop().await;
}

#[tokio::test]
async fn nobody_offers_what_is_not_there_to_offer() {
    let management = Management::start().await;
    let (ann, _) = writers(&management).await;
    for (to, claims, reason) in [
        (
            VIDEO,
            json!({"namespaces": ["us-east/shop"]}),
            "does not claim namespaces us-east/shop",
        ),
        (
            VIDEO,
            json!({"hosts": ["a.example.com"]}),
            "does not claim host a.example.com",
        ),
        (
            VIDEO,
            json!({"ports": [{"workload": "mesh/gateway", "port": 80}]}),
            "does not claim port 80 of workload mesh/gateway",
        ),
        (
            SHOP,
            json!({"namespaces": ["*/shop"]}),
            "is not another workspace",
        ),
        (
            MEDIA,
            json!({"namespaces": ["*/shop"]}),
            "is not another workspace",
        ),
    ] {
        post(&ann, &offer(SHOP, "x", to, &claims))
            .await
            .refused(422, reason);
    }
    // What others of the same tenant built on the claim goes first.
    let group =
        json!({"name": format!("{SHOP}/trafficgroups/cart"), "spec": {"namespaces": ["us-east/cart"]}});
    ann.create(group.clone()).await;
    ann.create(offer(
        SHOP,
        "cart",
        VIDEO,
        &json!({"namespaces": ["us-east/cart"]}),
    ))
    .await;
    let bob = management.user("ben", &[(MEDIA, "writer")]).await;
    bob.put("*", workspace(VIDEO, &["*/video", "us-east/cart"]))
        .await
        .refused(
            409,
            "1 resource that you may not read depends on what this changes",
        );
    management.stop().await;
}

/// Two who were offered the same claim take it at the same time, each through a replica of its own; and one takes what is
/// withdrawn at that moment.
#[tokio::test]
async fn invariant_6_a_claim_that_two_replicas_hand_over_at_once_has_one_owner() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let (replica, other) = management.replica().await;
    management
        .admin
        .create(json!({"name": format!("{ACME}/tenants/press")}))
        .await;
    let eve = management
        .user("eve", &[(&format!("{ACME}/tenants/press"), "writer")])
        .await;
    let (eve, ann_there) = (
        Api::new(other.addr, eve.token.as_deref()),
        Api::new(other.addr, ann.token.as_deref()),
    );
    let holder = |number: usize| format!("{PAY}/workspaces/w{number}");
    let taker = |tenant: &str, number: usize| format!("{ACME}/tenants/{tenant}/workspaces/w{number}");
    let claim = |number: usize| format!("*/contested-{number}");
    for number in 0..2 * RACES {
        let claims = json!({"namespaces": [claim(number)]});
        let changes = json!([
            workspace(&holder(number), &[&claim(number)]),
            offer(&holder(number), "one", &taker("media", number), &claims),
            offer(&holder(number), "two", &taker("press", number), &claims),
        ]);
        let made = ann.post("changes", changes).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
    let races = (0..2 * RACES).map(|number| {
        let (bob, eve, ann_there) = (&bob, &eve, &ann_there);
        async move {
            let claims = [claim(number)];
            let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
            let ours = workspace(&taker("media", number), &claims);
            let theirs = workspace(&taker("press", number), &claims);
            let withdrawn = format!("{}/claimoffers/one", holder(number));
            let (taken, against) = match number < RACES {
                true => futures::join!(post(bob, &ours), post(eve, &theirs)),
                false => futures::join!(post(bob, &ours), ann_there.delete(&withdrawn, "*")),
            };
            let mut statuses = [taken.status.as_u16(), against.status.as_u16()];
            statuses.sort_unstable();
            let expected: &[[u16; 2]] = match number < RACES {
                true => &[[201, 409]],
                // It was taken, and there is no offer any more; or it was withdrawn, and is held.
                false => &[[201, 404], [200, 409]],
            };
            assert!(
                expected.contains(&statuses),
                "{number}: {} {}",
                taken.text,
                against.text
            );
        }
    });
    let done: Vec<()> = stream::iter(races).buffer_unordered(8).collect().await;
    assert_eq!(done.len(), 2 * RACES);
    let owners = "SELECT count(*) FROM (SELECT claim FROM resources, \
                  jsonb_array_elements_text(document->'spec'->'namespaces') claim \
                  WHERE kind = 'Workspace' AND claim LIKE '*/contested-%' GROUP BY claim HAVING count(*) = 1) x";
    assert_eq!(
        management.count(owners).await,
        2 * RACES as i64,
        "each has one owner"
    );
    assert_eq!(management.admin.get("audit:verify").await.json()["ok"], true);
    replica.stop().await.unwrap();
    management.stop().await;
}
