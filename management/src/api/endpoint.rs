//! The endpoints, as one value: the router serves this table and the OpenAPI document tells it, so that neither can have
//! one that the other has not. Who may use an endpoint and what it leaves in the audit chain are part of its row.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};
use tombolo_compiler::name::Kind;

use super::{
    App, access, approvals, audits, changes, explain, login, openapi, plans, resources, schemas, search,
    tokens,
};
use crate::audit::Verb;

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) place: Place,
    /// For programs that are generated from the document; unique together with the kind.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) access: Access,
    /// What a request that succeeds is recorded as, by one or several records; nothing where nothing changes.
    pub(crate) audit: &'static [Verb],
    /// Names of `openapi::parameter`.
    pub(crate) parameters: &'static [&'static str],
    pub(crate) takes: Option<Shape>,
    /// By status, what a request that succeeds is answered with.
    pub(crate) answers: &'static [(u16, Shape)],
    serve: fn() -> MethodRouter<App>,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    At(&'static str),
    /// At a plan that waits, with this after it.
    Plan(&'static str),
    /// At the name of every resource, with this after it.
    Resource(&'static str),
    /// As before, of these kinds only.
    ResourceOf(&'static [Kind], &'static str),
    /// At every user and service account, with this after it.
    Principal(&'static str),
    /// At every service account, with this after it.
    ServiceAccount(&'static str),
    /// At every collection.
    Collection,
}

/// Who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever wants to become known, at a bounded rate.
    Anyone,
    /// Whoever `iam` allows it to, on the node in question; denials are on record.
    Decided,
    /// Every caller, who sees what it may read.
    Filtered,
    /// Every caller: there is nothing to hide.
    Known,
}

/// What a body looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Nothing,
    /// The kind that the path names.
    Resource,
    /// A page of that kind, or its changes as events.
    Page,
    /// One of `openapi::components`.
    Named(&'static str),
    /// The plan of a write, with `dry_run`.
    OrDryRun(&'static Shape),
    /// Text of one of these media types, sent as it is read.
    Stream(&'static [&'static str]),
}

/// The nodes that settings attach to, and what stands there or is served there.
const SETTLED: &[Kind] = &[
    Kind::Organization,
    Kind::Tenant,
    Kind::Workspace,
    Kind::TrafficGroup,
    Kind::GatewayGroup,
    Kind::SecurityGroup,
    Kind::Gateway,
    Kind::ServiceRoute,
    Kind::Application,
    Kind::Api,
];
/// Where users stand, as the router says it.
const USERS: &str = "/v1/organizations/{organization}/users/{user}";
const SERVICE_ACCOUNTS: [&str; 2] = [
    "/v1/organizations/{organization}/serviceaccounts/{account}",
    "/v1/organizations/{organization}/tenants/{tenant}/serviceaccounts/{account}",
];
/// Of a transaction: a record for each resource.
const RESOURCES: &[Verb] = &[Verb::Create, Verb::Update, Verb::Delete];
const WRITE: &[&str] = &[
    "dry_run",
    "allowUnenforced",
    "Idempotency-Key",
    "Tombolo-Manager",
    "Tombolo-Force",
];
const WRITE_OF_SEEN: &[&str] = &[
    "dry_run",
    "allowUnenforced",
    "confirm",
    "breakGlass",
    "If-Match",
    "Idempotency-Key",
    "Tombolo-Manager",
    "Tombolo-Force",
];

pub(crate) fn table() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::GET,
            place: Place::Resource(""),
            id: "get",
            summary: "The resource, with its ETag.",
            access: Access::Decided,
            audit: &[],
            parameters: &["revision", "If-None-Match"],
            takes: None,
            answers: &[(200, Shape::Resource), (304, Shape::Nothing)],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::PUT,
            place: Place::Resource(""),
            id: "update",
            summary: "Replaces the resource.",
            access: Access::Decided,
            audit: &[Verb::Update],
            parameters: WRITE_OF_SEEN,
            takes: Some(Shape::Resource),
            answers: &[(200, Shape::OrDryRun(&Shape::Resource))],
            serve: || put(resources::update),
        },
        Endpoint {
            method: Method::DELETE,
            place: Place::Resource(""),
            id: "delete",
            summary: "Deletes the resource, below which nothing may stand.",
            access: Access::Decided,
            audit: &[Verb::Delete],
            parameters: WRITE_OF_SEEN,
            takes: None,
            answers: &[(200, Shape::OrDryRun(&Shape::Named("Deleted")))],
            serve: || delete(resources::delete),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Collection,
            id: "list",
            summary: "Those resources that the caller may read, in the order of their names, or what changes among them.",
            access: Access::Filtered,
            audit: &[],
            parameters: &["pageSize", "pageToken", "watch", "revision"],
            takes: None,
            answers: &[(200, Shape::Page)],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Collection,
            id: "create",
            summary: "Creates a resource.",
            access: Access::Decided,
            audit: &[Verb::Create],
            parameters: WRITE,
            takes: Some(Shape::Resource),
            answers: &[(201, Shape::Resource), (200, Shape::Named("DryRun"))],
            serve: || post(resources::create),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":status"),
            id: "status",
            summary: "What became of the resource in each cluster that it concerns.",
            access: Access::Decided,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("StatusOfName"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":receipt"),
            id: "receipt",
            summary: "The status at a revision; waits until it is settled.",
            access: Access::Decided,
            audit: &[],
            parameters: &["revision", "wait"],
            takes: None,
            answers: &[(200, Shape::Named("StatusOfName"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::ResourceOf(SETTLED, ":effective"),
            id: "effective",
            summary: "The settings that count for a node, for a service of it, or for what stands or is served there, with \
                      who decided each.",
            access: Access::Decided,
            audit: &[],
            parameters: &["service"],
            takes: None,
            answers: &[(200, Shape::Named("Effective"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":tree"),
            id: "tree",
            summary: "The resource and all below it that the caller may read, in the order of their names.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("Tree"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":history"),
            id: "history",
            summary: "The revisions that changed the resource, newest first.",
            access: Access::Decided,
            audit: &[],
            parameters: &["below", "pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("History"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":diff"),
            id: "diff",
            summary: "What differs between two revisions, of the resource and of all below it.",
            access: Access::Decided,
            audit: &[],
            parameters: &["from", "to", "pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("Differences"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":compiled"),
            id: "compiled",
            summary: "The routes of each cluster at a revision, compiled again.",
            access: Access::Decided,
            audit: &[],
            parameters: &["revision", "pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("Compiled"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::ResourceOf(&[Kind::Workspace], ":readiness"),
            id: "readiness",
            summary: "Whether the services of a workspace would survive the loss of a cluster or a region.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("ReadinessOfName"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::ResourceOf(&[Kind::Workspace], ":offers"),
            id: "claimOffersTo",
            summary: "The claims that others offer to a workspace.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("OffersToName"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Resource(":rollback"),
            id: "rollback",
            summary: "Makes the resource, and all below it, as it was at a revision.",
            access: Access::Decided,
            audit: RESOURCES,
            parameters: &[
                "Idempotency-Key",
                "dry_run",
                "confirm",
                "breakGlass",
                "Tombolo-Manager",
                "Tombolo-Force",
            ],
            takes: Some(Shape::Named("RollbackWish")),
            answers: &[(200, Shape::OrDryRun(&Shape::Named("Changed")))],
            serve: || post(resources::create),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Resource(":access"),
            id: "access",
            summary: "Who may do what to the resource, and because of what.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("AccessList"))],
            serve: || get(resources::get_or_list),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Resource(":transfer"),
            id: "transfer",
            summary: "Gives the resource another owner.",
            access: Access::Decided,
            audit: &[Verb::Transfer],
            parameters: &["dry_run", "Idempotency-Key"],
            takes: Some(Shape::Named("TransferWish")),
            answers: &[(200, Shape::OrDryRun(&Shape::Resource))],
            serve: || post(resources::create),
        },
        Endpoint {
            method: Method::POST,
            place: Place::ResourceOf(&[Kind::Organization], ":adopt"),
            id: "adopt",
            summary: "Takes a restored database for the truth, as a new epoch.",
            access: Access::Decided,
            audit: &[Verb::Adopt],
            parameters: &["Idempotency-Key"],
            takes: None,
            answers: &[(200, Shape::Named("Adopted"))],
            serve: || post(resources::create),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/changes"),
            id: "change",
            summary: "Writes many resources in one transaction, all or nothing.",
            access: Access::Decided,
            audit: RESOURCES,
            parameters: &[
                "Idempotency-Key",
                "dry_run",
                "overwrite",
                "allowUnenforced",
                "plan",
                "confirm",
                "breakGlass",
                "If-Plan",
                "Tombolo-Manager",
                "Tombolo-Force",
            ],
            takes: Some(Shape::Named("ChangeSet")),
            answers: &[(200, Shape::OrDryRun(&Shape::Named("Changed")))],
            serve: || post(changes::write),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/plans"),
            id: "plan",
            summary: "What a change would do; with `submit` it is kept for others to approve.",
            access: Access::Decided,
            audit: &[Verb::SubmitPlan],
            parameters: &[
                "Idempotency-Key",
                "overwrite",
                "allowUnenforced",
                "submit",
                "description",
                "Tombolo-Manager",
                "Tombolo-Force",
            ],
            takes: Some(Shape::Named("ChangeSet")),
            answers: &[(200, Shape::Named("Plan")), (201, Shape::Named("SubmittedPlan"))],
            serve: || post(plans::make),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/plans"),
            id: "listPlans",
            summary: "The plans that wait for an approval, newest first.",
            access: Access::Filtered,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("PlanList"))],
            serve: || get(approvals::list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Plan(""),
            id: "getPlan",
            summary: "A plan that was kept, with what it was made of.",
            access: Access::Decided,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("KeptPlan"))],
            serve: || get(approvals::get),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Plan(":approve"),
            id: "approvePlan",
            summary: "Approves what the plan comes to.",
            access: Access::Decided,
            audit: &[Verb::ApprovePlan],
            parameters: &["Idempotency-Key"],
            takes: Some(Shape::Named("Opinion")),
            answers: &[(200, Shape::Named("KeptPlan"))],
            serve: || post(approvals::act),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Plan(":reject"),
            id: "rejectPlan",
            summary: "Rejects the plan, for good.",
            access: Access::Decided,
            audit: &[Verb::RejectPlan],
            parameters: &["Idempotency-Key"],
            takes: Some(Shape::Named("Opinion")),
            answers: &[(200, Shape::Named("KeptPlan"))],
            serve: || post(approvals::act),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Plan(":apply"),
            id: "applyPlan",
            summary: "Does what the plan says, once it has the approvals that it needs.",
            access: Access::Decided,
            audit: RESOURCES,
            parameters: &["Idempotency-Key"],
            takes: Some(Shape::Named("Opinion")),
            answers: &[(200, Shape::Named("Changed"))],
            serve: || post(approvals::act),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/iam:test"),
            id: "testAccess",
            summary: "Whether the caller, or somebody else, may do something, and because of what.",
            access: Access::Filtered,
            audit: &[],
            parameters: &[],
            takes: Some(Shape::Named("AccessQuestion")),
            answers: &[(200, Shape::Named("AccessDecisions"))],
            serve: || post(access::test),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/explain"),
            id: "explain",
            summary: "Where a request goes from somewhere in the mesh, and why.",
            access: Access::Filtered,
            audit: &[],
            parameters: &["revision"],
            takes: Some(Shape::Named("Question")),
            answers: &[(200, Shape::Named("Explanation"))],
            serve: || post(explain::ask),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/search"),
            id: "search",
            summary: "Every resource that touches a host, a service or a namespace; one of the three is asked for.",
            access: Access::Filtered,
            audit: &[],
            parameters: &["host", "service", "namespace", "pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("Found"))],
            serve: || get(search::list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/schemas"),
            id: "listSchemas",
            summary: "The kinds of resources.",
            access: Access::Known,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("Schemas"))],
            serve: || get(schemas::list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/schemas/{kind}"),
            id: "getSchema",
            summary: "The JSON schema of a kind, with an example.",
            access: Access::Known,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("JsonSchema"))],
            serve: || get(schemas::get),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/openapi.json"),
            id: "getOpenApi",
            summary: "This document.",
            access: Access::Known,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("OpenApiDocument"))],
            serve: || get(openapi::get),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/audit"),
            id: "listAudit",
            summary: "The audit records that the caller may read, newest first.",
            access: Access::Filtered,
            audit: &[],
            parameters: &[
                "since",
                "until",
                "actor",
                "name",
                "kind",
                "verb",
                "outcome",
                "text",
                "pageSize",
                "pageToken",
            ],
            takes: None,
            answers: &[(200, Shape::Named("AuditPage"))],
            serve: || get(audits::list),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/audit:tail"),
            id: "tailAudit",
            summary: "New audit records that the caller may read, as server-sent events.",
            access: Access::Filtered,
            audit: &[],
            parameters: &[
                "since",
                "until",
                "actor",
                "name",
                "kind",
                "verb",
                "outcome",
                "text",
                "Last-Event-ID",
            ],
            takes: None,
            answers: &[(200, Shape::Stream(&["text/event-stream"]))],
            serve: || get(audits::tail),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/audit:export"),
            id: "exportAudit",
            summary: "The audit records that the caller may read, oldest first, as a file.",
            access: Access::Filtered,
            audit: &[],
            parameters: &[
                "since", "until", "actor", "name", "kind", "verb", "outcome", "text", "format", "after",
            ],
            takes: None,
            answers: &[(200, Shape::Stream(&["application/jsonl", "text/csv"]))],
            serve: || get(audits::export),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/audit:key"),
            id: "listAuditKeys",
            summary: "The public keys that sign statements about the audit record.",
            access: Access::Known,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("AuditKeys"))],
            serve: || get(audits::key),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/audit:verify"),
            id: "verifyAudit",
            summary: "Whether the audit chains add up.",
            access: Access::Decided,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("AuditVerdict"))],
            serve: || get(audits::verify),
        },
        Endpoint {
            method: Method::GET,
            place: Place::Principal("/tokens"),
            id: "listTokens",
            summary: "The tokens of a user or service account, without their text.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("TokenList"))],
            serve: || get(tokens::list),
        },
        Endpoint {
            method: Method::POST,
            place: Place::Principal("/tokens"),
            id: "issueToken",
            summary: "Issues a token, whose text is shown this once.",
            access: Access::Decided,
            audit: &[Verb::IssueToken],
            parameters: &[],
            takes: Some(Shape::Named("TokenWish")),
            answers: &[(201, Shape::Named("IssuedToken"))],
            serve: || post(tokens::issue),
        },
        Endpoint {
            method: Method::DELETE,
            place: Place::Principal("/tokens/{id}"),
            id: "revokeToken",
            summary: "Revokes a token and those that its holder had issued to itself with it, at once.",
            access: Access::Decided,
            audit: &[Verb::RevokeToken],
            parameters: &["Idempotency-Key"],
            takes: None,
            answers: &[(200, Shape::Named("RevokedToken"))],
            serve: || delete(tokens::revoke),
        },
        Endpoint {
            method: Method::GET,
            place: Place::ServiceAccount("/keys"),
            id: "listKeys",
            summary: "The keys of a service account, of which management has the public half alone.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("KeyList"))],
            serve: || get(tokens::list),
        },
        Endpoint {
            method: Method::POST,
            place: Place::ServiceAccount("/keys"),
            id: "issueKey",
            summary: "Issues a key pair, whose private half is shown this once.",
            access: Access::Decided,
            audit: &[Verb::IssueKey],
            parameters: &[],
            takes: Some(Shape::Named("TokenWish")),
            answers: &[(201, Shape::Named("IssuedKey"))],
            serve: || post(tokens::issue),
        },
        Endpoint {
            method: Method::DELETE,
            place: Place::ServiceAccount("/keys/{id}"),
            id: "revokeKey",
            summary: "Revokes a key and the tokens that its holder had issued to itself with it, at once.",
            access: Access::Decided,
            audit: &[Verb::RevokeKey],
            parameters: &["Idempotency-Key"],
            takes: None,
            answers: &[(200, Shape::Named("RevokedToken"))],
            serve: || delete(tokens::revoke),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/auth:login"),
            id: "login",
            summary: "Opens a session for a user with a password, and sets its cookie.",
            access: Access::Anyone,
            audit: &[Verb::Login],
            parameters: &[],
            takes: Some(Shape::Named("LoginWish")),
            answers: &[(200, Shape::Named("OpenedSession"))],
            serve: || post(login::login),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/auth:methods"),
            id: "loginMethods",
            summary: "Where people log in besides here, for pages that offer it.",
            access: Access::Anyone,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("LoginMethods"))],
            serve: || get(login::methods),
        },
        Endpoint {
            method: Method::POST,
            place: Place::At("/v1/auth:logout"),
            id: "logout",
            summary: "Ends, at once, the session or token that the request was sent with, and what came of it.",
            access: Access::Known,
            audit: &[Verb::Logout, Verb::RevokeToken],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("RevokedSession"))],
            serve: || post(login::logout),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/auth:whoami"),
            id: "whoami",
            summary: "Who the caller is, and by what.",
            access: Access::Known,
            audit: &[],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("WhoAmI"))],
            serve: || get(login::whoami),
        },
        Endpoint {
            method: Method::GET,
            place: Place::At("/v1/organizations/{organization}/users/{user}/sessions"),
            id: "listSessions",
            summary: "The sessions of a user, newest first.",
            access: Access::Decided,
            audit: &[],
            parameters: &["pageSize", "pageToken"],
            takes: None,
            answers: &[(200, Shape::Named("SessionList"))],
            serve: || get(login::list),
        },
        Endpoint {
            method: Method::DELETE,
            place: Place::At("/v1/organizations/{organization}/users/{user}/sessions/{id}"),
            id: "revokeSession",
            summary: "Ends a session, at once.",
            access: Access::Decided,
            audit: &[Verb::RevokeSession],
            parameters: &[],
            takes: None,
            answers: &[(200, Shape::Named("RevokedSession"))],
            serve: || delete(login::revoke),
        },
        Endpoint {
            method: Method::PUT,
            place: Place::At("/v1/organizations/{organization}/users/{user}/password"),
            id: "setPassword",
            summary: "Sets a user's password and ends its other sessions.",
            access: Access::Decided,
            audit: &[Verb::SetPassword],
            parameters: &[],
            takes: Some(Shape::Named("PasswordWish")),
            answers: &[(200, Shape::Named("PasswordSet"))],
            serve: || put(login::set_password),
        },
    ]
}

/// Serves every endpoint of the table. Those that share a path and a method share what serves them, which tells them
/// apart by the name.
pub(crate) fn router(table: &[Endpoint]) -> Router<App> {
    let mut served = BTreeSet::new();
    let mut router = Router::new();
    for endpoint in table {
        for route in endpoint.place.routes() {
            if served.insert((route.clone(), endpoint.method.as_str())) {
                router = router.route(&route, (endpoint.serve)());
            }
        }
    }
    router
}

impl Place {
    fn routes(self) -> Vec<String> {
        match self {
            Place::At(path) => vec![path.to_owned()],
            Place::Plan(_) => vec!["/v1/plans/{id}".to_owned()],
            Place::Principal(suffix) => {
                let users = format!("{USERS}{suffix}");
                let accounts = Place::ServiceAccount(suffix).routes();
                [users].into_iter().chain(accounts).collect()
            }
            Place::ServiceAccount(suffix) => SERVICE_ACCOUNTS.map(|place| format!("{place}{suffix}")).into(),
            // A name has as many segments as it has nodes above it, which no pattern of the router can say.
            Place::Resource(_) | Place::ResourceOf(..) | Place::Collection => {
                vec!["/v1/{*target}".to_owned()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::QUESTIONS;
    use super::*;

    #[test]
    fn every_write_takes_an_idempotency_key() {
        // What a token is answered is a secret, and so is a password; neither is kept, and no hash of it. Whoever has
        // logged out is nobody who could ask again.
        let without = [
            "issueToken",
            "issueKey",
            "login",
            "logout",
            "revokeSession",
            "setPassword",
        ];
        for row in table() {
            let can = !row.audit.is_empty() && !without.contains(&row.id);
            assert_eq!(row.parameters.contains(&"Idempotency-Key"), can, "{}", row.id);
        }
    }

    #[test]
    fn every_question_that_a_name_takes_has_a_row() {
        let rows = table();
        for (question, ..) in QUESTIONS {
            let told = rows.iter().any(|row| match row.place {
                Place::Resource(suffix) | Place::ResourceOf(_, suffix) => {
                    suffix.strip_prefix(':') == Some(*question)
                }
                Place::At(_)
                | Place::Plan(_)
                | Place::Principal(_)
                | Place::ServiceAccount(_)
                | Place::Collection => false,
            });
            assert!(told, ":{question} is answered, and no row of the table tells it");
        }
    }
}
