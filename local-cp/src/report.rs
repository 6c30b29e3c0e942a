//! What goes up: the services and gateways of the view, and the receipt of the fleet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::{Receipt, ReportItem};
use tombolo_compiler::view::View;
use tombolo_proto::codec::{EncodeError, encode};
use tombolo_proto::held::{Stamp, Version};
use tombolo_proto::resource::Set;
use tombolo_proto::session::Publication;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::fleet::{Fleet, receipt};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// The name of the receipt on the feed.
const RECEIPT: &str = "receipt";
/// A view changes in bursts, and other clusters wait for it.
const VIEW_COALESCE: Duration = Duration::from_millis(2);
/// People wait for a receipt: it can wait until every proxy has spoken, and leaves the machine to the change until then.
const RECEIPT_COALESCE: Duration = Duration::from_millis(20);

/// Makes publications in the order of their versions.
#[derive(Debug)]
pub(crate) struct Reporter {
    source: String,
    incarnation: u64,
    sequence: u64,
    set: Arc<Set>,
}

impl Reporter {
    pub(crate) fn new(cluster: &ClusterName, incarnation: u64) -> Reporter {
        Reporter {
            source: cluster.to_string(),
            incarnation,
            sequence: 0,
            set: Arc::default(),
        }
    }

    /// The next publication, or `None` when nothing differs from the last one.
    fn publish(&mut self, view: &View, receipt: Option<&Receipt>) -> Option<Publication> {
        let mut items: BTreeMap<String, ReportItem> = view.report().items();
        if let Some(receipt) = receipt {
            items.insert(RECEIPT.to_owned(), ReportItem::Receipt(receipt.clone()));
        }
        let mut set = Set::new();
        for (name, item) in items {
            match encode(name.clone(), &item) {
                Ok(resource) => drop(set.insert(name, resource)),
                Err(error) => self.keep(&mut set, name, &error),
            }
        }
        if self.sequence > 0 && *self.set == set {
            return None;
        }
        self.sequence += 1;
        self.set = Arc::new(set);
        Some(Publication {
            stamp: Stamp {
                version: Version {
                    epoch: self.incarnation,
                    revision: self.sequence,
                },
                source: self.source.clone(),
                sequence: 0,
            },
            set: self.set.clone(),
            complete: true,
        })
    }

    /// What cannot be written is as it was: leaving it out would withdraw it.
    fn keep(&self, set: &mut Set, name: String, error: &EncodeError) {
        tracing::error!(
            name,
            error = chain(error),
            "part of the report cannot be written; the last one stays"
        );
        if let Some(before) = self.set.get(&name) {
            set.insert(name, before.clone());
        }
    }
}

/// Publishes whenever the view, the slice or a proxy changes.
pub(crate) async fn run(
    mut reporter: Reporter,
    mut views: watch::Receiver<Option<Arc<View>>>,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    fleet: Fleet,
    metrics: Metrics,
    publications: watch::Sender<Option<Publication>>,
    mut shutdown: Shutdown,
) {
    let mut changes = fleet.subscribe();
    loop {
        let view = views.borrow_and_update().clone();
        let version = snapshots
            .borrow_and_update()
            .as_ref()
            .map(|snapshot| snapshot.version);
        changes.mark_unchanged();
        let next_forgotten = fleet.forget_silent(Instant::now());
        let proxies = fleet.proxies();
        fleet.share(&proxies);
        let receipt = version.map(|version| receipt(version, &proxies));
        metrics.set_receipt(receipt.as_ref());
        if let Some(view) = view
            && let Some(publication) = reporter.publish(&view, receipt.as_ref())
        {
            publications.send_replace(Some(publication));
        }
        let receipt_changes = async {
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                Ok(()) = changes.changed() => {}
                () = sleep_until(next_forgotten.unwrap_or_else(Instant::now)), if next_forgotten.is_some() => {}
            }
            sleep(RECEIPT_COALESCE).await;
        };
        tokio::select! {
            Ok(()) = views.changed() => sleep(VIEW_COALESCE).await,
            () = receipt_changes => {}
            () = shutdown.wait() => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::view::LocalGateway;

    use super::*;

    #[test]
    fn publications_grow_and_are_made_for_a_difference_only() {
        let mut reporter = Reporter::new(&"us-east".parse().unwrap(), 1000);
        let mut view = View::default();
        let first = reporter.publish(&view, None).unwrap();
        assert_eq!(
            first.stamp.version,
            Version {
                epoch: 1000,
                revision: 1
            }
        );
        assert!(
            first.complete && first.set.is_empty(),
            "an empty cluster is a report too"
        );
        assert_eq!(reporter.publish(&view, None), None);
        let gateway = LocalGateway {
            bind: "127.0.1.1".parse().unwrap(),
            east_west_port: Some(15443),
            east_west_addresses: vec![],
            state: Default::default(),
        };
        view.gateways.insert("mesh/gateway".parse().unwrap(), gateway);
        let second = reporter.publish(&view, Some(&Receipt::default())).unwrap();
        assert_eq!(second.stamp.version.revision, 2);
        let names: Vec<_> = second.set.keys().map(String::as_str).collect();
        assert_eq!(names, ["gateways/mesh/gateway", "receipt"]);
    }
}
