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

use crate::audit::{self, Chain, Verb, seal as seal_record};
use crate::iam::Principal;
use crate::store::token::TokenRow;
use crate::store::{self, Store, StoreError, Tx};
use crate::token::Token;
use crate::writer::Caller;

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

/// Makes sure that there is a credential in the file, and gives its end: one that is there is left as it is, and a new one
/// ends the one that `instance` had sealed before.
///
/// # Errors
/// When the file or the database cannot be used.
pub(crate) async fn seal(
    store: &Store,
    organization: &Fqn,
    instance: &str,
    path: &Path,
) -> Result<Option<DateTime<Utc>>, BreakGlassError> {
    match fs::read_to_string(path) {
        Ok(text) => sealed(store, &text, path).await,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(store, organization, instance, path).await.map(Some)
        }
        Err(source) => Err(BreakGlassError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// When what the file holds ends; `None` for what is of no use.
async fn sealed(store: &Store, text: &str, path: &Path) -> Result<Option<DateTime<Utc>>, BreakGlassError> {
    let holder = match text.trim().parse::<Token>() {
        Ok(token) => store.find_token(token.sha256()).await?,
        Err(_) => None,
    };
    let valid = holder.filter(|holder| holder.is_valid(audit::now()));
    if valid.is_none() {
        tracing::error!(
            path = %path.display(),
            "the break-glass credential has ended; take the file away and start again to seal a new one"
        );
    }
    Ok(valid.and_then(|holder| holder.expires_at))
}

async fn make(
    store: &Store,
    organization: &Fqn,
    instance: &str,
    path: &Path,
) -> Result<DateTime<Utc>, BreakGlassError> {
    let token = Token::generate().map_err(BreakGlassError::Randomness)?;
    let now = audit::now();
    let (user_uid, description) = (uid(organization), format!("break glass, sealed by {instance}"));
    let mut tx = store.begin_as(&Principal::System).await?;
    let head = store.lock_head(&mut tx).await?;
    for old in store.tokens_of(&mut tx, user_uid).await? {
        if old.description == description {
            store.revoke_token(&mut tx, user_uid, old.id, now).await?;
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
    };
    store.insert_token(&mut tx, &row, token.sha256()).await?;
    let reason = format!("token {}, {}", row.id, row.description);
    record(store, &mut tx, head, &Caller::system(), Verb::SealBreakGlass, organization.as_str(), reason).await?;
    write(path, &token)?;
    if let Err(error) = store::commit(tx).await {
        // What it holds may be of no use; the next start would not make another.
        let _ = fs::remove_file(path);
        return Err(error.into());
    }
    tracing::warn!(path = %path.display(), "sealed a break-glass credential; move it to where it is needed");
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
    tracing::warn!(name, request, source = caller.source, "the break-glass credential is used");
    let mut tx = store.begin_as(&Principal::System).await?;
    let head = store.lock_head(&mut tx).await?;
    record(store, &mut tx, head, caller, Verb::BreakGlass, name, request.to_owned()).await?;
    store::commit(tx).await
}
