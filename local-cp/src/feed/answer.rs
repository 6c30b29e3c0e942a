//! What an edge answers to those above: what a proxy of its cluster does with a request, from what the edge holds.

use tombolo_compiler::explain::{Asked, Told, trace};
use tombolo_compiler::name::ClusterName;
use tombolo_proto::frame::{ANSWER_BYTES_MAX, Question};

use crate::snapshot::Snapshot;

/// The answer's body, or a sentence that says why there is none.
pub(super) fn answer(
    cluster: &ClusterName,
    snapshot: Option<&Snapshot>,
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
    let told = Told {
        version: snapshot.version,
        trace: trace(
            cluster,
            &snapshot.slice,
            &snapshot.view,
            &asked.entry,
            &asked.request,
        ),
    };
    let body = serde_json::to_vec(&told).map_err(|error| error.to_string())?;
    if body.len() > ANSWER_BYTES_MAX {
        return Err(format!("the answer of the edge of {cluster} is too large"));
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_is_answered_from_what_the_edge_holds_or_refused_with_the_reason() {
        let cluster: ClusterName = "us-east".parse().unwrap();
        let snapshot = Snapshot {
            cluster: cluster.clone(),
            version: (1, 7),
            slice: Arc::default(),
            view: Arc::default(),
        };
        let asked = json!({"entry": {"sidecar": "shop"}, "request": {"url": "http://reviews/"}}).to_string();
        let question = |cluster: &str, body: &str| Question {
            id: 1,
            cluster: cluster.to_owned(),
            body: body.to_owned().into(),
        };
        let good = answer(&cluster, Some(&snapshot), &question("us-east", &asked)).unwrap();
        let told: Told = serde_json::from_slice(&good).unwrap();
        assert_eq!(told.version, (1, 7));
        for (held, question, reason) in [
            (Some(&snapshot), question("us-west", &asked), "not of us-west"),
            (
                Some(&snapshot),
                question("us-east", "{}"),
                "cannot read the question",
            ),
            (None, question("us-east", &asked), "does not hold both"),
        ] {
            let refused = answer(&cluster, held, &question).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
