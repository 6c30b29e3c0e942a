//! Which proxies a change touches, as the edges of their clusters tell it: asked of those that are heard, for whoever may
//! read the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::plan::SliceChange;
use tombolo_compiler::touched::{Touched, TouchedAsked};

use crate::mesh::Mesh;
use crate::questions::Questions;

/// Edges that one plan asks at a time: a central has room for twice as many questions.
const ASKED_AT_ONCE: usize = 8;
/// A person waits for it, and most answers take milliseconds.
const ASKING_TIMEOUT: Duration = Duration::from_secs(3);

/// By cluster, what its edge is to be asked, or why it is not.
pub(crate) type Asking = BTreeMap<ClusterName, Result<TouchedAsked, String>>;

/// Of the clusters that the caller may know: names of proxies tell of nothing else.
pub(crate) fn questions<'a>(
    changes: &BTreeMap<&'a ClusterName, Vec<&'a SliceChange>>,
    mesh: &Mesh,
    may_know: impl Fn(&ClusterName) -> bool,
) -> Asking {
    let known = changes.iter().filter(|(cluster, _)| may_know(cluster));
    known
        .map(|(&cluster, changes)| {
            let asked = match mesh.heard.get(cluster).map(|heard| heard.agent) {
                Some(Agent::Live) => Ok(TouchedAsked::of(changes.iter().copied())),
                _ => Err(format!("the edge of {cluster} is not heard")),
            };
            (cluster.clone(), asked)
        })
        .collect()
}

/// Adds to each cluster of `proxies`, which counts them, those that are `changed`, or why its edge is `away`.
pub(crate) async fn name(edges: &Questions, asking: Asking, proxies: &mut Value) {
    let deadline = Instant::now() + ASKING_TIMEOUT;
    let ask = |(cluster, asked): (ClusterName, Result<TouchedAsked, String>)| async move {
        let told = match asked {
            Ok(asked) => timeout_at(deadline, edges.ask::<Touched>(&cluster, &asked))
                .await
                .unwrap_or_else(|_| Err(format!("there was no time left to ask the edge of {cluster}"))),
            Err(away) => Err(away),
        };
        (cluster, told)
    };
    let mut told = stream::iter(asking).map(ask).buffer_unordered(ASKED_AT_ONCE);
    while let Some((cluster, told)) = told.next().await {
        match told {
            Ok(touched) => proxies[cluster.as_str()]["changed"] = json!(touched),
            Err(away) => proxies[cluster.as_str()]["away"] = away.into(),
        }
    }
}
