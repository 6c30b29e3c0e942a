//! What would only look like protection: fields about security that no plane enforces are refused, unless the writer
//! says that it knows.

use std::fmt;

use tombolo_compiler::enforcement::{Concern, Gap};
use tombolo_compiler::name::Fqn;

use crate::change::{Change, ChangeVerb};

/// The fields of a write that protect nothing yet; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Unenforced(pub(crate) Vec<(Fqn, Gap)>);

/// Checked at the border: it depends on what is written and on nothing that is stored. A rollback to what somebody
/// has accepted before does not ask again.
pub(crate) fn check(changes: &[Change]) -> Result<(), Unenforced> {
    let written = changes.iter().filter_map(|change| match &change.verb {
        ChangeVerb::Create(resource) | ChangeVerb::Update(resource, _) | ChangeVerb::Apply(resource, _) => {
            Some(resource)
        }
        ChangeVerb::Delete(_) | ChangeVerb::Transfer(_) => None,
    });
    let found: Vec<(Fqn, Gap)> = written
        .flat_map(|resource| {
            resource
                .gaps
                .iter()
                .map(|gap| (resource.name.clone(), gap.clone()))
        })
        .filter(|(_, gap)| gap.concern == Concern::Security)
        .collect();
    if found.is_empty() {
        Ok(())
    } else {
        Err(Unenforced(found))
    }
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, gap) in &self.0 {
            write!(f, "{name}: {} would protect nothing: {}; ", gap.field, gap.reason)?;
        }
        f.write_str("remove it, or write with allowUnenforced=true to keep it until it is enforced")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tombolo_compiler::intent::Resource;

    use super::*;

    fn create(document: Value) -> Change {
        let resource = Resource::from_json(document).unwrap();
        Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Create(Arc::new(resource)),
            uid: None,
        }
    }

    #[test]
    fn what_is_about_security_is_refused_and_nothing_else() {
        let gateway = |name: &str, field: &str, value: Value| {
            create(json!({
                "name": format!("organizations/acme/tenants/pay/workspaces/w/gatewaygroups/g/gateways/{name}"),
                "spec": {"workload": "mesh/gateway", "type": "ingress", "port": 80, "hosts": ["a.example.com"],
                    "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}], field: value},
            }))
        };
        let open = gateway("open", "cors", json!({"allowOrigins": ["*"]}));
        let closed = gateway("closed", "authorization", json!({"allow": []}));
        let limited = gateway("limited", "rateLimit", json!({"requests": 1, "per": "1s"}));
        let apart = gateway(
            "apart",
            "rateLimit",
            json!({"requests": 1, "per": "1s", "by": "client"}),
        );
        assert_eq!(check(std::slice::from_ref(&open)), Ok(()));
        let keys = json!({"issuers": [{"issuer": "a", "jwksUri": "https://login.example.com/keys"}]});
        let known = gateway("known", "jwt", keys);
        assert_eq!(check(&[limited, closed, known]), Ok(()));
        let error = check(&[open, apart]).unwrap_err();
        assert_eq!(error.0.len(), 1);
        assert_eq!(
            error.to_string(),
            "organizations/acme/tenants/pay/workspaces/w/gatewaygroups/g/gateways/apart: \
             spec.rateLimit.by would protect nothing: no gateway counts clients by their addresses yet, so with this \
             nothing is limited; remove it, or write with allowUnenforced=true to keep it until it is enforced"
        );
    }
}
