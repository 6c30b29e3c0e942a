//! A resource that a proxy cannot use is refused by name; what came with it is used.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::route::v3::{RouteAction, VirtualHost};
use tombolo_tests::ads::{Ads, Answer, contract};
use tombolo_tests::client::get;
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::Applications;
use tombolo_tests::{eventually, tombolo_binary};

use super::{forwards, passes, prefix};
use crate::DEADLINE;

const APPLICATION: &str = "127.0.29.90:8080";
const LISTENERS: [(&str, Software); 2] = [
    ("127.0.29.91:8090", Software::Envoy),
    ("127.0.29.92:8090", Software::Tombolo),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_cluster_holds_up_no_other() {
    let applications = Applications::default();
    let application = APPLICATION.parse().unwrap();
    let _application = applications.start("application", application).await.unwrap();
    for (listener, software) in LISTENERS {
        refuses_one(listener.parse().unwrap(), application, software)
            .await
            .with_context(|| software.name())
            .unwrap();
    }
}

async fn refuses_one(listener: SocketAddr, application: SocketAddr, software: Software) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut resources = contract::one_service(listener, &[application], contract::Retries::Other);
    let plane = Ads::start(resources.clone()).await;
    let node = Node {
        id: format!("refusals-{}", software.name()),
        cluster: "here".to_owned(),
        namespace: "mesh".to_owned(),
        role: Role::Gateway {
            workload: software.name().to_owned(),
        },
    };
    let _proxy = Proxy::start(software, &node, plane.address(), &tombolo_binary(), dir.path()).await?;
    let mut bad = contract::cluster("bad");
    bad.lb_policy = LbPolicy::LoadBalancingPolicyConfig as i32;
    resources.insert("bad", &bad);
    resources.insert("good", &contract::cluster("good"));
    resources.insert("good", &contract::endpoints("good", &[application]));
    let host = VirtualHost {
        name: contract::NAME.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![
            forwards(prefix("/good"), "good", RouteAction::default()),
            passes(prefix("/")),
        ],
        ..VirtualHost::default()
    };
    resources.insert(contract::NAME, &contract::route_configuration(vec![host]));
    plane.publish(resources);
    let refusal = eventually(DEADLINE, || async {
        let refused = |answer: Answer| answer.refusal;
        let refusal = plane.answers().into_iter().find_map(refused);
        refusal.context("nothing was refused")
    })
    .await;
    ensure!(
        refusal.contains("bad") && !refusal.contains("good"),
        "{refusal:?} does not name the one that is bad"
    );
    eventually(DEADLINE, || async {
        let reply = get(listener, "/good").await?;
        ensure!(reply.status.is_success(), "the good one answers {}", reply.status);
        Ok(())
    })
    .await;
    Ok(())
}
