//! The REST API. `endpoint` is its table of contents; the body of each request is decided by the pure modules.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_compiler::name::Fqn;
use tombolo_runtime::admin::{self, Health};
use tombolo_runtime::shutdown::Shutdown;
use tracing::Instrument;
use uuid::Uuid;

use crate::approval::Leave;
use crate::audit::{Outcome, Record, Verb};
use crate::change_plan::PlanId;
use crate::computations::Computations;
use crate::denial::Denials;
use crate::idempotency::InFlight;
use crate::limit::{Allowance, Limits};
use crate::login::Login;
use crate::lookup::Lookups;
use crate::mesh::Mesh;
use crate::metrics::ApiMetrics;
use crate::problem::{Problem, Shown};
use crate::questions::Questions;
use crate::reply::Reply;
use crate::site::Site;
use crate::standing::Standing;
use crate::store::Store;
use crate::wish::{Order, Wish};
use crate::writer::Writes;

mod access;
mod answer;
mod approvals;
mod audits;
mod behaviour;
mod body;
mod caller;
mod changes;
mod claim_offers;
mod device;
mod dry_run;
mod effective;
mod endpoint;
mod explain;
mod idempotency;
mod login;
mod oidc;
mod openapi;
pub(crate) mod pages;
mod paging;
mod past;
mod plans;
mod readiness;
mod resources;
mod schemas;
mod search;
mod status;
mod target;
mod tokens;
mod touched;
mod watching;
mod world;

pub(crate) use body::Params;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Of an id that a caller brings.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// What `/` says to a person without the web admin.
const WITHOUT_ADMIN: &str = "\
This is the management plane of Tombolo. Its REST API is below /v1/: docs/api.md tells how it is used, and
GET /v1/openapi.json, with a token, is its description for programs. The web admin is not served here: docs/web.md tells
how to build it and to name it with --web-dir.
";

/// What the handlers work with. Cheap to clone: every layer around a request does.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<AppState>);

#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) organization: Fqn,
    pub(crate) store: Store,
    pub(crate) lookups: Lookups,
    pub(crate) writes: Writes,
    pub(crate) computations: Computations,
    pub(crate) denials: Denials,
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    /// To the edges.
    pub(crate) questions: Questions,
    pub(crate) metrics: ApiMetrics,
    /// The web admin.
    pub(crate) site: Option<Arc<Site>>,
    /// Writes with a key that are being worked on.
    pub(crate) in_flight: InFlight,
    pub(crate) limits: Limits<Uuid>,
    pub(crate) login: Login,
    pub(crate) standing: Standing,
    /// Ends those who wait.
    pub(crate) shutdown: Shutdown,
}

impl From<AppState> for App {
    fn from(state: AppState) -> App {
        App(Arc::new(state))
    }
}

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl App {
    /// A wish to be written, that asks for a confirmation where it takes one.
    fn order(&self, wish: Wish, plan: Option<PlanId>) -> Order {
        Order {
            wish,
            plan,
            mesh: Some(self.mesh.borrow().clone()),
            leave: Leave::None,
            reply: Reply::Changes,
        }
    }
}

/// What every request has, known caller or not.
#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) id: String,
    /// The address that it came from.
    pub(crate) source: String,
    /// What is left to the principal, once it is known.
    pub(crate) allowance: Arc<OnceLock<Allowance>>,
    /// Who calls, once it is known.
    pub(crate) identity: Arc<OnceLock<Identity>>,
}

/// As the log and the record of a denial tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) principal: String,
    pub(crate) teams: Vec<String>,
}

pub(crate) fn router(app: App, health: Health) -> Router {
    let registry = app.metrics.registry().clone();
    endpoint::router(&endpoint::table())
        .merge(pages::router())
        .fallback(page)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(app.clone(), idempotency::once))
        .layer(middleware::from_fn_with_state(app.clone(), frame))
        .with_state(app)
        .merge(admin::router(health, registry))
}

/// What is not of the API: a page of the web admin, if there is one.
async fn page(State(app): State<App>, request: Request) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    match &app.site {
        Some(site) if reads => site.get(path),
        None if reads && path == "/" => Some(WITHOUT_ADMIN.into_response()),
        _ => None,
    }
    .unwrap_or_else(|| no_such_page(&request).into_response())
}

fn no_such_page(request: &Request) -> Problem {
    let detail = format!(
        "{} is not part of this API; resources are below /v1/",
        request.uri().path()
    );
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn no_such_method(request: Request) -> Problem {
    let detail = format!("{} cannot be done to {}", request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}

/// Around every request: its id, its log line, its metrics; problems become bodies, and denials go on record.
async fn frame(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let info = RequestInfo {
        id: request_id(&request),
        source: peer.ip().to_canonical().to_string(),
        allowance: Arc::default(),
        identity: Arc::default(),
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", request_id = info.id, revision = tracing::field::Empty);
    request.extensions_mut().insert(info.clone());
    let seen = request.headers().get(header::IF_NONE_MATCH).cloned();
    let started = Instant::now();
    let _in_flight = app.metrics.begin();
    let response = next.run(request).instrument(span.clone()).await;
    if let Some(Shown(problem)) = response.extensions().get::<Shown>()
        && let Some(record) = denial(problem, &info)
    {
        app.denials.record(record);
    }
    let problem = response.extensions().get::<Problem>().cloned();
    let mut response = match &problem {
        None => response,
        Some(problem) => {
            if let Some(record) = denial(problem, &info) {
                app.denials.record(record);
            }
            let mut rendered = problem.render(&info.id);
            if let Some(allow) = response.headers().get(header::ALLOW) {
                rendered.headers_mut().insert(header::ALLOW, allow.clone());
            }
            rendered
        }
    };
    if method == Method::GET && seen.is_some_and(|seen| is_seen(&seen, &response)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Some(allowance) = info.allowance.get() {
        allowance.tell(response.headers_mut());
    }
    if let Ok(id) = HeaderValue::from_str(&info.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    app.metrics.request(&method, status, started.elapsed());
    span.in_scope(|| {
        tracing::info!(
            method = %method,
            path,
            status,
            source = info.source,
            principal = info.identity.get().map(|identity| identity.principal.as_str()),
            problem = problem.as_ref().map(|problem| problem.detail.as_str()),
            elapsed_us = started.elapsed().as_micros(),
            "answered"
        );
    });
    response
}

/// Whether the answer has one of the ETags that the caller has seen (RFC 9110, section 13.1.2).
fn is_seen(seen: &HeaderValue, response: &Response) -> bool {
    let etag = response
        .headers()
        .get(header::ETAG)
        .and_then(|etag| etag.to_str().ok());
    let seen = seen.to_str().unwrap_or_default().split(',').map(str::trim);
    etag.is_some_and(|etag| {
        seen.map(|seen| seen.trim_start_matches("W/"))
            .any(|seen| seen == "*" || seen == etag)
    })
}

fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given
        .filter(usable)
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn denial(problem: &Problem, info: &RequestInfo) -> Option<Record> {
    let denied = problem.denied.as_ref()?;
    let (actor, outcome) = match &denied.actor {
        Some(actor) => (actor.clone(), Outcome::Denied),
        None => ("unknown".to_owned(), Outcome::Unauthenticated),
    };
    Some(Record {
        teams: info
            .identity
            .get()
            .map(|identity| identity.teams.clone())
            .unwrap_or_default(),
        source: info.source.clone(),
        request_id: info.id.clone(),
        reason: storable(&problem.detail),
        ..Record::new(actor, denied.verb, storable(&denied.name), outcome)
    })
}

/// Postgres keeps no NUL, and denials are written together: one that cannot be kept would take others with it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What a request wants to do, before it is known whether it makes sense.
fn verb_of(method: &Method) -> Verb {
    match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::DELETE => Verb::Delete,
        _ => Verb::Get,
    }
}
