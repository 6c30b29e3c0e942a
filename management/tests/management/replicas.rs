//! Several replicas on one Postgres: starting together, claiming the same names at once, and beside an older version.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use futures::{StreamExt, stream};
use serde_json::json;
use tombolo_management::start;
use tombolo_tests::eventually;
use tombolo_tests::postgres::Postgres;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";
/// Of each kind of name that is claimed.
const CONTESTED: usize = 60;

#[tokio::test]
async fn replicas_that_start_together_migrate_once_and_make_one_organization() {
    let management = Management::prepare(Postgres::start().create_database().await);
    let config = &management.config;
    let started = futures::join!(
        start(config.clone()),
        start(config.clone()),
        start(config.clone())
    );
    let replicas = [started.0.unwrap(), started.1.unwrap(), started.2.unwrap()];
    let tokens: Vec<&str> = replicas
        .iter()
        .filter_map(|replica| replica.bootstrap_token())
        .collect();
    assert_eq!(tokens.len(), 1, "one of them made the organization");
    for replica in &replicas {
        let api = Api::new(replica.api_addr(), Some(tokens[0]));
        assert_eq!(api.get(ACME).await.status, 200);
    }
    let twice =
        "SELECT count(*) FROM (SELECT description FROM _sqlx_migrations GROUP BY 1 HAVING count(*) > 1) x";
    assert_eq!(management.count(twice).await, 0);
    let failed = "SELECT count(*) FROM _sqlx_migrations WHERE NOT success";
    assert_eq!(management.count(failed).await, 0);
    for replica in replicas {
        replica.stop().await.unwrap();
    }
}

/// What a replica holds in memory is sent without its document: not when another one has written since.
#[tokio::test]
async fn a_read_shows_what_another_replica_has_just_written() {
    let management = Management::start().await;
    two_teams(&management).await;
    let (replica, other) = management.replica().await;
    for time in 0..20 {
        let written = json!({"name": PAY, "description": format!("written {time} times")});
        let written = management.admin.put("*", written).await.json();
        let (read, again) = futures::join!(other.get(PAY), other.get(PAY));
        assert_eq!(read.json(), written);
        assert_eq!(again.json(), written);
        assert_eq!(management.admin.get(PAY).await.json(), written);
    }
    // A document that another epoch had under the same ETag, as memory has it until it has loaded the present one.
    management
        .sql(
            "UPDATE resources SET document = jsonb_set(document, '{description}', '\"restored\"') \
             WHERE name = 'organizations/acme/tenants/pay'; UPDATE organizations SET epoch = 2",
        )
        .await;
    for api in [&management.admin, &other] {
        assert_eq!(api.get(PAY).await.json()["description"], "restored");
    }
    replica.stop().await.unwrap();
    management.stop().await;
}

/// Every name is claimed by two tenants at the same time, each through a replica of its own.
#[tokio::test]
async fn invariant_6_of_hundreds_of_names_claimed_from_two_replicas_at_once_none_has_two_owners() {
    let management = Management::start().await;
    two_teams(&management).await;
    let (replica, other) = management.replica().await;
    let pay = management.user("ann", &[(PAY, "writer")]).await;
    let media = management
        .user("bob", &[(&format!("{ACME}/tenants/media"), "writer")])
        .await;
    let media = Api::new(other.addr, media.token.as_deref());

    let namespace = |tenant: &str, number: usize| {
        let name = format!("{ACME}/tenants/{tenant}/workspaces/w{number}");
        json!({"name": name, "spec": {"namespaces": [format!("*/contested-{number}")]}})
    };
    let gateway = |workspace: &str, leaf: String, host: String| {
        let (_, service) = workspace.rsplit_once('/').unwrap();
        json!({"name": format!("{workspace}/gatewaygroups/edge/gateways/{leaf}"), "spec": {
            "workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": [host],
            "rules": [{"backendRefs": [{"namespace": service, "name": "web"}]}],
        }})
    };
    let host = |workspace, number| gateway(workspace, format!("g{number}"), format!("h{number}.example.com"));
    let below = |workspace, number, label: &str| {
        gateway(
            workspace,
            format!("w{number}"),
            format!("{label}.w{number}.example.com"),
        )
    };
    let port = |workspace, number: usize, protocol| {
        let mut listener = gateway(workspace, format!("p{number}"), format!("p{number}.example.com"));
        let spec = listener["spec"].as_object_mut().unwrap();
        spec.insert("port".to_owned(), json!(20_000 + number));
        spec.insert("protocol".to_owned(), json!(protocol));
        if protocol == "tcp" {
            spec.remove("hosts");
            let rules = spec.remove("rules").unwrap();
            spec.insert("backendRefs".to_owned(), rules[0]["backendRefs"].clone());
        }
        listener
    };
    let pairs = (0..CONTESTED).flat_map(|number| {
        [
            (namespace("pay", number), namespace("media", number)),
            (host(SHOP, number), host(VIDEO, number)),
            (below(SHOP, number, "*"), below(VIDEO, number, "shop")),
            (port(SHOP, number, "tcp"), port(VIDEO, number, "http")),
        ]
    });
    let attempts = pairs.map(|(ours, theirs)| {
        let (pay, media) = (&pay, &media);
        async move {
            let answers = futures::join!(post(pay, ours), post(media, theirs));
            let mut statuses = [answers.0, answers.1];
            statuses.sort_unstable();
            statuses
        }
    });
    let outcomes: Vec<[u16; 2]> = stream::iter(attempts).buffer_unordered(16).collect().await;
    assert_eq!(outcomes.len(), 4 * CONTESTED);
    let strange: Vec<&[u16; 2]> = outcomes
        .iter()
        .filter(|outcome| **outcome != [201, 409])
        .collect();
    assert!(strange.is_empty(), "one of two wins, always: {strange:?}");

    // As the world sees them: a wildcard and a name below it are one, and so is a port for all and one for some hosts.
    let claims = "SELECT count(*) FROM (SELECT claim FROM resources, LATERAL (SELECT CASE \
                  WHEN name LIKE '%/gateways/p%' THEN document->'spec'->>'port' \
                  WHEN name LIKE '%/gateways/w%' THEN regexp_replace(document->'spec'->'hosts'->>0, '^[^.]*', '') \
                  WHEN name LIKE '%/gateways/g%' THEN document->'spec'->'hosts'->>0 \
                  WHEN document->'spec'->'namespaces'->>0 LIKE '*/contested-%' THEN document->'spec'->'namespaces'->>0 \
                  END) x (claim) WHERE claim IS NOT NULL GROUP BY claim HAVING count(*) = 1) x";
    assert_eq!(
        management.count(claims).await,
        4 * CONTESTED as i64,
        "each name has one owner"
    );
    // Whoever lost has lost to the other: what nobody else wants is given to both. Which of them wins more often is up to
    // the machine.
    assert_eq!(post(&pay, namespace("pay", CONTESTED)).await, 201);
    assert_eq!(post(&media, namespace("media", CONTESTED + 1)).await, 201);
    assert_eq!(management.admin.get("audit:verify").await.json()["ok"], true);
    replica.stop().await.unwrap();
    management.stop().await;
}

async fn post(api: &Api, document: serde_json::Value) -> u16 {
    let (collection, _) = document["name"].as_str().unwrap().rsplit_once('/').unwrap();
    let collection = collection.to_owned();
    api.post(&collection, document).await.status.as_u16()
}

/// An older version works as the owner and knows of no realms.
#[tokio::test]
async fn what_an_older_version_writes_beside_this_one_counts() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[]).await;
    ann.get(PAY).await.refused(404, "does not exist, or is not yours");
    management
        .sql(&format!(
            "WITH head AS (UPDATE organizations SET revision = revision + 1 RETURNING revision) \
             INSERT INTO resources (name, organization, uid, kind, document, etag, revision, created_at, updated_at) \
             SELECT '{PAY}/bindings/ann', 'acme', gen_random_uuid(), 'Binding', jsonb_build_object('name', '{PAY}/bindings/ann', \
             'spec', jsonb_build_object('role', 'reader', 'subjects', jsonb_build_array('{ACME}/users/ann'))), 'e', revision, now(), now() \
             FROM head"
        ))
        .await;
    eventually(DEADLINE, || async {
        let seen = ann.get(PAY).await;
        ensure!(seen.status == 200, "{}", seen.text);
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn pages_are_whole_and_in_order_for_who_may_read_some_of_a_collection() {
    let management = Management::start().await;
    two_teams(&management).await;
    let collection = format!("{PAY}/workspaces");
    let names: Vec<String> = (0..25)
        .map(|number| format!("{collection}/w{number:02}"))
        .collect();
    for name in &names {
        let spec = json!({"namespaces": [format!("*/{}", name.rsplit('/').next().unwrap())]});
        management.admin.create(json!({"name": name, "spec": spec})).await;
    }
    // Of another realm for nobody, and of the same realm for the first wall to hold back.
    let readable: Vec<&String> = names.iter().step_by(3).collect();
    let roles: Vec<(&str, &str)> = readable.iter().map(|name| (name.as_str(), "reader")).collect();
    let ann = management.user("ann", &roles).await;
    for page_size in [1, 2, 4, 9, 10] {
        let mut seen: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut token = String::new();
        for page in 0.. {
            let list = ann
                .get(&format!("{collection}?pageSize={page_size}{token}"))
                .await
                .json();
            let items = list["items"].as_array().unwrap().iter();
            seen.insert(
                page,
                items
                    .map(|item| item["name"].as_str().unwrap().to_owned())
                    .collect(),
            );
            match list["nextPageToken"].as_str() {
                Some(next) => token = format!("&pageToken={next}"),
                None => break,
            }
        }
        let last = seen.len() - 1;
        let full = seen
            .iter()
            .filter(|(page, _)| **page != last)
            .all(|(_, items)| items.len() == page_size);
        assert!(full, "only the last page may be short: {seen:?}");
        assert!(
            !seen[&last].is_empty(),
            "no page promises one that is empty: {seen:?}"
        );
        assert_eq!(
            seen.values().flatten().collect::<Vec<_>>(),
            readable,
            "{page_size}"
        );
    }
    management.stop().await;
}

#[tokio::test]
async fn what_one_replica_has_answered_the_other_one_knows_from_memory() {
    let management = Management::start().await;
    two_teams(&management).await;
    let (replica, there) = management.replica().await;
    for number in 0..20 {
        let name = format!("{SHOP}/trafficgroups/g{number}");
        management.admin.create(json!({ "name": name })).await;
        let tree = there.get(&format!("{SHOP}:tree")).await;
        assert!(tree.text.contains(&name), "{number}: {}", tree.text);
        let effective = there.get(&format!("{name}:effective")).await;
        assert_eq!(effective.status, 200, "{number}: {}", effective.text);
    }
    replica.stop().await.unwrap();
    management.stop().await;
}
