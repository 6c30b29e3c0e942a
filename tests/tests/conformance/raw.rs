//! What no compiler of ours writes: the same resources straight over ADS to Envoy and to our proxy, the same requests to both,
//! and the same answers from both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteMatch, VirtualHost,
};
use http::Version;
use tombolo_tests::ads::{Ads, contract};
use tombolo_tests::client::{Connection, Reply};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::{Application, Applications, KEY};
use tombolo_tests::{eventually, tombolo_binary};

use crate::case::{Case, Expect, GET, Via};
use crate::{DEADLINE, pattern};

mod access;
mod calls;
mod differences;
mod domains;
mod filters;
mod headers;
mod hops;
mod matching;
mod pages;
mod places;
mod policies;
mod redirects;
mod refusals;
mod subsets;
mod tokens;
mod trouble;
mod upgrades;

/// Where everything is forwarded that goes to no [place](places).
const APPLICATION: &str = "127.0.29.71:8080";
/// Each in one version of HTTP and sent to both proxies: what the contract is known by.
const CASES_MIN: usize = 300;
const BOTH: &[Version] = &[Version::HTTP_11, Version::HTTP_2];

/// Routes of a virtual host, and what is asked of it.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) domains: Vec<String>,
    /// Those that it is asked in.
    pub(crate) versions: &'static [Version],
    pub(crate) routes: Vec<Route>,
    pub(crate) asks: Vec<Ask>,
}

pub(crate) struct Ask {
    pub(crate) host: String,
    pub(crate) case: Case,
    pub(crate) expect: Expect,
}

/// In what we differ from Envoy, on purpose or still: a row fails once it is no difference any more.
pub(crate) struct Difference {
    pub(crate) host: String,
    pub(crate) case: Case,
    pub(crate) versions: &'static [Version],
    pub(crate) envoy: Expect,
    pub(crate) ours: Expect,
    pub(crate) reason: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_and_our_proxy_read_resources_alike() {
    let (site, differences) = differences::site();
    let sites: Vec<Site> = [
        matching::sites(),
        domains::sites(),
        redirects::sites(),
        calls::sites(),
        subsets::sites(),
        access::sites(),
        headers::sites(),
        hops::sites(),
        pages::sites(),
        places::sites(),
        policies::sites(),
        tokens::sites(),
        trouble::sites(),
        upgrades::sites(),
        vec![site],
    ]
    .into_iter()
    .flatten()
    .collect();
    let stage = Stage::start(&sites).await.unwrap();
    let mut failures = Vec::new();
    let mut played = 0;
    for Site {
        name, versions, asks, ..
    } in &sites
    {
        for Ask { host, case, expect } in asks {
            for software in Software::BOTH {
                for version in versions.iter().copied() {
                    played += 1;
                    let reply = stage.ask(software, version, host, case).await;
                    let checked =
                        reply.and_then(|reply| expect.check(&reply, &pattern(case.body_bytes), &[], host));
                    if let Err(error) = checked {
                        failures.push(format!(
                            "{}, {version:?}, {name}: {} {host}{} {:?}: {error:#}",
                            software.name(),
                            case.method,
                            case.path,
                            case.headers
                        ));
                    }
                }
            }
        }
    }
    for difference in &differences {
        for software in Software::BOTH {
            let expect = match software {
                Software::Envoy => difference.envoy,
                Software::Tombolo => difference.ours,
            };
            for version in difference.versions {
                played += 1;
                let Difference {
                    host, case, reason, ..
                } = difference;
                let reply = stage.ask(software, *version, host, case).await;
                let checked =
                    reply.and_then(|reply| expect.check(&reply, &pattern(case.body_bytes), &[], host));
                if let Err(error) = checked {
                    failures.push(format!(
                        "{}, {version:?}, where {reason}: {error:#}",
                        software.name()
                    ));
                }
            }
        }
    }
    println!("{played} requests");
    let cases = played / Software::BOTH.len();
    assert!(cases >= CASES_MIN, "{cases} cases were played");
    assert!(
        failures.is_empty(),
        "{} of {played} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

struct Stage {
    _applications: Vec<Application>,
    _planes: Vec<Ads>,
    _proxies: Vec<Proxy>,
    _dir: tempfile::TempDir,
    addresses: BTreeMap<&'static str, SocketAddr>,
}

impl Stage {
    async fn start(sites: &[Site]) -> Result<Stage> {
        let dir = tempfile::tempdir()?;
        let all = Applications::default();
        let mut applications = subsets::applications(&all).await?;
        for (name, address) in [("application", APPLICATION)].iter().chain(places::HOSTS) {
            applications.push(all.start(name, address.parse()?).await?);
        }
        let hosts = sites.iter().map(|site| VirtualHost {
            name: site.name.to_owned(),
            domains: site.domains.clone(),
            routes: site.routes.clone(),
            ..VirtualHost::default()
        });
        let routes = contract::route_configuration(hosts.collect());
        let (mut planes, mut proxies, mut addresses) = (Vec::new(), Vec::new(), BTreeMap::new());
        for software in Software::BOTH {
            let listener = SocketAddr::new(Via::Gateway.address(software).ip(), 8090);
            let mut resources =
                contract::one_service(listener, &[APPLICATION.parse()?], contract::Retries::Other);
            resources.insert(contract::NAME, &routes);
            subsets::insert(&mut resources);
            resources.insert(
                contract::NAME,
                &contract::filtering_listener(listener, filters::of_listener()),
            );
            for (cluster, endpoints) in places::clusters() {
                resources.insert(&cluster.name, &cluster);
                resources.insert(&cluster.name, &endpoints);
            }
            let plane = Ads::start(resources).await;
            let node = Node {
                id: format!("raw-{}", software.name()),
                cluster: "here".to_owned(),
                namespace: "mesh".to_owned(),
                role: Role::Gateway {
                    workload: software.name().to_owned(),
                },
            };
            let proxy = Proxy::start(software, &node, plane.address(), &tombolo_binary(), dir.path()).await;
            proxies.push(proxy.with_context(|| format!("{} cannot be started", software.name()))?);
            planes.push(plane);
            addresses.insert(software.name(), listener);
        }
        for (software, plane) in Software::BOTH.into_iter().zip(&planes) {
            let refused = plane.answers().into_iter().find_map(|answer| answer.refusal);
            ensure!(refused.is_none(), "{} refuses {refused:?}", software.name());
        }
        let stage = Stage {
            _applications: applications,
            _planes: planes,
            _proxies: proxies,
            _dir: dir,
            addresses,
        };
        let first = sites.iter().find_map(|site| site.asks.first());
        let first = &first.context("there is no site")?.host;
        for software in Software::BOTH {
            eventually(DEADLINE, || async {
                let reply = stage.ask(software, Version::HTTP_11, first, &GET).await?;
                ensure!(
                    reply.status.is_success(),
                    "{} answers {}",
                    software.name(),
                    reply.status
                );
                Ok(())
            })
            .await;
        }
        Ok(stage)
    }

    async fn ask(&self, software: Software, version: Version, host: &str, case: &Case) -> Result<Reply> {
        let mut connection = Connection::open(self.addresses[software.name()], version).await?;
        // Its own, so that an application knows a first try from another one.
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        let key = format!("raw-{}", REQUESTS.fetch_add(1, Ordering::Relaxed));
        connection
            .send(case.request(host, &[(KEY, &key)], pattern(case.body_bytes))?)
            .await
    }
}

/// A site of its own host; each row is asked once for each thing that is expected.
fn site(name: &'static str, host: &str, routes: Vec<Route>, rows: &[(Case, &[Expect])]) -> Site {
    let asks = rows.iter().flat_map(|(case, expects)| {
        expects.iter().map(|expect| Ask {
            host: host.to_owned(),
            case: case.clone(),
            expect: *expect,
        })
    });
    Site {
        name,
        domains: vec![host.to_owned()],
        versions: BOTH,
        routes,
        asks: asks.collect(),
    }
}

fn at(path: &'static str) -> Case {
    Case { path, ..GET }
}

fn with(headers: &'static [(&'static str, &'static str)]) -> Case {
    Case { headers, ..GET }
}

fn prefix(text: &str) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix(text.to_owned())),
        ..RouteMatch::default()
    }
}

/// A route to where everything goes.
fn passes(matcher: RouteMatch) -> Route {
    forwards(matcher, contract::NAME, RouteAction::default())
}

/// A route to a cluster, with what else it does.
fn forwards(matcher: RouteMatch, cluster: &str, action: RouteAction) -> Route {
    Route {
        r#match: Some(matcher),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..action
        })),
        ..Route::default()
    }
}

/// A route that answers with `text`.
fn says(matcher: RouteMatch, text: &str) -> Route {
    Route {
        r#match: Some(matcher),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: 200,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(text.to_owned())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    }
}
