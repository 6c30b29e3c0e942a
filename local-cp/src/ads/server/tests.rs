#![allow(clippy::unwrap_used)]
//! temporary
use super::*;
use tombolo_compiler::finding::Traced;
use tombolo_compiler::http::*;
use tombolo_compiler::proxy::*;
use tombolo_compiler::proxy::{Listener, Target};

fn fixed(_: &Snapshot, _: &ProxyNode) -> (ProxyConfig, Vec<Finding>) {
    let path = |p: &str| Path::try_from(p.to_owned()).unwrap();
    let up = |check| {
        Traced::untraced(Upstream {
            http2: false,
            connect_timeout: Span::from_ms(500),
            health: Health {
                interval: Span::from_ms(400),
                timeout: Span::from_ms(400),
                unhealthy_threshold: 2,
                check,
            },
        })
    };
    let ep = |a: &str| Endpoint {
        address: a.parse().unwrap(),
        usable: true,
    };
    let eps = |a: &[&str], b: &[&str]| {
        Traced::untraced(Endpoints {
            priorities: vec![
                vec![EndpointGroup {
                    region: Some("us".parse().unwrap()),
                    zone: None,
                    cluster: "us-east".parse().unwrap(),
                    endpoints: a.iter().map(|a| ep(a)).collect(),
                }],
                vec![EndpointGroup {
                    region: Some("us".parse().unwrap()),
                    zone: None,
                    cluster: "us-west".parse().unwrap(),
                    endpoints: b.iter().map(|a| ep(a)).collect(),
                }],
            ],
        })
    };
    let fw = |targets: Vec<Target>, retry| {
        Traced::untraced(Route {
            matches: HttpMatch::default(),
            action: RouteAction::Forward(Forward {
                targets,
                timeout: Span::from_ms(5000),
                retry,
                remove_headers: vec![HeaderName::try_from("x-gone".to_owned()).unwrap()],
            }),
        })
    };
    let t = |c: &str, w| Target {
        cluster: c.into(),
        weight: w,
        destination: Some(format!("{c}.dest")),
    };
    let mut api = fw(vec![t("a", 50), t("b", 50)], RetryPolicy::Careful { attempts: 2 });
    api.value.matches.path = Some(PathMatch::PathPrefix(path("/api/")));
    let mut ex = fw(
        vec![t("a", 100)],
        RetryPolicy::AsAsked {
            attempts: 2,
            codes: [500, 503].into(),
            backoff: Span::from_ms(10),
        },
    );
    ex.value.matches.path = Some(PathMatch::Exact(path("/exact")));
    ex.value.matches.headers.insert(HeaderMatch {
        name: HeaderName::try_from("x-who".to_owned()).unwrap(),
        value: "me".into(),
    });
    let refuse = Traced::untraced(Route {
        matches: HttpMatch {
            path: Some(PathMatch::Exact(path("/no"))),
            headers: Default::default(),
        },
        action: RouteAction::Respond {
            status: 503,
            body: "refused: no such".into(),
        },
    });
    let config = ProxyConfig {
        listeners: [(
            "in".to_owned(),
            Traced::untraced(Listener {
                bind: "127.0.0.1:18080".parse().unwrap(),
                route_table: "in".into(),
            }),
        )]
        .into(),
        route_tables: [(
            "in".to_owned(),
            Traced::untraced(RouteTable {
                ignore_port: true,
                hosts: vec![VirtualHost {
                    name: "all".into(),
                    domains: ["*".to_owned()].into(),
                    routes: vec![
                        ex,
                        refuse,
                        api,
                        fw(vec![t("a", 100)], RetryPolicy::Careful { attempts: 2 }),
                    ],
                }],
            }),
        )]
        .into(),
        clusters: [
            (
                "a".to_owned(),
                up(Check::Http {
                    host: "a.x".into(),
                    path: path("/"),
                    destination: Some("a.d".into()),
                }),
            ),
            ("b".to_owned(), up(Check::Tcp)),
        ]
        .into(),
        endpoints: [
            (
                "a".to_owned(),
                eps(&["127.0.0.1:19001", "127.0.0.1:19002"], &["127.0.0.1:19003"]),
            ),
            ("b".to_owned(), eps(&[], &["127.0.0.1:19003"])),
        ]
        .into(),
    };
    (config, vec![])
}

#[tokio::test]
#[ignore]
async fn manual() {
    let (_tx, snapshots) = watch::channel(Some(Arc::new(Snapshot {
        cluster: "us-east".parse().unwrap(),
        version: (1, 1),
        slice: Arc::default(),
        view: Arc::default(),
    })));
    let (_trigger, shutdown) = Shutdown::new();
    let fleet = Fleet::new();
    let ads = Ads {
        cluster: "us-east".parse().unwrap(),
        snapshots,
        lower: fixed,
        fleet: fleet.clone(),
        metrics: Metrics::default(),
        shutdown,
    };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(ads.into_service())
            .serve("127.0.0.1:18010".parse().unwrap()),
    );
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("{:?}", crate::fleet::receipt((1, 1), &fleet.members()));
    }
}
