//! The break-glass credential: an administrator's token that hangs on no user, no binding and no identity provider, kept
//! sealed in a file for the day on which those are of no use. Each use is an audit record, a warning and a count.
//!
//! There is no request that makes one: whoever configures management does, and so no stolen session can.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Fqn;
use tombolo_runtime::admin::Metrics;
use uuid::Uuid;

use crate::audit::{self, Record, Verb};
use crate::caller::Caller;
use crate::iam::Principal;
use crate::store::lookup::Lookup;
use crate::store::token::TokenRow;
use crate::store::{self, Store, StoreError};
use crate::token::{CredentialKind, Token};

/// Long enough to be sealed once a quarter; a copy that nobody remembers dies by itself.
const VALID: TimeDelta = TimeDelta::days(90);

#[derive(Debug, thiserror::Error)]
pub enum BreakGlassError {
    #[error("cannot {doing} the break-glass credential {path}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system gives no randomness for the break-glass credential")]
    Randomness(#[source] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct BreakGlassMetrics {
    uses: Counter,
    /// Seconds since 1970; 0 where none is sealed.
    expires: Gauge,
}

impl BreakGlassMetrics {
    pub(crate) fn register(&self, registry: &Metrics) {
        registry.register(|registry| {
            let registry = registry.sub_registry_with_prefix("tombolo_management");
            registry.register(
                "break_glass_uses",
                "Requests made with the break-glass credential",
                self.uses.clone(),
            );
            registry.register(
                "break_glass_expires_timestamp_seconds",
                "When the sealed break-glass credential ends; 0 where none is sealed",
                self.expires.clone(),
            );
        });
    }

    /// What management has sealed, or found sealed.
    pub(crate) fn set_expiry(&self, expires_at: Option<DateTime<Utc>>) {
        self.expires.set(expires_at.map_or(0, |at| at.timestamp()));
    }
}

/// As whom the holder acts. The same on every replica, and of nobody in the tree.
pub(crate) fn uid(organization: &Fqn) -> Uuid {
    let sum: [u8; 32] = Sha256::digest(format!("break-glass/{organization}")).into();
    uuid::Builder::from_custom_bytes(sum[..16].try_into().expect("invariant: 16 of 32 bytes")).into_uuid()
}

pub(crate) fn principal(organization: &Fqn) -> Principal {
    Principal::BreakGlass {
        organization: organization.clone(),
        uid: uid(organization),
    }
}

/// Makes sure that there is a credential, and gives its end: one in the file is left as it is, an empty file says that
/// people keep it elsewhere, and where there is no file a new one ends what `instance` had sealed before.
///
/// # Errors
/// When the file or the database cannot be used.
pub(crate) async fn seal(
    store: &Store,
    organization: &Fqn,
    instance: &str,
    path: &Path,
) -> Result<Option<DateTime<Utc>>, BreakGlassError> {
    let description = format!("break glass, sealed by {instance}");
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return make(store, organization, description, path).await.map(Some);
        }
        Err(source) => {
            return Err(BreakGlassError::Io {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    let end = match text.trim() {
        "" => kept(store, organization, &description).await?,
        text => sealed(store, text).await?,
    };
    if end.is_none() {
        tracing::error!(
            path = %path.display(),
            "the break-glass credential has ended; take the file away and start again to seal a new one"
        );
    }
    Ok(end)
}

/// When what a file holds ends; `None` for what is of no use.
async fn sealed(store: &Store, text: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
    let Ok(token) = text.parse::<Token>() else {
        return Ok(None);
    };
    let lookup = Lookup {
        sha256: token.sha256(),
        name: None,
        held: None,
    };
    let found = store.find(&lookup).await?;
    let valid = found.filter(|found| found.holder.is_valid(audit::now()));
    Ok(valid.and_then(|found| found.holder.expires_at))
}

/// When that which people keep elsewhere ends.
async fn kept(
    store: &Store,
    organization: &Fqn,
    description: &str,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut tx = store.read_as(&Principal::System).await?;
    let rows = store.tokens_of(&mut tx, uid(organization)).await?.into_iter();
    let now = audit::now();
    Ok(rows
        .filter(|row| row.description == description && row.revoked_at.is_none())
        .filter_map(|row| row.expires_at)
        .filter(|expires_at| now < *expires_at)
        .max())
}

async fn make(
    store: &Store,
    organization: &Fqn,
    description: String,
    path: &Path,
) -> Result<DateTime<Utc>, BreakGlassError> {
    let token = Token::generate().map_err(BreakGlassError::Randomness)?;
    let now = audit::now();
    let user_uid = uid(organization);
    let mut tx = store.begin_as(&Principal::System).await?;
    let head = store.lock_head(&mut tx).await?;
    for old in store.tokens_of(&mut tx, user_uid).await? {
        if old.description == description {
            store
                .revoke_token(&mut tx, user_uid, CredentialKind::Token, old.id, now)
                .await?;
        }
    }
    let row = TokenRow {
        id: Uuid::now_v7(),
        user_uid,
        description,
        created_at: now,
        expires_at: Some(now + VALID),
        revoked_at: None,
        issued_by: None,
        public_key: None,
    };
    store.insert_token(&mut tx, &row, token.sha256()).await?;
    let record = Record {
        reason: format!("token {}, {}", row.id, row.description),
        ..Caller::system().record(Verb::SealBreakGlass, organization.as_str())
    };
    store.append_write(&mut tx, head, record).await?;
    write(path, &token)?;
    if let Err(error) = store::commit(tx).await {
        // What it holds may be of no use, and the next start would not make another.
        let _ = fs::remove_file(path);
        return Err(error.into());
    }
    tracing::warn!(path = %path.display(), "sealed a break-glass credential");
    Ok(now + VALID)
}

/// For its owner alone, and never over another one.
fn write(path: &Path, token: &Token) -> Result<(), BreakGlassError> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            writeln!(file, "{}", token.reveal())?;
            file.sync_all()
        });
    written.map_err(|source| BreakGlassError::Io {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

/// Before anything is answered: what cannot be recorded is not done.
pub(crate) async fn used(
    store: &Store,
    metrics: &BreakGlassMetrics,
    caller: &Caller,
    request: &str,
    name: &str,
) -> Result<(), StoreError> {
    metrics.uses.inc();
    tracing::warn!(
        name,
        request,
        source = caller.source,
        "the break-glass credential is used"
    );
    let mut tx = store.begin_as(&Principal::System).await?;
    let head = store.lock_head(&mut tx).await?;
    let record = Record {
        reason: request.to_owned(),
        ..caller.record(Verb::BreakGlass, name)
    };
    store.append_write(&mut tx, head, record).await?;
    store::commit(tx).await
}
