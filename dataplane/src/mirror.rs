//! Copies of requests, sent to a cluster of their own while the request goes its way. Nobody waits for what they bring, and
//! what is too much is not copied.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::oneshot;

use crate::balance::{Draw, Tried};
use crate::config::{MILLION, Mirror};
use crate::forward::Head;
use crate::upload::{RequestBody, Upload};
use crate::upstream::Attempt;
use crate::worker::{Worker, WorkerCluster};

/// Of one worker at once; as many requests as Envoy lets wait for one cluster.
const COPIES_MAX: usize = 1024;
/// For a copy of a request that may take for ever.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Those that this request goes to as well.
pub(crate) fn drawn<'a>(mirrors: &'a [Mirror], draw: &impl Draw) -> Vec<&'a Mirror> {
    let chosen = mirrors
        .iter()
        .filter(|mirror| draw.below(MILLION) < mirror.millionths);
    chosen.collect()
}

/// Sends a copy to each, as soon as all of the request has come; within `timeout`, if there is one.
pub(crate) fn send(
    worker: &Rc<Worker>,
    mirrors: &[&Mirror],
    head: &Head,
    upload: Option<&Rc<Upload>>,
    timeout: Option<Duration>,
) {
    for mirror in mirrors {
        let Some(cluster) = worker.view().cluster(&mirror.cluster) else {
            continue;
        };
        let Some(counted) = worker.copying(COPIES_MAX) else {
            return;
        };
        let copied = copy(
            Rc::clone(worker),
            cluster,
            head.clone(),
            upload.map(|upload| upload.copied()),
        );
        tokio::task::spawn_local(async move {
            // Late or not, there is nobody to tell.
            let _ = tokio::time::timeout(timeout.unwrap_or(TIMEOUT), copied).await;
            drop(counted);
        });
    }
}

async fn copy(
    worker: Rc<Worker>,
    cluster: Rc<WorkerCluster>,
    head: Head,
    body: Option<oneshot::Receiver<RequestBody>>,
) {
    let body = match body {
        None => RequestBody::Empty,
        Some(body) => match body.await {
            Ok(body) => body,
            // It broke off, or was too large to be kept.
            Err(_) => return,
        },
    };
    let tried = &mut Tried::default();
    let Some((pool, _)) = cluster.choose(&worker.random, tried, None, None, None, None) else {
        return;
    };
    if !cluster.allows_request() {
        return;
    }
    let attempt = Attempt {
        config: &cluster.live.config,
        buffers: &worker.buffers,
        upload: None,
        connected: &Cell::new(false),
    };
    let Ok((response, lease)) = attempt
        .send(&pool, &head, Cow::Borrowed(&head.headers), body)
        .await
    else {
        return;
    };
    let mut answer = response.into_body();
    while let Some(frame) = answer.frame().await {
        if frame.is_err() {
            return;
        }
    }
    answer.keep(&lease);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Always;

    #[test]
    fn a_share_is_a_part_of_a_million() {
        let mirrors = [0, 1, 500_000, MILLION].map(|millionths| Mirror {
            cluster: "copies".into(),
            millionths,
        });
        for (drawn_number, expected) in [(0, 3), (1, 2), (499_999, 2), (500_000, 1), (999_999, 1)] {
            assert_eq!(
                drawn(&mirrors, &Always(drawn_number)).len(),
                expected,
                "{drawn_number}"
            );
        }
    }
}
