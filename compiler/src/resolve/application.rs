//! Applications and their APIs: whose services answer, and the rules that an OpenAPI document becomes.

use super::ResolvedWorkspace;
use super::gateway::split;
use super::tree::Tree;
use crate::finding::{Code, Finding, Origin, Traced};
use crate::http::HttpMatch;
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

/// One for each path, most specific first; its methods are the matches.
pub(super) fn rules(
    name: &Fqn,
    api: &Api,
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Vec<Traced<GatewayRule>> {
    let action = split(
        name,
        "spec.backendRefs",
        &api.backend_refs,
        workspace,
        resolved,
        findings,
    );
    let mut rules: Vec<Traced<GatewayRule>> = api
        .openapi
        .paths
        .iter()
        .filter(|(_, methods)| !methods.is_empty())
        .map(|(template, methods)| {
            let matches = methods.iter().map(|method| HttpMatch {
                path: Some(template.matches().clone()),
                method: Some(*method),
                ..HttpMatch::default()
            });
            let rule = GatewayRule::new(matches.collect(), action.clone());
            let field = format!("spec.openapi.paths[{}]", template.as_str());
            Traced::new(rule, Origin::new(name.clone(), field))
        })
        .collect();
    rules.sort_by_cached_key(|rule| rule.value.matches[0].precedence());
    rules
}

fn is_sound(tree: &Tree, name: &Fqn, application: &Application) -> bool {
    let workspace = &application.workspace;
    workspace.kind() == Kind::Workspace
        && workspace.parent() == name.parent()
        && tree.get(workspace).is_some()
}
