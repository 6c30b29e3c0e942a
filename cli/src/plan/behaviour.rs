//! The behaviour part of a plan as people read it: which hosts and services move, who reaches whom, and which proxies are
//! given something else.

use serde_json::Value;

use crate::output::{items, text};

/// A sentence for each thing that differs; none when nothing does.
pub(crate) fn sentences(behaviour: &Value) -> Vec<String> {
    let hosts = items(&behaviour["hosts"]).iter().map(host);
    let services = items(&behaviour["services"]).iter().map(service);
    let newly = items(&behaviour["newlyReachable"]).iter();
    let newly = newly.map(|reach| {
        format!(
            "{} can newly reach {}",
            source(&reach["from"]),
            text(&reach["to"])
        )
    });
    let lost = items(&behaviour["noLongerReachable"]).iter();
    let lost = lost.map(|reach| {
        format!(
            "{} can no longer reach {}",
            source(&reach["from"]),
            text(&reach["to"])
        )
    });
    let mut told: Vec<String> = hosts.chain(services).chain(newly).chain(lost).collect();
    for (field, what) in [("more", "and"), ("hidden", "that you may not read:")] {
        if let Some(count @ 1..) = behaviour[field].as_u64() {
            told.push(format!("{what} {count} more"));
        }
    }
    told.extend(proxies(&behaviour["proxies"]));
    told
}

/// With the reports that it was computed from, because it is as true as they are.
pub(crate) fn describe(behaviour: &Value) -> String {
    let sentences = sentences(behaviour);
    if sentences.is_empty() {
        return String::new();
    }
    let sentences: String = sentences
        .iter()
        .map(|sentence| format!("  {sentence}\n"))
        .collect();
    format!("behaviour, by what clusters report now:\n{sentences}")
}

fn host(moved: &Value) -> String {
    format!(
        "host {}: {} → {}",
        text(&moved["host"]),
        places(&moved["before"]),
        places(&moved["after"])
    )
}

fn places(places: &Value) -> String {
    let places: Vec<String> = items(places)
        .iter()
        .map(|place| {
            let gateway = text(&place["gateway"]);
            let services: Vec<String> = items(&place["services"]).iter().map(text).collect();
            let leaf = gateway.rsplit('/').next().unwrap_or_default();
            format!("{leaf} in {} to {}", text(&place["cluster"]), listed(&services))
        })
        .collect();
    listed(&places)
}

fn service(moved: &Value) -> String {
    format!(
        "service {} from {}: {} → {}",
        text(&moved["service"]),
        text(&moved["cluster"]),
        spread(&moved["before"]),
        spread(&moved["after"])
    )
}

fn spread(spread: &Value) -> String {
    if spread.is_null() {
        return "not routed".to_owned();
    }
    let rules: Vec<String> = items(&spread["rules"]).iter().map(text).collect();
    let tiers = spread["failover"].as_object().into_iter().flatten();
    let tiers: Vec<String> = tiers
        .flat_map(|(_, clusters)| items(clusters).iter().map(text))
        .collect();
    let failover = match tiers.is_empty() {
        true => String::new(),
        false => format!(", failover to {}", tiers.join(" then ")),
    };
    format!("{}{failover}", rules.join(" | "))
}

fn source(from: &Value) -> String {
    match (&from["namespace"], &from["outside"]) {
        (Value::Array(place), _) => {
            let place: Vec<String> = place.iter().map(text).collect();
            place.join("/")
        }
        (_, gateway) => format!("whoever reaches {}", text(gateway)),
    }
}

fn proxies(clusters: &Value) -> Vec<String> {
    let clusters = clusters.as_object().into_iter().flatten();
    clusters
        .map(|(cluster, proxies)| format!("{cluster}: {}", proxies_of_one(proxies)))
        .collect()
}

/// Those that its edge has named, or else how many there may be.
fn proxies_of_one(proxies: &Value) -> String {
    let changed = &proxies["changed"];
    let names: Vec<String> = items(&changed["names"]).iter().map(text).collect();
    let more = changed["more"].as_u64().unwrap_or_default();
    if !changed.is_null() {
        let rest = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let told = match names.len() as u64 + more {
            0 => "no proxy is given anything else".to_owned(),
            1 => format!("1 proxy is given something else: {}", listed(&names)),
            count => format!(
                "{count} proxies are given something else: {}{rest}",
                listed(&names)
            ),
        };
        let silent = match changed["silent"].as_u64() {
            Some(silent @ 1..) => format!("; of {silent} that went silent it is not known"),
            _ => String::new(),
        };
        let hidden = match proxies["routesHidden"].as_u64() {
            Some(hidden @ 1..) => format!("; not by the {hidden} changes of routes that you may not read"),
            _ => String::new(),
        };
        return format!("{told}{silent}{hidden}");
    }
    let told = match proxies["atMost"].as_u64() {
        Some(1) => "at most 1 proxy is given something else".to_owned(),
        Some(count) => format!("at most {count} proxies are given something else"),
        None => "its edge has not told how many proxies it has".to_owned(),
    };
    match proxies["away"].as_str() {
        Some(away) => format!("{told}; which is not known: {away}"),
        None => told,
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nowhere".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_a_sentence() {
        let behaviour = json!({
            "hosts": [{"host": "shop.example.com", "before": [], "after": [
                {"gateway": "organizations/acme/g/gateways/in", "cluster": "us-east", "services": ["shop/web"]}]}],
            "services": [{"service": "shop/web", "workspace": "w", "cluster": "us-east",
                "before": {"failover": {"1": ["us-west"], "2": ["eu"]}, "rules": ["v1 95 %, v2 5 %"]}, "after": null}],
            "newlyReachable": [{"from": {"outside": "organizations/acme/g/gateways/in"}, "to": "shop/web", "workspace": "w"}],
            "noLongerReachable": [{"from": {"namespace": ["us-east", "cart"]}, "to": "shop/web", "workspace": "w"}],
            "hidden": 2, "more": 0,
            "proxies": {
                "ap": {"atMost": 2, "away": "the edge of ap is not heard"},
                "eu": {"atMost": 9, "changed": {"names": ["gw-1", "web-1"], "more": 3, "silent": 1, "version": [1, 7]}},
                "me": {"atMost": 9, "routesHidden": 2,
                    "changed": {"names": [], "more": 0, "silent": 0, "version": [1, 7]}},
                "sa": {"atMost": 9, "changed": {"names": [], "more": 0, "silent": 0, "version": [1, 7]}},
                "us-east": {"atMost": 3}, "us-west": {"atMost": null}},
        });
        assert_eq!(
            sentences(&behaviour),
            [
                "host shop.example.com: nowhere → in in us-east to shop/web",
                "service shop/web from us-east: v1 95 %, v2 5 %, failover to us-west then eu → not routed",
                "whoever reaches organizations/acme/g/gateways/in can newly reach shop/web",
                "us-east/cart can no longer reach shop/web",
                "that you may not read: 2 more",
                "ap: at most 2 proxies are given something else; which is not known: the edge of ap is not heard",
                "eu: 5 proxies are given something else: gw-1, web-1 and 3 more; of 1 that went silent it is not known",
                "me: no proxy is given anything else; not by the 2 changes of routes that you may not read",
                "sa: no proxy is given anything else",
                "us-east: at most 3 proxies are given something else",
                "us-west: its edge has not told how many proxies it has",
            ]
        );
        assert_eq!(describe(&Value::Null), "");
    }
}
