//! `/auth/device_authorization`, `/auth/token` and `/auth/device`: management as the authorization server of command
//! lines (RFC 8628). The first two speak OAuth and not our problems, so that any client of that protocol can use them.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tombolo_compiler::name::Fqn;

use super::login::{generate, not_opened, system};
use super::pages::{Form, Member, PageProblem, Visit, Who, escaped, page, see_other};
use super::{App, Params};
use crate::audit::{self, Record, Verb};
use crate::caller::Credential;
use crate::iam::Principal;
use crate::login::device::{CODE_TIME, Device, DeviceState, Grant, INTERVAL_S, Poll, UserCode};
use crate::login::session::{self, Method, Opening, Proof, Visitor};
use crate::problem::{Problem, Shown};
use crate::store::device::DeviceKey;
use crate::store::{self, StoreError};
use crate::token::Token;

/// Where people confirm.
pub(super) const PAGE: &str = "/auth/device";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A refusal as RFC 6749, section 5.2 has it.
pub(super) struct OauthError {
    error: &'static str,
    description: String,
    /// What is recorded.
    problem: Option<Problem>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenAsking {
    grant_type: String,
    device_code: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Typed {
    code: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Decision {
    code: String,
    decision: String,
}

/// A command line begins. Any may, so that the `client_id` which the protocol wants says nothing.
pub(super) async fn authorize(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
) -> Result<Response, OauthError> {
    app.login
        .attempt_from(&visitor.source)
        .map_err(|error| Problem::too_often(error, app.organization.as_str()))?;
    let code = generate()?;
    let user_code = UserCode::generate().map_err(|error| {
        tracing::error!(%error, "the system gives no randomness");
        Problem::internal("cannot generate a code")
    })?;
    let device = Device {
        source: visitor.source,
        agent: visitor.agent,
        expires_at: audit::now() + CODE_TIME,
        interval_s: INTERVAL_S,
        polled_at: None,
        state: DeviceState::Waiting,
    };
    let mut tx = system(&app).await?;
    app.store
        .insert_device(&mut tx, &device, code.sha256(), user_code.sha256())
        .await?;
    store::commit(tx).await?;
    let page = app.login.site.origin(&headers).url(PAGE);
    let answer = json!({
        "device_code": code.reveal(),
        "user_code": user_code.to_string(),
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?code={user_code}"),
        "expires_in": CODE_TIME.num_seconds(),
        "interval": INTERVAL_S,
    });
    Ok(([(CACHE_CONTROL, NO_STORE)], Json(answer)).into_response())
}

/// A command line asks what has become of it, and is given its session once.
pub(super) async fn token(
    State(app): State<App>,
    visitor: Visitor,
    Form(asking): Form<TokenAsking>,
) -> Result<Response, OauthError> {
    if asking.grant_type != GRANT_TYPE {
        let description = format!("the one grant type is {GRANT_TYPE}");
        return Err(OauthError::new("unsupported_grant_type", description));
    }
    let unknown = || OauthError::new("invalid_grant", "there is no such device code, or it was used");
    let code: Token = asking.device_code.parse().map_err(|_| unknown())?;
    let now = audit::now();
    let mut tx = system(&app).await?;
    let key = DeviceKey::Device(code.sha256());
    let device = app.store.find_device(&mut tx, key).await?.ok_or_else(unknown)?;
    let (interval_s, error) = match device.poll(now) {
        Poll::Pending => {
            let error = OauthError::new("authorization_pending", "nobody has confirmed the code yet");
            (device.interval_s, error)
        }
        Poll::SlowDown { interval_s } => {
            let description = format!("ask every {interval_s} s");
            (interval_s, OauthError::new("slow_down", description))
        }
        Poll::Denied => {
            app.store.take_device(&mut tx, code.sha256()).await?;
            store::commit(tx).await?;
            return Err(OauthError::new("access_denied", "the person did not let it in"));
        }
        Poll::Expired => {
            return Err(OauthError::new(
                "expired_token",
                "the code has expired; begin again",
            ));
        }
        Poll::Granted(grant) => {
            let user = app.user_by_uid(grant.user_uid).await?.ok_or_else(unknown)?;
            let end = app.store.session_end(&mut tx, grant.session, now).await?;
            let opening = Opening {
                user,
                user_uid: grant.user_uid,
                method: Method::Device,
                groups: grant.groups,
                proof: Proof::Session(Credential {
                    id: grant.session,
                    expires_at: Some(end.ok_or_else(unknown)?),
                }),
                visitor: Visitor {
                    agent: device.agent,
                    ..visitor
                },
                lifetime: app.login.session_lifetime,
            };
            let secret = generate()?;
            let opened = session::open(&app.store, &mut tx, &opening, secret.sha256()).await;
            let session = opened.map_err(|error| not_opened(error, &opening))?;
            // It is gone when it was taken by another request, or the session that let it in was revoked.
            if !app.store.take_device(&mut tx, code.sha256()).await? {
                return Err(unknown());
            }
            store::commit(tx).await?;
            let answer = json!({
                "access_token": secret.reveal(),
                "token_type": "Bearer",
                "expires_in": (session.expires_at - session.created_at).num_seconds(),
                "user": opening.user,
            });
            return Ok(([(CACHE_CONTROL, NO_STORE)], Json(answer)).into_response());
        }
    };
    app.store
        .set_polled(&mut tx, code.sha256(), interval_s, now)
        .await?;
    store::commit(tx).await?;
    Err(error)
}

/// The form that a person confirms in; whoever is not known logs in first.
pub(super) async fn show(
    State(app): State<App>,
    Who(who): Who,
    visit: Visit,
    Params(typed): Params<Typed>,
) -> Result<Response, PageProblem> {
    let given = typed.code.unwrap_or_default();
    let Some(member) = who else {
        let there = format!("{PAGE}?{}", query("code", &given));
        return Ok(see_other(
            &format!("/auth/login?{}", query("return", &there)),
            AppendHeaders([]),
        ));
    };
    let Ok(code) = given.parse::<UserCode>() else {
        let form = "<form method=get action=/auth/device><label>The code that your command line shows\
                    <input name=code autocomplete=off autofocus required></label><button>Go on</button></form>";
        return Ok(page("Let a command line in", StatusCode::OK, form));
    };
    let device = waiting(&app, &visit.visitor, &code).await?;
    let body = format!(
        "<p>A command line at <b>{}</b>, which calls itself <b>{}</b>, wants to act as <b>{}</b>. \
         Let it in only if you have just started it, and it shows this code:</p><p><code>{code}</code></p>\
         <form method=post action=/auth/device><input type=hidden name=code value=\"{code}\">\
         <button name=decision value=allow>Let it in</button><button name=decision value=deny>No</button></form>",
        escaped(&device.source),
        escaped(&device.agent),
        escaped(&member.caller.principal.to_string()),
    );
    Ok(page("Let a command line in", StatusCode::OK, &body))
}

pub(super) async fn decide(
    State(app): State<App>,
    Who(who): Who,
    visit: Visit,
    Form(form): Form<Decision>,
) -> Result<Response, PageProblem> {
    // A cookie is not looked at when it comes from another site; a token is nobody's browser.
    let denied = || Problem::unauthenticated("log in first", Verb::GrantDevice, app.organization.as_str());
    let Member { caller, groups } = who.ok_or_else(denied)?;
    let session = caller.credential.ok_or_else(denied)?.id;
    let Principal::User { name, uid } = &caller.principal else {
        return Err(denied().into());
    };
    let code: UserCode = form
        .code
        .parse()
        .map_err(|error| Problem::bad_request(format!("{error}")))?;
    let device = waiting(&app, &visit.visitor, &code).await?;
    let (grant, said) = match form.decision.as_str() {
        "allow" => {
            let grant = Grant {
                user_uid: *uid,
                groups,
                session,
            };
            (
                Some(grant),
                "It is let in. You may close this page and go back to your command line.",
            )
        }
        _ => (None, "It is not let in."),
    };
    let mut tx = system(&app).await?;
    if grant.is_some() {
        let record = granting(caller.record(Verb::GrantDevice, name.as_str()), &device);
        app.store.append_record(&mut tx, record).await?;
    }
    let decided = app
        .store
        .decide_device(&mut tx, code.sha256(), grant.as_ref(), audit::now())
        .await?;
    if !decided {
        return Err(no_such_code(&app.organization).into());
    }
    store::commit(tx).await?;
    let body = format!("<p>{said}</p>");
    Ok(page("Let a command line in", StatusCode::OK, &body))
}

/// Typing codes is held to the rate of attempts, so that nobody finds one by trying.
async fn waiting(app: &App, visitor: &Visitor, code: &UserCode) -> Result<Device, Problem> {
    app.login
        .attempt_from(&visitor.source)
        .map_err(|error| Problem::too_often(error, app.organization.as_str()))?;
    let mut tx = system(app).await?;
    let device = app
        .store
        .find_device(&mut tx, DeviceKey::User(code.sha256()))
        .await?;
    let now = audit::now();
    device
        .filter(|device| device.state == DeviceState::Waiting && device.expires_at > now)
        .ok_or_else(|| no_such_code(&app.organization))
}

fn no_such_code(organization: &Fqn) -> Problem {
    let detail = "no command line waits with that code; it may have expired, or been decided about";
    let mut problem = Problem::new(StatusCode::NOT_FOUND, "not-found", detail);
    problem.denied = Problem::unauthenticated(detail, Verb::GrantDevice, organization.as_str()).denied;
    problem
}

fn granting(record: Record, device: &Device) -> Record {
    Record {
        reason: format!("{} at {}", device.agent, device.source),
        ..record
    }
}

fn query(key: &str, value: &str) -> String {
    serde_urlencoded::to_string([(key, value)]).unwrap_or_default()
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl OauthError {
    fn new(error: &'static str, description: impl Into<String>) -> OauthError {
        OauthError {
            error,
            description: description.into(),
            problem: None,
        }
    }
}

impl From<Problem> for OauthError {
    fn from(problem: Problem) -> OauthError {
        let error = match problem.status {
            StatusCode::TOO_MANY_REQUESTS => "slow_down",
            StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request",
        };
        OauthError {
            error,
            description: problem.detail.clone(),
            problem: Some(problem),
        }
    }
}

impl From<StoreError> for OauthError {
    fn from(error: StoreError) -> OauthError {
        Problem::from(error).into()
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let status = match &self.problem {
            Some(problem) if problem.status.is_server_error() => problem.status,
            _ => StatusCode::BAD_REQUEST,
        };
        let body = json!({"error": self.error, "error_description": self.description});
        let mut response = (status, [(CACHE_CONTROL, NO_STORE)], Json(body)).into_response();
        if let Some(problem) = self.problem {
            response.extensions_mut().insert(Shown(Box::new(problem)));
        }
        response
    }
}
