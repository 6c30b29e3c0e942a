//! A proxy's configuration as people read it: one line per route and per group of endpoints. Every field is taken apart
//! by name, so that a new one cannot be forgotten here.

use serde_json::{Value, json};
use tombolo_compiler::finding::Traced;
use tombolo_compiler::http::{HttpMatch, PathMatch, ValueMatch};
use tombolo_compiler::proxy::{
    Balancer, Check, Endpoint, EndpointGroup, Endpoints, Forward, Health, KeyHost, Listener, ProxyConfig,
    RetryPolicy, Route, RouteAction, RouteTable, Target, Upstream, VirtualHost,
};

pub(crate) fn config(config: &ProxyConfig) -> Value {
    let ProxyConfig {
        listeners,
        route_tables,
        clusters,
        endpoints,
        key_hosts,
    } = config;
    assert!(
        clusters.keys().eq(endpoints.keys()),
        "clusters and endpoints differ"
    );
    let map = |pairs: Vec<(&String, Value)>| -> Value {
        pairs
            .into_iter()
            .map(|(name, value)| (name.clone(), value))
            .collect()
    };
    let mut value = json!({
        "1 listeners": map(listeners.iter().map(|(name, l)| (name, listener(&l.value).into())).collect()),
        "2 routes": map(route_tables.iter().map(|(name, table)| (name, route_table(&table.value))).collect()),
        "3 upstreams": map(clusters.iter().map(|(name, c)| (name, upstream(c, &endpoints[name].value))).collect()),
    });
    if !key_hosts.is_empty() {
        let hosts = key_hosts.iter().map(|(name, host)| (name, key_host(&host.value)));
        value["4 keys"] = map(hosts.collect());
    }
    value
}

fn key_host(key_host: &KeyHost) -> Value {
    let KeyHost {
        host,
        port,
        addresses,
    } = key_host;
    assert!(addresses.is_empty(), "the compiler asks nobody");
    format!("{host} at port {port}").into()
}

fn listener(listener: &Listener) -> String {
    let Listener {
        bind,
        route_table,
        filters,
        issuers,
        quotas,
    } = listener;
    let filters: String = filters
        .iter()
        .map(|filter| format!(", with {filter:?}"))
        .collect();
    let tokens: String = issuers
        .iter()
        .map(|(host, issuers)| {
            let names: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
            format!(", {host} with tokens of {}", names.join(" and "))
        })
        .collect();
    let limits: String = quotas
        .iter()
        .map(|(host, limit)| format!(", {host} with a part of {} in {}", limit.requests, limit.per))
        .collect();
    format!("{bind} uses {route_table}{filters}{tokens}{limits}")
}

fn route_table(table: &RouteTable) -> Value {
    let RouteTable { ignore_port, hosts } = table;
    let hosts: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let VirtualHost {
                name,
                domains,
                routes,
                conduct,
            } = &host.value;
            let routes: Vec<Value> = routes.iter().map(route).collect();
            let mut value = json!({"host": name, "domains": domains, "routes": routes});
            if !conduct.is_empty() {
                value["conduct"] = json!(conduct);
            }
            value
        })
        .collect();
    json!({"ignore_port": ignore_port, "hosts": hosts})
}

fn route(route: &Traced<Route>) -> Value {
    let Route { matches, action } = &route.value;
    let (when, origin) = (match_text(matches), origin(route));
    match action {
        RouteAction::Respond { status, body } => {
            json!({"when": when, "answer": status, "body": body, "origin": origin})
        }
        RouteAction::Forward(forward) => {
            let Forward {
                targets,
                timeout,
                retry,
                edits,
                mirrors,
                fault,
                affinities,
            } = forward;
            let mut value = json!({
                "when": when,
                "to": targets.iter().map(target).collect::<Vec<_>>(),
                "with": format!("timeout {timeout}, {}", retry_text(retry)),
                "origin": origin,
            });
            if !edits.is_empty() {
                value["edits"] = json!(edits);
            }
            if !mirrors.is_empty() {
                let copies = mirrors.iter().map(|mirror| {
                    let percent = f64::from(mirror.share);
                    format!("{percent} % {}", mirror.cluster)
                });
                value["copies"] = copies.collect();
            }
            if let Some(fault) = fault {
                value["fault"] = json!(fault);
            }
            if !affinities.is_empty() {
                value["sticks to"] = json!(affinities);
            }
            value
        }
        RouteAction::Redirect(to) => json!({"when": when, "redirect": to, "origin": origin}),
    }
}

fn match_text(matches: &HttpMatch) -> String {
    let HttpMatch {
        path,
        method,
        headers,
        query_params,
        cookies,
    } = matches;
    let path = path.as_ref().map_or_else(|| "any path".to_owned(), path_text);
    let method = method.map_or_else(String::new, |method| format!(" and {}", method.as_str()));
    let headers = headers
        .iter()
        .map(|header| format!(" and {} {}", header.name.as_str(), value_text(&header.value, " ")));
    let params = query_params
        .iter()
        .map(|param| format!(" and ?{}{}", param.name.as_str(), value_text(&param.value, "")));
    let cookies = cookies.iter().map(|cookie| {
        let value = value_text(&cookie.value, " ");
        format!(" and cookie {} {value}", cookie.name.as_str())
    });
    path + &method + &headers.chain(params).chain(cookies).collect::<String>()
}

fn path_text(path: &PathMatch) -> String {
    let parts = path.parts().into_iter().map(|part| match part {
        PathMatch::Exact(path) => format!("path = {}", path.as_str()),
        PathMatch::PathPrefix(path) => format!("path in {}", path.as_str()),
        PathMatch::RegularExpression(pattern) => format!("path ~ {}", pattern.as_str()),
        PathMatch::All(_) => unreachable!("it has parts"),
    });
    parts.collect::<Vec<_>>().join(" and ")
}

fn value_text(value: &ValueMatch, space: &str) -> String {
    match value {
        ValueMatch::Exact(value) => format!("={space}{value}"),
        ValueMatch::RegularExpression(pattern) => format!("~{space}{}", pattern.as_str()),
    }
}

fn target(target: &Target) -> String {
    let Target {
        cluster,
        weight,
        destination,
    } = target;
    let destination = destination
        .as_ref()
        .map_or_else(String::new, |d| format!(" as {d}"));
    format!("{weight} {cluster}{destination}")
}

fn retry_text(retry: &RetryPolicy) -> String {
    match retry {
        RetryPolicy::Careful { attempts } => format!("{attempts} careful retries"),
        RetryPolicy::AsAsked {
            attempts,
            codes,
            backoff,
        } => {
            format!("{attempts} retries on {codes:?} after {backoff}")
        }
    }
}

fn upstream(upstream: &Traced<Upstream>, endpoints: &Endpoints) -> Value {
    let Upstream {
        http2,
        connect_timeout,
        health,
        balancer,
        connections_max,
        requests_max,
        outliers,
    } = &upstream.value;
    let Health {
        interval,
        timeout,
        unhealthy_threshold,
        check,
    } = health;
    let check = match check {
        Check::Tcp => "connect".to_owned(),
        Check::Http {
            host,
            path,
            destination,
        } => {
            let destination = destination
                .as_ref()
                .map_or_else(String::new, |d| format!(" as {d}"));
            format!("GET {host}{}{destination}", path.as_str())
        }
    };
    let Endpoints { priorities } = endpoints;
    let hosts: Vec<Vec<String>> = priorities
        .iter()
        .map(|groups| groups.iter().map(group).collect())
        .collect();
    let mut value = json!({
        "speaks": format!("{}, connects within {connect_timeout}", if *http2 { "HTTP/2" } else { "HTTP/1.1" }),
        "health": format!("{check} every {interval} within {timeout}, {unhealthy_threshold} strikes"),
        "hosts": hosts,
        "origin": origin(upstream),
    });
    if *balancer != Balancer::LeastRequest {
        value["balances"] = json!(balancer);
    }
    if connections_max.is_some() || requests_max.is_some() {
        let limit = |limit: &Option<u32>| limit.map_or_else(|| "any".to_owned(), |limit| limit.to_string());
        let (connections, requests) = (limit(connections_max), limit(requests_max));
        value["at most"] = json!(format!("{connections} connections, {requests} requests"));
    }
    if let Some(outliers) = outliers {
        value["outliers"] = json!(outliers);
    }
    value
}

fn group(group: &EndpointGroup) -> String {
    let EndpointGroup {
        region,
        zone,
        cluster,
        endpoints,
    } = group;
    let place = |name: &Option<tombolo_compiler::name::Label>| {
        name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|Endpoint { address, usable }| {
            let down = if *usable { "" } else { " (down)" };
            format!("{address}{down}")
        })
        .collect();
    format!(
        "{}/{}/{cluster}: {}",
        place(region),
        place(zone),
        endpoints.join(", ")
    )
}

fn origin<T>(traced: &Traced<T>) -> String {
    traced.origin.as_ref().map_or_else(
        || "nobody".to_owned(),
        |origin| format!("{} {}", origin.resource, origin.field),
    )
}
