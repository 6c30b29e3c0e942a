//! Reference grants over HTTP: nobody uses what another tenant owns before that one lends it, nor after it no longer does.

use serde_json::{Value, json};

use crate::support::{ACME, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const MEDIA: &str = "organizations/acme/tenants/media";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";

/// A gateway of a workspace, which sends to a service of its own.
fn gateway(workspace: &str, leaf: &str, workload: &str, host: &str, lender: Option<&str>) -> Value {
    let namespace = workspace.rsplit('/').next();
    let mut spec = json!({
        "workload": workload, "type": "ingress", "port": 8080, "hosts": [host],
        "rules": [{"backendRefs": [{"namespace": namespace, "name": "web"}]}],
    });
    if let Some(lender) = lender {
        spec["hostsFrom"] = lender.into();
    }
    json!({"name": format!("{workspace}/gatewaygroups/edge/gateways/{leaf}"), "spec": spec})
}

fn grant(workspace: &str, to: &str, lent: &Value) -> Value {
    json!({"name": format!("{workspace}/referencegrants/lent"), "spec": {
        "from": [{"kind": "Gateway", "node": to}], "to": lent,
    }})
}

/// A writer of each tenant.
async fn writers(management: &Management) -> (Api, Api) {
    two_teams(management).await;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let bob = management.user("bob", &[(MEDIA, "writer")]).await;
    (ann, bob)
}

async fn post(api: &Api, document: &Value) -> crate::support::Answer {
    let (collection, _) = document["name"].as_str().unwrap().rsplit_once('/').unwrap();
    api.post(collection, document.clone()).await
}

/// The codes of what is found on a resource.
async fn found(api: &Api, name: &str) -> Vec<String> {
    let status = api.get(&format!("{name}:status")).await.json();
    let findings = status["status"]["findings"].as_array().into_iter().flatten();
    let codes = findings.map(|finding| finding["code"].as_str().unwrap());
    codes.map(str::to_owned).collect()
}

#[tokio::test]
async fn invariant_6_a_workload_of_another_tenant_is_used_while_it_is_lent_and_no_longer() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    let borrowed = gateway(VIDEO, "in", "shop/door", "video.example.com", None);
    let name = borrowed["name"].as_str().unwrap();
    let lent = grant(SHOP, MEDIA, &json!({"workloads": ["shop/door"]}));
    post(&bob, &borrowed).await.refused(
        422,
        &format!("is in a namespace that {SHOP} owns; ask its owner for a reference grant"),
    );

    post(&bob, &lent).await.refused(403, "needs the role");
    post(&bob, &grant(VIDEO, MEDIA, &json!({"workloads": ["shop/door"]})))
        .await
        .refused(422, "a workspace lends what it owns");
    ann.create(lent.clone()).await;
    let granted = lent["name"].as_str().unwrap();
    bob.get(granted).await.refused(404, "is not yours");
    bob.create(borrowed.clone()).await;
    assert_eq!(found(&bob, name).await, Vec::<String>::new());

    // Nobody who borrows can keep it: what is recalled stays, without effect, and says so.
    assert_eq!(ann.delete(granted, "*").await.status, 200);
    assert_eq!(found(&bob, name).await, ["NotGranted"]);
    let another = gateway(VIDEO, "more", "shop/door", "more.example.com", None);
    post(&bob, &another)
        .await
        .refused(422, "ask its owner for a reference grant");
    ann.create(lent).await;
    assert_eq!(found(&bob, name).await, Vec::<String>::new());
    management.stop().await;
}

#[tokio::test]
async fn invariant_6_a_host_is_shared_when_its_owner_lends_it_and_the_borrower_says_whose_it_is() {
    let management = Management::start().await;
    let (ann, bob) = writers(&management).await;
    ann.create(gateway(SHOP, "in", "shop/door", "*.shop.example.com", None))
        .await;
    let host = "video.shop.example.com";
    let claimed = gateway(VIDEO, "in", "video/door", host, None);
    let borrowed = gateway(VIDEO, "in", "video/door", host, Some(SHOP));
    post(&bob, &claimed).await.refused(409, "is already held by");
    post(&bob, &borrowed)
        .await
        .refused(422, &format!("{SHOP} does not lend host {host}"));

    // A grant of one's own host to its owner pulls that one in as little as it lets oneself in.
    bob.create(grant(VIDEO, PAY, &json!({"hosts": ["*.shop.example.com"]})))
        .await;
    post(&bob, &claimed).await.refused(409, "is already held by");

    ann.create(grant(SHOP, MEDIA, &json!({"hosts": [host]}))).await;
    post(&bob, &claimed).await.refused(409, "is already held by");
    post(
        &bob,
        &gateway(VIDEO, "in", "video/door", "*.shop.example.com", Some(SHOP)),
    )
    .await
    .refused(422, "does not lend host");
    bob.create(borrowed).await;

    // The owner's own gateway may go; the name stays the owner's.
    let own = format!("{SHOP}/gatewaygroups/edge/gateways/in");
    assert_eq!(ann.delete(&own, "*").await.status, 200);
    ann.create(gateway(SHOP, "in", "shop/door", host, None)).await;
    let name = format!("{VIDEO}/gatewaygroups/edge/gateways/in");
    assert_eq!(
        ann.delete(&format!("{SHOP}/referencegrants/lent"), "*")
            .await
            .status,
        200
    );
    assert_eq!(found(&bob, &name).await, ["NotGranted"]);
    let verified = management.admin.get(&format!("{ACME}:status")).await;
    assert_eq!(verified.status, 200, "{}", verified.text);
    management.stop().await;
}
