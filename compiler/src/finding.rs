//! What the passes have to say: where a value came from, and what is wrong with a resource.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{ClusterName, Fqn};

/// The resource and field that put a value there, and those that wanted to and lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    pub resource: Fqn,
    /// A path such as `spec.rules[0]`; empty for the whole resource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Fqn>,
}

impl Origin {
    pub fn new(resource: Fqn, field: impl Into<String>) -> Origin {
        Origin {
            resource,
            field: field.into(),
            lost: Vec::new(),
        }
    }
}

/// A value with where it came from. Equality covers the value only, so that a new origin moves no proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traced<T> {
    pub value: T,
    /// `None` for what no user wrote, such as a service in a namespace that nobody owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl<T> Traced<T> {
    pub fn new(value: T, origin: Origin) -> Traced<T> {
        Traced {
            value,
            origin: Some(origin),
        }
    }

    pub fn untraced(value: T) -> Traced<T> {
        Traced { value, origin: None }
    }
}

impl<T: PartialEq> Traced<T> {
    /// Equal in origin as well, not only in value. For a nested value this covers the outermost origin.
    pub fn is_identical(&self, other: &Traced<T>) -> bool {
        self.value == other.value && self.origin == other.origin
    }
}

impl<T> Traced<T> {
    /// Records another resource that wanted to decide the value.
    pub fn won_over(&mut self, loser: &Fqn) {
        if let Some(origin) = &mut self.origin
            && !origin.lost.contains(loser)
        {
            origin.lost.push(loser.clone());
        }
    }
}

impl<T: PartialEq> PartialEq for Traced<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Traced<T> {}

/// An error refuses the write that would cause it; a warning is shown on the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    Error,
    Warning,
}

/// Something about one resource that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub resource: Fqn,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    pub severity: Severity,
    pub code: Code,
    /// A sentence without a full stop that names the objects and says what to do.
    pub message: String,
    /// The cluster that it is about, when it is not about all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// What the resource claims in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// A name of the world that two resources want and one has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Such as `host shop.example.com`.
    pub what: String,
    pub holder: Fqn,
}

/// Stable words for programs; the message is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Code {
    /// The resource below which it stands does not exist.
    ParentMissing,
    UnknownCluster,
    UnknownRegion,
    UnknownNetwork,
    UnknownWorkspace,
    UnknownTenant,
    /// A resource that may not be named from here, or that does not exist.
    OutOfReach,
    NamespaceTaken,
    NamespaceNotOwned,
    /// What belongs to somebody else, who has not granted it.
    NotGranted,
    /// A grant of what is not the grantor's.
    GrantsNothing,
    HostTaken,
    ServiceTaken,
    BadWeights,
    /// Filters that contradict each other or the rest of their rule.
    BadFilters,
    UnknownSubset,
    DuplicateSubset,
    UnknownSubject,
    UnknownRole,
    /// A team that is a member of itself, through others.
    TeamCycle,
    BadBackend,
    /// Wanted by intent, seen in no cluster.
    ServiceNotFound,
    SubsetNotFound,
    GatewayNotFound,
    PortAmbiguous,
    PortNotFound,
    ProtocolNotRouted,
    /// Another listener of the same proxy holds the port.
    PortTaken,
    /// The same name under another owner stays local.
    NotJoined,
    NoEastWestGateway,
    /// A rule that can never be reached, or that is not applied here.
    RuleIgnored,
    /// A setting asks for less than one above it mandates.
    MandateRelaxed,
    /// Another setting of the same node says the same, or what it says cannot be.
    SettingIgnored,
    /// Two groups of one concern have settings for the same namespaces.
    SettingsOverlap,
    /// A proxy refused what it was sent; the message carries its words.
    ProxyRejected,
    /// Accepted, and no plane enforces it yet.
    NotEnforced,
    /// A central holds back removals of intent until an operator confirms them, so what was removed still serves.
    RemovalsHeld,
}

impl Code {
    /// Whether a warning refuses a write of the resource that it is about. On a resource that is not written it is only
    /// shown: somebody above may tighten a mandate without asking all who stand below, and give up a namespace of which
    /// something was lent.
    pub fn refuses_its_writer(self) -> bool {
        matches!(self, Code::MandateRelaxed | Code::GrantsNothing)
    }
}

impl Finding {
    pub fn error(
        resource: &Fqn,
        field: impl Into<String>,
        code: Code,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            resource: resource.clone(),
            field: field.into(),
            severity: Severity::Error,
            code,
            message: message.into(),
            cluster: None,
            claim: None,
        }
    }

    /// Somebody else holds what the resource claims.
    pub fn taken(resource: &Fqn, field: impl Into<String>, code: Code, claim: Claim) -> Finding {
        let advice = match code {
            Code::ServiceTaken => "a service has one route per workspace: change that one",
            _ => "choose another, or ask its owner to give it up or to offer it to you",
        };
        let message = format!("{} is already held by {}; {advice}", claim.what, claim.holder);
        Finding {
            claim: Some(claim),
            ..Finding::error(resource, field, code, message)
        }
    }

    /// The same conflict as the other side sees it: of two that claim a name, `resolve` lets the first in the order
    /// of names have it, and only who keeps the history knows that the other one was there before.
    pub fn turned(&self) -> Option<Finding> {
        let Claim { what, holder } = self.claim.clone()?;
        let claim = Claim {
            what,
            holder: self.resource.clone(),
        };
        Some(Finding::taken(&holder, "spec", self.code, claim))
    }

    pub fn warning(
        resource: &Fqn,
        field: impl Into<String>,
        code: Code,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::error(resource, field, code, message)
        }
    }

    pub fn in_cluster(self, cluster: &ClusterName) -> Finding {
        Finding {
            cluster: Some(cluster.clone()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.resource, self.message)
    }
}
