//! What an edge answers to those above, from what it holds: what a proxy of its cluster does with a request, and which of
//! its proxies a change of routes would touch.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tombolo_compiler::explain::{self, Told, trace};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::touched::{self, TouchedAsked, touched};
use tombolo_proto::frame::{ANSWER_BYTES_MAX, Question};

use crate::fleet::Fleet;
use crate::snapshot::Snapshot;

/// Management waits a little longer for it.
const TELLING_TIME_MAX: Duration = Duration::from_millis(1500);

/// What an edge is asked; each has fields that no other has.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Trace(explain::Asked),
    Touched(TouchedAsked),
}

/// The answer's body, or a sentence that says why there is none.
pub(super) fn answer(
    cluster: &ClusterName,
    snapshot: Option<&Snapshot>,
    fleet: &Fleet,
    question: &Question,
) -> Result<Vec<u8>, String> {
    if question.cluster != cluster.as_str() {
        return Err(format!(
            "this is the edge of {cluster}, not of {}",
            question.cluster
        ));
    }
    let asked: Asked = serde_json::from_slice(&question.body)
        .map_err(|error| format!("the edge of {cluster} cannot read the question: {error}"))?;
    let snapshot =
        snapshot.ok_or_else(|| format!("the edge of {cluster} does not hold both slice and view yet"))?;
    let Snapshot {
        version, slice, view, ..
    } = snapshot;
    let body = match asked {
        Asked::Trace(explain::Asked { entry, request }) => serde_json::to_vec(&Told {
            version: *version,
            trace: trace(cluster, slice, view, &entry, &request),
        }),
        Asked::Touched(asked) => {
            let proxies = fleet.proxies();
            let proxies = touched::Proxies {
                connected: proxies
                    .connected
                    .into_values()
                    .map(|member| member.node)
                    .collect(),
                silent: proxies.unknown.len(),
            };
            let end = Instant::now() + TELLING_TIME_MAX;
            let in_time = || Instant::now() < end;
            let told = touched(cluster, (*version, slice), view, &proxies, &asked, in_time);
            let told = told.map_err(|why| format!("the edge of {cluster} does not tell: {why}"))?;
            serde_json::to_vec(&told)
        }
    };
    let body = body.map_err(|error| error.to_string())?;
    if body.len() > ANSWER_BYTES_MAX {
        return Err(format!("the answer of the edge of {cluster} is too large"));
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tombolo_compiler::proxy::{ProxyNode, ProxyRole};

    use super::*;
    use crate::ads::node::{Acknowledges, Dialect, Introduction};
    use crate::fleet::Roster;

    #[test]
    fn a_question_is_answered_from_what_the_edge_holds_or_refused_with_the_reason() {
        let cluster: ClusterName = "us-east".parse().unwrap();
        let snapshot = Snapshot {
            cluster: cluster.clone(),
            version: (1, 7),
            slice: Arc::default(),
            view: Arc::default(),
            addresses: Arc::default(),
            authorities: None,
        };
        let asked = json!({"entry": {"sidecar": "shop"}, "request": {"url": "http://reviews/"}}).to_string();
        let question = |cluster: &str, body: &str| Question {
            id: 1,
            cluster: cluster.to_owned(),
            body: body.to_owned().into(),
        };
        let fleet = Fleet::new(Roster::default());
        let good = |asked: &str| {
            let good = answer(&cluster, Some(&snapshot), &fleet, &question("us-east", asked)).unwrap();
            serde_json::from_slice::<Value>(&good).unwrap()
        };
        let told: Told = serde_json::from_value(good(&asked)).unwrap();
        assert_eq!(told.version, (1, 7));

        let node = ProxyNode {
            id: "web-1".to_owned(),
            role: ProxyRole::Sidecar {
                namespace: "shop".parse().unwrap(),
                outbound: ([127, 0, 0, 1], 15001).into(),
            },
        };
        let _seat = fleet.join(&Introduction {
            node,
            acknowledges: Acknowledges::Activated,
            dialect: Dialect::Proxy,
        });
        let workspace = "organizations/acme/tenants/a/workspaces/w";
        let owner = json!({"namespace": {"value": {"workspace": workspace}}});
        let told = good(&json!({"after": {"namespaces/shop": owner}}).to_string());
        assert_eq!(
            told,
            json!({"version": [1, 7], "names": ["web-1"], "more": 0, "silent": 0})
        );
        let told = good(&json!({"after": {"namespaces/media": owner}}).to_string());
        assert_eq!(told["names"], json!([]));
        for (held, question, reason) in [
            (Some(&snapshot), question("us-west", &asked), "not of us-west"),
            (
                Some(&snapshot),
                question("us-east", "{}"),
                "cannot read the question",
            ),
            (None, question("us-east", &asked), "does not hold both"),
            (
                Some(&snapshot),
                question("us-east", r#"{"after": {"pods/x": null}}"#),
                "pods/x",
            ),
        ] {
            let refused = answer(&cluster, held, &fleet, &question).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
