//! What those who use the mesh see of it: explanations, plans, and a day at the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tombolo_tests::mesh::{Mesh, Part, REVIEWS_HOST};
use tombolo_tests::{eventually, tombolo_binary};

use super::{DEADLINE, EAST, SHOP, WEST, on_mesh, page, route, unmoved};

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
