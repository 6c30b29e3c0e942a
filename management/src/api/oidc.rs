//! `/auth/oidc` and `/auth/callback`: a browser is sent to the provider, and comes back from it. Who comes for the
//! first time becomes a user, with the rights of the teams that take in the groups of the provider that it is in.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::{Fqn, Kind, Label};
use tombolo_runtime::telemetry::chain;
use uuid::Uuid;

use super::login::{generate, open, system};
use super::pages::{PageProblem, Visit, see_other};
use super::{App, Params};
use crate::audit::{self, Verb};
use crate::caller::Caller;
use crate::change::{Change, ChangeVerb, IfMatch, Refusal};
use crate::login::attempt::{ATTEMPT_TIME, Attempt, state_sha256};
use crate::login::browser::{Cookie, return_path};
use crate::login::oidc::{OidcError, Provider};
use crate::login::person::Person;
use crate::login::session::{Method, Opening, Proof, Visitor};
use crate::managed::Hand;
use crate::problem::Problem;
use crate::store;
use crate::token::Token;
use crate::wish::Wish;
use crate::writer::{Committed, WriteError};

/// Where the provider sends browsers back to; it is registered there.
pub(super) const CALLBACK: &str = "/auth/callback";

#[derive(Debug, Deserialize)]
pub(super) struct Begin {
    r#return: Option<String>,
}

/// What comes back from the provider.
#[derive(Debug, Deserialize)]
pub(super) struct Back {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

pub(super) async fn begin(
    State(app): State<App>,
    visit: Visit,
    Params(begin): Params<Begin>,
) -> Result<Response, PageProblem> {
    let provider = provider(&app)?;
    let (url, attempt) = start(&app, &provider, &visit, begin.r#return.as_deref()).await?;
    let origin = app.login.site.origin(&visit.headers);
    let cookie = origin.set(Cookie::Attempt, &attempt.reveal(), ATTEMPT_TIME);
    let url = HeaderValue::try_from(url).map_err(|_| Problem::internal("the provider's address is none"))?;
    let headers = [(LOCATION, url), (SET_COOKIE, cookie), (CACHE_CONTROL, NO_STORE)];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

async fn start(
    app: &App,
    provider: &Provider,
    visit: &Visit,
    return_to: Option<&str>,
) -> Result<(String, Attempt), Problem> {
    app.login
        .attempt_from(&visit.visitor.source)
        .map_err(|error| Problem::too_often(error, app.organization.as_str()))?;
    let attempt = Attempt::new(generate()?);
    let redirect = app.login.site.origin(&visit.headers).url(CALLBACK);
    let url = Box::pin(provider.begin(&attempt, &redirect))
        .await
        .map_err(|error| away(&error))?;
    let mut tx = system(app).await?;
    let expires_at = audit::now() + ATTEMPT_TIME;
    app.store
        .insert_attempt(
            &mut tx,
            state_sha256(&attempt.state()),
            return_path(return_to),
            expires_at,
        )
        .await?;
    store::commit(tx).await?;
    Ok((url, attempt))
}

pub(super) async fn callback(
    State(app): State<App>,
    visit: Visit,
    Params(back): Params<Back>,
) -> Result<Response, PageProblem> {
    let (return_to, cookie) = Box::pin(finish(&app, &visit, back)).await?;
    let clear = app.login.site.origin(&visit.headers).clear(Cookie::Attempt);
    Ok(see_other(
        &return_to,
        AppendHeaders([(SET_COOKIE, cookie), (SET_COOKIE, clear)]),
    ))
}

/// Where the browser goes on, and its session's cookie.
async fn finish(app: &App, visit: &Visit, back: Back) -> Result<(String, HeaderValue), Problem> {
    let provider = provider(app)?;
    let denied = |reason: &str| Problem::unauthenticated(reason, Verb::Login, app.organization.as_str());
    app.login
        .attempt_from(&visit.visitor.source)
        .map_err(|error| Problem::too_often(error, app.organization.as_str()))?;
    let origin = app.login.site.origin(&visit.headers);
    let held = origin
        .read(&visit.headers, Cookie::Attempt)
        .and_then(|text| text.parse().ok());
    let attempt = held.map(|secret: Token| Attempt::new(secret));
    let attempt = attempt
        .filter(|attempt| back.state.as_deref() == Some(attempt.state().as_str()))
        .ok_or_else(|| denied("this login was begun in another browser, or is over; begin again"))?;
    let mut tx = system(app).await?;
    let taken = app
        .store
        .take_attempt(&mut tx, state_sha256(&attempt.state()), audit::now())
        .await?;
    // Whatever comes of it, it is taken.
    store::commit(tx).await?;
    let return_to = taken.ok_or_else(|| denied("this login is over, or took too long; begin again"))?;
    let code = back.code.ok_or_else(|| {
        let reason = back.error_description.or(back.error).unwrap_or_default();
        denied(&format!("the provider let nobody in: {}", shown(&reason)))
    })?;
    let person = Box::pin(provider.finish(&attempt, &origin.url(CALLBACK), &code)).await;
    let person = person.map_err(|error| match error {
        OidcError::Code { .. } | OidcError::Token { .. } => denied(&shown(&error.to_string())),
        error => away(&error),
    })?;
    let (user, user_uid) = Box::pin(user_of(app, &visit.visitor, &person)).await?;
    let opening = Opening {
        user,
        user_uid,
        method: Method::Oidc,
        groups: person.groups.into_iter().map(String::from).collect(),
        visitor: visit.visitor.clone(),
        lifetime: app.login.session_lifetime,
        proof: Proof::Provider,
    };
    let opened = open(app, opening).await?;
    let cookie = opened.cookie(app, &visit.headers);
    Ok((return_to, cookie))
}

/// The user that the person is, made when there is none, and in the groups that it is in now.
async fn user_of(app: &App, visitor: &Visitor, person: &Person) -> Result<(Fqn, Uuid), Problem> {
    for label in person.names() {
        // Asked again for each name: another login of this person may have made it a moment ago.
        if let Some((name, uid)) = known_user(app, person).await? {
            regroup(app, visitor, person, &name).await?;
            return Ok((name, uid));
        }
        if let Some((name, uid)) = create(app, visitor, person, &label).await? {
            let mut tx = system(app).await?;
            app.store
                .set_identity(&mut tx, &person.issuer, &person.subject, uid)
                .await?;
            store::commit(tx).await?;
            tracing::info!(user = %name, subject = person.subject, "made a user for a person of the provider");
            return Ok((name, uid));
        }
    }
    Err(Problem::internal(
        "there is somebody of every name that the person could have",
    ))
}

/// One that was deleted is nobody any more: the person is made a user again, without what the other had.
async fn known_user(app: &App, person: &Person) -> Result<Option<(Fqn, Uuid)>, Problem> {
    let mut tx = system(app).await?;
    let uid = app
        .store
        .identity(&mut tx, &person.issuer, &person.subject)
        .await?;
    drop(tx);
    let Some(uid) = uid else {
        return Ok(None);
    };
    Ok(app.user_by_uid(uid).await?.map(|name| (name, uid)))
}

/// `None` when somebody else has the name.
async fn create(
    app: &App,
    visitor: &Visitor,
    person: &Person,
    label: &Label,
) -> Result<Option<(Fqn, Uuid)>, Problem> {
    let name = app.organization.child(Kind::User, label)?;
    match write(app, visitor, person.document(&name), ChangeVerb::Create).await? {
        Ok(_) => {
            let snapshot = app.writes.snapshot();
            Ok(snapshot.get(&name).map(|stored| (name.clone(), stored.uid)))
        }
        Err(WriteError::Refused(Refusal::Exists { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes down which groups the person is in. Whoever may no longer be what a group made of it is that at once.
async fn regroup(app: &App, visitor: &Visitor, person: &Person, name: &Fqn) -> Result<(), Problem> {
    for _ in 0..REGROUPINGS_MAX {
        let snapshot = app.writes.snapshot();
        let stored = snapshot.get(name).ok_or_else(|| Problem::not_found(name))?;
        let Some(document) = person.regrouped(&stored.resource) else {
            return Ok(());
        };
        let seen = IfMatch::Etag(stored.etag.clone());
        match write(app, visitor, document, |user| ChangeVerb::Update(user, seen)).await? {
            Ok(_) => return Ok(()),
            // Somebody has changed the user meanwhile.
            Err(WriteError::Refused(Refusal::Stale { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::internal(format!(
        "{name} is changed again and again while its groups are to be written"
    )))
}

/// As management itself, and also where a pipeline keeps the user: the provider's word is newer.
async fn write(
    app: &App,
    visitor: &Visitor,
    document: Value,
    verb: impl FnOnce(Arc<Resource>) -> ChangeVerb,
) -> Result<Result<Committed, WriteError>, Problem> {
    let resource = Resource::from_json(document).map_err(|error| Problem::internal(error.to_string()))?;
    let change = Change {
        name: resource.name.clone(),
        verb: verb(Arc::new(resource)),
        uid: None,
    };
    let hand = Hand {
        manager: None,
        force: true,
    };
    let caller = Caller {
        source: visitor.source.clone(),
        request_id: visitor.request_id.clone(),
        hand,
        ..Caller::system()
    };
    Ok(app.writes.write(caller, Wish::from(vec![change])).await)
}

fn provider(app: &App) -> Result<Arc<Provider>, Problem> {
    app.login.provider.clone().ok_or_else(|| {
        let detail = "there is no provider to log in at; management names one with --oidc-issuer";
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    })
}

fn away(error: &OidcError) -> Problem {
    tracing::warn!(error = chain(error), "cannot log anybody in at the provider");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "the provider cannot be asked at this moment; management's log tells why",
    )
}

/// What comes from outside, as much as is worth a record.
fn shown(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(SHOWN_CHARS_MAX)
        .collect()
}

const SHOWN_CHARS_MAX: usize = 200;
/// Two logins of one person and somebody who edits the user: more at once is a program in a loop.
const REGROUPINGS_MAX: usize = 5;
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
