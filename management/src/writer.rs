//! The one loop that writes: it owns the snapshot that everybody else reads, so that what it publishes follows
//! commit order. It also polls for what other replicas have committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tombolo_compiler::fields::Fields;
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_proto::held::Version;
use tombolo_runtime::admin::Condition;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;
use uuid::Uuid;

use crate::audit::{self, Chain, ChainHead, Outcome, Record, Verb, seal};
use crate::caller::Caller;
use crate::change::{Change, Prepared, Refusal, Step, authorize_one, prepare};
use crate::computations::aside;
use crate::history::{Entry, Event};
use crate::iam::{Action, Principal};
use crate::managed::Hand;
use crate::reply::Answer;
use crate::snapshot::{Delta, Snapshot, Stored, etag};
use crate::store::organization::Head;
use crate::store::{self, Store, StoreError, Tx};
use crate::wish::{Order, Wish};

/// How late a replica may learn what another one has committed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// What this replica itself has committed is published by then; only what another one has is worth a poll.
const PUBLISHED_TIME: Duration = Duration::from_millis(10);
/// For a poll that was asked for. It takes milliseconds; a replica that needs longer is busy or not ready.
const REACHED_TIME_MAX: Duration = Duration::from_secs(1);
/// Writes that wait for the loop. At a millisecond or two each, the last one still answers within a second.
const QUEUED_MAX: usize = 256;
/// A write that has waited for longer is not begun: its caller is better told to try again than kept waiting
/// while each one before it runs into the same slow database.
const QUEUED_TIME_MAX: Duration = Duration::from_secs(5);

/// From taking up a job to its end, whatever the database does: there is one writer, and what it waits for, all wait
/// for. Longer than the timeout of any statement within, so that a database that answers tells its own reason.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(10);

/// What was committed, or was there already.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    /// The latest after the write.
    pub(crate) revision: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection broke while Postgres committed: the write is whole or not at all, but which is unknown.
    #[error("the database went away while it committed: read again to see whether the write took place")]
    Uncertain(#[source] StoreError),
    #[error(
        "the database has not ended the transaction within {} s: read again to see whether the write took place",
        TRANSACTION_TIME_MAX.as_secs()
    )]
    Stuck,
    #[error(
        "the database is at {found}, behind {held}: was it restored from a backup? writes are refused until an \
         administrator adopts it with `POST /v1/organizations/<organization>:adopt`"
    )]
    WentBack { held: Version, found: Version },
    #[error(
        "what you identified yourself with was revoked or has expired meanwhile; ask for a new one, or log in again"
    )]
    Revoked,
    #[error("too many writes are waiting; nothing of this one was begun")]
    Busy,
    #[error("management is stopping")]
    Stopping,
}

/// The way to the loop. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    store: Store,
    jobs: mpsc::Sender<Job>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    heard: Arc<watch::Sender<Version>>,
    hurry: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    store: Store,
    jobs: mpsc::Receiver<Job>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// The latest version that a central said it holds of ours. A process that has just started knows no other
    /// witness of what a restored database has lost.
    heard: watch::Receiver<Version>,
    /// Somebody waits for what another replica has committed.
    hurry: Arc<Notify>,
    postgres: Condition,
    /// 1 while the database is behind.
    behind: Gauge,
}

#[derive(Debug)]
enum Job {
    Write {
        caller: Caller,
        order: Order,
        /// Made on what was the latest when the request came; holds if that still is.
        prepared: Box<Prepared>,
        queued: Instant,
        done: oneshot::Sender<Result<Committed, WriteError>>,
    },
    CatchUp {
        done: oneshot::Sender<Result<Arc<Snapshot>, WriteError>>,
    },
    Join {
        central: String,
        cluster: ClusterName,
    },
    Adopt {
        caller: Caller,
        organization: Fqn,
        done: oneshot::Sender<Result<Committed, WriteError>>,
    },
}

impl Writes {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Decides before the queue. Nobody is refused on less than what other replicas had committed when it came.
    async fn prepare(&self, caller: &Caller, order: &Order) -> Result<Prepared, WriteError> {
        let base = self.snapshot();
        let refusal = match aside(|| order.prepare(&base, caller)) {
            Ok(prepared) => return Ok(prepared),
            Err(refusal) => refusal,
        };
        // A flood of refusals must neither ask the database once more each, nor queue before the writes.
        if caller.seen == base.version {
            return Err(refusal.into());
        }
        let found = self.store.version().await?;
        let mut latest = self.snapshot();
        if latest.version != found {
            latest = self.catch_up().await?;
        }
        Ok(aside(|| order.prepare(&latest, caller))?)
    }

    /// Decides on what the database holds now, as a write would, the second wall included, and writes nothing.
    pub(crate) async fn dry_run(&self, caller: &Caller, wish: &Wish) -> Result<Prepared, WriteError> {
        let mut base = self.snapshot();
        if self.store.version().await? != base.version {
            base = self.catch_up().await?;
        }
        Ok(aside(|| wish.prepare(&base, caller))?)
    }

    pub(crate) async fn write(
        &self,
        caller: Caller,
        order: impl Into<Order>,
    ) -> Result<Committed, WriteError> {
        let order = order.into();
        let prepared = self.prepare(&caller, &order).await?;
        let (done, answer) = oneshot::channel();
        self.send(Job::Write {
            caller,
            order,
            prepared: Box::new(prepared),
            queued: Instant::now(),
            done,
        })?;
        answer.await.map_err(|_| WriteError::Stopping)?
    }

    /// Waits until the snapshot holds what somebody has seen in the database, so that what was answered by one replica is
    /// not missing in the next answer of another. Who waits too long is answered with what there is.
    pub(crate) async fn reach(&self, seen: Version) {
        let mut snapshots = self.snapshots.clone();
        let mut reached = async |patience| {
            let reached = snapshots.wait_for(|snapshot| snapshot.has(seen));
            timeout(patience, reached).await.is_ok()
        };
        if !reached(PUBLISHED_TIME).await {
            self.hurry.notify_one();
            reached(REACHED_TIME_MAX).await;
        }
    }

    pub(crate) async fn catch_up(&self) -> Result<Arc<Snapshot>, WriteError> {
        let (done, answer) = oneshot::channel();
        self.send(Job::CatchUp { done })?;
        answer.await.map_err(|_| WriteError::Stopping)?
    }

    /// Declares the database as it is the truth, under a new epoch.
    pub(crate) async fn adopt(&self, caller: Caller, organization: Fqn) -> Result<Committed, WriteError> {
        let (done, answer) = oneshot::channel();
        self.send(Job::Adopt {
            caller,
            organization,
            done,
        })?;
        answer.await.map_err(|_| WriteError::Stopping)?
    }

    /// A central holds that version of ours.
    pub(crate) fn heard(&self, version: Version) {
        self.heard.send_if_modified(|heard| {
            let later = version > *heard;
            if later {
                *heard = version;
            }
            later
        });
    }

    /// Remembers that `central` has heard these clusters. Say it again from time to time: a cluster that does not
    /// exist yet, or a database that is away, is passed over.
    pub(crate) fn join(&self, central: &str, heard: &BTreeSet<ClusterName>) {
        let snapshot = self.snapshot();
        let clusters = snapshot.clusters();
        let waiting = |cluster: &&ClusterName| clusters.get(*cluster).is_some_and(|(_, joined)| !joined);
        for cluster in heard.iter().filter(waiting) {
            let job = Job::Join {
                central: central.to_owned(),
                cluster: cluster.clone(),
            };
            if let Err(error) = self.send(job) {
                tracing::warn!(%cluster, %error, "cannot remember that the cluster has joined yet");
            }
        }
    }

    fn send(&self, job: Job) -> Result<(), WriteError> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy,
            mpsc::error::TrySendError::Closed(_) => WriteError::Stopping,
        })
    }
}

impl Writer {
    pub(crate) fn new(store: Store, snapshot: Snapshot, postgres: Condition) -> (Writer, Writes) {
        let (sender, jobs) = mpsc::channel(QUEUED_MAX);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let (heard, hearing) = watch::channel(Version::default());
        let hurry = Arc::new(Notify::new());
        let writer = Writer {
            store: store.clone(),
            jobs,
            snapshots,
            heard: hearing,
            hurry: hurry.clone(),
            postgres,
            behind: Gauge::default(),
        };
        let writes = Writes {
            store,
            jobs: sender,
            snapshots: receiver,
            heard: Arc::new(heard),
            hurry,
        };
        (writer, writes)
    }

    pub(crate) fn behind(&self) -> Gauge {
        self.behind.clone()
    }

    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.work(job).await,
                    None => return,
                },
                // A central that tells of more than there is must not wait for the next tick.
                Ok(()) = self.heard.changed() => poll.reset_immediately(),
                () = self.hurry.notified() => poll.reset_immediately(),
                _ = poll.tick() => {
                    if let Err(error) = self.poll().await {
                        tracing::debug!(error = chain(&error), "cannot poll the database");
                    }
                }
                () = shutdown.wait() => break,
            }
        }
        // What was accepted is answered.
        self.jobs.close();
        while let Some(job) = self.jobs.recv().await {
            self.work(job).await;
        }
    }

    async fn work(&mut self, job: Job) {
        match job {
            Job::Write {
                caller,
                order,
                prepared,
                queued,
                done,
            } => {
                let result = if queued.elapsed() > QUEUED_TIME_MAX {
                    Err(WriteError::Busy)
                } else {
                    in_time(Box::pin(self.write(&caller, &order, *prepared))).await
                };
                self.observe(result.as_ref().err());
                // A caller that is gone has lost its answer, not its write.
                let _ = done.send(result);
            }
            Job::CatchUp { done } => {
                let result = Box::pin(self.poll())
                    .await
                    .map(|()| self.snapshots.borrow().clone());
                let _ = done.send(result);
            }
            Job::Adopt {
                caller,
                organization,
                done,
            } => {
                let result = in_time(Box::pin(self.adopt(&caller, &organization))).await;
                self.observe(result.as_ref().err());
                let _ = done.send(result);
            }
            Job::Join { central, cluster } => {
                if let Err(error) = in_time(Box::pin(self.join(&central, &cluster))).await {
                    self.observe(Some(&error));
                    tracing::warn!(%cluster, error = chain(&error), "cannot remember that the cluster has joined yet");
                }
            }
        }
    }

    async fn write(
        &mut self,
        caller: &Caller,
        order: &Order,
        prepared: Prepared,
    ) -> Result<Committed, WriteError> {
        let mut tx = self.store.begin_as(&caller.principal).await?;
        let head = lock_for(&self.store, &mut tx, caller).await?;
        let base = self.catch_up(&head).await?;
        self.check_heard(head.version)?;
        let kept = self.store.kept_answer(&mut tx, caller).await?;
        if let Some(answer) = caller.open(kept)? {
            let revision = head.version.revision;
            return Ok(Committed { revision, answer });
        }
        let prepared = if Arc::ptr_eq(&base, &prepared.base) {
            prepared
        } else {
            aside(|| order.prepare(&base, caller))?
        };
        if prepared.changes_nothing() {
            let answer = order.reply.answer(&base, &prepared.steps);
            self.store.keep_answer(&mut tx, caller, &answer).await?;
            store::commit(tx).await.map_err(WriteError::Uncertain)?;
            let revision = head.version.revision;
            return Ok(Committed { revision, answer });
        }
        let (mut tx, next) = write_steps(&self.store, tx, &head, caller, &prepared, &order.reason()).await?;
        let answer = order.reply.answer(&next, &prepared.steps);
        self.store.keep_answer(&mut tx, caller, &answer).await?;
        store::commit(tx).await.map_err(WriteError::Uncertain)?;
        let revision = next.version.revision;
        self.snapshots.send_replace(Arc::new(next));
        Ok(Committed { revision, answer })
    }

    async fn join(&mut self, central: &str, cluster: &ClusterName) -> Result<(), WriteError> {
        let mut tx = self.store.begin_as(&Principal::System).await?;
        let mut head = self.store.lock_head(&mut tx).await?;
        let base = self.catch_up(&head).await?;
        self.check_heard(head.version)?;
        let Some((name, uid)) = base
            .clusters()
            .get(cluster)
            .filter(|(_, joined)| !joined)
            .map(|(stored, _)| (stored.name().clone(), stored.uid))
        else {
            return Ok(());
        };
        let now = audit::now();
        head.version.revision += 1;
        self.store
            .insert_joined(&mut tx, uid, head.version.revision, now)
            .await?;
        let record = Record {
            revision: Some(head.version.revision),
            ..Record::new(
                format!("plane/central/{central}"),
                Verb::Join,
                name.as_str(),
                Outcome::Done,
            )
        };
        let version = head.version;
        self.store.append_write(&mut tx, head, record).await?;
        store::commit(tx).await.map_err(WriteError::Uncertain)?;
        let delta = Delta {
            joined: vec![uid],
            ..Delta::default()
        };
        let next = base.advance(version, delta, None);
        self.snapshots.send_replace(Arc::new(next));
        tracing::info!(%cluster, central, revision = version.revision, "cluster has joined");
        Ok(())
    }

    async fn adopt(&mut self, caller: &Caller, organization: &Fqn) -> Result<Committed, WriteError> {
        // Most of it before the lock, as at a start.
        let base = load_since(&self.store, &Snapshot::empty()).await?;
        let mut tx = self.store.begin_as(&caller.principal).await?;
        let mut head = lock_for(&self.store, &mut tx, caller).await?;
        let found = head.version;
        let kept = self.store.kept_answer(&mut tx, caller).await?;
        if let Some(answer) = caller.open(kept)? {
            let revision = found.revision;
            return Ok(Committed { revision, answer });
        }
        let base = load_since(&self.store, &base).await?;
        authorize_one(&base, &caller.asker(), Action::Adopt, organization)?;
        let held = self.snapshots.borrow().version.max(*self.heard.borrow());
        // Beyond every revision that was ever given out, so that no ETag and no receipt of before comes to fit again.
        head.version = Version {
            epoch: held.epoch.max(found.epoch) + 1,
            revision: held.revision.max(found.revision) + 1,
        };
        let record = Record {
            revision: Some(head.version.revision),
            reason: format!("the database was at {found}; {held} was held"),
            ..caller.record(Verb::Adopt, organization.as_str())
        };
        let version = head.version;
        self.store.append_write(&mut tx, head, record).await?;
        let Version { epoch, revision } = version;
        let answer = Answer::ok(&json!({"name": organization, "epoch": epoch, "revision": revision}));
        self.store.keep_answer(&mut tx, caller, &answer).await?;
        store::commit(tx).await.map_err(WriteError::Uncertain)?;
        let judged = base.judged.clone();
        let next = base.advance(version, Delta::default(), Some(judged));
        self.snapshots.send_replace(Arc::new(next));
        tracing::warn!(%found, %held, %version, "the database was adopted");
        Ok(Committed { revision, answer })
    }

    /// Whoever publishes less than a central holds forks the intent.
    fn check_heard(&self, found: Version) -> Result<(), WriteError> {
        let held = *self.heard.borrow();
        if found < held {
            return Err(WriteError::WentBack { held, found });
        }
        Ok(())
    }

    /// Brings the snapshot to the version of the locked head, and gives it.
    async fn catch_up(&mut self, head: &Head) -> Result<Arc<Snapshot>, WriteError> {
        let held = self.snapshots.borrow().clone();
        if head.version == held.version {
            return Ok(held);
        }
        let next = Arc::new(load_since(&self.store, &held).await?);
        self.snapshots.send_replace(next.clone());
        Ok(next)
    }

    /// What cannot be followed is decided on without what was committed since: such a replica is not ready, whatever the
    /// reason.
    async fn poll(&mut self) -> Result<(), WriteError> {
        let result = in_time(Box::pin(self.poll_once())).await;
        self.observe(result.as_ref().err());
        match &result {
            Ok(()) => {
                self.postgres.set_ready();
                self.behind.set(0);
            }
            Err(error) => self.postgres.set_waiting(chain(error)),
        }
        result
    }

    async fn poll_once(&mut self) -> Result<(), WriteError> {
        let held = self.snapshots.borrow().clone();
        let mut found = self.store.version().await?;
        if found != held.version {
            let next = Arc::new(load_since(&self.store, &held).await?);
            found = next.version;
            self.snapshots.send_replace(next.clone());
            self.follow_realms(&held, &next).await?;
        }
        self.check_heard(found)
    }

    /// Whoever changes bindings changes the realms with them; but an older version that still runs beside this one
    /// knows of no realms.
    async fn follow_realms(&self, held: &Snapshot, found: &Snapshot) -> Result<(), WriteError> {
        if !held.realms_to(found).is_empty() {
            let mut tx = self.store.begin_as(&Principal::System).await?;
            if self.store.lock_head(&mut tx).await?.version == found.version {
                self.store.set_realms(&mut tx, &found.realms()).await?;
                store::commit(tx).await?;
            }
        }
        Ok(())
    }

    /// What an error says about the database as a whole.
    fn observe(&self, error: Option<&WriteError>) {
        if let Some(error @ WriteError::WentBack { .. }) = error
            && self.behind.set(1) == 0
        {
            tracing::error!(error = chain(error), "writes are refused");
        }
        match error {
            Some(WriteError::Store(error)) if error.is_away() => self.postgres.set_waiting(chain(error)),
            Some(error @ (WriteError::Uncertain(_) | WriteError::Stuck | WriteError::WentBack { .. })) => {
                self.postgres.set_waiting(chain(error));
            }
            // One write that failed says nothing about the next.
            _ => {}
        }
    }
}

/// What is dropped here is rolled back, or its connection closed: half of it never becomes visible.
async fn in_time<T>(work: impl Future<Output = Result<T, WriteError>>) -> Result<T, WriteError> {
    timeout(TRANSACTION_TIME_MAX, work)
        .await
        .unwrap_or(Err(WriteError::Stuck))
}

/// Keeps writers out until the transaction ends, for a caller whose token or session still holds then: it was looked up
/// before the body of the request was read, which takes as long as the caller likes.
pub(crate) async fn lock_for(store: &Store, tx: &mut Tx, caller: &Caller) -> Result<Head, WriteError> {
    let Some(credential) = caller.credential else {
        return Ok(store.lock_head(tx).await?);
    };
    let head = store.lock_head_with(tx, credential.id).await?;
    head.filter(|_| !credential.is_over(audit::now()))
        .ok_or(WriteError::Revoked)
}

/// What was committed, from what was held of it. Whoever holds the head's lock is given just what that head says:
/// nobody else commits meanwhile.
pub(crate) async fn load_since(store: &Store, held: &Snapshot) -> Result<Snapshot, WriteError> {
    let mut tx = store.read_published().await?;
    let head = store.head(&mut tx).await?;
    let known = held.version;
    if head.version < known {
        return Err(WriteError::WentBack {
            held: known,
            found: head.version,
        });
    }
    // Another replica has adopted a restored database: nothing that is held says what changed.
    let empty = Snapshot::empty();
    let held = match known.epoch == head.version.epoch {
        true => held,
        false => &empty,
    };
    let known = held.version;
    let delta = Delta {
        removed: store.tombstones_since(&mut tx, known.revision).await?,
        joined: store.joined_since(&mut tx, known.revision).await?,
        // Last: to read the documents of many takes longer than Postgres lets a transaction rest.
        put: store.resources_since(&mut tx, known.revision).await?,
    };
    drop(tx);
    Ok(aside(|| held.advance(head.version, delta, None)))
}

/// Rows, tombstones, history, audit records, realms and the head: all of a write but its commit, and what is there after
/// it. The records give `reason` beside what was done.
pub(crate) async fn write_steps(
    store: &Store,
    mut tx: Tx,
    head: &Head,
    caller: &Caller,
    prepared: &Prepared,
    reason: &str,
) -> Result<(Tx, Snapshot), StoreError> {
    let base = &prepared.base;
    let mut pen = Pen {
        store,
        base,
        version: Version {
            epoch: head.version.epoch,
            revision: head.version.revision + 1,
        },
        now: audit::now(),
        end: head.audit,
        delta: Delta::default(),
    };
    pen.write(&mut tx, caller, (&prepared.steps, &prepared.set), reason)
        .await?;
    if !prepared.handed.is_empty() {
        let taker = Caller {
            hand: Hand::default(),
            ..caller.clone()
        };
        let reason = handed_over(&prepared.handed);
        // The second wall keeps the caller from rows of those who offered.
        store.act_as(&mut tx, &Principal::System).await?;
        // What it takes from others it does not set.
        let nothing = BTreeMap::new();
        pen.write(&mut tx, &taker, (&prepared.handed, &nothing), &reason)
            .await?;
        store.act_as(&mut tx, &caller.principal).await?;
    }
    let next = aside(|| base.advance(pen.version, pen.delta, Some(prepared.judged.clone())));
    // Last of all: who gives its own rights away writes that down first.
    let realms = base.realms_to(&next);
    store.change_realms(&mut tx, &caller.principal, &realms).await?;
    Ok((tx, next))
}

/// What the records of those who offered say.
fn handed_over(steps: &[Step]) -> String {
    let names = steps.iter().map(Step::name);
    let offers: Vec<&str> = names
        .filter(|name| name.kind() == Kind::ClaimOffer)
        .map(Fqn::as_str)
        .collect();
    format!("{} was accepted", offers.join(", "))
}

/// What writes down one revision.
struct Pen<'a> {
    store: &'a Store,
    base: &'a Snapshot,
    version: Version,
    now: DateTime<Utc>,
    /// Of the chain of audit records so far.
    end: ChainHead,
    delta: Delta,
}

impl Pen<'_> {
    /// Rows, tombstones, history and audit records of some steps, with the fields that their manager sets.
    async fn write(
        &mut self,
        tx: &mut Tx,
        caller: &Caller,
        (steps, set): (&[Step], &BTreeMap<Fqn, Fields>),
        reason: &str,
    ) -> Result<(), StoreError> {
        let Pen {
            store,
            base,
            version,
            now,
            ..
        } = *self;
        let (mut history, mut sealed) = (Vec::new(), Vec::new());
        for step in steps {
            let (verb, before, event) = match step {
                Step::Keep(_) => continue,
                Step::Create(resource) => {
                    let uid = Uuid::now_v7();
                    let stored = Stored {
                        resource: resource.clone(),
                        uid,
                        etag: etag(uid, version.revision),
                        revision: version.revision,
                        created_at: now,
                        updated_at: now,
                        managed: caller
                            .hand
                            .created(resource, set.get(&resource.name), version.revision),
                        owner: caller.principal.uid(),
                    };
                    store.insert_resource(tx, &stored).await?;
                    (Verb::Create, None, Event::Created(Arc::new(stored)))
                }
                Step::Update(held, resource) => {
                    let stored = Stored {
                        resource: resource.clone(),
                        etag: etag(held.uid, version.revision),
                        revision: version.revision,
                        // Who manages what of it is no news of the resource itself: an offer does not begin again.
                        updated_at: if held.resource == *resource {
                            held.updated_at
                        } else {
                            now
                        },
                        managed: caller.hand.updated(
                            held,
                            resource,
                            set.get(&resource.name),
                            version.revision,
                        ),
                        ..(**held).clone()
                    };
                    store.update_resource(tx, &stored, &held.etag).await?;
                    (Verb::Update, Some(held), Event::Updated(Arc::new(stored)))
                }
                Step::Transfer(held, owner) => {
                    let stored = Stored {
                        owner: Some(*owner),
                        managed: (held.managed.as_ref())
                            .map(|managed| managed.beside(held, &held.resource, version.revision)),
                        etag: etag(held.uid, version.revision),
                        revision: version.revision,
                        updated_at: now,
                        ..(**held).clone()
                    };
                    store.update_resource(tx, &stored, &held.etag).await?;
                    (Verb::Transfer, Some(held), Event::Updated(Arc::new(stored)))
                }
                Step::Delete(held) => {
                    store.delete_resource(tx, held, version.revision).await?;
                    if held.name().kind().is_principal() {
                        store.revoke_tokens_of(tx, held.uid, now).await?;
                    }
                    self.delta.removed.push(held.name().clone());
                    (Verb::Delete, Some(held), Event::Deleted)
                }
            };
            let after = event.stored().cloned();
            let record = Record {
                time: now,
                revision: Some(version.revision),
                reason: reason.to_owned(),
                before: before.map(|stored| base.to_json(stored)),
                after: after.as_ref().map(|stored| base.to_json(stored)),
                ..caller.record(verb, step.name().as_str())
            };
            let entries = before.or(after.as_ref()).map(|stored| Entry {
                name: step.name().clone(),
                revision: version.revision,
                uid: stored.uid,
                event,
                actor: record.actor.clone(),
                time: now,
            });
            history.extend(entries);
            let (one, next) = seal(Chain::Writes, self.end, record);
            self.end = next;
            sealed.push(one);
            self.delta.put.extend(after.map(Arc::unwrap_or_clone));
        }
        store.insert_history(tx, &history).await?;
        let audit = self.end;
        store.append(tx, &sealed, &Head { version, audit }).await
    }
}

/// The organization, its first user and that user's binding; `None` when they exist already.
pub(crate) async fn create_organization(
    store: &Store,
    tx: &mut Tx,
    changes: &[Change],
) -> Result<Option<(Prepared, Caller)>, WriteError> {
    if !store.create_head(tx).await? {
        return Ok(None);
    }
    let caller = Caller::system();
    let prepared = prepare(&Arc::new(Snapshot::empty()), &caller.asker(), changes)?;
    Ok(Some((prepared, caller)))
}
