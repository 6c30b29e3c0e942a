//! Applications and their APIs: whose services answer, and the rules that an OpenAPI document becomes.

use super::ResolvedWorkspace;
use super::gateway::{own_backends, refuse_all};
use super::tree::Tree;
use crate::finding::{Code, Finding, Traced};
use crate::intent::{Api, Application, Spec};
use crate::name::{Fqn, Kind};
use crate::routes::GatewayRule;

/// The workspace of an application is one of its own tenant.
pub(super) fn check(tree: &Tree, name: &Fqn, application: &Application) -> Option<Finding> {
    if is_sound(tree, name, application) {
        return None;
    }
    let tenant = name
        .parent()
        .map_or_else(String::new, |tenant| tenant.to_string());
    let message = format!(
        "{} is not a workspace of {tenant} that exists; an application is served by a workspace of its own tenant",
        application.workspace
    );
    Some(Finding::error(
        name,
        "spec.workspace",
        Code::UnknownWorkspace,
        message,
    ))
}

/// The workspace whose services answer for an API; none when its application is not sound.
pub(super) fn workspace_of(tree: &Tree, api: &Fqn) -> Option<Fqn> {
    let name = api.ancestor(Kind::Application)?;
    match tree.spec(&name)? {
        Spec::Application(application) if is_sound(tree, &name, application) => {
            Some(application.workspace.clone())
        }
        _ => None,
    }
}

/// Until a rule can tell methods apart, an operation that became a route would take other methods of its path as
/// well: so all of them are refused.
pub(super) fn rules(
    name: &Fqn,
    api: &Api,
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Vec<Traced<GatewayRule>> {
    own_backends(
        name,
        "spec.backendRefs",
        &api.backend_refs,
        workspace,
        resolved,
        findings,
    );
    vec![refuse_all(
        name,
        "spec.openapi.paths",
        "the operations of this API are not enforced yet",
    )]
}

fn is_sound(tree: &Tree, name: &Fqn, application: &Application) -> bool {
    let workspace = &application.workspace;
    workspace.kind() == Kind::Workspace
        && workspace.parent() == name.parent()
        && tree.get(workspace).is_some()
}
