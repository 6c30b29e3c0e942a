//! Bearer tokens: 32 random bytes that a user keeps and of which we keep the SHA-256. Issuing and revoking them, and keys
//! of service accounts, are writes with their audit record, but draw no revision: no tree changes.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use crate::account_key::PublicKey;
use crate::audit::{self, Record, Verb};
use crate::caller::{Caller, Credential};
use crate::change::{Refusal, authorize_one};
use crate::iam::{self, Action};
use crate::reply::Answer;
use crate::snapshot::Snapshot;
use crate::store::organization::Head;
use crate::store::token::{Holder, TokenRow};
use crate::store::{self, Store, StoreError, Tx};
use crate::writer::{WriteError, load_since, lock_for};

/// Tells our tokens from others, for people and for scanners of leaked secrets.
const PREFIX: &str = "tb_";

/// Of what ended, in the reason of a record: more than a person has open, and no more than a record may hold.
const NAMED_MAX: usize = 50;

/// What a user holds. Its text must reach no log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is malformed: it must read {PREFIX} and 43 letters")]
    Malformed,
}

/// What somebody may hold to show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    Token,
    Key,
}

/// What is issued, of which management keeps less than its holder.
#[derive(Debug)]
pub(crate) enum Issued<'a> {
    Token(&'a Token),
    Key(&'a PublicKey),
}

/// A token or key as its owner sees it in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenInfo {
    pub(crate) id: Uuid,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    pub(crate) create_time: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expire_time: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revoke_time: Option<DateTime<Utc>>,
    /// The token, key or session that it was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issued_by: Option<Uuid>,
    /// Of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<String>,
}

/// What ended because that which it was made with was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MadeWith {
    /// `session`, `token`, `key`, or a command line that was let in by the session of that id.
    pub(crate) kind: String,
    pub(crate) id: Uuid,
}

/// Why there is no token or key, or why it is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenWriteError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("it would outlive what you identified yourself with, which ends at {}; ask for an earlier end", latest.to_rfc3339())]
    Outlives { latest: DateTime<Utc> },
}

impl From<Refusal> for TokenWriteError {
    fn from(refusal: Refusal) -> TokenWriteError {
        WriteError::from(refusal).into()
    }
}

impl From<StoreError> for TokenWriteError {
    fn from(error: StoreError) -> TokenWriteError {
        WriteError::from(error).into()
    }
}

/// Whose token or key, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) user: Fqn,
    pub(crate) description: String,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

impl Token {
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn generate() -> Result<Token, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Token(bytes))
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// For another use, by whose name the hash differs from that of every other.
    pub(crate) fn sha256_for(&self, purpose: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(purpose)
            .chain_update(self.0)
            .finalize()
            .into()
    }

    /// The only way to its text.
    pub(crate) fn reveal(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TokenError::Malformed)?;
        bytes.try_into().map(Token).map_err(|_| TokenError::Malformed)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CredentialKind::Token => "token",
            CredentialKind::Key => "key",
        })
    }
}

impl CredentialKind {
    pub(crate) fn issuing(self) -> Verb {
        match self {
            CredentialKind::Token => Verb::IssueToken,
            CredentialKind::Key => Verb::IssueKey,
        }
    }

    pub(crate) fn revoking(self) -> Verb {
        match self {
            CredentialKind::Token => Verb::RevokeToken,
            CredentialKind::Key => Verb::RevokeKey,
        }
    }
}

impl Issued<'_> {
    fn sha256(&self) -> [u8; 32] {
        match self {
            Issued::Token(token) => token.sha256(),
            Issued::Key(key) => key.sha256(),
        }
    }

    fn public_key(&self) -> Option<PublicKey> {
        match self {
            Issued::Token(_) => None,
            Issued::Key(key) => Some(**key),
        }
    }
}

impl TokenRow {
    pub(crate) fn kind(&self) -> CredentialKind {
        match self.public_key {
            None => CredentialKind::Token,
            Some(_) => CredentialKind::Key,
        }
    }
}

impl From<TokenRow> for TokenInfo {
    fn from(row: TokenRow) -> TokenInfo {
        TokenInfo {
            id: row.id,
            description: row.description,
            create_time: row.created_at,
            expire_time: row.expires_at,
            revoke_time: row.revoked_at,
            issued_by: row.issued_by,
            public_key: row.public_key.map(|key| key.to_string()),
        }
    }
}

impl Holder {
    pub(crate) fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// Issues it, decided on what the database holds when the head is locked.
///
/// # Errors
/// When the caller may not, when the token would live longer than what the caller identified itself with, and when its
/// holder could do more than the caller.
pub(crate) async fn issue(
    store: &Store,
    held: &Snapshot,
    caller: &Caller,
    order: Order,
    issued: Issued<'_>,
) -> Result<TokenInfo, TokenWriteError> {
    let mut tx = store.begin_as(&caller.principal).await?;
    let (head, user_uid) = admit(store, &mut tx, held, caller, &order.user).await?;
    let expires_at = expiry(order.expires_at, caller.credential)?;
    let order = Order { expires_at, ..order };
    let info = store_token(store, &mut tx, head, caller, &order, user_uid, issued).await?;
    store::commit(tx).await?;
    Ok(info)
}

/// Decides, on what the database holds when the head is locked, whether the caller may give somebody a way to be that
/// user: whoever is given it can do all that the user can.
pub(crate) async fn admit(
    store: &Store,
    tx: &mut Tx,
    held: &Snapshot,
    caller: &Caller,
    user: &Fqn,
) -> Result<(Head, Uuid), TokenWriteError> {
    let (head, snapshot) = lock(store, tx, held, caller).await?;
    let user_uid = authorize(&snapshot, caller, user)?;
    match iam::lacks(&caller.asker(), user, &snapshot.bindings) {
        None => Ok((head, user_uid)),
        Some(excess) => Err(Refusal::Denied {
            because: excess.to_string(),
            name: user.clone(),
        }
        .into()),
    }
}

/// Within a transaction that holds the head.
pub(crate) async fn store_token(
    store: &Store,
    tx: &mut Tx,
    head: Head,
    caller: &Caller,
    order: &Order,
    user_uid: Uuid,
    issued: Issued<'_>,
) -> Result<TokenInfo, StoreError> {
    let row = TokenRow {
        id: Uuid::now_v7(),
        user_uid,
        description: order.description.clone(),
        created_at: audit::now(),
        expires_at: order.expires_at,
        revoked_at: None,
        issued_by: caller.credential.map(|credential| credential.id),
        public_key: issued.public_key(),
    };
    store.insert_token(tx, &row, issued.sha256()).await?;
    // By it all is found that somebody has made with what was stolen.
    let with = row.issued_by.map_or_else(String::new, |id| format!(" with {id}"));
    let (verb, reason) = (row.kind().issuing(), format!("{} {}{with}", row.kind(), row.id));
    record(store, tx, head, caller, verb, &order.user, reason).await?;
    Ok(row.into())
}

/// Revokes it, and what its user had made for itself with it. What that is answered, if there was such a one.
pub(crate) async fn revoke(
    store: &Store,
    held: &Snapshot,
    caller: &Caller,
    user: &Fqn,
    (kind, id): (CredentialKind, Uuid),
) -> Result<Option<Answer>, TokenWriteError> {
    let mut tx = store.begin_as(&caller.principal).await?;
    let (head, snapshot) = lock(store, &mut tx, held, caller).await?;
    let user_uid = authorize(&snapshot, caller, user)?;
    let made = store.revoke_token(&mut tx, user_uid, kind, id, audit::now());
    let Some(made) = made.await? else {
        return Ok(None);
    };
    let reason = ended(&format!("{kind} {id}"), &made);
    record(store, &mut tx, head, caller, kind.revoking(), user, reason).await?;
    let answer = Answer::ok(&json!({ "id": id }));
    store.keep_answer(&mut tx, caller, &answer).await?;
    store::commit(tx).await?;
    Ok(Some(answer))
}

/// For the audit record: what was revoked, and what ended with it.
pub(crate) fn ended(revoked: &str, made: &[MadeWith]) -> String {
    let mut reason = revoked.to_owned();
    for (position, one) in made.iter().take(NAMED_MAX).enumerate() {
        let before = if position == 0 { "; with it" } else { "," };
        reason.push_str(&format!("{before} {} {}", one.kind, one.id));
    }
    match made.len().saturating_sub(NAMED_MAX) {
        0 => reason,
        more => format!("{reason} and {more} more"),
    }
}

/// As [`lock_for`], and gives what the database holds meanwhile.
pub(crate) async fn lock(
    store: &Store,
    tx: &mut Tx,
    held: &Snapshot,
    caller: &Caller,
) -> Result<(Head, Snapshot), WriteError> {
    let head = lock_for(store, tx, caller).await?;
    let snapshot = match head.version == held.version {
        true => held.clone(),
        false => load_since(store, held).await?,
    };
    Ok((head, snapshot))
}

/// The uid of the user, when the caller may keep its tokens.
fn authorize(snapshot: &Snapshot, caller: &Caller, user: &Fqn) -> Result<Uuid, Refusal> {
    authorize_one(snapshot, &caller.asker(), Action::Tokens, user)?;
    let stored = snapshot
        .get(user)
        .ok_or_else(|| Refusal::NotFound { name: user.clone() })?;
    Ok(stored.uid)
}

/// Nothing that is issued outlives what issued it.
fn expiry(
    wanted: Option<DateTime<Utc>>,
    issuer: Option<Credential>,
) -> Result<Option<DateTime<Utc>>, TokenWriteError> {
    let latest = issuer.and_then(|issuer| issuer.expires_at);
    match (wanted, latest) {
        (Some(wanted), Some(latest)) if wanted > latest => Err(TokenWriteError::Outlives { latest }),
        (wanted, latest) => Ok(wanted.or(latest)),
    }
}

async fn record(
    store: &Store,
    tx: &mut Tx,
    head: Head,
    caller: &Caller,
    verb: Verb,
    user: &Fqn,
    reason: String,
) -> Result<(), StoreError> {
    let record = Record {
        reason,
        ..caller.record(verb, user.as_str())
    };
    store.append_write(tx, head, record).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_hides_itself() {
        let token = Token::generate().unwrap();
        let text = token.reveal();
        assert_eq!(text.len(), 46);
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&text[3..]));
        assert_ne!(Token::generate().unwrap(), token);
    }

    #[test]
    fn a_record_tells_what_ended_and_stays_short() {
        let made = |count: usize| {
            let one = MadeWith {
                kind: "token".to_owned(),
                id: Uuid::nil(),
            };
            ended("key 1", &vec![one; count])
        };
        assert_eq!(made(0), "key 1");
        let one = format!("token {}", Uuid::nil());
        assert_eq!(made(2), format!("key 1; with it {one}, {one}"));
        let many = made(NAMED_MAX + 3);
        assert!(many.ends_with(" and 3 more"), "{many}");
        assert!(many.len() < 50 * NAMED_MAX, "{}", many.len());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "",
            "tb_",
            "tb_abc",
            "xx_",
            "tb_!!!",
            &format!("tb_{}", "a".repeat(44)),
        ] {
            assert_eq!(text.parse::<Token>(), Err(TokenError::Malformed), "{text}");
        }
    }
}
