//! The web admin: what management serves of it, and a browser that uses it on a real management with a real Postgres.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;
use tombolo_management::LoginConfig;
use tombolo_tests::client;
use tombolo_tests::console::Console;
use tombolo_tests::oidc::OidcProvider;

/// The folder with the built admin; `cargo xtask test` builds it and says where it is.
const WEB_DIR: &str = "TOMBOLO_WEB_DIR";
/// A dozen steps, of a second each where nothing else runs.
const BROWSING_TIME_MAX: Duration = Duration::from_secs(240);

const PASSWORD: &str = "a horse that reads maps";
const MESH: &str = "
name: organizations/acme/clusters/us-east
spec: {region: us}
---
name: organizations/acme/tenants/pay
---
name: organizations/acme/tenants/pay/trafficsettings/default
spec: {defaults: {loadBalancing: random}}
---
name: organizations/acme/tenants/pay/workspaces/checkout
spec: {namespaces: ['*/checkout']}
---
name: organizations/acme/tenants/pay/workspaces/checkout/trafficgroups/web
---
name: organizations/acme/tenants/pay/workspaces/checkout/trafficgroups/web/serviceroutes/cart
spec:
  service: checkout/cart
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  rules:
  - backendRefs: [{subset: v1, weight: 95}, {subset: v2, weight: 5}]
---
name: organizations/acme/tenants/pay/workspaces/checkout/gatewaygroups/edge
---
name: organizations/acme/tenants/pay/workspaces/checkout/gatewaygroups/edge/gateways/door
spec:
  workload: infra/door
  type: ingress
  port: 8080
  hosts: [pay.example.com]
  rules: [{backendRefs: [{namespace: checkout, name: cart}]}]
---
name: organizations/acme/tenants/held
---
name: organizations/acme/users/rita
---
name: organizations/acme/users/otto
---
name: organizations/acme/users/gina
---
name: organizations/acme/users/petra
---
name: organizations/acme/teams/platform
spec: {members: [organizations/acme/users/petra], groups: [platform]}
---
name: organizations/acme/bindings/platform
spec: {role: writer, subjects: [organizations/acme/teams/platform]}
---
name: organizations/acme/tenants/held/bindings/guests
spec: {role: reader, subjects: [organizations/acme/users/gina]}
---
name: organizations/acme/bindings/readers
spec: {role: reader, subjects: [organizations/acme/users/rita]}
---
name: organizations/acme/bindings/admins
spec: {role: admin, subjects: [organizations/acme/users/otto]}
---
name: organizations/acme/tenants/held/approvalpolicies/two-persons
spec: {approver: admin}
";

/// The built admin; the error says what is missing and how to get it.
fn built() -> Result<PathBuf, &'static str> {
    let dir = env::var_os(WEB_DIR).map_or_else(|| web().join("dist"), PathBuf::from);
    if !dir.join("index.html").is_file() {
        return Err("the web admin is not built: run `npm ci && npm run build` in web/");
    }
    if !web().join("e2e/node_modules/playwright-core").is_dir() {
        return Err("there is no browser to use the web admin with: run `npm ci` in web/e2e/");
    }
    Ok(dir)
}

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web")
}

async fn token(console: &Console, user: &str) -> String {
    let command = format!("tombolo token create organizations/acme/users/{user}");
    let said = console.run(&[&command]).await.unwrap().remove(0);
    let token = said.text.split_whitespace().find(|word| word.starts_with("tb_"));
    token
        .unwrap_or_else(|| panic!("no token: {}", said.text))
        .to_owned()
}

#[tokio::test]
async fn people_browse_change_approve_and_are_refused() {
    let web_dir = match built() {
        Ok(dir) => dir,
        Err(missing) if env::var_os("CI").is_some_and(|value| value == "true") => panic!("{missing}"),
        Err(missing) => {
            eprintln!("NOT RUN: {missing}");
            return;
        }
    };
    let people = json!({"1": {"preferred_username": "bea.lee", "groups": ["platform"]}});
    let provider = OidcProvider::start(&people).await;
    let login = LoginConfig {
        oidc: Some(provider.config()),
        ..LoginConfig::default()
    };
    let console = Console::serving(Some(web_dir), login).await;
    fs::write(console.folder().join("mesh.yaml"), MESH).unwrap();
    let set =
        format!("echo '{PASSWORD}' | tombolo password organizations/acme/users/petra --password-file -");
    for said in console.run(&["tombolo apply -f mesh.yaml", &set]).await.unwrap() {
        assert_eq!(said.code, Some(0), "{}", said.text);
    }
    let browsing = Command::new("node")
        .arg(web().join("e2e/admin.mjs"))
        .env("TOMBOLO_URL", format!("http://{}", console.api()))
        .env("TOMBOLO_PASSWORD", PASSWORD)
        .env("TOMBOLO_TOKEN", console.token())
        .env("TOMBOLO_READER_TOKEN", token(&console, "rita").await)
        .env("TOMBOLO_OTHER_TOKEN", token(&console, "otto").await)
        .env("TOMBOLO_GUEST_TOKEN", token(&console, "gina").await)
        .kill_on_drop(true)
        .output();
    let output = timeout(BROWSING_TIME_MAX, browsing).await;
    let output = output.expect("the browser does not end").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    console.stop().await;
}

#[tokio::test]
async fn pages_are_served_beside_the_api_with_a_policy_and_never_in_its_place() {
    let site = tempfile::tempdir().unwrap();
    fs::create_dir(site.path().join("assets")).unwrap();
    fs::write(site.path().join("index.html"), "<p>the admin</p>").unwrap();
    fs::write(site.path().join("assets/a-1.js"), "1").unwrap();
    let site_dir = Some(site.path().to_owned());
    let console = Console::serving(site_dir, LoginConfig::default()).await;
    for (path, status, media, caching) in [
        ("/", 200, "text/html", "no-cache"),
        ("/audit?actor=a", 200, "text/html", "no-cache"),
        ("/assets/a-1.js", 200, "text/javascript", "immutable"),
        ("/assets/a-2.js", 404, "application/problem+json", ""),
        ("/../Cargo.toml", 200, "text/html", "no-cache"),
        ("/v1/nothing", 401, "application/problem+json", ""),
        ("/v1", 404, "application/problem+json", ""),
        ("/auth/nothing", 404, "application/problem+json", ""),
        ("/healthz", 200, "text/plain", ""),
    ] {
        let reply = client::get(console.api(), path).await.unwrap();
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(
            reply.header("content-type").starts_with(media),
            "{path}: {:?}",
            reply.headers
        );
        assert!(
            reply.header("cache-control").contains(caching),
            "{path}: {:?}",
            reply.headers
        );
        let has_policy = reply
            .header("content-security-policy")
            .contains("script-src 'self'");
        assert_eq!(has_policy, !caching.is_empty(), "{path}: {:?}", reply.headers);
    }
    console.stop().await;

    let without = Console::start().await;
    let reply = client::get(without.api(), "/").await.unwrap();
    assert!(
        reply.header("content-type").starts_with("text/plain"),
        "{:?}",
        reply.headers
    );
    assert!(reply.text().contains("docs/api.md"), "{}", reply.text());
    let reply = client::get(without.api(), "/audit").await.unwrap();
    assert_eq!(reply.status, 404);
    without.stop().await;
}
