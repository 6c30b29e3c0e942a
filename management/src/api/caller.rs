//! Who calls: the bearer token of a request, made into a user that exists.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use tokio::time::Instant;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{App, RequestInfo, verb_of};
use crate::audit::{self, Verb};
use crate::iam::{Action, Decision, Principal, decide, may};
use crate::limit::Limits;
use crate::managed::Hand;
use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::store::token::Holder;
use crate::token::{Token, TokenError};
use crate::writer::{Caller, Credential};

/// A token that a request brings, not looked up yet: a read looks it up in the statement that reads.
#[derive(Debug)]
pub(crate) struct Bearer {
    token: Token,
    info: RequestInfo,
    hand: Hand,
    /// What a refusal is about.
    verb: Verb,
    name: String,
}

impl FromRequestParts<App> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Bearer, Problem> {
        let verb = verb_of(&parts.method);
        let name = name_of(parts, &app.organization);
        let token = match token(&parts.headers) {
            Ok(token) => token,
            Err(reason) => return Err(Problem::unauthenticated(reason, verb, name)),
        };
        let info = parts
            .extensions
            .get::<RequestInfo>()
            .expect("invariant: the outermost layer gives every request its info")
            .clone();
        let hand = Hand::of(&parts.headers).map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Bearer {
            token,
            info,
            hand,
            verb,
            name,
        })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Problem> {
        // Who sends a key is known already.
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(caller.clone());
        }
        let bearer = Bearer::from_request_parts(parts, app).await?;
        app.identify(bearer).await
    }
}

impl Bearer {
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.token.sha256()
    }

    fn refuse(&self, reason: &str) -> Problem {
        Problem::unauthenticated(reason, self.verb, self.name.as_str())
    }
}

impl RequestInfo {
    /// Takes one request of the principal's allowance, of which every answer tells what is left.
    fn charge(&self, limits: &Limits, principal: Uuid) -> Result<(), Problem> {
        let allowance = limits.take(principal, Instant::now());
        let allowance = self.allowance.get_or_init(|| allowance);
        match allowance.allowed {
            true => Ok(()),
            false => Err(Problem::too_fast(allowance.limit)),
        }
    }
}

impl App {
    /// Looks the token up.
    pub(crate) async fn identify(&self, bearer: Bearer) -> Result<Caller, Problem> {
        let holder = self.store.find_token(bearer.sha256()).await?;
        self.caller(bearer, holder).await
    }

    /// Who brings the token, of which the database knows this.
    pub(crate) async fn caller(&self, bearer: Bearer, holder: Option<Holder>) -> Result<Caller, Problem> {
        let holder = holder.ok_or_else(|| bearer.refuse("the token is unknown"))?;
        let time = audit::now();
        if !holder.is_valid(time) {
            return Err(bearer.refuse("the token was revoked or has expired; ask for a new one"));
        }
        bearer.info.charge(&self.limits, holder.user_uid)?;
        let known = self.principal(holder.user_uid).await?;
        let (principal, teams) =
            known.ok_or_else(|| bearer.refuse("the token's user does not exist any more"))?;
        tracing::Span::current().record("principal", principal.to_string());
        Ok(Caller {
            principal,
            teams: bearer.info.teams.get_or_init(|| teams).clone(),
            source: bearer.info.source,
            request_id: bearer.info.id,
            hand: bearer.hand,
            keyed: None,
            time,
            credential: Some(Credential {
                id: holder.token,
                expires_at: holder.expires_at,
            }),
        })
    }

    /// Who has that uid, and its teams. Another replica may have created it a moment ago: that is looked up beside the queue of
    /// writes, which a token of somebody who is gone must not fill.
    async fn principal(&self, uid: Uuid) -> Result<Option<(Principal, Vec<String>)>, Problem> {
        let snapshot = self.writes.snapshot();
        let known = snapshot.known(uid);
        if known.is_some() || self.store.version().await? == snapshot.version {
            return Ok(known);
        }
        Ok(self.writes.catch_up().await?.known(uid))
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

impl Snapshot {
    fn known(&self, uid: Uuid) -> Option<(Principal, Vec<String>)> {
        let principal = self.bindings.principal(uid)?;
        let teams = self.bindings.teams_of(principal.name()?);
        let teams = teams.iter().map(Fqn::to_string).collect();
        Some((principal, teams))
    }
}

impl Caller {
    pub(crate) fn may_read(&self, snapshot: &Snapshot, node: &Fqn) -> bool {
        may(&self.asker(), Action::Read, node, &snapshot.bindings).is_some()
    }
}

/// The error says what is wrong with it.
fn token(headers: &HeaderMap) -> Result<Token, String> {
    let given = headers.get(header::AUTHORIZATION);
    let given = given.ok_or("send a token: Authorization: Bearer tb_…")?;
    let bearer = given
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "));
    let bearer = bearer.ok_or("the authorization header is not of the form: Bearer tb_…")?;
    bearer
        .trim()
        .parse()
        .map_err(|error: TokenError| error.to_string())
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
