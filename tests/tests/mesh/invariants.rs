//! What holds when planes die, come back with old states, or are told nonsense.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tempfile::TempDir;
use tombolo_tests::ads::contrary::{CLUSTER_TYPE, ContraryProxy};
use tombolo_tests::mesh::{CENTRALS, Part};
use tombolo_tests::process::Signal;
use tombolo_tests::proxy::{Node, Role};
use tombolo_tests::{client, eventually};

use super::{
    DEADLINE, EAST, ROUTE, SHOP, WEST, everywhere, on_mesh, page, refused, restore_route, unmoved,
    write_route,
};

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
