//! A limit over all proxies of a gateway, from its resource to what two proxies let through: a real edge assigns the parts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::BucketAction;
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::Strategy;
use http::Request;
use http_body_util::Full;
use tombolo_tests::client::send;
use tombolo_tests::island::{Given, Island};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::relay::Relay;
use tombolo_tests::upstream::{Application, Applications};
use tombolo_tests::{eventually, free_port, tombolo_binary};

/// Longer than an assignment and what it is reused for, which is half a minute.
const DEADLINE: Duration = Duration::from_secs(60);
/// In a day: what comes in the minute of a test is less than one request, so that requests are counted, and no time.
const LIMIT: usize = 100;
/// A host without a limit.
const FREE: &str = "free.example.com";

const INTENT: &str = "
- {name: organizations/acme}
- {name: organizations/acme/clusters/here, spec: {region: north}}
- {name: organizations/acme/tenants/t}
- {name: organizations/acme/tenants/t/workspaces/w, spec: {namespaces: ['*/shop']}}
- {name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g}
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/in
  spec:
    workload: mesh/gateway
    type: ingress
    port: PORT
    hosts: [shop.example.com]
    rateLimit: {requests: LIMIT, per: 24h, over: Gateway}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/users
  spec:
    workload: mesh/gateway
    type: ingress
    port: PORT
    hosts: [users.example.com]
    rateLimit: {requests: LIMIT, per: 24h, over: Gateway, by: {header: x-user}}
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/free
  spec:
    workload: mesh/gateway
    type: ingress
    port: PORT
    hosts: [free.example.com]
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
";

struct Stage {
    island: Island,
    doors: Vec<Door>,
    _application: Application,
}

/// One proxy of the workload.
struct Door {
    address: SocketAddr,
    relay: Relay,
    proxy: Proxy,
}

impl Stage {
    /// `network` tells the addresses of one test from those of another.
    async fn start(network: u8, proxies: [Software; 2]) -> Result<Stage> {
        let application = SocketAddr::from(([127, 0, network, 10], free_port()));
        let application = Applications::default().start("web", application).await?;
        let at = application.address();
        let platform = format!(
            "services:\n- namespace: shop\n  name: web\n  ports: [{{name: http, port: 8080}}]\n  instances: [{{address: {}, ports: \
             {{http: {}}}}}]\ngateways:\n- {{namespace: mesh, name: gateway, bind: 127.0.{network}.1}}\n",
            at.ip(),
            at.port()
        );
        let port = free_port();
        let intent = INTENT
            .replace("PORT", &port.to_string())
            .replace("LIMIT", &LIMIT.to_string());
        let island = Island::start(Given {
            cluster: "here",
            intent: &intent,
            platform: &platform,
            others: BTreeMap::new(),
            issuer_ca: None,
        })
        .await?;
        let mut doors = Vec::new();
        for (number, software) in (1..).zip(proxies) {
            let ip = IpAddr::from([127, 0, network, number]);
            let relay = Relay::start(island.xds(), ip).await?;
            let node = Node {
                id: format!("gateway-{number}"),
                cluster: "here".to_owned(),
                namespace: "mesh".to_owned(),
                role: Role::Gateway {
                    workload: "gateway".to_owned(),
                },
            };
            let xds = relay.address();
            let proxy = Proxy::start(software, &node, xds, &tombolo_binary(), island.dir()).await?;
            let address = SocketAddr::new(ip, port);
            doors.push(Door {
                address,
                relay,
                proxy,
            });
        }
        let stage = Stage {
            island,
            doors,
            _application: application,
        };
        for door in &stage.doors {
            eventually(DEADLINE, || async {
                ensure!(door.ask(FREE, "").await?, "it has no limit");
                Ok(())
            })
            .await;
        }
        Ok(stage)
    }

    /// Until each proxy is assigned a half of it, after one request to each, which nobody has to wait for.
    async fn share(&self, host: &str, user: &str) {
        for door in &self.doors {
            assert!(door.ask(host, user).await.unwrap(), "the first of {host} {user}");
        }
        for door in &self.doors {
            eventually(DEADLINE, || async {
                let tokens = door.tokens(user);
                ensure!(
                    tokens == Some(LIMIT / 2),
                    "{} has {tokens:?} of {host} {user}: {}",
                    door.address,
                    door.proxy.log_tail()
                );
                Ok(())
            })
            .await;
        }
        // What its relay has seen a proxy reads while it does as much else.
        for door in &self.doors {
            door.is_open(FREE).await.unwrap();
        }
    }

    /// Asks one after the other in turns until each has had enough; says what each let through.
    async fn spend(&self, host: &str, user: &str) -> Vec<usize> {
        let mut passed = vec![0; self.doors.len()];
        for _ in 0..2 * LIMIT {
            for (door, passed) in self.doors.iter().zip(&mut passed) {
                *passed += usize::from(door.ask(host, user).await.unwrap());
            }
        }
        passed
    }
}

impl Door {
    /// Whether it lets a request through, or answers for its limit.
    async fn ask(&self, host: &str, user: &str) -> Result<bool> {
        let mut request = Request::get("/").header("host", host);
        if !user.is_empty() {
            request = request.header("x-user", user);
        }
        let reply = send(self.address, request.body(Full::default())?).await;
        let reply = reply.with_context(|| self.proxy.log_tail())?;
        match reply.status.as_u16() {
            200 => Ok(true),
            429 => Ok(false),
            status => bail!("{host} of {}: {status} {}", self.address, reply.text()),
        }
    }

    /// How many of that user's, or of those of the limit for all, it was last told that it may let through.
    fn tokens(&self, user: &str) -> Option<usize> {
        let told = self
            .relay
            .assigned()
            .into_iter()
            .flat_map(|told| told.bucket_action);
        let mut of_user = told.filter(|action| {
            let id = action.bucket_id.as_ref().map(|id| &id.bucket);
            let said = id.and_then(|id| id.get("header.x-user"));
            said.map_or("", String::as_str) == user
        });
        match of_user.next_back()?.bucket_action? {
            BucketAction::QuotaAssignmentAction(assigned) => match assigned.rate_limit_strategy?.strategy? {
                Strategy::TokenBucket(bucket) => usize::try_from(bucket.max_tokens).ok(),
                _ => None,
            },
            BucketAction::AbandonAction(_) => None,
        }
    }

    /// Whether it lets through more than any part of a limit has left.
    async fn is_open(&self, host: &str) -> Result<()> {
        for _ in 0..=LIMIT {
            ensure!(self.ask(host, "").await?, "{} limits {host}", self.address);
        }
        Ok(())
    }
}

/// A report that falls between the request of [`Stage::share`] and the others says that nobody wants anything: then one of them may have
/// nine tenths less. So less than the limit may come, and no more.
fn check(passed: &[usize], max: usize) {
    let sum: usize = passed.iter().sum();
    assert!(
        (LIMIT / 2..=max).contains(&sum) && !passed.contains(&0),
        "of a limit of {LIMIT} the proxies let through {passed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_hold_to_one_limit_and_outlive_their_edge() {
    let mut stage = Stage::start(33, [Software::Tombolo; 2]).await.unwrap();
    stage.share("shop.example.com", "").await;
    check(&stage.spend("shop.example.com", "").await, LIMIT);
    // Each user has a limit of his own, whoever has spent all of another one; who says no name is not counted.
    for user in ["ann", "bob"] {
        stage.share("users.example.com", user).await;
        check(&stage.spend("users.example.com", user).await, LIMIT);
    }
    for door in &stage.doors {
        assert!(door.ask("users.example.com", "").await.unwrap());
        door.is_open(FREE).await.unwrap();
    }

    let killed = Instant::now();
    stage.island.kill_edge();
    for host in ["shop.example.com", FREE] {
        for door in &stage.doors {
            let is_free = host == FREE;
            assert_eq!(door.ask(host, "").await.unwrap(), is_free, "{host}");
        }
    }
    for door in &stage.doors {
        eventually(DEADLINE, || door.is_open("shop.example.com")).await;
    }
    // It was told up to 5 s before, for 15 s or little more, and then goes on for 15 s.
    let held = killed.elapsed();
    assert!(held > Duration::from_secs(20), "{held:?}");

    stage.island.restart_edge().await.unwrap();
    for door in &stage.doors {
        eventually(DEADLINE, || async {
            let passed = door.is_open("shop.example.com").await;
            ensure!(passed.is_err(), "nobody limits it again");
            Ok(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_has_a_part_of_the_same_limit() {
    let stage = Stage::start(34, [Software::Tombolo, Software::Envoy])
        .await
        .unwrap();
    stage.share("shop.example.com", "").await;
    // It begins anew where its part is another one, in an interval once at most.
    let max = LIMIT + LIMIT / 2;
    check(&stage.spend("shop.example.com", "").await, max);
    for door in &stage.doors {
        door.is_open(FREE).await.unwrap();
    }
}
