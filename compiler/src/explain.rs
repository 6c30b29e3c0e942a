//! Why a request goes where it goes: from a proxy somewhere in the mesh, each step with the resource and field that
//! decided it, to the endpoints or the refusal; and what would have to change when nothing takes it.
//!
//! Nothing is decided here. The part of the mesh that the request touches is planned and lowered as for a real proxy,
//! and the request walks through the result.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Origin};
use crate::name::{BadName, ClusterName, Fqn, Label, ServiceId, WorkloadId};
use crate::plan::Inputs;
use crate::proxy::ProxyRole;
use crate::report::{Reports, State};
use crate::resolve::Resolved;

mod access;
mod advice;
mod part;
pub mod request;
mod trace;
pub mod walk;

pub use advice::Advice;
use request::Request;
pub use trace::trace;

/// From where a request is sent: `us-east/shop/frontend`, or `us-east/gateway/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Viewpoint {
    pub cluster: ClusterName,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An application of that service, through the sidecar beside it.
    Application(ServiceId),
    /// From outside the mesh, to the workload of a gateway resource: its own name, the last of its path.
    Gateway(Label),
}

/// The proxy that takes a request, and by which of its doors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// From an application in that namespace.
    Sidecar(Label),
    /// From outside the mesh.
    Ingress(WorkloadId),
    /// From another cluster.
    EastWest(WorkloadId),
}

/// What an edge is asked: what its proxy at `entry` does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub entry: Entry,
    pub request: Request,
}

/// What an edge answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// (epoch, revision) of the slice that it holds.
    pub version: (u64, u64),
    pub trace: Trace,
}

/// The answer to what happens with a request, as far as intent and reports tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `None` when nothing in the mesh takes requests there.
    pub entry: Option<Entry>,
    #[serde(flatten)]
    pub trace: Trace,
    /// What would have to change, when nothing takes the request.
    pub advice: Vec<Advice>,
}

/// The chain from a request to what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    pub steps: Vec<Step>,
    pub outcome: Outcome,
}

/// One thing that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub stage: Stage,
    /// A sentence without a full stop.
    pub told: String,
    /// What decided, and what lost a claim to it. `None` for what no user wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What was tried before and did not match, in the order in which it was tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Tried>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Whose proxy it is.
    Entry,
    /// Which gateway or service the host means.
    Host,
    /// Which grant lets a gateway use what somebody else owns.
    Grant,
    /// Which rule of a gateway takes it.
    GatewayRule,
    /// Which rule of a service takes it.
    ServiceRule,
    /// Which setting says where it goes when its own cluster cannot serve it.
    Failover,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Why it does not match: one reason for each of its alternatives.
    pub why: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// To one of these, by weight.
    Forward {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        targets: Vec<Destination>,
    },
    /// The proxy answers by itself.
    Refuse {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        status: u16,
        reason: String,
    },
    /// The proxy answers by itself with the URL to ask instead.
    Redirect {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        status: u16,
        location: String,
    },
    /// No proxy listens for it.
    NotTaken { reason: String },
}

/// One of the upstreams that a request may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// As metrics and logs name it: `tenant/workspace/namespace/service:port[/subset]`.
    pub upstream: String,
    /// At least 1; what counts is its share in the sum.
    pub weight: u32,
    /// In the order of failover. Nowhere: the proxy answers 503.
    pub places: Vec<Location>,
}

/// The endpoints of an upstream in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// From 0; equal ones share.
    pub priority: usize,
    pub cluster: ClusterName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Label>,
    pub hosts: Hosts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Hosts {
    /// Of the proxy's own cluster, as its edge sees them.
    Instances(Vec<Host>),
    /// Of the proxy's own cluster, as it reports them: which there are is known to its edge only.
    Reported(State),
    /// The east-west listeners of another cluster.
    Gateways(Vec<Host>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub address: crate::name::HostPort,
    /// As its platform says; false: not chosen while anything else works. Proxies check for themselves.
    pub usable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadViewpoint {
    #[error("{0:?} is not a viewpoint; use CLUSTER/NAMESPACE/SERVICE or CLUSTER/gateway/NAME")]
    Form(String),
    #[error(transparent)]
    Name(#[from] BadName),
}

/// What happens with `request` when it is sent from `from`. `findings` are those of `resolve`; they tell who wanted a
/// host and did not get it. A gateway that may not be named is none.
pub fn explain<'a>(
    resolved: &Resolved,
    reports: &Reports,
    findings: impl IntoIterator<Item = &'a Finding>,
    from: &Viewpoint,
    request: &Request,
    may_name: &dyn Fn(&Fqn) -> bool,
) -> Explanation {
    let inputs = Inputs::new(resolved, reports);
    let asked = part::Asked {
        inputs: &inputs,
        cluster: &from.cluster,
        request,
        may_name,
    };
    let entry = match asked.entry(&from.place) {
        Ok(entry) => entry,
        Err(reason) => {
            return Explanation {
                entry: None,
                trace: Trace {
                    steps: Vec::new(),
                    outcome: Outcome::NotTaken { reason },
                },
                advice: asked.advice_without_entry(&from.place),
            };
        }
    };
    let mut trace = asked.trace(&entry);
    trace.only_reported();
    let advice = asked.advice(&entry, &trace, findings);
    Explanation {
        entry: Some(entry),
        trace,
        advice,
    }
}

impl Explanation {
    /// Every resource that it names; who may not read one of them must not be told of it.
    pub fn resources(&self) -> impl Iterator<Item = &Fqn> {
        let advice = self.advice.iter().flat_map(|advice| &advice.resources);
        self.trace.resources().chain(advice)
    }
}

impl Trace {
    pub fn resources(&self) -> impl Iterator<Item = &Fqn> {
        let steps = self.steps.iter().flat_map(Step::resources);
        steps.chain(self.outcome.origin().into_iter().flat_map(named))
    }

    /// Turns what a made-up view says of the own cluster into what is known of it.
    fn only_reported(&mut self) {
        let Outcome::Forward { targets, .. } = &mut self.outcome else {
            return;
        };
        for place in targets.iter_mut().flat_map(|target| &mut target.places) {
            if let Hosts::Instances(instances) = &place.hosts {
                let up = instances.iter().any(|instance| instance.usable);
                place.hosts = Hosts::Reported(if up { State::Up } else { State::Down });
            }
        }
    }
}

impl Step {
    pub fn resources(&self) -> impl Iterator<Item = &Fqn> {
        let tried = self.tried.iter().filter_map(|tried| tried.origin.as_ref());
        self.origin.iter().chain(tried).flat_map(named)
    }
}

impl Outcome {
    /// What decided it.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Outcome::Forward { origin, .. }
            | Outcome::Refuse { origin, .. }
            | Outcome::Redirect { origin, .. } => origin.as_ref(),
            Outcome::NotTaken { .. } => None,
        }
    }
}

impl Entry {
    fn role(&self) -> ProxyRole {
        match self {
            Entry::Sidecar(namespace) => ProxyRole::Sidecar {
                namespace: namespace.clone(),
                outbound: std::net::SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0),
            },
            Entry::Ingress(workload) | Entry::EastWest(workload) => ProxyRole::Gateway {
                workload: workload.clone(),
            },
        }
    }
}

impl FromStr for Viewpoint {
    type Err = BadViewpoint;

    fn from_str(text: &str) -> Result<Viewpoint, BadViewpoint> {
        let form = || BadViewpoint::Form(text.to_owned());
        let (cluster, place) = text.split_once('/').ok_or_else(form)?;
        let (namespace, name) = place.split_once('/').ok_or_else(form)?;
        let place = match namespace {
            "gateway" => Place::Gateway(name.parse()?),
            _ => Place::Application(place.parse()?),
        };
        Ok(Viewpoint {
            cluster: cluster.parse()?,
            place,
        })
    }
}

impl TryFrom<String> for Viewpoint {
    type Error = BadViewpoint;

    fn try_from(text: String) -> Result<Viewpoint, BadViewpoint> {
        text.parse()
    }
}

impl From<Viewpoint> for String {
    fn from(viewpoint: Viewpoint) -> String {
        viewpoint.to_string()
    }
}

impl fmt::Display for Viewpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Application(service) => write!(f, "{}/{service}", self.cluster),
            Place::Gateway(name) => write!(f, "{}/gateway/{name}", self.cluster),
        }
    }
}

fn named(origin: &Origin) -> impl Iterator<Item = &Fqn> {
    origin.lost.iter().chain([&origin.resource])
}
