//! What a route configuration, its hosts and their routes do to headers, and what else hosts say for all of their routes.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, Route, RouteConfiguration, redirect_action,
};
use envoy_types::pb::google::protobuf::UInt32Value;
use http::HeaderMap;

use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{Proxy, client, eventually, free_address, get};
use crate::support::upstream::{Mood, Upstream};

/// Sets `x-level` and adds to `x-levels`.
fn rules(level: &str) -> Vec<HeaderValueOption> {
    let line = |key: &str, action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: level.to_owned(),
            ..Default::default()
        }),
        append_action: action as i32,
        ..Default::default()
    };
    vec![
        line("x-level", HeaderAppendAction::OverwriteIfExistsOrAdd),
        line("x-levels", HeaderAppendAction::AppendIfExistsOrAdd),
    ]
}

fn leveled(routes: Vec<Route>) -> RouteConfiguration {
    let mut table = mesh::routes("in", routes);
    table.response_headers_to_add = rules("table");
    table.request_headers_to_add = rules("table");
    let host = &mut table.virtual_hosts[0];
    host.response_headers_to_add = rules("host");
    host.request_headers_to_add = rules("host");
    for route in &mut host.routes {
        route.response_headers_to_add = rules("route");
        route.request_headers_to_add = rules("route");
    }
    table
}

fn answering(path: &str, action: Action) -> Route {
    Route {
        action: Some(action),
        ..mesh::to_cluster(path, "a")
    }
}

fn levels(headers: &HeaderMap) -> Vec<&str> {
    let of = |name: &str| {
        headers
            .get_all(name)
            .into_iter()
            .map(|value| value.to_str().unwrap())
    };
    of("x-level").chain(of("x-levels")).collect()
}

async fn started(
    host: &Upstream,
    table: &RouteConfiguration,
) -> (AdsServer, SocketAddr, Proxy, tempfile::TempDir) {
    let edge = AdsServer::start_at(free_address()).await;
    let (listener, data) = (free_address(), tempfile::tempdir().unwrap());
    edge.put("a", &mesh::cluster("a"));
    edge.put("a", &mesh::endpoints("a", &[(host.address, 0)]));
    edge.put("in", &mesh::listener("in", listener, "in"));
    edge.put("in", table);
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    (edge, listener, proxy, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_have_the_rules_of_all_levels() {
    let host = Upstream::start("a").await;
    let direct = DirectResponseAction {
        status: 200,
        ..Default::default()
    };
    let redirect = RedirectAction {
        path_rewrite_specifier: Some(redirect_action::PathRewriteSpecifier::PathRedirect(
            "/x".to_owned(),
        )),
        ..Default::default()
    };
    let table = leveled(vec![
        answering("/direct", Action::DirectResponse(direct)),
        answering("/lead", Action::Redirect(redirect)),
        mesh::to_cluster("/", "a"),
    ]);
    let (edge, listener, _proxy, _data) = started(&host, &table).await;
    let outermost = ["table", "route", "host", "table"];
    for path in ["direct", "lead", "host"] {
        let answer = get(&client(), &format!("http://{listener}/{path}"))
            .await
            .unwrap();
        assert_eq!(levels(&answer.headers), outermost, "{path}");
    }
    assert_eq!(levels(&host.last_headers()), outermost, "what the host is told");
    let specific = RouteConfiguration {
        most_specific_header_mutations_wins: true,
        ..table
    };
    edge.put("in", &specific);
    eventually("the routes are others", || async {
        let answer = get(&client(), &format!("http://{listener}/host")).await.unwrap();
        levels(&answer.headers) == ["route", "table", "host", "route"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_repeat_requests_as_their_host_says() {
    let host = Upstream::start("a").await;
    host.mood.send_replace(Mood::Refusing);
    let mut table = mesh::routes("in", vec![mesh::to_cluster("/", "a")]);
    table.virtual_hosts[0].retry_policy = Some(RetryPolicy {
        retry_on: "5xx".to_owned(),
        num_retries: Some(UInt32Value { value: 2 }),
        ..Default::default()
    });
    let (_edge, listener, _proxy, _data) = started(&host, &table).await;
    get(&client(), &format!("http://{listener}/")).await.unwrap();
    assert_eq!(host.requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_may_require_tls() {
    let host = Upstream::start("a").await;
    let mut table = mesh::routes("in", vec![mesh::to_cluster("/", "a")]);
    table.virtual_hosts[0].require_tls = 2;
    let (_edge, listener, _proxy, _data) = started(&host, &table).await;
    let answer = get(&client(), &format!("http://{listener}/b?c=d")).await.unwrap();
    assert_eq!(answer.status, 301);
    assert_eq!(answer.headers["location"], format!("https://{listener}/b?c=d"));
}
