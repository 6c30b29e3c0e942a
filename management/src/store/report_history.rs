//! What clusters have reported, by its hash, and since when.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::{ReportBodies, ReportTimes, Store, StoreError, Tx, execute, fetch};

/// How many changes of one cluster's report are kept. At the pace at which they are noted this is some hours of a
/// cluster that changes all the time, and months of one that does not.
const TIMES_MAX: u64 = 2000;

/// What a cluster reported at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedThen {
    pub(crate) cluster: String,
    pub(crate) since: DateTime<Utc>,
    pub(crate) hash: Vec<u8>,
    pub(crate) body: Value,
}

impl Store {
    /// Notes what a cluster reports from now on, unless that is what was noted last; forgets the oldest.
    pub(crate) async fn note_report(&self, tx: &mut Tx, report: ReportedThen) -> Result<(), StoreError> {
        let latest = Query::select()
            .column(ReportTimes::Hash)
            .from(ReportTimes::Table)
            .and_where(Expr::col(ReportTimes::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(ReportTimes::Cluster).eq(report.cluster.as_str()))
            .order_by(ReportTimes::Since, Order::Desc)
            .limit(1)
            .to_owned();
        let rows = fetch(tx, "read the latest report", &latest).await?;
        let latest: Option<Vec<u8>> = rows
            .first()
            .map(|row| row.try_get("hash"))
            .transpose()
            .map_err(read)?;
        if latest.as_ref() == Some(&report.hash) {
            return Ok(());
        }
        let body = Query::insert()
            .into_table(ReportBodies::Table)
            .columns([ReportBodies::Organization, ReportBodies::Hash, ReportBodies::Body])
            .values_panic([
                self.organization.as_str().into(),
                report.hash.clone().into(),
                report.body.into(),
            ])
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .to_owned();
        execute(tx, "store a report's body", &body).await?;
        let time = Query::insert()
            .into_table(ReportTimes::Table)
            .columns([
                ReportTimes::Organization,
                ReportTimes::Cluster,
                ReportTimes::Since,
                ReportTimes::Hash,
            ])
            .values_panic([
                self.organization.as_str().into(),
                report.cluster.as_str().into(),
                report.since.into(),
                report.hash.into(),
            ])
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .to_owned();
        execute(tx, "store a report's time", &time).await?;
        self.forget_reports(tx, &report.cluster).await
    }

    /// What each cluster reported at `time`, as far as it is kept.
    pub(crate) async fn reports_at(
        &self,
        connection: &mut PgConnection,
        time: DateTime<Utc>,
    ) -> Result<Vec<ReportedThen>, StoreError> {
        let statement = Query::select()
            .distinct_on([ReportTimes::Cluster])
            .columns([
                (ReportTimes::Table, ReportTimes::Cluster),
                (ReportTimes::Table, ReportTimes::Since),
                (ReportTimes::Table, ReportTimes::Hash),
            ])
            .column((ReportBodies::Table, ReportBodies::Body))
            .from(ReportTimes::Table)
            .inner_join(
                ReportBodies::Table,
                Expr::col((ReportTimes::Table, ReportTimes::Organization))
                    .equals((ReportBodies::Table, ReportBodies::Organization))
                    .and(
                        Expr::col((ReportTimes::Table, ReportTimes::Hash))
                            .equals((ReportBodies::Table, ReportBodies::Hash)),
                    ),
            )
            .and_where(
                Expr::col((ReportTimes::Table, ReportTimes::Organization)).eq(self.organization.as_str()),
            )
            .and_where(Expr::col(ReportTimes::Since).lte(time))
            .order_by(ReportTimes::Cluster, Order::Asc)
            .order_by(ReportTimes::Since, Order::Desc)
            .to_owned();
        let rows = fetch(connection, "read the reports of a time", &statement).await?;
        rows.iter()
            .map(|row| {
                Ok(ReportedThen {
                    cluster: row.try_get("cluster")?,
                    since: row.try_get("since")?,
                    hash: row.try_get("hash")?,
                    body: row.try_get("body")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(read)
    }

    async fn forget_reports(&self, tx: &mut Tx, cluster: &str) -> Result<(), StoreError> {
        let oldest_kept = Query::select()
            .column(ReportTimes::Since)
            .from(ReportTimes::Table)
            .and_where(Expr::col(ReportTimes::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(ReportTimes::Cluster).eq(cluster))
            .order_by(ReportTimes::Since, Order::Desc)
            .offset(TIMES_MAX - 1)
            .limit(1)
            .to_owned();
        let times = Query::delete()
            .from_table(ReportTimes::Table)
            .and_where(Expr::col(ReportTimes::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(ReportTimes::Cluster).eq(cluster))
            .and_where(Expr::col(ReportTimes::Since).lt(Expr::SubQuery(None, Box::new(oldest_kept.into()))))
            .to_owned();
        if execute(tx, "forget old reports", &times).await? == 0 {
            return Ok(());
        }
        let used = Query::select()
            .column(ReportTimes::Hash)
            .from(ReportTimes::Table)
            .and_where(Expr::col(ReportTimes::Organization).eq(self.organization.as_str()))
            .to_owned();
        let bodies = Query::delete()
            .from_table(ReportBodies::Table)
            .and_where(Expr::col(ReportBodies::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(ReportBodies::Hash).not_in_subquery(used))
            .to_owned();
        execute(tx, "forget the bodies of old reports", &bodies).await?;
        Ok(())
    }
}

fn read(source: sqlx::Error) -> StoreError {
    StoreError::Query {
        doing: "read a stored report",
        source,
    }
}
