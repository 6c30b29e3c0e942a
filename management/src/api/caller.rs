//! Who calls: the bearer token of a request, made into a user that exists.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{App, RequestInfo, verb_of};
use crate::audit::{self, Verb};
use crate::iam::{Action, Decision, Principal, decide, may};
use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::token::Token;
use crate::writer::{Caller, Credential};

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Problem> {
        let refuse = |reason: &str| {
            Problem::unauthenticated(reason, verb_of(&parts.method), name_of(parts, &app.organization))
        };
        let given = parts.headers.get(header::AUTHORIZATION);
        let given = given.ok_or_else(|| refuse("send a token: Authorization: Bearer tb_…"))?;
        let token: Token = given
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| refuse("the authorization header is not of the form: Bearer tb_…"))?
            .trim()
            .parse()
            .map_err(|error| refuse(&format!("{error}")))?;
        let row = app.store.find_token(token.sha256()).await?;
        let row = row.ok_or_else(|| refuse("the token is unknown"))?;
        if !row.is_valid(audit::now()) {
            return Err(refuse("the token was revoked or has expired; ask for a new one"));
        }
        let principal = app.principal(row.user_uid).await?;
        let principal = principal.ok_or_else(|| refuse("the token's user does not exist any more"))?;
        tracing::Span::current().record("principal", principal.to_string());
        let info = parts
            .extensions
            .get::<RequestInfo>()
            .expect("invariant: the outermost layer gives every request its info");
        Ok(Caller {
            principal,
            source: info.source.clone(),
            request_id: info.id.clone(),
            time: audit::now(),
            credential: Some(Credential {
                id: row.id,
                expires_at: row.expires_at,
            }),
        })
    }
}

impl App {
    /// Who has that uid. Another replica may have created it a moment ago: that is looked up beside the queue of
    /// writes, which a token of somebody who is gone must not fill.
    async fn principal(&self, uid: Uuid) -> Result<Option<Principal>, Problem> {
        let snapshot = self.writes.snapshot();
        if let Some(principal) = snapshot.bindings.principal(uid) {
            return Ok(Some(principal));
        }
        if self.store.version().await? == snapshot.version {
            return Ok(None);
        }
        Ok(self.writes.catch_up().await?.bindings.principal(uid))
    }

    /// Whether the caller may do that to the node.
    pub(crate) fn allow(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        action: Action,
        node: &Fqn,
        verb: Verb,
    ) -> Result<(), Problem> {
        match decide(&caller.asker(), action, node, &snapshot.bindings) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(lack) => Err(Problem::denied(lack.to_string(), &caller.principal, verb, node)),
        }
    }

    /// Like [`App::allow`] for reading: who may not read a node is told what they would be told if it did not
    /// exist. The denial is on record all the same.
    pub(crate) fn allow_read(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        node: &Fqn,
        verb: Verb,
    ) -> Result<(), Problem> {
        self.allow(snapshot, caller, Action::Read, node, verb)
            .map_err(|denied| {
                let mut problem = Problem::not_found(node);
                problem.denied = denied.denied;
                problem
            })
    }
}

impl Caller {
    pub(crate) fn may_read(&self, snapshot: &Snapshot, node: &Fqn) -> bool {
        may(&self.asker(), Action::Read, node, &snapshot.bindings).is_some()
    }
}

/// What an unknown caller asked for, when it can be told; else it counts for the organization.
fn name_of(parts: &Parts, organization: &Fqn) -> String {
    let target = parts
        .uri
        .path()
        .strip_prefix("/v1/")
        .map(str::parse::<super::target::Target>);
    match target {
        Some(Ok(target)) => target.name().unwrap_or(organization).to_string(),
        _ => organization.to_string(),
    }
}
