//! Sends signed statements out of the system, to where whoever administers the database cannot change them. Each target
//! has a loop of its own, in order and at least once: what has arrived is remembered after it has.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tombolo_runtime::admin::Metrics;
use tombolo_runtime::backoff::{Backoff, jitter};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::iam::Principal;
use crate::outbound::{Outbound, OutboundError};
use crate::store::audit::Numbered;
use crate::store::{self, Store, StoreError};

mod s3;

pub use s3::{BadS3, S3, S3Credentials};

/// Statements read at a time.
const BATCH: u64 = 100;
/// A signal that was lost is made up for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A place outside of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each statement is a line of JSON at the end of the file.
    File(PathBuf),
    /// Each statement is an object.
    S3(S3),
    /// Each statement is the body of a POST.
    Webhook(http::Uri),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot append to {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

/// Sends to one target.
#[derive(Debug)]
pub(crate) struct Courier {
    store: Store,
    organization: String,
    target: Target,
    outbound: Outbound,
    /// The number of the last statement that was signed here.
    signed: watch::Receiver<u64>,
    /// The number of the last statement that has arrived.
    delivered: Gauge,
    failures: Counter,
}

/// The metrics of all couriers, by target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Couriers {
    delivered: Family<TargetLabels, Gauge>,
    failures: Family<TargetLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    target: &'static str,
}

impl Couriers {
    pub(crate) fn register(&self, registry: &Metrics) {
        registry.register(|registry| {
            let registry = registry.sub_registry_with_prefix("tombolo_management_audit");
            registry.register(
                "delivered_statement",
                "The number of the last signed statement that has reached the target",
                self.delivered.clone(),
            );
            registry.register(
                "delivery_failures",
                "Attempts to send a signed statement that failed",
                self.failures.clone(),
            );
        });
    }
}

impl Courier {
    pub(crate) fn new(
        store: Store,
        organization: String,
        target: Target,
        outbound: Outbound,
        signed: watch::Receiver<u64>,
        metrics: &Couriers,
    ) -> Courier {
        let labels = TargetLabels {
            target: target.kind(),
        };
        Courier {
            store,
            organization,
            target,
            outbound,
            signed,
            delivered: metrics.delivered.get_or_create(&labels).clone(),
            failures: metrics.failures.get_or_create(&labels).clone(),
        }
    }

    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let pause = match Box::pin(self.deliver()).await {
                Ok(()) => {
                    backoff.reset();
                    LOOK_INTERVAL
                }
                Err(error) => {
                    self.failures.inc();
                    tracing::warn!(
                        target_kind = self.target.kind(),
                        error = chain(&error),
                        "audit statements wait for their target"
                    );
                    // Only time makes a failed target better.
                    self.signed.mark_unchanged();
                    backoff.next(jitter())
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.signed.changed() => {}
                () = shutdown.wait() => return,
            }
        }
    }

    async fn deliver(&mut self) -> Result<(), DeliveryError> {
        self.signed.mark_unchanged();
        let name = self.target.name();
        loop {
            let mut tx = self.store.begin_as(&Principal::System).await?;
            let reached = self.store.delivered(&mut tx, &name).await?;
            let waiting = self.store.statements_after(&mut tx, reached, BATCH).await?;
            store::commit(tx).await?;
            self.delivered.set(reached.cast_signed());
            if waiting.is_empty() {
                return Ok(());
            }
            for numbered in waiting {
                self.send(&numbered).await?;
                let mut tx = self.store.begin_as(&Principal::System).await?;
                self.store.set_delivered(&mut tx, &name, numbered.number).await?;
                store::commit(tx).await?;
                self.delivered.set(numbered.number.cast_signed());
            }
        }
    }

    async fn send(&self, numbered: &Numbered) -> Result<(), DeliveryError> {
        let body = serde_json::to_vec(&numbered.signed)
            .expect("invariant: a signed statement has string keys and no floats");
        match &self.target {
            Target::File(path) => append(path.clone(), body).await,
            Target::Webhook(url) => {
                let request = http::Request::post(url.clone())
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(body);
                let request = request.expect("invariant: a parsed address and a fixed header");
                Ok(self.outbound.send(request).await?)
            }
            Target::S3(s3) => {
                let key = format!("{}/{:012}.json", self.organization, numbered.number);
                let request = s3.put(&key, body, chrono::Utc::now());
                Ok(self.outbound.send(request).await?)
            }
        }
    }
}

impl Target {
    /// What its progress is kept under.
    fn name(&self) -> String {
        match self {
            Target::File(path) => format!("file:{}", path.display()),
            Target::S3(s3) => format!("s3:{}", s3.url()),
            Target::Webhook(url) => format!("webhook:{url}"),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Target::File(_) => "file",
            Target::S3(_) => "s3",
            Target::Webhook(_) => "webhook",
        }
    }
}

async fn append(path: PathBuf, mut line: Vec<u8>) -> Result<(), DeliveryError> {
    line.push(b'\n');
    let given = path.clone();
    let appending = spawn_blocking(move || append_line(&given, &line));
    let appended = appending
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    appended.map_err(|source| DeliveryError::File { path, source })
}

/// In one write, and on the disk when it returns.
fn append_line(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(line)?;
    file.sync_data()
}
