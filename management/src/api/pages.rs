//! The pages for people who log in, with the little that they need: forms, and no script. They stand outside of `/v1/`
//! and of the table of endpoints, which is for programs.

use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    SET_COOKIE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::caller::Bearer;
use super::{App, Params, body, device, login, oidc};
use crate::audit::Verb;
use crate::caller::Caller;
use crate::document::{BODY_TIME_MAX, BadBody};
use crate::login::browser::return_path;
use crate::login::session::Visitor;
use crate::problem::{Problem, Shown};
use crate::store::StoreError;
use crate::store::token::Held;

/// Of a form: a password, a path and a code fit in many times.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// No script, nothing from elsewhere, and in no frame of anybody.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; \
                      base-uri 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem;color:#1b1f24}\
                     label{display:block;margin-top:1rem}input{width:100%;box-sizing:border-box;padding:.5rem;font:inherit}\
                     button,.button{display:inline-block;margin:1.5rem .5rem 0 0;padding:.5rem 1.2rem;font:inherit}\
                     .bad{color:#b00020}code{font-size:1.3em;letter-spacing:.1em}";

/// Where they are. A test holds each to what a stranger may do there, and fails for one that it does not know.
pub fn paths() -> impl Iterator<Item = &'static str> {
    pages().into_iter().map(|(path, _)| path)
}

pub(crate) fn router() -> Router<App> {
    pages()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        })
}

fn pages() -> [(&'static str, MethodRouter<App>); 6] {
    [
        ("/auth/login", get(show_login).post(submit_login)),
        ("/auth/oidc", get(oidc::begin)),
        (oidc::CALLBACK, get(oidc::callback)),
        (device::PAGE, get(device::show).post(device::decide)),
        ("/auth/device_authorization", post(device::authorize)),
        ("/auth/token", post(device::token)),
    ]
}

/// Somebody who asks for a page.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) visitor: Visitor,
    pub(super) headers: HeaderMap,
}

/// A body of `application/x-www-form-urlencoded`.
#[derive(Debug)]
pub(super) struct Form<T>(pub(super) T);

/// A problem as a page; on record as any other.
#[derive(Debug)]
pub(super) struct PageProblem(Box<Problem>);

#[derive(Debug, Deserialize)]
struct LoginQuery {
    r#return: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LoginForm {
    user: String,
    password: String,
    r#return: Option<String>,
}

async fn show_login(State(app): State<App>, Who(who): Who, Params(query): Params<LoginQuery>) -> Response {
    let return_to = return_path(query.r#return.as_deref());
    match who {
        Some(member) => page("Signed in", StatusCode::OK, &signed_in(&member.caller)),
        None => page("Sign in", StatusCode::OK, &login_form(&app, return_to, None)),
    }
}

async fn submit_login(
    State(app): State<App>,
    visit: Visit,
    Form(form): Form<LoginForm>,
) -> Result<Response, PageProblem> {
    let return_to = return_path(form.r#return.as_deref()).to_owned();
    // Or another site could log its visitors in as somebody else.
    if !app.login.site.origin(&visit.headers).sent(&visit.headers) {
        return Err(Problem::cross_site(Verb::Login, app.organization.as_str()).into());
    }
    let opened = login::by_password(&app, visit.visitor.clone(), form.user, form.password).await;
    match opened {
        Ok(opened) => {
            let cookie = opened.cookie(&app, &visit.headers);
            Ok(see_other(&return_to, AppendHeaders([(SET_COOKIE, cookie)])))
        }
        Err(problem) => {
            let form = login_form(&app, &return_to, Some(&problem.detail));
            let status = problem.status;
            let mut response = page("Sign in", status, &form);
            response.extensions_mut().insert(Shown(Box::new(problem)));
            Ok(response)
        }
    }
}

/// Whoever is known, if anybody.
pub(super) struct Who(pub(super) Option<Member>);

pub(super) struct Member {
    pub(super) caller: Caller,
    /// As the provider named them at the login.
    pub(super) groups: Vec<String>,
}

impl FromRequestParts<App> for Who {
    type Rejection = PageProblem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Who, PageProblem> {
        // Pages are for browsers: who has a token does not make itself another one here.
        if parts.headers.contains_key(AUTHORIZATION) {
            return Ok(Who(None));
        }
        let bearer = match Bearer::from_request_parts(parts, app).await {
            Ok(bearer) => bearer,
            Err(problem) if problem.status == StatusCode::UNAUTHORIZED => return Ok(Who(None)),
            Err(problem) => return Err(PageProblem(Box::new(problem))),
        };
        match app.identify_holder(bearer).await {
            Ok((caller, holder)) => {
                let groups = match holder.held {
                    Held::Session(_, groups) => groups,
                    Held::Token(_) => Vec::new(),
                };
                Ok(Who(Some(Member { caller, groups })))
            }
            Err(problem) if problem.status == StatusCode::UNAUTHORIZED => Ok(Who(None)),
            Err(problem) => Err(PageProblem(Box::new(problem))),
        }
    }
}

impl FromRequestParts<App> for Visit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Visit, Problem> {
        let visitor = Visitor::from_request_parts(parts, app).await?;
        Ok(Visit {
            visitor,
            headers: parts.headers.clone(),
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Form<T>, Problem> {
        let bytes = body::within(request.into_body(), FORM_BYTES_MAX, BODY_TIME_MAX).await;
        let bytes = bytes.map_err(|error| match error {
            BadBody::TooSlow => error.into(),
            _ => Problem::bad_request("the form is too large, or cut off"),
        })?;
        serde_urlencoded::from_bytes(&bytes)
            .map(Form)
            .map_err(|error| Problem::bad_request(error.to_string()))
    }
}

impl From<Problem> for PageProblem {
    fn from(problem: Problem) -> PageProblem {
        PageProblem(Box::new(problem))
    }
}

impl From<StoreError> for PageProblem {
    fn from(error: StoreError) -> PageProblem {
        Problem::from(error).into()
    }
}

impl IntoResponse for PageProblem {
    fn into_response(self) -> Response {
        let body = format!(
            "<p class=bad>{}</p><p><a href=/auth/login>Sign in</a></p>",
            escaped(&self.0.detail)
        );
        let mut response = page("That did not work", self.0.status, &body);
        response.extensions_mut().insert(Shown(self.0));
        response
    }
}

pub(super) fn page(title: &str, status: StatusCode, body: &str) -> Response {
    let title = escaped(title);
    let text = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title} - Tombolo</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        // With `no-referrer` a browser would not tell where its forms come from.
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text).into_response()
}

pub(super) fn see_other<const N: usize>(
    path: &str,
    headers: AppendHeaders<[(HeaderName, HeaderValue); N]>,
) -> Response {
    let location = HeaderValue::try_from(path).expect("invariant: a path to come back to is printable");
    let always = [
        (LOCATION, location),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SEE_OTHER, always, headers).into_response()
}

pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn signed_in(caller: &Caller) -> String {
    format!("<p>You are {}.</p>", escaped(&caller.principal.to_string()))
}

fn login_form(app: &App, return_to: &str, wrong: Option<&str>) -> String {
    let wrong = wrong.map_or_else(String::new, |wrong| {
        format!("<p class=bad>{}</p>", escaped(wrong))
    });
    let provider = app.login.provider.as_ref().map_or_else(String::new, |provider| {
        let query = serde_urlencoded::to_string([("return", return_to)]).unwrap_or_default();
        format!(
            "<p><a class=button href=\"/auth/oidc?{}\">Sign in at {}</a></p>",
            escaped(&query),
            escaped(provider.issuer())
        )
    });
    format!(
        "{wrong}{provider}<form method=post action=/auth/login>\
         <input type=hidden name=return value=\"{}\">\
         <label>Name<input name=user autocomplete=username autofocus required></label>\
         <label>Password<input name=password type=password autocomplete=current-password required></label>\
         <button>Sign in</button></form>",
        escaped(return_to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text() {
        assert_eq!(
            escaped("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;"
        );
    }
}
