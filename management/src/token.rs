//! Bearer tokens: 32 random bytes that a user keeps and of which we keep the SHA-256. Issuing and revoking are writes
//! with their audit record, but draw no revision: no tree changes.

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

use crate::audit::{self, Chain, Record, Verb, seal};
use crate::reply::Answer;
use crate::store::token::{Holder, TokenRow};
use crate::store::{self, Store, StoreError, Tx};
use crate::writer::Caller;

/// Tells our tokens from others, for people and for scanners of leaked secrets.
const PREFIX: &str = "tb_";

/// What a user holds. Its text must reach no log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is malformed: it must read {PREFIX} and 43 letters")]
    Malformed,
}

/// A token as its owner sees it in a list.
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
}

/// Whose token, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) user: Fqn,
    pub(crate) user_uid: Uuid,
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

impl From<TokenRow> for TokenInfo {
    fn from(row: TokenRow) -> TokenInfo {
        TokenInfo {
            id: row.id,
            description: row.description,
            create_time: row.created_at,
            expire_time: row.expires_at,
            revoke_time: row.revoked_at,
        }
    }
}

impl Holder {
    pub(crate) fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// Stores the token within a transaction that holds the head.
pub(crate) async fn issue(
    store: &Store,
    tx: &mut Tx,
    caller: &Caller,
    order: &Order,
    token: &Token,
) -> Result<TokenInfo, StoreError> {
    let row = TokenRow {
        id: Uuid::now_v7(),
        user_uid: order.user_uid,
        description: order.description.clone(),
        created_at: audit::now(),
        expires_at: order.expires_at,
        revoked_at: None,
    };
    store.insert_token(tx, &row, token.sha256()).await?;
    record(store, tx, caller, Verb::IssueToken, &order.user, row.id).await?;
    Ok(row.into())
}

/// What it is answered, if there was such a token.
pub(crate) async fn revoke(
    store: &Store,
    caller: &Caller,
    user: &Fqn,
    user_uid: Uuid,
    id: Uuid,
) -> Result<Option<Answer>, StoreError> {
    let mut tx = store.begin_as(&caller.principal).await?;
    if !store.revoke_token(&mut tx, user_uid, id, audit::now()).await? {
        return Ok(None);
    }
    record(store, &mut tx, caller, Verb::RevokeToken, user, id).await?;
    let answer = Answer::ok(&json!({ "id": id }));
    store.keep_answer(&mut tx, caller, &answer).await?;
    store::commit(tx).await?;
    Ok(Some(answer))
}

async fn record(
    store: &Store,
    tx: &mut Tx,
    caller: &Caller,
    verb: Verb,
    user: &Fqn,
    id: Uuid,
) -> Result<(), StoreError> {
    let mut head = store.lock_head(tx).await?;
    let record = Record {
        reason: format!("token {id}"),
        ..caller.record(verb, user.as_str())
    };
    let (sealed, end) = seal(Chain::Writes, head.audit, record);
    head.audit = end;
    store.insert_audit(tx, &[sealed]).await?;
    store.set_head(tx, &head).await
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
