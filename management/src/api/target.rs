//! What a path below `/v1/` means: a resource, a collection, or a question about a resource.

use std::str::FromStr;

use tombolo_compiler::name::{ATTACHED, BadName, Fqn, Kind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resource(Fqn),
    Collection(Collection),
    /// `…:status`
    Status(Fqn),
    /// `…:receipt`
    Receipt(Fqn),
    /// `…:effective`
    Effective(Fqn),
    /// `…:tree`
    Tree(Fqn),
    /// `…:adopt`
    Adopt(Fqn),
    /// `…:readiness`
    Readiness(Fqn),
    /// `…:offers`
    Offers(Fqn),
    /// `…:access`
    Access(Fqn),
    /// `…:transfer`
    Transfer(Fqn),
    /// `…:history`, `…:diff`, `…:compiled`, `…:rollback`
    Past(PastQuestion, Fqn),
}

/// What can be asked of the past of a node and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PastQuestion {
    History,
    Diff,
    Compiled,
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collection {
    /// `None` for `organizations`.
    pub(crate) parent: Option<Fqn>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(
        "{0:?} cannot be asked of a resource; use :status, :receipt, :effective, :tree, :access, :transfer, :history, :diff, \
         :compiled, :rollback, of a workspace :readiness and :offers, or of an organization :adopt"
    )]
    Question(String),
}

/// What a question about a name means.
type Asked = fn(Fqn) -> Target;

/// What may stand behind a name, and which kinds it may be asked of; `None`: of every kind.
pub(crate) const QUESTIONS: &[(&str, Option<Kind>, Asked)] = &[
    ("status", None, Target::Status),
    ("receipt", None, Target::Receipt),
    ("effective", None, Target::Effective),
    ("tree", None, Target::Tree),
    ("access", None, Target::Access),
    ("transfer", None, Target::Transfer),
    ("history", None, |name| Target::Past(PastQuestion::History, name)),
    ("diff", None, |name| Target::Past(PastQuestion::Diff, name)),
    ("compiled", None, |name| {
        Target::Past(PastQuestion::Compiled, name)
    }),
    ("rollback", None, |name| {
        Target::Past(PastQuestion::Rollback, name)
    }),
    ("readiness", Some(Kind::Workspace), Target::Readiness),
    ("offers", Some(Kind::Workspace), Target::Offers),
    ("adopt", Some(Kind::Organization), Target::Adopt),
];

impl Target {
    /// The name that a denial is about.
    pub(crate) fn name(&self) -> Option<&Fqn> {
        match self {
            Target::Resource(name)
            | Target::Status(name)
            | Target::Receipt(name)
            | Target::Effective(name)
            | Target::Readiness(name)
            | Target::Offers(name)
            | Target::Tree(name)
            | Target::Adopt(name)
            | Target::Access(name)
            | Target::Transfer(name)
            | Target::Past(_, name) => Some(name),
            Target::Collection(collection) => collection.parent.as_ref(),
        }
    }
}

impl Collection {
    /// `organizations/acme/tenants`
    pub(crate) fn path(&self) -> String {
        let collection = self.kind.collection();
        match &self.parent {
            Some(parent) => format!("{parent}/{collection}"),
            None => collection.to_owned(),
        }
    }

    pub(crate) fn holds(&self, name: &Fqn) -> bool {
        name.kind() == self.kind && name.parent() == self.parent
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(path: &str) -> Result<Target, BadTarget> {
        if let Some((name, question)) = path.rsplit_once(':') {
            let name: Fqn = name.parse()?;
            let known = QUESTIONS
                .iter()
                .find(|(word, kind, _)| *word == question && kind.is_none_or(|kind| kind == name.kind()));
            return match known {
                Some((_, _, target)) => Ok(target(name)),
                None => Err(BadTarget::Question(question.to_owned())),
            };
        }
        if path.split('/').count().is_multiple_of(2) {
            return Ok(Target::Resource(path.parse()?));
        }
        // With a leaf that every kind takes it would be a name: that tells the kind, or what is wrong.
        let example: Fqn = format!("{path}/{ATTACHED}").parse()?;
        Ok(Target::Collection(Collection {
            parent: example.parent(),
            kind: example.kind(),
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_resources_collections_or_questions() {
        let acme: Fqn = "organizations/acme".parse().unwrap();
        let collection = |parent, kind| Target::Collection(Collection { parent, kind });
        for (path, target) in [
            ("organizations", collection(None, Kind::Organization)),
            ("organizations/acme", Target::Resource(acme.clone())),
            ("organizations/acme:status", Target::Status(acme.clone())),
            ("organizations/acme:receipt", Target::Receipt(acme.clone())),
            ("organizations/acme:effective", Target::Effective(acme.clone())),
            (
                "organizations/acme/tenants/a/workspaces/w:readiness",
                Target::Readiness("organizations/acme/tenants/a/workspaces/w".parse().unwrap()),
            ),
            (
                "organizations/acme/tenants",
                collection(Some(acme.clone()), Kind::Tenant),
            ),
            (
                "organizations/acme/trafficsettings",
                collection(Some(acme), Kind::TrafficSetting),
            ),
        ] {
            assert_eq!(path.parse(), Ok(target), "{path}");
        }
        for (path, error) in [
            ("tenants", "expected organizations"),
            (
                "organizations/acme/gateways",
                "expected clusters, users, teams, serviceaccounts, roles, tenants, bindings",
            ),
            ("organizations/acme:explode", "use :status, :receipt"),
            ("organizations/acme/tenants/", "is not a valid name"),
        ] {
            let found = path.parse::<Target>().unwrap_err().to_string();
            assert!(found.contains(error), "{path}: {found}");
        }
    }
}
