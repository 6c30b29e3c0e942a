//! Row-level security, with the first wall out of the way: each tenant's user is given the whole organization, so that
//! `iam::decide` lets it do everything, and the database is told nothing of that.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use futures::future::join_all;
use futures::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::timeout;
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_management::start;

use crate::support::{ACME, Answer, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const MEDIA: &str = "organizations/acme/tenants/media";

/// What the second wall says in front of Postgres.
const WALLED: &str = "row-level security keeps it from you";
/// As an auditor of the organization.
const READS_EVERYWHERE: &str = "INSERT INTO realms SELECT 'acme', uid, '*', false FROM resources WHERE name = 'organizations/acme/users/ann'";

/// Two tenants with a user each, who by the first wall may do everything and by the second what is in their tenant.
async fn without_the_first_wall() -> (Management, Api, Api) {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "admin"), (ACME, "admin")]).await;
    let bob = management.user("bob", &[(MEDIA, "admin"), (ACME, "admin")]).await;
    management
        .sql("DELETE FROM realms r USING resources u WHERE u.uid = r.principal AND r.realm = '*' AND u.name <> 'organizations/acme/users/admin'")
        .await;
    (management, ann, bob)
}

#[tokio::test]
async fn invariant_6_with_the_first_wall_gone_another_tenants_rows_are_neither_read_nor_written() {
    let (management, ann, bob) = without_the_first_wall().await;
    // Of each tenant a change, a deletion and a denial, so that every table has rows of both.
    for (api, tenant, workspace) in [(&ann, PAY, "shop"), (&bob, MEDIA, "video")] {
        let name = format!("{tenant}/workspaces/{workspace}/trafficgroups/web");
        let changed = api.put("*", json!({"name": name, "description": "x"})).await;
        assert_eq!(changed.status, 200, "its own: {}", changed.text);
        let gone = format!("{tenant}/workspaces/{workspace}/trafficgroups/gone");
        api.create(json!({ "name": gone })).await;
        assert_eq!(api.delete(&gone, "*").await.status, 200);
    }
    let before = management.traces().await;
    let tokens = management.count("SELECT count(*) FROM tokens").await;
    let video = format!("{MEDIA}/workspaces/video");
    let seen = management.admin.get(&video).await;
    assert_eq!(seen.status, 200);

    for path in [
        MEDIA.to_owned(),
        video.clone(),
        format!("{video}/trafficgroups/web"),
        format!("{ACME}/users/bob"),
        format!("{ACME}/clusters/us-east"),
    ] {
        ann.get(&path)
            .await
            .refused(404, "does not exist, or is not yours");
    }
    for question in [":history", "?revision=2", ":compiled", ":status"] {
        let told = ann.get(&format!("{video}{question}")).await;
        assert!(!told.text.contains("\"spec\""), "{question}: {}", told.text);
    }
    // Answered from memory, by the same wall.
    for question in [
        "tree",
        "effective",
        "status",
        "receipt",
        "access",
        "readiness",
        "offers",
        "history",
        "compiled",
    ] {
        ann.get(&format!("{video}:{question}"))
            .await
            .refused(404, "does not exist, or is not yours");
    }
    let tree = ann.get(&format!("{PAY}:tree")).await.json();
    assert!(names(&tree).len() > 3, "its own: {tree}");
    let found = ann.get("search?namespace=video").await.json();
    assert_eq!(
        (&found["items"], &found["hidden"]),
        (&json!([]), &json!(1)),
        "{found}"
    );
    let moved = json!({"name": video, "spec": {"namespaces": ["*/video", "*/more"]}});
    let tried = format!("{video}?dry_run=true");
    let headers = [("if-match", "*"), ("content-type", "application/json")];
    ann.send(Method::PUT, &tried, &headers, moved.to_string())
        .await
        .refused(403, WALLED);
    ann.post("plans?overwrite=true", json!([moved]))
        .await
        .refused(403, WALLED);
    for (workspaces, shown, hidden) in [(PAY, "shop", "video"), (MEDIA, "synced", "video")] {
        let path = format!("{workspaces}/workspaces?watch=true");
        let first = told(ann.stream(&path, &[]).await, "synced").await;
        assert!(first.contains(shown) && !first.contains(hidden), "{first}");
    }
    for collection in ["workspaces", "bindings"] {
        let list = ann.get(&format!("{MEDIA}/{collection}")).await.json();
        assert_eq!(list["items"], json!([]), "{list}");
    }
    let tenants = ann.get(&format!("{ACME}/tenants")).await.json();
    assert_eq!(names(&tenants), [PAY]);
    let users = ann.get(&format!("{ACME}/users")).await.json();
    assert_eq!(
        names(&users),
        [format!("{ACME}/users/ann")],
        "itself, and nobody else"
    );

    for (what, answer) in writes_to_media(&ann).await {
        assert_eq!(answer.status, 403, "{what}: {}", answer.text);
        assert!(answer.text.contains(WALLED), "{what}: {}", answer.text);
    }
    // Mixed with what is its own, all or nothing.
    let own = format!("{PAY}/workspaces/shop/trafficgroups/web");
    let mixed = format!(
        "name: {own}\ndescription: mixed\n---\nname: {video}\ndescription: mixed\nspec: {{namespaces: ['*/video']}}\n"
    );
    let apply = async || ann.apply_raw("changes?overwrite=true", &mixed).await;
    apply().await.refused(403, WALLED);
    // What it may read everywhere leads it no further than to Postgres.
    management.sql(READS_EVERYWHERE).await;
    assert_eq!(ann.get(&video).await.status, 200);
    for (what, answer) in writes_to_media(&ann).await {
        let refused = matches!(answer.status.as_u16(), 403 | 500);
        assert!(
            refused && !answer.text.contains(WALLED),
            "{what}: {}",
            answer.text
        );
        assert!(
            !answer.text.contains("policy"),
            "{what}: the inside is not for callers"
        );
    }
    apply().await.refused(500, "");
    ann.post(&format!("{ACME}:adopt"), json!({}))
        .await
        .refused(403, "the database keeps this from you");
    let listed = ann.get(&format!("{ACME}/users/bob/tokens")).await.json();
    assert_eq!(listed["items"], json!([]), "{listed}");
    let id = management
        .text(
            "SELECT id::text FROM tokens t JOIN resources u ON u.uid = t.user_uid WHERE u.name LIKE '%/bob'",
        )
        .await;
    ann.delete(&format!("{ACME}/users/bob/tokens/{id}"), "")
        .await
        .refused(404, "does not exist");
    management
        .sql("DELETE FROM realms WHERE realm = '*' AND NOT writes")
        .await;
    assert_eq!(management.traces().await, before);
    assert_eq!(management.count("SELECT count(*) FROM tokens").await, tokens);

    let mine = ann.get(&format!("{ACME}/users/ann/tokens")).await.json();
    assert_eq!(mine["items"].as_array().unwrap().len(), 1, "{mine}");
    let records = ann.get("audit?pageSize=500").await.json();
    let strangers: Vec<&str> = names(&records)
        .into_iter()
        .filter(|name| !name.starts_with(PAY))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(names(&records).len() >= 4, "its own are there: {records}");
    ann.post(&format!("{ACME}:adopt"), json!({}))
        .await
        .refused(403, WALLED);
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

/// What a write of each sort to the other tenant, and to what stands outside of tenants, is answered.
async fn writes_to_media(ann: &Api) -> Vec<(&'static str, Answer)> {
    let video = format!("{MEDIA}/workspaces/video");
    let mine = json!({"name": video, "description": "mine", "spec": {"namespaces": ["*/video"]}});
    let group = json!({"name": format!("{video}/trafficgroups/mine")});
    let subjects = json!([format!("{ACME}/users/ann")]);
    let binding =
        json!({"name": format!("{MEDIA}/bindings/me"), "spec": {"role": "admin", "subjects": subjects}});
    let cluster = json!({"name": format!("{ACME}/clusters/us-east"), "spec": {"region": "x"}});
    let tenant = json!({"name": format!("{ACME}/tenants/new")});
    let tokens = format!("{ACME}/users/bob/tokens");
    vec![
        ("update", ann.put("*", mine).await),
        (
            "delete",
            ann.delete(&format!("{video}/trafficgroups/web"), "*").await,
        ),
        ("create", ann.post(&format!("{video}/trafficgroups"), group).await),
        ("bind", ann.post(&format!("{MEDIA}/bindings"), binding).await),
        ("tenant", ann.post(&format!("{ACME}/tenants"), tenant).await),
        ("cluster", ann.put("*", cluster).await),
        ("issue", ann.send(Method::POST, &tokens, &[], "{}").await),
    ]
}

#[tokio::test]
async fn no_refusal_tells_of_what_stands_behind_the_second_wall() {
    let (management, ann, _) = without_the_first_wall().await;
    let before = management.traces().await;
    let video = format!("{MEDIA}/workspaces/video");
    let seen = management.admin.get(&video).await;
    let document = json!({"name": video, "description": "x", "spec": {"namespaces": ["*/video"]}});
    let tried = |path: &str| format!("{path}?dry_run=true");
    let headers = |etag: &'static str| [("if-match", etag), ("content-type", "application/json")];
    let answers = [
        ("children", ann.delete(MEDIA, "*").await),
        (
            "children, tried",
            ann.send(Method::DELETE, &tried(MEDIA), &headers("*"), "").await,
        ),
        ("ETag", ann.put("0123456789abcdef", document.clone()).await),
        (
            "ETag, tried",
            ann.send(
                Method::PUT,
                &tried(&video),
                &headers("0123456789abcdef"),
                document.to_string(),
            )
            .await,
        ),
        ("none", ann.delete(&format!("{MEDIA}/workspaces/none"), "*").await),
        (
            "exists",
            ann.post(&format!("{MEDIA}/workspaces"), document.clone()).await,
        ),
        ("plan", ann.post("plans", json!([document])).await),
        (
            "rollback",
            ann.post("plans", json!({"rollback": {"name": ACME, "revision": 2}}))
                .await,
        ),
    ];
    for (what, answer) in &answers {
        let refused = matches!(answer.status.as_u16(), 403 | 404);
        assert!(refused, "{what}: {}", answer.text);
        for secret in [&*seen.etag(), "trafficgroups", "gatewaygroups"] {
            assert!(!answer.text.contains(secret), "{what}: {}", answer.text);
        }
    }
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn what_management_does_itself_for_a_caller_stays_within_the_second_wall_too() {
    let (management, ann, bob) = without_the_first_wall().await;
    let bobs = format!("{ACME}/users/bob");
    let session = json!({"user": "bob", "password": "correct horse battery"});
    let password = json!({"password": session["password"]});
    let set = format!("{bobs}/password");
    let put = async |api: &Api| api.send(Method::PUT, &set, &[], password.to_string()).await;
    assert_eq!(put(&management.admin).await.status, 200);
    let login = management.anonymous().post("auth:login", session).await;
    assert_eq!(login.status, 200, "{}", login.text);
    let id = login.json()["id"].as_str().unwrap().to_owned();

    put(&ann).await.refused(403, WALLED);
    for held in ["sessions", "tokens"] {
        ann.get(&format!("{bobs}/{held}")).await.refused(403, WALLED);
        ann.delete(&format!("{bobs}/{held}/{id}"), "")
            .await
            .refused(403, WALLED);
    }
    let sessions = management.admin.get(&format!("{bobs}/sessions")).await.json();
    assert_eq!(sessions["items"][0]["revokeTime"], Value::Null, "{sessions}");

    let own = format!("{MEDIA}/workspaces/video/trafficgroups/own");
    let plan = bob.post("plans?submit=true", json!([{"name": own}])).await;
    assert_eq!(plan.status, 201, "{}", plan.text);
    let plan = format!("plans/{}", plan.json()["id"].as_str().unwrap());
    ann.get(&plan).await.refused(404, "does not exist");
    for verb in ["approve", "reject", "apply"] {
        ann.post(&format!("{plan}:{verb}"), json!({}))
            .await
            .refused(404, "does not exist");
    }
    assert_eq!(bob.get(&plan).await.json()["state"], "open");

    let asked = json!({"who": bobs, "action": "update", "names": [PAY, MEDIA]});
    ann.post("iam:test", asked).await.refused(403, WALLED);
    let asked = json!({"action": "update", "names": [PAY, MEDIA]});
    let told = ann.post("iam:test", asked).await.json();
    let [pay, media] = [0, 1].map(|place| &told["decisions"][place]);
    assert_eq!(pay["allowed"], true, "{told}");
    let expected = json!({"name": MEDIA, "allowed": false, "because": media["because"]});
    assert_eq!(*media, expected);
    assert!(media["because"].as_str().unwrap().contains(WALLED), "{told}");

    ann.get("audit:verify").await.refused(403, WALLED);
    management.stop().await;
}

#[tokio::test]
async fn on_few_connections_no_request_sees_what_the_one_before_was_let_see() {
    let (management, ann, bob) = without_the_first_wall().await;
    let admin = management.admin.clone();
    let all = [PAY.to_owned(), MEDIA.to_owned()];
    management
        .sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
             CREATE TRIGGER refuse BEFORE UPDATE ON resources FOR EACH ROW \
             WHEN (NEW.document->>'description' = 'refused') EXECUTE FUNCTION refuse()",
        )
        .await;
    // Many more than the pool has connections, and in every order.
    let requests = (0..600).map(|number: usize| {
        let (api, sees) = match number * 7 % 3 {
            0 => (&ann, &all[..1]),
            1 => (&bob, &all[1..]),
            _ => (&admin, &all[..]),
        };
        async move {
            let tenant = &a_tenant(number);
            match number % 5 {
                // Refused in the middle of a transaction, so that a connection comes back with one to roll back.
                0 => {
                    let put = || api.put("*", json!({"name": sees[0], "description": "refused"}));
                    let mut refused = put().await;
                    // On a slow machine the queue of writes is full for moments: that says nothing of the wall.
                    while refused.status == 503 {
                        refused = put().await;
                    }
                    refused.refused(500, "");
                }
                1 => {
                    let records = api.get("audit?pageSize=100").await.json();
                    let foreign = names(&records).iter().any(|name| {
                        name.starts_with("organizations/acme/tenants/")
                            && !sees.iter().any(|tenant| name.starts_with(tenant.as_str()))
                    });
                    assert!(!foreign, "{records}");
                }
                2 => {
                    let seen = api.get(tenant).await.status == 200;
                    assert_eq!(seen, sees.contains(&tenant.to_string()), "{tenant}");
                }
                _ => {
                    let list = api.get(&format!("{ACME}/tenants")).await.json();
                    let found: BTreeSet<&str> = names(&list).into_iter().collect();
                    assert_eq!(found, sees.iter().map(String::as_str).collect());
                }
            }
        }
    });
    stream::iter(requests)
        .buffer_unordered(64)
        .for_each(async |()| ())
        .await;
    management.stop().await;
}

#[tokio::test]
async fn of_those_who_are_looked_up_together_each_is_shown_what_is_its_own() {
    let (management, ann, bob) = without_the_first_wall().await;
    let admin = management.admin.clone();
    let gone = management.user("gone", &[(PAY, "admin"), (ACME, "admin")]).await;
    management
        .sql("UPDATE tokens t SET revoked_at = now() FROM resources u WHERE u.uid = t.user_uid AND u.name LIKE '%/gone'")
        .await;
    let nobody = Api::new(admin.addr, Some(&format!("tb_{}", "A".repeat(43))));
    // (who, the status of PAY, the status of MEDIA)
    let callers = [
        (&admin, 200, 200),
        (&ann, 200, 404),
        (&gone, 401, 401),
        (&bob, 404, 200),
        (&nobody, 401, 401),
    ];
    for round in 0..10 {
        // All at once, and in another order each time, so that each follows upon each in one statement.
        let requests = (0..100_usize).map(|number| {
            let (api, pay, media) = callers[(number * (round % 4 + 1) + round) % callers.len()];
            async move {
                for (name, status) in [(PAY, pay), (MEDIA, media)] {
                    let answer = api.get(name).await;
                    assert_eq!(answer.status, status, "round {round}, {name}: {}", answer.text);
                }
            }
        });
        join_all(requests).await;
    }
    management.stop().await;
}

#[tokio::test]
async fn a_request_whose_caller_hangs_up_leaves_nothing_of_its_rights_to_the_next() {
    let (management, ann, bob) = without_the_first_wall().await;
    let admin = management.admin.clone();
    for round in 0..60 {
        // Hung up anywhere between the token's lookup and the last row: a request takes about a millisecond.
        let hung_up = (0..20).map(|number: u64| {
            let path = ["audit", "audit:tail", MEDIA, "organizations/acme/tenants"][number as usize % 4];
            let patience = Duration::from_micros(100 + (round * 20 + number) % 40 * 50);
            let admin = &admin;
            async move { timeout(patience, admin.get(path)).await.is_err() }
        });
        join_all(hung_up).await;
        for (api, tenant) in [(&ann, PAY), (&bob, MEDIA)] {
            let list = api.get(&format!("{ACME}/tenants")).await;
            assert_eq!(list.status, 200, "round {round}: {}", list.text);
            assert_eq!(names(&list.json()), [tenant], "round {round}");
        }
    }
    management.stop().await;
}

/// What a stream tells until that word.
async fn told(stream: Body, word: &str) -> String {
    let mut stream = stream.into_data_stream();
    let mut text = String::new();
    while !text.contains(word) {
        let part = timeout(Duration::from_secs(20), stream.next()).await;
        let part = part
            .expect("nothing was told in time")
            .expect("the stream has ended");
        text.push_str(&String::from_utf8_lossy(&part.unwrap()));
    }
    text
}

fn a_tenant(number: usize) -> &'static str {
    if number.is_multiple_of(2) { PAY } else { MEDIA }
}

#[tokio::test]
async fn realms_follow_the_bindings_and_are_made_to_fit_at_a_start() {
    let mut management = Management::start().await;
    two_teams(&management).await;
    let ann = management
        .user("ann", &[(PAY, "reader"), (MEDIA, "writer")])
        .await;
    let rows = "SELECT string_agg(r.realm || CASE WHEN r.writes THEN ' w' ELSE ' r' END, ', ' ORDER BY r.realm) \
                FROM realms r JOIN resources u ON u.uid = r.principal WHERE u.name LIKE '%/ann'";
    let both = format!("{MEDIA} w, {PAY} r");
    assert_eq!(management.text(rows).await, both);
    assert_eq!(ann.get(PAY).await.status, 200);
    let binding = format!("{PAY}/bindings/ann-reader");
    assert_eq!(management.admin.delete(&binding, "*").await.status, 200);
    assert_eq!(management.text(rows).await, format!("{MEDIA} w"));
    let binding = json!({"name": format!("{ACME}/clusters/us-east/bindings/ann"), "spec": {"role": "reader", "subjects": [format!("{ACME}/users/ann")]}});
    management.admin.create(binding).await;
    assert_eq!(
        management.text(rows).await,
        format!("{ACME} r, {MEDIA} w"),
        "outside of tenants, and no tenant"
    );

    // As an older version leaves them, which knows of no realms.
    management.sql("DELETE FROM realms; INSERT INTO realms SELECT 'acme', uid, '*', true FROM resources WHERE name LIKE '%/ann'").await;
    management.running.take().unwrap().stop().await.unwrap();
    let (running, api) = management.replica().await;
    assert_eq!(management.text(rows).await, format!("{ACME} r, {MEDIA} w"));
    assert_eq!(
        api.get(PAY).await.status,
        200,
        "the administrator has everything again"
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn every_table_is_walled_and_belongs_to_none_of_the_roles() {
    let management = Management::start().await;
    let mut connection = PgConnection::connect(management.url()).await.unwrap();
    let tables = sqlx::query(
        "SELECT c.oid::regclass::text AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, \
         (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies, \
         pg_get_userbyid(c.relowner)::text AS owner \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() >= 8, "the catalogue was not read");
    for table in &tables {
        let name: String = table.get("name");
        let walled = table.get::<bool, _>("enabled") && table.get::<bool, _>("forced");
        assert!(
            walled,
            "{name}: enable and force row-level security in its migration, see `wall` in 0002"
        );
        assert!(table.get::<i64, _>("policies") > 0, "{name} has no policy");
        assert!(!table.get::<String, _>("owner").starts_with("tombolo_"), "{name}");
    }
    let strong = "SELECT count(*) FROM pg_roles WHERE rolname IN ('tombolo_app', 'tombolo_publisher', 'tombolo_system') \
                  AND NOT (rolsuper OR rolbypassrls OR rolcreaterole OR rolcanlogin)";
    assert_eq!(management.count(strong).await, 3);
    // What a connection of the pool is without a principal: nobody.
    for table in &tables {
        let name: String = table.get("name");
        sqlx::raw_sql("BEGIN; SET LOCAL ROLE tombolo_app; SET LOCAL tombolo.organization = 'acme'")
            .execute(&mut connection)
            .await
            .unwrap();
        let seen: Result<i64, sqlx::Error> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {name}")))
                .fetch_one(&mut connection)
                .await;
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
        match seen {
            Ok(rows) => assert_eq!(rows, i64::from(name == "organizations"), "{name}"),
            Err(error) => assert!(error.to_string().contains("permission denied"), "{name}: {error}"),
        }
    }
    management.stop().await;
}

#[tokio::test]
async fn an_ordinary_owner_is_enough_and_is_told_which_roles_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(dir.path()).await.unwrap();
    let mut superuser = PgConnection::connect(postgres.url()).await.unwrap();
    let run = async |connection: &mut PgConnection, statement: &str| {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(connection)
            .await
            .unwrap();
    };
    run(&mut superuser, "CREATE ROLE plain LOGIN").await;
    run(&mut superuser, "CREATE DATABASE mesh OWNER plain").await;
    let url = as_plain(&postgres);
    let management = Management::prepare(url);
    let refused = start(management.config.clone()).await.unwrap_err().to_string();
    let by_hand = "CREATE ROLE tombolo_app NOLOGIN; GRANT tombolo_app TO plain; CREATE ROLE tombolo_publisher NOLOGIN; \
                   GRANT tombolo_publisher TO plain; CREATE ROLE tombolo_system NOLOGIN; GRANT tombolo_system TO plain";
    assert!(
        refused.contains("plain may not make the roles") && refused.ends_with(by_hand),
        "{refused}"
    );

    run(&mut superuser, by_hand).await;
    let management = management.start_prepared().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    assert_eq!(ann.get(PAY).await.status, 200);
    management.stop().await;

    // One that may make roles makes them itself.
    for statement in [
        "DROP DATABASE mesh",
        "DROP ROLE tombolo_app, tombolo_publisher, tombolo_system",
        "ALTER ROLE plain CREATEROLE",
        "CREATE DATABASE mesh OWNER plain",
    ] {
        run(&mut superuser, statement).await;
    }
    let url = as_plain(&postgres);
    let management = Management::start_on(url).await;
    assert_eq!(management.admin.get(ACME).await.status, 200);
    management.stop().await;

    run(&mut superuser, "ALTER ROLE tombolo_app BYPASSRLS").await;
    let url = as_plain(&postgres);
    let refused = start(Management::prepare(url).config)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("tombolo_app bypasses row-level security"),
        "{refused}"
    );
    postgres.stop().await;
}

fn as_plain(postgres: &EmbeddedPostgres) -> String {
    let url = postgres.url().replacen("//tombolo@", "//plain@", 1);
    url.replacen("/tombolo?", "/mesh?", 1)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"]
        .as_array()
        .unwrap_or_else(|| panic!("{list}"))
        .iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}
