//! The realms that row-level security looks up.

use sea_query::{Cond, Expr, ExprTrait, OnConflict, Query};
use sqlx::{AssertSqlSafe, Row};

use super::{Realms as Table, Store, StoreError, Tx, bounded, execute, fetch, role};
use crate::iam::Principal;
use crate::realm::{Access, Opened, RealmChange, Realms};

impl Store {
    /// Part of a write by a principal that itself may not say who may do what: this is derived from the bindings that
    /// it was allowed to write.
    pub(crate) async fn change_realms(
        &self,
        tx: &mut Tx,
        principal: &Principal,
        change: &RealmChange,
    ) -> Result<(), StoreError> {
        if change.is_empty() {
            return Ok(());
        }
        become_role(tx, role::SYSTEM).await?;
        self.apply_realms(tx, change).await?;
        become_role(tx, role::of(principal)).await
    }

    /// Of which the principal sees rows now.
    pub(crate) async fn opened(&self, principal: &Principal) -> Result<Opened, StoreError> {
        let mut tx = self.read_as(principal).await?;
        let asking = sqlx::query_scalar("SELECT realm FROM realms").fetch_all(&mut *tx);
        Ok(Opened::of(
            bounded("look up the realms of a caller", asking).await?,
        ))
    }

    /// From here on the transaction works for that principal: for rows that another one has given up to the caller.
    pub(crate) async fn act_as(&self, tx: &mut Tx, principal: &Principal) -> Result<(), StoreError> {
        become_role(tx, role::of(principal)).await
    }

    /// Makes the stored realms those, in a transaction of management itself that holds the head.
    pub(crate) async fn set_realms(&self, tx: &mut Tx, wanted: &Realms) -> Result<(), StoreError> {
        let stored = self.realms(tx).await?;
        self.apply_realms(tx, &stored.to(wanted)).await
    }

    async fn apply_realms(&self, tx: &mut Tx, change: &RealmChange) -> Result<(), StoreError> {
        if !change.removed.is_empty() {
            let mut rows = Cond::any();
            for (principal, realm) in &change.removed {
                let row = Cond::all()
                    .add(Expr::col(Table::Principal).eq(*principal))
                    .add(Expr::col(Table::Realm).eq(realm.as_str()));
                rows = rows.add(row);
            }
            let statement = Query::delete()
                .from_table(Table::Table)
                .cond_where(rows)
                .to_owned();
            execute(tx, "take away realms", &statement).await?;
        }
        if !change.put.is_empty() {
            let mut statement = Query::insert();
            statement.into_table(Table::Table).columns([
                Table::Organization,
                Table::Principal,
                Table::Realm,
                Table::Writes,
            ]);
            for (principal, realm, access) in &change.put {
                statement.values_panic([
                    self.organization.as_str().into(),
                    (*principal).into(),
                    realm.as_str().into(),
                    (*access == Access::Write).into(),
                ]);
            }
            statement.on_conflict(
                OnConflict::columns([Table::Principal, Table::Realm])
                    .update_column(Table::Writes)
                    .to_owned(),
            );
            execute(tx, "give realms", &statement).await?;
        }
        Ok(())
    }

    async fn realms(&self, tx: &mut Tx) -> Result<Realms, StoreError> {
        let statement = Query::select()
            .columns([Table::Principal, Table::Realm, Table::Writes])
            .from(Table::Table)
            .and_where(Expr::col(Table::Organization).eq(self.organization.as_str()))
            .to_owned();
        let rows = fetch(tx, "read the realms", &statement).await?;
        let read = rows.iter().map(|row| {
            let access = match row.try_get("writes")? {
                true => Access::Write,
                false => Access::Read,
            };
            Ok(((row.try_get("principal")?, row.try_get("realm")?), access))
        });
        let realms = read.collect::<Result<_, sqlx::Error>>();
        realms.map(Realms).map_err(|source| StoreError::Query {
            doing: "read the realms",
            source,
        })
    }
}

async fn become_role(tx: &mut Tx, role: &'static str) -> Result<(), StoreError> {
    let statement = AssertSqlSafe(format!("SET LOCAL ROLE {role}"));
    let done = sqlx::raw_sql(statement).execute(&mut **tx);
    bounded("change the role", done).await?;
    Ok(())
}
