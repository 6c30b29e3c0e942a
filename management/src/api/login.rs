//! `/v1/auth:login`, `:methods`, `:logout`, `:whoami`; a user's sessions and its password.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{CACHE_CONTROL, SET_COOKIE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tombolo_compiler::name::{Fqn, Kind, Label};
use uuid::Uuid;

use super::body::Body;
use super::caller::Bearer;
use super::idempotency::IDEMPOTENCY_KEY;
use super::paging::PageParams;
use super::tokens::{self, Collection};
use super::{App, Params, RequestInfo};
use crate::audit::{self, Record, Verb};
use crate::caller::Caller;
use crate::iam::Principal;
use crate::login::browser::{self, Cookie};
use crate::login::password::Password;
use crate::login::session::{self, Method, OpenError, Opening, Proof, Session, Visitor};
use crate::login::source::Source;
use crate::login::{Admission, TooOften};
use crate::problem::Problem;
use crate::store::token::Held;
use crate::store::{self, StoreError, Tx};
use crate::token::{self, CredentialKind, Token};

/// For a name that is none: it is counted and recorded as itself.
const NAME_CHARS_MAX: usize = 64;

/// Which of the two is wrong, is not told.
const WRONG_PASSWORD: &str = "there is no such user with that password";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginWish {
    user: String,
    password: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordWish {
    password: String,
    /// What it is now, which whoever changes their own must know.
    current: Option<String>,
}

/// Somebody who has logged in.
pub(super) struct Opened {
    pub(super) user: Fqn,
    pub(super) session: Session,
    pub(super) secret: Token,
}

pub(crate) async fn login(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if browser::is_told(&headers) && !app.login.site.origin(&headers).sent(&headers) {
        return Err(Problem::cross_site(Verb::Login, app.organization.as_str()));
    }
    let wish: LoginWish = body.parse()?;
    let opened = by_password(&app, visitor, wish.user, wish.password).await?;
    let mut answer = json!(opened.session);
    answer["user"] = json!(opened.user);
    let cookie = opened.cookie(&app, &headers);
    let headers = [
        (SET_COOKIE, cookie),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Json(answer)).into_response())
}

/// What a page to log in at offers.
pub(crate) async fn methods(State(app): State<App>) -> Json<Value> {
    Json(match &app.login.provider {
        Some(provider) => json!({"provider": {"issuer": provider.issuer()}}),
        None => json!({}),
    })
}

/// Ends what the caller identifies itself with, a session or a token.
pub(crate) async fn logout(
    State(app): State<App>,
    bearer: Bearer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    without_key(&headers)?;
    let (caller, holder) = app.identify_holder(bearer).await?;
    let name = caller.principal.name();
    let name = name.ok_or_else(|| Problem::bad_request("management itself does not log out"))?;
    let id = holder.held.id();
    match holder.held {
        Held::Token(_) => {
            let token = (CredentialKind::Token, id);
            let revoked = token::revoke(&app.store, &app.writes.snapshot(), &caller, name, token).await;
            let revoked =
                revoked.map_err(|error| Problem::of_token(error, &caller.principal, Verb::RevokeToken))?;
            revoked.ok_or_else(|| {
                Problem::bad_request("nobody logs out of a key; revoke it where it is listed")
            })?;
        }
        Held::Session(..) => {
            let mut tx = system(&app).await?;
            let of = (name, holder.user_uid);
            if session::revoke(&app.store, &mut tx, &caller, Verb::Logout, of, id).await? {
                store::commit(tx).await?;
            }
        }
    }
    let cookie = app.login.site.origin(&headers).clear(Cookie::Session);
    Ok(([(SET_COOKIE, cookie)], Json(json!({ "id": id }))).into_response())
}

pub(crate) async fn whoami(State(app): State<App>, bearer: Bearer) -> Result<Json<Value>, Problem> {
    let kind = bearer.kind();
    let (caller, holder) = app.identify_holder(bearer).await?;
    // A command line presents its session as it would a token.
    let (kind, groups) = match &holder.held {
        Held::Token(_) => (kind, &[][..]),
        Held::Session(_, groups) => ("session", groups.as_slice()),
    };
    let mut answer = json!({
        "user": caller.principal.to_string(),
        "uid": holder.user_uid,
        "groups": groups,
        "teams": caller.teams,
        "credential": {"kind": kind, "id": holder.held.id()},
    });
    if let Some(at) = caller.credential.and_then(|credential| credential.expires_at) {
        answer["credential"]["expireTime"] = json!(at);
    }
    Ok(Json(answer))
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Collection { holder: user, .. }: Collection,
    Params(paging): Params<PageParams>,
) -> Result<Json<Value>, Problem> {
    let user_uid = tokens::find(&app, &caller, &user, Verb::List)?;
    let mut tx = system(&app).await?;
    let sessions = app.store.sessions_of(&mut tx, user_uid).await?;
    let page = paging.cut(sessions, |session| Reverse(session.id))?;
    Ok(Json(page.told_in(json!({ "items": page.items }))))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Collection { holder: user, .. }: Collection,
    Path((_, _, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    without_key(&headers)?;
    let user_uid = tokens::find(&app, &caller, &user, Verb::RevokeSession)?;
    let missing = || Problem::not_found(format!("session {id} of {user}"));
    let uuid: Uuid = id.parse().map_err(|_| missing())?;
    let mut tx = system(&app).await?;
    let of = (&user, user_uid);
    if !session::revoke(&app.store, &mut tx, &caller, Verb::RevokeSession, of, uuid).await? {
        return Err(missing());
    }
    store::commit(tx).await?;
    Ok(Json(json!({ "id": uuid })))
}

/// Ends every other session of the user: whoever had the old password may hold one.
pub(crate) async fn set_password(
    State(app): State<App>,
    bearer: Bearer,
    Collection { holder: user, .. }: Collection,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    without_key(&headers)?;
    let (caller, holder) = app.identify_holder(bearer).await?;
    let user_uid = tokens::find(&app, &caller, &user, Verb::SetPassword)?;
    let wish: PasswordWish = body.parse()?;
    let password = Password::new(wish.password)?;
    let denied = |because: &str| Problem::denied(because, &caller.principal, Verb::SetPassword, &user);
    let wrong = || denied("/current is not the password that is set");
    let is_own = user_uid == holder.user_uid;
    let held = held_password(&app, user_uid).await?;
    if is_own {
        if let Some(held) = held.clone() {
            if !knows(&app, &caller, &user, wish.current, held).await? {
                return Err(wrong());
            }
        } else if holder.expires_at.is_some() {
            // Or who has stolen a session would have a way in that does not end with it.
            return Err(denied(
                "a first password would outlive this session or token; ask an administrator to set it",
            ));
        }
    }
    let hash = app.login.passwords.hash(password).await?;
    let now = audit::now();
    let mut tx = system(&app).await?;
    let (head, user_uid) = token::admit(&app.store, &mut tx, &app.writes.snapshot(), &caller, &user)
        .await
        .map_err(|error| Problem::of_token(error, &caller.principal, Verb::SetPassword))?;
    if is_own && app.store.password_of(&mut tx, user_uid).await? != held {
        return Err(wrong());
    }
    app.store.set_password(&mut tx, user_uid, &hash, now).await?;
    let ended = app
        .store
        .revoke_other_sessions(&mut tx, user_uid, holder.held.id(), now)
        .await?;
    let record = Record {
        reason: token::ended("the password", &ended),
        ..caller.record(Verb::SetPassword, user.as_str())
    };
    app.store.append_write(&mut tx, head, record).await?;
    store::commit(tx).await?;
    Ok(Json(json!({ "user": user })))
}

/// Whether whoever changes their own password knows what it is now. Counted like a login.
async fn knows(
    app: &App,
    caller: &Caller,
    user: &Fqn,
    current: Option<String>,
    held: String,
) -> Result<bool, Problem> {
    let current = current.ok_or_else(|| {
        Problem::bad_request("/current: whoever changes their own password gives what it is now")
    })?;
    let too_often = |error| Problem::too_often(error, user.as_str());
    let admission = app
        .login
        .attempt_on(user.as_str(), &caller.source, Instant::now())
        .map_err(too_often)?;
    let user_uid = caller.principal.uid().unwrap_or_default();
    admit(app, admission, user_uid, &caller.source)
        .await?
        .map_err(too_often)?;
    let verified = app
        .login
        .passwords
        .verify(Password::given(current)?, Some(held))
        .await;
    Ok(verified?)
}

/// Whoever guesses an account's password from many sources keeps nobody out who is where that account has logged in before.
async fn admit(
    app: &App,
    admission: Admission,
    user_uid: Uuid,
    source: &str,
) -> Result<Result<(), TooOften>, StoreError> {
    let Admission::Known(too_often) = admission else {
        return Ok(Ok(()));
    };
    let mut tx = app.store.begin_as(&Principal::System).await?;
    let source = Source::of(source);
    let known = app.store.sources_of(&mut tx, user_uid).await?;
    let is_known = known.iter().any(|known| Source::of(known) == source);
    Ok(is_known.then_some(()).ok_or(too_often))
}

/// Opens a session for whoever knows the password. What is wrong is not told, and takes as long for a user that does
/// not exist as for one that does.
pub(super) async fn by_password(
    app: &App,
    visitor: Visitor,
    user: String,
    password: String,
) -> Result<Opened, Problem> {
    let account = account(&app.organization, &user);
    let too_often = |error| Problem::too_often(error, account.as_str());
    app.login.attempt_from(&visitor.source).map_err(too_often)?;
    let admission = app
        .login
        .attempt_on(&account, &visitor.source, Instant::now())
        .map_err(too_often)?;
    let password = Password::given(password)?;
    let snapshot = app.writes.snapshot();
    let known = account
        .parse()
        .ok()
        .filter(|name: &Fqn| name.kind() == Kind::User)
        .and_then(|name| snapshot.get(&name).cloned());
    let user_uid = known.as_ref().map_or_else(Uuid::nil, |stored| stored.uid);
    admit(app, admission, user_uid, &visitor.source)
        .await?
        .map_err(too_often)?;
    let held = held_password(app, user_uid).await?;
    let verified = app.login.passwords.verify(password, held.clone()).await?;
    let proven = known.zip(held).filter(|_| verified);
    let Some((stored, held)) = proven else {
        return Err(Problem::unauthenticated(WRONG_PASSWORD, Verb::Login, account));
    };
    let opening = Opening {
        user: stored.name().clone(),
        user_uid,
        method: Method::Password,
        groups: Vec::new(),
        visitor,
        lifetime: app.login.session_lifetime,
        proof: Proof::Password(held),
    };
    open(app, opening).await
}

/// Opens it for a browser.
pub(super) async fn open(app: &App, opening: Opening) -> Result<Opened, Problem> {
    let secret = generate()?;
    let mut tx = system(app).await?;
    let opened = session::open(&app.store, &mut tx, &opening, secret.sha256_in_cookie()).await;
    let session = opened.map_err(|error| not_opened(error, &opening))?;
    store::commit(tx).await?;
    tracing::info!(user = %opening.user, session = %session.id, "logged in");
    Ok(Opened {
        user: opening.user,
        session,
        secret,
    })
}

pub(super) fn not_opened(error: OpenError, opening: &Opening) -> Problem {
    match error {
        OpenError::PasswordChanged => {
            Problem::unauthenticated(WRONG_PASSWORD, Verb::Login, opening.user.as_str())
        }
        OpenError::Store(error) => error.into(),
    }
}

pub(super) async fn system(app: &App) -> Result<Tx, Problem> {
    Ok(app.store.begin_as(&Principal::System).await?)
}

pub(super) fn generate() -> Result<Token, Problem> {
    Token::generate().map_err(|error| tokens::no_randomness(&error))
}

impl Opened {
    /// The header that gives it to the browser.
    pub(super) fn cookie(&self, app: &App, headers: &HeaderMap) -> HeaderValue {
        let origin = app.login.site.origin(headers);
        origin.set(Cookie::Session, &self.secret.reveal(), app.login.session_lifetime)
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Visitor, Problem> {
        let info = RequestInfo::of(parts);
        let agent = browser::text(&parts.headers, &USER_AGENT);
        Ok(Visitor::new(info.source, info.id, agent))
    }
}

/// A write that is to be done once is known again by a hash of it, which is not kept of what holds a secret.
fn without_key(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.contains_key(IDEMPOTENCY_KEY) {
        true => Err(Problem::bad_request(
            "Idempotency-Key: nothing is kept of sessions and passwords to be answered again; leave it out",
        )),
        false => Ok(()),
    }
}

async fn held_password(app: &App, user_uid: Uuid) -> Result<Option<String>, Problem> {
    let mut tx = system(app).await?;
    Ok(app.store.password_of(&mut tx, user_uid).await?)
}

/// The full name of whoever wants to log in, however it was written; what is no name stays what it is.
fn account(organization: &Fqn, given: &str) -> String {
    let given = given.trim();
    let leaf = given.parse().ok();
    let full = leaf.and_then(|leaf: Label| organization.child(Kind::User, &leaf).ok());
    full.map_or_else(
        || given.chars().take(NAME_CHARS_MAX).collect(),
        |full| full.to_string(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_one_whatever_it_is_called() {
        let acme: Fqn = "organizations/acme".parse().unwrap();
        for (given, name) in [
            ("ann", "organizations/acme/users/ann"),
            (" ann ", "organizations/acme/users/ann"),
            ("organizations/acme/users/ann", "organizations/acme/users/ann"),
            ("No Name", "No Name"),
            (&"x".repeat(70), &"x".repeat(64)),
        ] {
            assert_eq!(account(&acme, given), name);
        }
    }
}
