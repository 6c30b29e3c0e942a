//! The whole mesh, small: management on Postgres, two centrals and two clusters as real processes. The tests take turns
//! on one mesh and leave it as they found it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tombolo_tests::ads::contrary::{CLUSTER_TYPE, ContraryProxy};
use tombolo_tests::mesh::{Blueprint, CENTRALS, Mesh, Part, REVIEWS_HOST, SHOP_HOST};
use tombolo_tests::process::Signal;
use tombolo_tests::proxy::{Node, Role};
use tombolo_tests::{client, eventually, tombolo_binary};

const DEADLINE: Duration = Duration::from_secs(20);
const EAST: usize = 0;
const WEST: usize = 1;
const SHOP: &str = "organizations/acme/tenants/retail/workspaces/shop";
const ROUTE: &str =
    "organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web/serviceroutes/reviews";

const INTENT: &str = "
name: organizations/acme/tenants/retail
---
name: organizations/acme/tenants/banking
---
name: organizations/acme/tenants/retail/workspaces/shop
spec: {namespaces: ['*/shop']}
---
name: organizations/acme/tenants/retail/workspaces/shop/gatewaygroups/public
---
name: organizations/acme/tenants/retail/workspaces/shop/gatewaygroups/public/gateways/shop
spec:
  workload: mesh/gateway
  type: ingress
  port: 8080
  hosts: [shop.example.com]
  rules: [{backendRefs: [{namespace: shop, name: reviews}]}]
---
name: organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web
---
name: organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web/serviceroutes/reviews
spec:
  service: shop/reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  rules: [{backendRefs: [{subset: v1}]}]
";

/// Statics are never dropped: the processes' watchdogs end them with this process.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static MESH: Mutex<Option<Mesh>> = Mutex::const_new(None);

/// Runs a test on the mesh while nobody else does. The applications live in the runtime, which outlives every test. A
/// mesh that a test has failed on is not used again.
fn on_mesh(test: impl AsyncFnOnce(&mut Mesh) -> Result<()>) {
    let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
    runtime.block_on(async {
        let mut shared = MESH.lock().await;
        let mut mesh = match shared.take() {
            Some(mesh) => mesh,
            None => start().await.unwrap_or_else(|error| panic!("{error:#}")),
        };
        test(&mut mesh).await.unwrap_or_else(|error| panic!("{error:#}"));
        *shared = Some(mesh);
    });
}

async fn start() -> Result<Mesh> {
    let mesh = Mesh::start(Blueprint {
        binary: tombolo_binary(),
        network: 40,
        clusters: vec!["us-east", "us-west"],
    })
    .await?;
    mesh.write(INTENT).await?;
    mesh.running(ROUTE).await?;
    Ok(mesh)
}

#[test]
fn intent_over_rest_becomes_traffic_in_two_clusters() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;

        write_route(mesh, &json!([{"backendRefs": [{"subset": "v2"}]}])).await?;
        mesh.running(ROUTE).await?;
        // Running is proven: the first request already goes the new way.
        for (address, host, cluster) in doors(mesh) {
            let by = ask(address, host).await?;
            ensure!(
                by == format!("reviews-v2.{cluster}"),
                "{host} in {cluster} answers from {by}"
            );
        }
        restore_route(mesh).await
    });
}

#[test]
fn a_service_that_dies_is_answered_by_the_other_cluster_without_any_configuration() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;
        mesh.application(EAST, "v1")?.take_down().await;
        for (address, host, _) in [doors(mesh)[0], doors(mesh)[1]] {
            answered_by(address, host, "reviews-v1.us-west").await;
        }
        mesh.application(EAST, "v1")?.bring_up().await?;
        everywhere(mesh, "reviews-v1").await;
        Ok(())
    });
}

/// The question goes down both hops, and what the edge knows comes back; with the edge away the answer says so.
#[test]
fn an_explanation_has_its_last_word_from_the_edge() {
    on_mesh(async |mesh| {
        let east = Part::Edge(EAST);
        let instance = mesh.application(EAST, "v1")?.address().to_string();
        eventually(DEADLINE, || async {
            let edge = &explained(mesh).await?["edge"];
            let places = &edge["answer"]["outcome"]["forward"]["targets"][0]["places"];
            ensure!(
                places[0]["hosts"]["instances"][0]["address"] == json!(instance),
                "{edge}"
            );
            ensure!(places[1]["cluster"] == "us-west", "{edge}");
            Ok(())
        })
        .await;
        mesh.kill(east)?;
        eventually(DEADLINE, || async {
            let answer = explained(mesh).await?;
            let away = answer["edge"]["away"].as_str().unwrap_or_default();
            ensure!(away.contains("does not hear the edge of us-east"), "{answer}");
            let places = &answer["outcome"]["forward"]["targets"][0]["places"];
            ensure!(
                places[0]["hosts"] == json!({"reported": "up"}),
                "what was reported still tells: {answer}"
            );
            Ok(())
        })
        .await;
        mesh.start_part(east)?;
        mesh.ready(east).await
    });
}

/// The edges make the configurations with and without the change, and the proxies have the names that they gave themselves.
#[test]
fn a_plan_names_the_proxies_that_would_change() {
    on_mesh(async |mesh| {
        eventually(DEADLINE, || async {
            let proxies = touched(mesh, "v2").await?;
            for (cluster, name) in [(EAST, "us-east"), (WEST, "us-west")] {
                let page = page(mesh.admin(Part::Edge(cluster)), "/config").await?;
                let known: BTreeSet<&String> = page["proxies"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(id, _)| id)
                    .collect();
                let named = &proxies[name]["changed"]["names"];
                ensure!(
                    known.len() == 2 && json!(known) == *named,
                    "{known:?} and not {proxies}"
                );
            }
            Ok(())
        })
        .await;
        let as_it_is = touched(mesh, "v1").await?;
        ensure!(as_it_is == json!({}), "{as_it_is}");
        Ok(())
    });
}

#[test]
fn invariant_2_centrals_from_an_old_backup_move_nothing_backwards() {
    on_mesh(async |mesh| {
        let mut backups = Vec::new();
        for central in CENTRALS {
            let dir = mesh.data_dir(central);
            eventually(DEADLINE, || async {
                ensure!(dir.join("intent").is_file(), "{central} has not saved its intent");
                Ok(())
            })
            .await;
            backups.push(copy_of(&dir)?);
        }
        write_route(mesh, &json!([{"backendRefs": [{"subset": "v2"}]}])).await?;
        mesh.running(ROUTE).await?;

        // Both come back with what they knew before, and management is in no state to tell them better.
        mesh.signal(Part::Management, Signal::Stop)?;
        for (central, backup) in CENTRALS.into_iter().zip(&backups) {
            mesh.kill(central)?;
            replace_dir(&mesh.data_dir(central), backup.path())?;
            mesh.start_part(central)?;
            mesh.ready(central).await?;
        }
        for cluster in [EAST, WEST] {
            let admin = mesh.admin(Part::Edge(cluster));
            eventually(DEADLINE, || async move {
                let config = page(admin, "/config").await?;
                let alarms = config["centrals"]
                    .to_string()
                    .matches("which is older than")
                    .count();
                ensure!(alarms == 2, "{} of two alarms: {}", alarms, config["centrals"]);
                Ok(())
            })
            .await;
        }
        unmoved(mesh, "reviews-v2").await?;
        mesh.restart(Part::Edge(EAST)).await?;
        unmoved(mesh, "reviews-v2").await?;

        mesh.signal(Part::Management, Signal::Continue)?;
        restore_route(mesh).await
    });
}

#[test]
fn invariant_4_losing_every_plane_above_changes_nothing_also_across_restarts() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;
        mesh.stop_postgres().await;
        for part in [Part::Management, CENTRALS[0], CENTRALS[1]] {
            mesh.kill(part)?;
        }
        unmoved(mesh, "reviews-v1").await?;
        // The edge first without its proxies noticing, then a proxy below the restarted edge.
        mesh.restart(Part::Edge(EAST)).await?;
        mesh.restart(Part::Sidecar(EAST)).await?;
        unmoved(mesh, "reviews-v1").await?;
        // And a proxy without anybody at all.
        mesh.kill(Part::Edge(WEST))?;
        mesh.restart(Part::Gateway(WEST)).await?;
        mesh.restart(Part::Sidecar(WEST)).await?;
        unmoved(mesh, "reviews-v1").await?;

        mesh.start_postgres().await?;
        for part in [Part::Management, CENTRALS[0], CENTRALS[1], Part::Edge(WEST)] {
            mesh.start_part(part)?;
            mesh.ready(part).await?;
        }
        write_route(mesh, &json!([{"backendRefs": [{"subset": "v2"}]}])).await?;
        mesh.running(ROUTE).await?;
        everywhere(mesh, "reviews-v2").await;
        restore_route(mesh).await
    });
}

#[test]
fn invariant_6_another_tenant_can_neither_read_nor_route_into() {
    on_mesh(async |mesh| {
        let bob = mesh.new_user("bob").await?;
        mesh.write(
            "{name: organizations/acme/tenants/banking/bindings/bob, \
              spec: {role: admin, subjects: [organizations/acme/users/bob]}}",
        )
        .await?;
        let reply = mesh.call(&bob, Method::GET, ROUTE, None).await?;
        ensure!(
            [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&reply.status),
            "reading: {} {}",
            reply.status,
            reply.text()
        );
        let reply = mesh
            .call(&bob, Method::GET, "organizations/acme/tenants", None)
            .await?;
        ensure!(!reply.text().contains("retail"), "listing: {}", reply.text());
        let bank = "organizations/acme/tenants/banking/workspaces/bank";
        for (what, yaml) in [
            (
                "writing",
                format!("{{name: {SHOP}/trafficgroups/bobs, spec: {{}}}}"),
            ),
            (
                "claiming the namespace",
                format!("{{name: {bank}, spec: {{namespaces: ['us-east/shop']}}}}"),
            ),
            (
                "routing the service",
                format!(
                    "{{name: {bank}, spec: {{namespaces: ['us-east/bank']}}}}\n---\n\
                     {{name: {bank}/trafficgroups/g, spec: {{}}}}\n---\n\
                     {{name: {bank}/trafficgroups/g/serviceroutes/r, spec: {{service: shop/reviews, \
                     subsets: [{{name: v2, labels: {{version: v2}}}}], rules: [{{backendRefs: [{{subset: v2}}]}}]}}}}"
                ),
            ),
            (
                "taking the host",
                format!(
                    "{{name: {bank}, spec: {{namespaces: ['us-east/bank']}}}}\n---\n\
                     {{name: {bank}/gatewaygroups/g, spec: {{}}}}\n---\n\
                     {{name: {bank}/gatewaygroups/g/gateways/in, spec: {{workload: mesh/gateway, type: ingress, \
                     port: 8080, hosts: [shop.example.com], \
                     rules: [{{backendRefs: [{{namespace: bank, name: ledger}}]}}]}}}}"
                ),
            ),
        ] {
            let reply = mesh.change(&bob, &yaml).await?;
            ensure!(
                reply.status.is_client_error(),
                "{what} was not refused: {} {}",
                reply.status,
                reply.text()
            );
            let reply = mesh.call(mesh.admin_token(), Method::GET, bank, None).await?;
            ensure!(
                reply.status == StatusCode::NOT_FOUND,
                "{what} was half applied: {}",
                reply.text()
            );
        }
        unmoved(mesh, "reviews-v1").await
    });
}

#[test]
fn invariant_8_a_proxys_refusal_is_shown_on_the_resource_that_caused_it() {
    on_mesh(async |mesh| {
        let node = Node {
            id: "contrary".to_owned(),
            cluster: "us-east".to_owned(),
            namespace: "shop".to_owned(),
            role: Role::Sidecar {
                outbound: "127.0.41.99:15001".parse()?,
            },
        };
        let mut proxy = ContraryProxy::connect(mesh.xds(EAST), &node, CLUSTER_TYPE).await?;
        let offered = proxy.next().await?;
        let words: Vec<String> = offered
            .resources
            .iter()
            .map(|cluster| format!("{}: not to my taste", cluster.name))
            .collect();
        proxy.refuse(&offered, &words.join("; ")).await?;
        let status = refused(mesh, ROUTE).await;
        let rejections = status["clusters"]["us-east"]["rejections"].to_string();
        ensure!(
            rejections.contains("contrary") && rejections.contains("not to my taste"),
            "{status}"
        );
        ensure!(status["clusters"]["us-west"]["outcome"] == "running", "{status}");
        // Its neighbours are not held back.
        unmoved(mesh, "reviews-v1").await?;
        // Nobody knows what it runs once it is silent, until somebody says that it will not come back.
        drop(proxy);
        eventually(DEADLINE, || async {
            let status = mesh.receipt(ROUTE).await?;
            ensure!(status["clusters"]["us-east"]["outcome"] == "unknown", "{status}");
            Ok(())
        })
        .await;
        let forget = Request::post("/proxies/forget?id=contrary").body(Full::default())?;
        client::send(mesh.admin(Part::Edge(EAST)), forget)
            .await?
            .expect(StatusCode::OK)?;
        mesh.running(ROUTE).await
    });
}

#[test]
fn invariant_9_nothing_is_running_while_a_proxy_is_held_back() {
    on_mesh(async |mesh| {
        mesh.signal(Part::Sidecar(WEST), Signal::Stop)?;
        write_route(mesh, &json!([{"backendRefs": [{"subset": "v2"}]}])).await?;
        // Everybody else has it; from then on there is no more reason to wait than the one that is frozen.
        eventually(DEADLINE, || async {
            let status = mesh.receipt(ROUTE).await?;
            ensure!(status["clusters"]["us-east"]["outcome"] == "running", "{status}");
            ensure!(status["clusters"]["us-west"]["proxiesWith"] == 1, "{status}");
            Ok(())
        })
        .await;
        for _ in 0..50 {
            let status = mesh.receipt(ROUTE).await?;
            ensure!(
                status["outcome"] == "pending",
                "while a proxy is frozen: {status}"
            );
        }
        mesh.signal(Part::Sidecar(WEST), Signal::Continue)?;
        mesh.running(ROUTE).await?;
        restore_route(mesh).await
    });
}

/// Every proxy with the host that it serves, and its cluster.
#[test]
fn a_central_with_truncated_files_says_so_and_nothing_moves() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;
        let central = CENTRALS[0];
        let files = |dir: &Path| -> Vec<_> {
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file())
                .collect()
        };
        let dir = mesh.data_dir(central);
        let intent = dir.join("intent");
        eventually(DEADLINE, || async {
            ensure!(intent.is_file(), "no intent in {}", dir.display());
            Ok(())
        })
        .await;
        mesh.kill(central)?;
        for file in files(&dir).into_iter().chain(files(&dir.join("reports"))) {
            let bytes = fs::read(&file)?;
            fs::write(&file, &bytes[..bytes.len() / 2])?;
        }
        mesh.start_part(central)?;
        mesh.ready(central).await?;
        let log = mesh.log_tail(central);
        let set_aside = format!("it was moved to {}.corrupt", intent.display());
        ensure!(log.contains("is corrupt") && log.contains(&set_aside), "{log}");
        unmoved(mesh, "reviews-v1").await
    });
}

#[test]
fn a_day_at_the_command_line() {
    on_mesh(async |mesh| {
        let server = format!("http://{}", mesh.api());
        let token = mesh.admin_token().to_owned();
        let run = async |args: &[&str], code: i32| -> Result<String> {
            let output = tokio::process::Command::new(tombolo_binary())
                .args(args)
                .env("TOMBOLO_SERVER", &server)
                .env("TOMBOLO_ORGANIZATION", "acme")
                .env("TOMBOLO_TOKEN", &token)
                .output()
                .await?;
            let (out, error) = (
                String::from_utf8_lossy(&output.stdout).into_owned(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            );
            ensure!(
                output.status.code() == Some(code),
                "tombolo {}: {}\n{out}{error}",
                args.join(" "),
                output.status
            );
            Ok(out + &error)
        };
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name).display().to_string();

        let authority = mesh.authority_dir().display().to_string();
        let identity = file("us-south");
        let added = [
            "cluster",
            "add",
            "us-south",
            "--region",
            "us-south",
            "--authority",
            &authority,
        ];
        run(&[&added[..], &["--out", &identity]].concat(), 0).await?;
        ensure!(Path::new(&identity).is_dir(), "no identity in {identity}");
        let status = run(&["status", "-o", "json"], 0).await?;
        ensure!(status.contains("us-south"), "{status}");

        let group = format!("{SHOP}/trafficgroups/evening");
        let (good, bad) = (file("good.yaml"), file("bad.yaml"));
        fs::write(&good, format!("name: {group}\ndescription: before\n"))?;
        fs::write(&bad, format!("name: {group}\nspec: {{colour: red}}\n"))?;
        let plan = run(&["plan", "-f", &good], 2).await?;
        ensure!(plan.contains("create") && plan.contains(&group), "{plan}");
        run(&["get", &group], 1).await?;
        run(&["apply", "-f", &good, "--wait", "--timeout", "20s"], 0).await?;
        let refused = run(&["apply", "-f", &bad, "--overwrite"], 1).await?;
        ensure!(
            refused.contains(&group) && refused.contains("colour"),
            "{refused}"
        );
        let got = run(&["get", &group, "-o", "yaml"], 0).await?;
        ensure!(got.contains("description: before"), "{got}");
        run(&["delete", &group], 0).await?;
        run(&["get", &group], 1).await?;

        let audit = run(&["audit", "list", "--name", &group, "-o", "json"], 0).await?;
        for verb in ["create", "delete"] {
            ensure!(audit.contains(&format!("\"{verb}\"")), "no {verb} in {audit}");
        }
        run(&["audit", "verify"], 0).await?;
        run(&["delete", "organizations/acme/clusters/us-south"], 0).await?;
        let nobody = ["get", &group, "--server", "http://127.0.0.1:1"];
        let away = run(&nobody, 1).await?;
        ensure!(away.contains("cannot reach the server"), "{away}");
        unmoved(mesh, "reviews-v1").await
    });
}

fn doors(mesh: &Mesh) -> Vec<(SocketAddr, &'static str, &'static str)> {
    [(EAST, "us-east"), (WEST, "us-west")]
        .into_iter()
        .flat_map(|(at, cluster)| {
            [
                (mesh.ingress(at), SHOP_HOST, cluster),
                (mesh.outbound(at), REVIEWS_HOST, cluster),
            ]
        })
        .collect()
}

/// Who answers.
async fn ask(address: SocketAddr, host: &str) -> Result<String> {
    let request = Request::get("/").header("host", host).body(Full::default())?;
    let reply = client::send(address, request).await?.expect(StatusCode::OK)?;
    Ok(reply.header("x-answered-by"))
}

async fn explained(mesh: &Mesh) -> Result<Value> {
    let question = json!({"from": "us-east/shop/web", "request": {"url": format!("http://{REVIEWS_HOST}/")}});
    let reply = mesh
        .call(mesh.admin_token(), Method::POST, "explain", Some(&question))
        .await?;
    Ok(serde_json::from_slice(&reply.expect(StatusCode::OK)?.body)?)
}

/// The proxies that a plan names, which sends all requests to a subset.
async fn touched(mesh: &Mesh, subset: &str) -> Result<Value> {
    let rules = json!([{"backendRefs": [{"subset": subset}]}]);
    let path = "plans?overwrite=true";
    let reply = mesh
        .call(mesh.admin_token(), Method::POST, path, Some(&route(&rules)))
        .await?;
    let plan: Value = serde_json::from_slice(&reply.expect(StatusCode::OK)?.body)?;
    Ok(plan["behaviour"]["proxies"].clone())
}

async fn answered_by(address: SocketAddr, host: &str, wanted: &str) {
    eventually(DEADLINE, || async {
        let by = ask(address, host).await?;
        ensure!(
            by == wanted,
            "{host} at {address} answers from {by}, not {wanted}"
        );
        Ok(())
    })
    .await;
}

/// Waits until every proxy answers from its own cluster's instance.
async fn everywhere(mesh: &Mesh, instance: &str) {
    for (address, host, cluster) in doors(mesh) {
        answered_by(address, host, &format!("{instance}.{cluster}")).await;
    }
}

/// Every proxy answers from its own cluster's instance, now and every time.
async fn unmoved(mesh: &Mesh, instance: &str) -> Result<()> {
    for _ in 0..20 {
        for (address, host, cluster) in doors(mesh) {
            let by = ask(address, host)
                .await
                .with_context(|| format!("{host} in {cluster}"))?;
            ensure!(
                by == format!("{instance}.{cluster}"),
                "{host} in {cluster} answers from {by}"
            );
        }
    }
    Ok(())
}

async fn write_route(mesh: &Mesh, rules: &Value) -> Result<()> {
    let token = mesh.admin_token();
    let reply = mesh
        .call(token, Method::GET, ROUTE, None)
        .await?
        .expect(StatusCode::OK)?;
    let document = route(rules);
    let etag = reply.header("etag");
    mesh.call_if(token, Method::PUT, ROUTE, Some(&document), Some(&etag))
        .await?
        .expect(StatusCode::OK)?;
    Ok(())
}

fn route(rules: &Value) -> Value {
    json!({
        "name": ROUTE,
        "spec": {
            "service": "shop/reviews",
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ],
            "rules": rules,
        },
    })
}

async fn restore_route(mesh: &Mesh) -> Result<()> {
    write_route(mesh, &json!([{"backendRefs": [{"subset": "v1"}]}])).await?;
    mesh.running(ROUTE).await?;
    everywhere(mesh, "reviews-v1").await;
    Ok(())
}

/// Waits until a resource is shown as refused.
async fn refused(mesh: &Mesh, name: &str) -> Value {
    eventually(DEADLINE, || async {
        let status = mesh.receipt(name).await?;
        ensure!(status["outcome"] == "rejected", "{status}");
        Ok(status)
    })
    .await
}

/// A page of an admin port.
async fn page(admin: SocketAddr, path: &str) -> Result<Value> {
    let reply = client::get(admin, path).await?.expect(StatusCode::OK)?;
    Ok(serde_json::from_slice(&reply.body)?)
}

fn copy_of(dir: &Path) -> Result<TempDir> {
    let copy = tempfile::tempdir()?;
    copy_dir(dir, copy.path())?;
    Ok(copy)
}

fn replace_dir(dir: &Path, with: &Path) -> Result<()> {
    fs::remove_dir_all(dir)?;
    fs::create_dir(dir)?;
    copy_dir(with, dir)
}

/// Of a process that may be at work: a file that it has just renamed was a temporary one.
fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_dir(&entry.path(), &target)?;
        } else {
            match fs::copy(entry.path(), target) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied?),
            }
        }
    }
    Ok(())
}
