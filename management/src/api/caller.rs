//! Who calls: the bearer token of a request, or the session in its cookie, made into a user that exists.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use tokio::time::Instant;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{App, RequestInfo, verb_of};
use crate::audit::{self, Verb};
use crate::iam::{Action, Decision, Principal, decide};
use crate::limit::Limits;
use crate::login::browser::{Cookie, Origin};
use crate::managed::Hand;
use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::store::token::Holder;
use crate::token::{Token, TokenError};
use crate::writer::Caller;

/// What a request brings to prove who sends it, not looked up yet: a read looks it up in the statement that reads.
#[derive(Debug)]
pub(crate) struct Bearer {
    sha256: [u8; 32],
    info: RequestInfo,
    hand: Hand,
    /// What a refusal is about.
    verb: Verb,
    name: String,
}

/// How it was brought.
enum Presented {
    Token(Token),
    Cookie(Token),
}

impl FromRequestParts<App> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Bearer, Problem> {
        let verb = verb_of(&parts.method);
        let name = name_of(parts, &app.organization);
        let origin = app.login.site.origin(&parts.headers);
        let sha256 = match presented(&parts.headers, &origin) {
            Ok(Presented::Token(token)) => token.sha256(),
            // What only reads answers no other site: its page cannot see the answer.
            Ok(Presented::Cookie(token)) if parts.method.is_safe() || origin.sent(&parts.headers) => {
                token.sha256_in_cookie()
            }
            Ok(Presented::Cookie(_)) => return Err(Problem::cross_site(verb, name)),
            Err(reason) => return Err(Problem::unauthenticated(reason, verb, name)),
        };
        let info = RequestInfo::of(parts);
        let hand = Hand::of(&parts.headers).map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Bearer {
            sha256,
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
        self.sha256
    }

    fn refuse(&self, reason: &str) -> Problem {
        Problem::unauthenticated(reason, self.verb, self.name.as_str())
    }
}

impl RequestInfo {
    pub(crate) fn of(parts: &Parts) -> RequestInfo {
        let info = parts.extensions.get::<RequestInfo>();
        info.expect("invariant: the outermost layer gives every request its info")
            .clone()
    }

    /// Takes one request of the principal's allowance, of which every answer tells what is left.
    fn charge(&self, limits: &Limits<Uuid>, principal: Uuid) -> Result<(), Problem> {
        let allowance = limits.take(principal, Instant::now());
        let allowance = self.allowance.get_or_init(|| allowance);
        match allowance.allowed {
            true => Ok(()),
            false => Err(Problem::too_fast(allowance.limit)),
        }
    }
}

impl App {
    /// Looks up who it is.
    pub(crate) async fn identify(&self, bearer: Bearer) -> Result<Caller, Problem> {
        let holder = self.store.find_credential(bearer.sha256()).await?;
        self.caller(bearer, holder).await
    }

    /// As [`App::identify`], with what the caller identifies itself with.
    pub(crate) async fn identify_holder(&self, bearer: Bearer) -> Result<(Caller, Holder), Problem> {
        let holder = self.store.find_credential(bearer.sha256()).await?;
        let caller = self.caller(bearer, holder.clone()).await?;
        Ok((caller, holder.expect("invariant: nobody is a caller without one")))
    }

    /// Who brings it, when the database knows this of it.
    pub(crate) async fn caller(&self, bearer: Bearer, holder: Option<Holder>) -> Result<Caller, Problem> {
        let holder = holder.ok_or_else(|| bearer.refuse("the token or session is unknown"))?;
        if !holder.is_valid(audit::now()) {
            return Err(bearer.refuse(
                "the token or session was revoked or has expired; ask for a new one, or log in again",
            ));
        }
        bearer.info.charge(&self.limits, holder.user_uid)?;
        let name = self.user_by_uid(holder.user_uid).await?;
        let name =
            name.ok_or_else(|| bearer.refuse("the user of this token or session does not exist any more"))?;
        tracing::Span::current().record("principal", name.as_str());
        Ok(Caller {
            principal: Principal::User {
                name,
                uid: holder.user_uid,
            },
            source: bearer.info.source,
            request_id: bearer.info.id,
            hand: bearer.hand,
            keyed: None,
        })
    }

    /// Another replica may have created it a moment ago.
    pub(crate) async fn user_by_uid(&self, uid: Uuid) -> Result<Option<Fqn>, Problem> {
        if let Some(name) = self.writes.snapshot().user_by_uid(uid) {
            return Ok(Some(name.clone()));
        }
        Ok(self.writes.catch_up().await?.user_by_uid(uid).cloned())
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
        match decide(&caller.principal, action, node, &snapshot.bindings) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { because } => Err(Problem::denied(because, &caller.principal, verb, node)),
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
        decide(&self.principal, Action::Read, node, &snapshot.bindings).is_allowed()
    }
}

/// The error says what is wrong with it. A token goes before a cookie, which browsers send without being asked.
fn presented(headers: &HeaderMap, origin: &Origin) -> Result<Presented, String> {
    let parse = |text: &str| text.trim().parse().map_err(|error: TokenError| error.to_string());
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        let cookie = origin.read(headers, Cookie::Session);
        let cookie = cookie.ok_or("send a token: Authorization: Bearer tb_…, or log in")?;
        return Ok(Presented::Cookie(parse(cookie)?));
    };
    let bearer = given
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "));
    let bearer = bearer.ok_or("the authorization header is not of the form: Bearer tb_…")?;
    Ok(Presented::Token(parse(bearer)?))
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
