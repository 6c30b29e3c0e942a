//! What must be refused: each case with its words, and with nothing half-applied.

use http::Method;
use serde_json::json;

use crate::support::{ACME, Management, two_teams};

const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

#[tokio::test]
async fn bad_bodies_are_refused_whole() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let good = "name: organizations/acme/tenants/new\n";
    let route =
        format!("name: {SHOP}/trafficgroups/web/serviceroutes/reviews\nspec:\n  service: shop/reviews\n");
    let cases: Vec<(String, u16, &str)> = vec![
        (String::new(), 400, "the body is empty"),
        (
            format!("{good}description: \"a\\0b\"\n"),
            400,
            "the body holds a NUL character",
        ),
        (
            format!("{good}---\n").repeat(1001),
            400,
            "1001 changes in one request; send at most 1000",
        ),
        (format!("{good}---\nname: [\n"), 400, "the body is not YAML: line"),
        (
            format!("{good}spec: {{color: red}}\n"),
            400,
            "/spec/color: unknown field `color`",
        ),
        (format!("{good}colour: red\n"), 400, "unknown field `colour`"),
        (
            format!("{good}kind: Workspace\n"),
            400,
            "kind is Workspace but organizations/acme/tenants/new is a Tenant",
        ),
        (
            format!("{good}---\nname: organizations/acme/tents/x\n"),
            400,
            "expected clusters, users, teams, serviceaccounts, roles, tenants, bindings",
        ),
        (format!("{good}---\n{good}"), 400, "is named twice in one request"),
        (
            format!("{good}---\nname: organizations/other/tenants/x\n"),
            403,
            "organizations/acme/users/admin needs the role editor to update organizations/other/tenants/x",
        ),
        (
            format!(
                "{good}---\nname: organizations/acme/tenants/none/workspaces/w\nspec: {{namespaces: []}}\n"
            ),
            404,
            "organizations/acme/tenants/none does not exist; create it first",
        ),
        (
            format!(
                "{good}---\nname: organizations/acme/tenants/new/workspaces/w\nspec: {{namespaces: ['mars/x']}}\n"
            ),
            422,
            "cluster mars does not exist; use one that does, or create it first",
        ),
        (
            format!(
                "{good}---\nname: organizations/acme/tenants/new/workspaces/w\nspec: {{namespaces: ['us-east/shop']}}\n"
            ),
            409,
            SHOP,
        ),
        (
            format!(
                "{good}---\n{route}  subsets: [{{name: v1, labels: {{version: v1}}}}]\n  rules: [{{backendRefs: [{{subset: v1, weight: 95}}, {{subset: v1, weight: 6}}]}}]\n"
            ),
            422,
            "the weights add up to 101, not to 100",
        ),
        (
            format!("{good}---\nname: {SHOP}\nspec: {{namespaces: ['*/other']}}\n"),
            428,
            "say which state you have seen",
        ),
        (
            format!("{good}---\nname: {SHOP}\netag: abc\nspec: {{namespaces: ['*/other']}}\n"),
            412,
            "has changed since",
        ),
        (
            format!(
                "{good}---\nname: {SHOP}\nuid: 0190a0b0-0000-7000-8000-000000000000\nspec: {{namespaces: ['*/shop']}}\n"
            ),
            412,
            "was deleted and created again",
        ),
        (
            format!("{good}---\nname: organizations/acme/tenants/gone\netag: abc\n"),
            404,
            "organizations/acme/tenants/gone does not exist",
        ),
    ];
    for (yaml, status, detail) in cases {
        let answer = management.admin.apply_raw("changes", &yaml).await;
        assert_eq!(answer.status, status, "{yaml}\n{}", answer.text);
        answer.refused(status, detail);
        assert_eq!(management.traces().await, before, "{yaml}");
    }
    management.stop().await;
}

#[tokio::test]
async fn requests_that_break_the_rules_of_http_are_refused() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let admin = &management.admin;
    let tenant = format!("{ACME}/tenants/pay");
    let body = json!({ "name": tenant, "description": "x" }).to_string();

    let answer = admin.send(Method::PUT, &tenant, &[], body.clone()).await;
    answer.refused(428, "say which state you have seen with its ETag");
    let answer = admin.send(Method::DELETE, &tenant, &[], "").await;
    answer.refused(428, "say which state you have seen with its ETag");
    admin
        .put("\"abc\"", json!({ "name": tenant, "description": "x" }))
        .await
        .refused(412, "and not abc; read it again");
    admin
        .delete(&tenant, "\"abc\"")
        .await
        .refused(412, "has changed since");
    let missing = format!("{ACME}/tenants/none");
    admin
        .put("*", json!({ "name": missing }))
        .await
        .refused(404, "does not exist");
    admin.delete(&missing, "*").await.refused(404, "does not exist");
    admin
        .post(&format!("{ACME}/tenants"), json!({ "name": tenant }))
        .await
        .refused(
            409,
            "organizations/acme/tenants/pay exists already; update it instead",
        );
    admin
        .delete(&tenant, "*")
        .await
        .refused(409, "still has organizations/acme/tenants/pay/workspaces/shop");
    admin
        .delete(&format!("{ACME}/bindings/admin"), "*")
        .await
        .refused(409, "left without an administrator");
    admin
        .delete(&format!("{ACME}/users/admin"), "*")
        .await
        .refused(409, "organizations/acme/bindings/admin");
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    admin
        .send(Method::POST, "changes", &[], large.clone())
        .await
        .refused(413, "larger than 1048576 bytes");
    let chunks = futures::stream::iter(
        large
            .into_bytes()
            .chunks(65536)
            .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
            .collect::<Vec<_>>(),
    );
    admin
        .send(
            Method::POST,
            "changes",
            &[],
            axum::body::Body::from_stream(chunks),
        )
        .await
        .refused(413, "larger than 1048576 bytes");
    admin
        .send(
            Method::POST,
            "changes",
            &[("content-type", "text/html")],
            body.clone(),
        )
        .await
        .refused(415, "send application/json or application/yaml");
    admin
        .send(Method::PATCH, &tenant, &[], body.clone())
        .await
        .refused(405, "PATCH cannot be done");
    admin
        .send(Method::POST, &tenant, &[], body.clone())
        .await
        .refused(405, "POST creates in a collection");
    admin
        .get("organizations/acme/tents")
        .await
        .refused(404, "is not a collection below");
    admin
        .get("nonsense/x/y")
        .await
        .refused(404, "expected organizations");
    admin
        .send(Method::POST, "changes?dryrun=true", &[], body.clone())
        .await
        .refused(400, "unknown field `dryrun`");
    admin
        .send(
            Method::PUT,
            &tenant,
            &[("if-match", "*")],
            json!({"name": ACME}).to_string(),
        )
        .await
        .refused(400, "organizations/acme is not the name in the path");
    admin
        .post(
            &format!("{ACME}/tenants"),
            json!({"name": format!("{ACME}/clusters/x"), "spec": {"region": "r"}}),
        )
        .await
        .refused(400, "does not stand in organizations/acme/tenants");
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn a_namespace_that_is_taken_tells_nothing_of_what_its_owner_made_of_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let grab = "organizations/acme/tenants/media/workspaces/aaa";
    let document = format!("name: {grab}\nspec: {{namespaces: ['us-east/shop']}}\n");
    let answer = management.admin.apply_raw("changes", &document).await;
    answer.refused(409, &format!("already held by {SHOP};"));
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["resource"], grab);
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn malformed_json_changes_nothing() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let documents = r#"[{"name": "organizations/acme/tenants/new"}, {"name": "#;
    let answer = management.admin.apply_raw("changes", documents).await;
    answer.refused(400, "line 1");
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn names_of_the_world_that_are_taken_are_refused_with_their_owner() {
    let management = Management::start().await;
    two_teams(&management).await;
    let gateway = |workspace: &str, name: &str, host: &str| {
        format!(
            "name: {workspace}/gatewaygroups/edge/gateways/{name}\nspec: {{workload: mesh/gateway, type: ingress, port: 8080, \
             hosts: ['{host}'], rules: [{{backendRefs: [{{namespace: {}, name: web}}]}}]}}\n",
            if workspace == SHOP { "shop" } else { "video" }
        )
    };
    let video = "organizations/acme/tenants/media/workspaces/video";
    management
        .admin
        .apply(&gateway(SHOP, "owner", "shop.example.com"))
        .await;
    let before = management.traces().await;
    // A name that sorts before the owner's wins nothing either.
    for (host, name) in [
        ("shop.example.com", "a"),
        ("shop.example.com", "z"),
        ("*.example.com", "z"),
    ] {
        let answer = management
            .admin
            .apply_raw("changes", &gateway(video, name, host))
            .await;
        answer.refused(409, &format!("{SHOP}/gatewaygroups/edge/gateways/owner"));
        // The refusal is about what was written, and tells of the owner nothing but the name.
        for error in answer.json()["errors"].as_array().unwrap() {
            assert!(error["resource"].as_str().unwrap().starts_with(video), "{error}");
        }
        assert_eq!(management.traces().await, before, "{host}");
    }
    management.stop().await;
}

#[tokio::test]
async fn callers_without_a_valid_token_get_nowhere() {
    let management = Management::start().await;
    let mut anonymous = management.anonymous();
    let unknown = format!("tb_{}", "A".repeat(43));
    for (token, detail) in [
        (None, "send a token"),
        (Some("nonsense"), "the token is malformed"),
        (Some(unknown.as_str()), "the token, key or session is unknown"),
    ] {
        anonymous.token = token.map(str::to_owned);
        let answer = anonymous.get(ACME).await;
        answer.refused(401, detail);
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"tombolo\"");
    }
    management.stop().await;
}
