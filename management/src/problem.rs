//! Errors as the API tells them: problem details (RFC 9457). The one place where an error becomes an HTTP status.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tombolo_compiler::enforcement::Gap;
use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::name::{BadName, Fqn};
use tombolo_runtime::telemetry::chain;

use crate::audit::Verb;
use crate::change::{Refusal, Told};
use crate::computations::Busy;
use crate::document::{BadBody, BadDocument};
use crate::iam::Principal;
use crate::login::TooOften;
use crate::login::password::PasswordError;
use crate::store::StoreError;
use crate::token::TokenWriteError;
use crate::unenforced::Unenforced;
use crate::writer::WriteError;

/// By status, the stable words of all problems.
pub(crate) const PROBLEMS: &[(u16, &[&str])] = &[
    (400, &["malformed", "named-twice"]),
    (401, &["unauthenticated"]),
    (403, &["denied", "cross-site"]),
    (404, &["not-found"]),
    (405, &["method"]),
    (408, &["too-slow"]),
    (
        409,
        &[
            "exists",
            "has-children",
            "claimed",
            "in-use",
            "no-administrator",
            "over-quota",
            "cannot-roll-back",
            "managed",
            "protected",
            "confirm",
            "invariant-broken",
            "needs-approval",
            "needs-no-approval",
            "closed",
            "still-running",
        ],
    ),
    (410, &["gone", "expired"]),
    (412, &["stale", "plan-moved"]),
    (413, &["too-large"]),
    (415, &["media-type"]),
    (422, &["invalid", "not-enforced", "key-reused"]),
    (428, &["etag-required"]),
    (429, &["too-fast"]),
    (500, &["internal"]),
    (503, &["unavailable"]),
];

/// For a caller to wait before it tries again.
const RETRY_AFTER_S: u16 = 1;

/// What went wrong. The outermost layer turns it into the body, because it knows the request's id.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A stable word for programs.
    code: &'static str,
    pub(crate) detail: String,
    errors: Vec<Item>,
    /// What is recorded in the chain of denials.
    pub(crate) denied: Option<Box<Denied>>,
}

/// A problem that a page shows already: it goes on record, and is not rendered again.
#[derive(Clone, Debug)]
pub(crate) struct Shown(pub(crate) Box<Problem>);

/// What somebody wanted and may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) actor: Option<String>,
    pub(crate) verb: Verb,
    pub(crate) name: String,
}

/// One of several things that are wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Item {
    /// RFC 6901, into the body of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pointer: String,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: String,
    #[serde(skip_serializing_if = "<[Item]>::is_empty")]
    errors: &'a [Item],
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            denied: None,
        }
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub(crate) fn not_found(name: impl std::fmt::Display) -> Problem {
        let detail = format!("{name} does not exist, or is not yours to see");
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn unauthenticated(reason: impl Into<String>, verb: Verb, name: impl Into<String>) -> Problem {
        let mut problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", reason);
        problem.denied = Some(Box::new(Denied {
            actor: None,
            verb,
            name: name.into(),
        }));
        problem
    }

    pub(crate) fn denied(because: impl Into<String>, actor: &Principal, verb: Verb, name: &Fqn) -> Problem {
        let mut problem = Problem::new(StatusCode::FORBIDDEN, "denied", because);
        problem.denied = Some(Box::new(Denied {
            actor: Some(actor.to_string()),
            verb,
            name: name.to_string(),
        }));
        problem
    }

    /// As [`Problem::denied`], of a caller that is not known, and whose request is not even looked at.
    pub(crate) fn cross_site(verb: Verb, name: impl Into<String>) -> Problem {
        let detail = "a page of another site sent this with your cookie, or a program that does not say where it comes \
                      from; programs send a token: Authorization: Bearer tb_…";
        let denied = Problem::unauthenticated(detail, verb, name);
        Problem {
            denied: denied.denied,
            ..Problem::new(StatusCode::FORBIDDEN, "cross-site", detail)
        }
    }

    /// On record like any other denial.
    pub(crate) fn too_often(error: TooOften, name: impl Into<String>) -> Problem {
        let denied = Problem::unauthenticated("", Verb::Login, name);
        Problem {
            denied: denied.denied,
            ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-fast", error.to_string())
        }
    }

    pub(crate) fn too_fast(per_second: u32) -> Problem {
        let detail =
            format!("more than {per_second} requests in a second; wait, and ask for many things at once");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-fast", detail)
    }

    /// The write of `name`, or of many, was refused or failed.
    pub(crate) fn of_write(error: WriteError, actor: &Principal, verb: Verb) -> Problem {
        match error {
            WriteError::Refused(Refusal::Denied { name, because }) => {
                Problem::denied(because, actor, verb, &name)
            }
            WriteError::Refused(Refusal::Walled { ref name }) => {
                tracing::error!(%name, "the second wall held what the first let through");
                Problem::denied(error.to_string(), actor, verb, name)
            }
            WriteError::Revoked => Problem::unauthenticated(error.to_string(), verb, actor.to_string()),
            // It asks for what it cannot have alone: what the security team wants to see.
            WriteError::Refused(Refusal::NeedsApproval { ref node, .. }) => Problem {
                denied: Problem::denied("", actor, verb, node).denied,
                ..error.into()
            },
            error => error.into(),
        }
    }

    /// Adds sentences, each of which says one more thing that is to be known.
    pub(crate) fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Problem {
        let item = |detail| Item {
            detail,
            ..Item::default()
        };
        self.errors.extend(details.into_iter().map(item));
        self
    }

    /// A token was not issued, or not revoked.
    pub(crate) fn of_token(error: TokenWriteError, actor: &Principal, verb: Verb) -> Problem {
        match error {
            TokenWriteError::Write(error) => Problem::of_write(error, actor, verb),
            error @ TokenWriteError::Outlives { .. } => Problem::bad_request(format!("/expireTime: {error}")),
        }
    }

    /// The whole answer, for the request of that id.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = Body {
            r#type: format!("urn:tombolo:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: format!("urn:tombolo:request:{request_id}"),
            errors: &self.errors,
        };
        let text = serde_json::to_vec(&body).expect("invariant: a problem has string keys only");
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"tombolo\""),
            );
        }
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
        }
        (self.status, headers, text).into_response()
    }

    fn with_findings(mut self, told: &Told) -> Problem {
        let item = |finding: &Finding| Item {
            pointer: pointer(&finding.field),
            detail: finding.message.clone(),
            resource: Some(finding.resource.to_string()),
            code: Some(finding.code),
        };
        let rest = |detail| Item {
            detail,
            ..Item::default()
        };
        let findings = told.findings.iter().map(item);
        self.errors = findings
            .chain(told.rest(told.findings.len()).into_iter().map(rest))
            .collect();
        self
    }
}

/// Carries the problem to the layer that renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let (status, code) = match &refusal {
            Refusal::Denied { .. } | Refusal::Walled { .. } => (StatusCode::FORBIDDEN, "denied"),
            Refusal::NamedTwice { .. } => (StatusCode::BAD_REQUEST, "named-twice"),
            Refusal::NotFound { .. } | Refusal::ParentNotFound { .. } => (StatusCode::NOT_FOUND, "not-found"),
            Refusal::Exists { .. } => (StatusCode::CONFLICT, "exists"),
            Refusal::Stale { .. } | Refusal::OtherUid { .. } => (StatusCode::PRECONDITION_FAILED, "stale"),
            Refusal::MatchRequired { .. } => (StatusCode::PRECONDITION_REQUIRED, "etag-required"),
            Refusal::HasChildren { .. } => (StatusCode::CONFLICT, "has-children"),
            Refusal::NoAdministrator => (StatusCode::CONFLICT, "no-administrator"),
            Refusal::Managed { .. } | Refusal::Contested { .. } | Refusal::HolderManages { .. } => {
                (StatusCode::CONFLICT, "managed")
            }
            Refusal::NeedsApproval { .. } => (StatusCode::CONFLICT, "needs-approval"),
            Refusal::Protected { .. } => (StatusCode::CONFLICT, "protected"),
            Refusal::InvariantBroken(_) => (StatusCode::CONFLICT, "invariant-broken"),
            Refusal::WithdrawsMuch { .. } => (StatusCode::CONFLICT, "confirm"),
            Refusal::OverQuota(_) => (StatusCode::CONFLICT, "over-quota"),
            Refusal::Claimed(_) => (StatusCode::CONFLICT, "claimed"),
            Refusal::InUse(_) => (StatusCode::CONFLICT, "in-use"),
            Refusal::KeyReused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "key-reused"),
            Refusal::Invalid(_)
            | Refusal::CannotMerge { .. }
            | Refusal::BadCondition { .. }
            | Refusal::NoSuchOwner { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Refusal::PlanMoved { .. } => (StatusCode::PRECONDITION_FAILED, "plan-moved"),
            Refusal::CannotRollBack { .. } => (StatusCode::CONFLICT, "cannot-roll-back"),
        };
        let problem = Problem::new(status, code, refusal.to_string());
        match &refusal {
            Refusal::Claimed(told) | Refusal::InUse(told) | Refusal::Invalid(told) => {
                problem.with_findings(told)
            }
            _ => problem,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        if error.is_transient() {
            tracing::warn!(error = chain(&error), "answered 503");
            return unavailable(error.to_string());
        }
        if let StoreError::Walled { .. } = &error {
            tracing::error!(
                error = chain(&error),
                "the second wall held what the first let through"
            );
            let detail = "the database keeps this from you; your rights may have changed a moment ago";
            return Problem::new(StatusCode::FORBIDDEN, "denied", detail);
        }
        // The caller learns that it is ours to mend, and not how our tables are made.
        tracing::error!(error = chain(&error), "answered 500");
        let detail = "management failed to answer; its log tells why under this request's id";
        Problem::internal(detail)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            WriteError::Store(error) => error.into(),
            WriteError::Revoked => {
                Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", error.to_string())
            }
            WriteError::Uncertain(_)
            | WriteError::Stuck
            | WriteError::WentBack { .. }
            | WriteError::Busy
            | WriteError::Stopping => {
                tracing::warn!(error = chain(&error), "answered 503");
                unavailable(error.to_string())
            }
        }
    }
}

impl From<Busy> for Problem {
    fn from(error: Busy) -> Problem {
        tracing::warn!(error = chain(&error), "answered 503");
        unavailable(error.to_string())
    }
}

impl From<BadBody> for Problem {
    fn from(error: BadBody) -> Problem {
        let (status, code) = match &error {
            BadBody::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow"),
            BadBody::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            BadBody::MediaType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type"),
            BadBody::CutOff
            | BadBody::NotUtf8
            | BadBody::Nul
            | BadBody::Empty
            | BadBody::Many { .. }
            | BadBody::Syntax { .. } => (StatusCode::BAD_REQUEST, "malformed"),
        };
        Problem::new(status, code, error.to_string())
    }
}

impl From<BadDocument> for Problem {
    fn from(error: BadDocument) -> Problem {
        let mut problem = Problem::bad_request(error.to_string());
        problem.errors = vec![Item {
            pointer: error.pointer,
            detail: error.reason,
            resource: error.resource,
            code: None,
        }];
        problem
    }
}

impl From<Unenforced> for Problem {
    fn from(error: Unenforced) -> Problem {
        let mut problem = Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "not-enforced",
            error.to_string(),
        );
        let item = |(name, gap): (Fqn, Gap)| Item {
            pointer: pointer(&gap.field),
            detail: gap.reason.to_owned(),
            resource: Some(name.to_string()),
            code: Some(Code::NotEnforced),
        };
        problem.errors = error.0.into_iter().map(item).collect();
        problem
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Problem {
        match error {
            PasswordError::TooShort | PasswordError::TooLong => Problem::bad_request(error.to_string()),
            PasswordError::Busy => unavailable(error.to_string()),
            PasswordError::Hash => {
                tracing::error!(error = chain(&error), "answered 500");
                Problem::internal(error.to_string())
            }
        }
    }
}

impl From<BadName> for Problem {
    fn from(error: BadName) -> Problem {
        Problem::bad_request(error.to_string())
    }
}

fn unavailable(detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
}

/// `spec.rules[0].matches` → `/spec/rules/0/matches`.
fn pointer(field: &str) -> String {
    if field.is_empty() {
        return String::new();
    }
    format!("/{}", field.replace(['.', '['], "/").replace(']', ""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_field_becomes_a_pointer() {
        for (field, expected) in [
            ("", ""),
            ("spec", "/spec"),
            (
                "spec.rules[0].backendRefs[12].weight",
                "/spec/rules/0/backendRefs/12/weight",
            ),
        ] {
            assert_eq!(pointer(field), expected);
        }
    }
}
