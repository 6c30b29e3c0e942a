//! Who calls: the bearer token of a request, what a service account has signed, or the session in a cookie, made into a
//! principal that exists.

use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use tokio::time::Instant;
use tombolo_compiler::name::Fqn;
use tombolo_proto::held::Version;
use uuid::Uuid;

use super::target::Target;
use super::{App, Identity, RequestInfo, verb_of};
use crate::account_key::assertion::{self, Assertion};
use crate::audit::{self, Verb};
use crate::break_glass;
use crate::caller::{Caller, Credential};
use crate::change::WALLED;
use crate::history::may_read_past;
use crate::iam::{Action, Decision, Principal, decide};
use crate::limit::Limits;
use crate::login::browser::{Cookie, Origin};
use crate::managed::Hand;
use crate::problem::Problem;
use crate::snapshot::{Snapshot, Tree};
use crate::store::StoreError;
use crate::store::lookup::{Found, Held, Lookup};
use crate::store::token::Holder;
use crate::token::{Token, TokenError};

/// What a request brings to show who sends it, not looked up yet: a read looks it up in the statement that reads.
#[derive(Debug)]
pub(crate) struct Bearer {
    presented: Presented,
    info: RequestInfo,
    hand: Hand,
    request: Requested,
}

/// What a refusal is about. Told where one is: most requests are not refused.
#[derive(Debug)]
struct Requested {
    method: Method,
    uri: Uri,
    /// What it counts for when no other name can be told.
    organization: Fqn,
}

/// How it is brought.
#[derive(Debug)]
enum Presented {
    Token(Token),
    /// The signature holds; whether the key is anybody's is not known.
    Assertion(Assertion),
    /// Of a browser that has logged in.
    Cookie(Token),
}

impl FromRequestParts<App> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Bearer, Problem> {
        let request = Requested {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            organization: app.organization.clone(),
        };
        let origin = app.login.site.origin(&parts.headers);
        let presented = match presented(&parts.headers, &origin, &app.organization) {
            Ok(presented) => presented,
            Err(reason) => return Err(request.refuse(&reason)),
        };
        // What only reads answers no other site: its page cannot see the answer.
        let from_elsewhere = !parts.method.is_safe() && !origin.sent(&parts.headers);
        if from_elsewhere && matches!(presented, Presented::Cookie(_)) {
            return Err(Problem::cross_site(request.verb(), request.name()));
        }
        let info = RequestInfo::of(parts);
        let hand = Hand::of(&parts.headers).map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Bearer {
            presented,
            info,
            hand,
            request,
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
        match &self.presented {
            Presented::Token(token) => token.sha256(),
            Presented::Cookie(token) => token.sha256_in_cookie(),
            Presented::Assertion(assertion) => assertion.key.sha256(),
        }
    }

    /// As a caller is told of it.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.presented {
            Presented::Token(_) => "token",
            Presented::Assertion(_) => "key",
            Presented::Cookie(_) => "session",
        }
    }

    fn refuse(&self, reason: &str) -> Problem {
        self.request.refuse(reason)
    }
}

impl Requested {
    fn verb(&self) -> Verb {
        verb_of(&self.method)
    }

    fn name(&self) -> String {
        let path = self.uri.path().strip_prefix("/v1/");
        let target = path.and_then(|path| path.parse::<Target>().ok());
        let name = target.as_ref().and_then(Target::name);
        name.unwrap_or(&self.organization).to_string()
    }

    fn refuse(&self, reason: &str) -> Problem {
        Problem::unauthenticated(reason, self.verb(), self.name())
    }
}

/// `GET /v1/…`, without the query.
impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri.path())
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
        let (caller, _) = self.identify_holder(bearer).await?;
        Ok(caller)
    }

    /// As [`App::identify`], with what the caller identifies itself with.
    pub(crate) async fn identify_holder(&self, bearer: Bearer) -> Result<(Caller, Holder), Problem> {
        let holder = self.look_up(&bearer, None).await?.map(|found| found.holder);
        let is_read = bearer.request.verb() == Verb::Get;
        let caller = self.caller(bearer, holder.clone()).await?;
        if is_read {
            // What answers from memory must not know less than what this caller was told before; a write is decided anew.
            self.writes.reach(caller.seen).await;
        }
        Ok((caller, holder.expect("invariant: nobody is a caller without one")))
    }

    /// Whose it is, and the resource of that name as the second wall shows it.
    pub(crate) async fn look_up(
        &self,
        bearer: &Bearer,
        name: Option<&Fqn>,
    ) -> Result<Option<Found>, Problem> {
        let snapshot = self.writes.snapshot();
        let held = name.and_then(|name| snapshot.get(name)).map(|stored| Held {
            epoch: snapshot.version.epoch,
            stored: stored.clone(),
        });
        let lookup = Lookup {
            sha256: bearer.sha256(),
            name: name.cloned(),
            held,
        };
        Ok(self.lookups.find(lookup).await?)
    }

    /// Who brings it, when the database knows this of it.
    pub(crate) async fn caller(&self, bearer: Bearer, holder: Option<Holder>) -> Result<Caller, Problem> {
        let holder = holder.ok_or_else(|| bearer.refuse("the token, key or session is unknown"))?;
        let time = audit::now();
        if !holder.is_valid(time) {
            return Err(bearer.refuse(
                "the token, key or session was revoked or has expired; ask for a new one, or log in again",
            ));
        }
        bearer.info.charge(&self.limits, holder.user_uid)?;
        let known = self.principal(holder.user_uid, holder.seen).await?;
        let (principal, teams) = known
            .ok_or_else(|| bearer.refuse("whose token, key or session it is does not exist any more"))?;
        let mut expires_at = holder.expires_at;
        if let Presented::Assertion(assertion) = &bearer.presented {
            if principal.name() != Some(&assertion.subject) {
                return Err(bearer.refuse("the assertion's sub is not whose key it is signed with"));
            }
            expires_at = Some(
                holder
                    .expires_at
                    .map_or(assertion.expires_at, |at| at.min(assertion.expires_at)),
            );
            if !Box::pin(self.store.spend_assertion(assertion)).await? {
                return Err(bearer.refuse("the assertion was used already; sign one for each request"));
            }
        }
        let identity = bearer.info.identity.get_or_init(|| Identity {
            principal: principal.to_string(),
            teams,
        });
        let caller = Caller {
            principal,
            teams: identity.teams.clone(),
            source: bearer.info.source,
            request_id: bearer.info.id,
            hand: bearer.hand,
            keyed: None,
            time,
            seen: holder.seen,
            opened: holder.opened,
            credential: Some(Credential {
                id: holder.held.id(),
                expires_at,
            }),
        };
        if let Principal::BreakGlass { .. } = caller.principal {
            let metrics = self.metrics.break_glass();
            Box::pin(break_glass::used(
                &self.store,
                metrics,
                &caller,
                &bearer.request.to_string(),
                &bearer.request.name(),
            ))
            .await?;
        }
        Ok(caller)
    }

    /// Of who listens: what it may see at `latest`, when it was last asked at `seen`.
    pub(crate) async fn renew(
        &self,
        caller: &mut Caller,
        seen: &Snapshot,
        latest: &Snapshot,
    ) -> Result<(), StoreError> {
        caller.time = audit::now();
        if !seen.opens_the_same(latest) {
            caller.opened = self.store.opened(&caller.principal).await?;
        }
        Ok(())
    }

    /// Who has that uid, and its teams. Another replica may have created it a moment ago: that is looked up beside the
    /// queue of writes, which a token of somebody who is gone must not fill.
    async fn principal(&self, uid: Uuid, seen: Version) -> Result<Option<(Principal, Vec<String>)>, Problem> {
        let snapshot = self.writes.snapshot();
        let known = snapshot.known(uid);
        if known.is_some() || snapshot.has(seen) {
            return Ok(known);
        }
        Ok(Box::pin(self.writes.catch_up()).await?.known(uid))
    }

    /// The user of that uid.
    pub(crate) async fn user_by_uid(&self, uid: Uuid) -> Result<Option<Fqn>, Problem> {
        let known = self.principal(uid, self.store.version().await?).await?;
        Ok(known.and_then(|(principal, _)| match principal {
            Principal::User { name, .. } => Some(name),
            Principal::ServiceAccount { .. } | Principal::BreakGlass { .. } | Principal::System => None,
        }))
    }

    /// Whether the caller may do that to the node, by both walls.
    pub(crate) fn allow(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        action: Action,
        node: &Fqn,
        verb: Verb,
    ) -> Result<(), Problem> {
        let deny = |because: String| Err(Problem::denied(because, &caller.principal, verb, node));
        match decide(&caller.asker(), action, node, &snapshot.bindings) {
            Decision::Allow(_) if caller.is_open(node) => Ok(()),
            Decision::Allow(_) => {
                // Rights that another replica has taken away are not known here yet.
                if snapshot.has(caller.seen) {
                    tracing::error!(%node, "the second wall held what the first let through");
                }
                deny(WALLED.to_owned())
            }
            Decision::Deny(lack) => deny(lack.to_string()),
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
        let Some(principal) = self.bindings.principal(uid) else {
            let organization = self.organization()?;
            let sealed = uid == break_glass::uid(&organization);
            return sealed.then(|| (break_glass::principal(&organization), Vec::new()));
        };
        let teams = self.bindings.teams_of(principal.name()?);
        let teams = teams.iter().map(Fqn::to_string).collect();
        Some((principal, teams))
    }
}

impl Caller {
    /// By both walls.
    pub(crate) fn may_read(&self, snapshot: &Snapshot, node: &Fqn) -> bool {
        self.asker().may_read(node, &snapshot.bindings)
    }

    /// By both walls, what it was in `past`.
    pub(crate) fn may_read_past(&self, now: &Snapshot, past: &Tree, node: &Fqn) -> bool {
        may_read_past(&self.asker(), now, past, node) && self.is_open(node)
    }
}

/// The error says what is wrong with it. A token goes before a cookie, which browsers send without being asked.
fn presented(headers: &HeaderMap, origin: &Origin, organization: &Fqn) -> Result<Presented, String> {
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        let cookie = origin.read(headers, Cookie::Session);
        let cookie = cookie.ok_or("send a token: Authorization: Bearer tb_…, or log in")?;
        return parsed(cookie).map(Presented::Cookie);
    };
    let bearer = given
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "));
    let bearer = bearer.ok_or("the authorization header is not of the form: Bearer tb_…")?;
    let bearer = bearer.trim();
    if assertion::is_one(bearer) {
        let verified = assertion::verify(bearer, organization, audit::now());
        return verified
            .map(Presented::Assertion)
            .map_err(|error| error.to_string());
    }
    parsed(bearer).map(Presented::Token)
}

fn parsed(text: &str) -> Result<Token, String> {
    text.parse().map_err(|error: TokenError| error.to_string())
}
