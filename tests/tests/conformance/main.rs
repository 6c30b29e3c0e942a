//! The same edge drives real Envoy and our proxy through the same requests, and both do the same: the contract of
//! docs/xds.md is kept by what stands on either side of it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_tests::client::Connection;
use tombolo_tests::island::{Given, Island};
use tombolo_tests::issuer::Issuer;
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::{Application, Applications, KEY};
use tombolo_tests::{eventually, tombolo_binary, within};

mod case;
mod cases;
mod h2spec;
mod raw;
mod site;

use case::{Case, Expect, GET, Via};
use cases::CASES;
use site::{APPLICATIONS, KEYS, KEYS_NAME, PLATFORM, SERVING, intent};

const CLUSTER: &str = "here";
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_and_our_proxy_do_the_same() {
    let mut stage = Stage::start().await.unwrap();
    let mut failures = Vec::new();
    for case in CASES.iter().copied().flatten() {
        for software in Software::BOTH {
            if let Err(error) = stage.play(case, software).await {
                failures.push(format!("{}, {}: {error:#}", software.name(), case.name));
            }
        }
    }
    let played = CASES.iter().copied().flatten().count() * Software::BOTH.len();
    assert!(
        failures.is_empty(),
        "{} of {played} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The edge, the applications, and a sidecar and a gateway of each software.
struct Stage {
    _island: Island,
    _issuer: Issuer,
    applications: Applications,
    instances: BTreeMap<&'static str, Application>,
    _proxies: Vec<Proxy>,
    keys: usize,
}

impl Stage {
    async fn start() -> Result<Stage> {
        let applications = Applications::default();
        let mut instances = BTreeMap::new();
        for (name, address) in APPLICATIONS {
            instances.insert(*name, applications.start(name, address.parse()?).await?);
        }
        let keys = tempfile::tempdir()?;
        let (at, name) = (KEYS.parse()?, KEYS_NAME);
        let issuer = Issuer::start(at, name, keys.path()).await?;
        let island = Island::start(Given {
            cluster: CLUSTER,
            intent: &intent(),
            platform: PLATFORM,
            others: [there()?].into(),
            issuer_ca: Some(issuer.ca()),
        })
        .await?;
        let binary = tombolo_binary();
        let mut proxies = Vec::new();
        for software in Software::BOTH {
            for via in [Via::Sidecar, Via::Gateway] {
                let node = node(software, via);
                let started = Proxy::start(software, &node, island.xds(), &binary, island.dir()).await;
                proxies.push(started.with_context(|| format!("{} as {via:?}", software.name()))?);
            }
        }
        let stage = Stage {
            _island: island,
            _issuer: issuer,
            applications,
            instances,
            _proxies: proxies,
            keys: 0,
        };
        for software in Software::BOTH {
            stage.serving(software, SERVING).await;
            stage.knows_keys(software).await;
        }
        Ok(stage)
    }

    /// Waits until these instances have all answered lately.
    async fn serving(&self, software: Software, wanted: &[(&str, &[&str])]) {
        for (host, names) in wanted {
            eventually(DEADLINE, || async {
                let mut answered = BTreeSet::new();
                for _ in 0..20 {
                    let reply = Case { host: "", ..GET }.send(software, host, &[]).await?;
                    answered.insert(reply.header("x-answered-by"));
                }
                let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
                ensure!(
                    answered == wanted,
                    "{host} is answered by {answered:?}, not {wanted:?}"
                );
                Ok(())
            })
            .await;
        }
    }

    /// Waits until it has fetched the keys of those who have some.
    async fn knows_keys(&self, software: Software) {
        const GOOD: [&[(&str, &str)]; 2] = [
            &[("authorization", r#"TOKEN {"iss": "conformance"}"#)],
            &[("authorization", r#"TOKEN {"iss": "partner", "aud": "web"}"#)],
        ];
        let host = format!("tokens.{}.example.com", software.name());
        for headers in GOOD {
            let case = Case {
                via: Via::Gateway,
                path: "/open",
                headers,
                ..GET
            };
            eventually(DEADLINE, || async {
                let reply = case.send(software, &host, &[]).await?;
                ensure!(
                    reply.status == 200,
                    "a good token is a {}: {}",
                    reply.status,
                    reply.text()
                );
                Ok(())
            })
            .await;
        }
    }

    async fn play(&mut self, case: &Case, software: Software) -> Result<()> {
        if let Some(name) = case.dies {
            self.instances
                .get_mut(name)
                .context("no such application")?
                .take_down()
                .await;
        }
        let played = self.requests(case, software).await;
        if let Some(name) = case.dies {
            self.instances
                .get_mut(name)
                .context("no such application")?
                .bring_up()
                .await?;
            for software in Software::BOTH {
                self.serving(software, SERVING).await;
            }
        }
        played
    }

    async fn requests(&mut self, case: &Case, software: Software) -> Result<()> {
        let host = case.host.replace("PROXY", software.name());
        let host = if case.host.contains("EXAMPLE") {
            host.to_uppercase()
        } else {
            host
        };
        let mut connection = Connection::open(case.via.address(software), case.version).await?;
        let mut by = BTreeMap::<String, usize>::new();
        for nth in 0..case.times {
            self.keys += 1;
            let key = format!("key-{}", self.keys);
            let body = pattern(case.body_bytes);
            let request = case.request(&host, &[(KEY, &key)], body.clone())?;
            let reply = connection
                .send(request)
                .await
                .with_context(|| format!("request {nth}"))?;
            *by.entry(reply.header("x-answered-by")).or_default() += 1;
            for expect in case.expect {
                expect
                    .check(&reply, &body, &self.applications.tries(&key), &host)
                    .with_context(|| format!("request {nth} got {} from {by:?}", reply.status))?;
                if let Expect::CopiedTo(name) = expect {
                    within(DEADLINE, async || {
                        let tries = self.applications.tries(&key);
                        ensure!(tries.iter().any(|by| by == name), "it came to {tries:?} only");
                        Ok(())
                    })
                    .await?;
                }
            }
        }
        for expect in case.expect {
            if let Expect::Share(name, (least, most)) = *expect {
                let share = by.get(name).copied().unwrap_or(0) * 100 / case.times;
                ensure!(
                    (least..=most).contains(&share),
                    "{name} answered {share} %, not {least} to {most}: {by:?}"
                );
            }
        }
        Ok(())
    }
}

fn node(software: Software, via: Via) -> Node {
    let (namespace, role) = match via {
        Via::Gateway => (
            "mesh",
            Role::Gateway {
                workload: software.name().to_owned(),
            },
        ),
        Via::Sidecar => (
            "shop",
            Role::Sidecar {
                outbound: via.address(software),
            },
        ),
    };
    Node {
        id: format!("{}-{via:?}", software.name()).to_lowercase(),
        cluster: CLUSTER.to_owned(),
        namespace: namespace.to_owned(),
        role,
    }
}

/// What the other cluster reports: the same service, behind its gateway.
fn there() -> Result<(ClusterName, ClusterReport)> {
    let report = json!({
        "services": {"shop/far": {"ports": [{"name": "http", "port": 8080}], "state": "up"}},
        "gateways": {"mesh/east-west": {"eastWest": ["127.0.29.60:15443"], "state": "up"}},
    });
    Ok(("there".parse()?, serde_json::from_value(report)?))
}

/// Bytes in which a lost or doubled piece shows.
fn pattern(count: usize) -> Bytes {
    (0..count).map(|at| (at / 251 + at % 251) as u8).collect()
}
