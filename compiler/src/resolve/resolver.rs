//! The pass with a memory of its last result, so that a change costs what it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::gateway::{Listener, Port};
use super::tree::{Touched, Tree};
use super::{Resolved, cluster, external, gateway, grant, reference, route, setting, workspace};
use crate::claims::{HostIndex, Index, SelectorIndex};
use crate::finding::{Code, Finding, Origin};
use crate::intent::{Intent, Resource};
use crate::name::{Fqn, Kind, Label, ServiceId};
use crate::persistent::{Map, Set};
use crate::selector::Selector;

/// Always holds what `resolve` would say of its intent. A copy costs nothing, so that a change can be tried on one.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    pub(super) tree: Tree,
    pub(super) resolved: Resolved,
    /// As the stages have told them; none of the lists empty.
    told: Map<(Fqn, Part), Arc<[Finding]>>,
    /// All that is told, by the resource that it is about; sorted, each once, and none of the lists empty.
    findings: Map<Fqn, Arc<[Finding]>>,
    pub(super) wanted: Wanted,
    /// What gateways and APIs hold, without what others hold.
    pub(super) listeners: Map<Fqn, Arc<Listener>>,
    /// By the resource that holds what they want: those that lost.
    losers: Index<Fqn>,
}

/// What a stage has to say about a resource, beside what others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// What it claims and names, and what it is made into.
    Claims,
    Settings,
}

/// One changed resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    Put(Arc<Resource>),
    Remove(Fqn),
}

/// What an update did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// How many keys were computed.
    pub recomputed: usize,
    /// Whether other findings are there than before.
    pub findings: bool,
}

/// Who wants what, whether they have it or not: whoever a change of somebody else's claim may concern.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// By workspaces.
    pub(super) namespaces: SelectorIndex,
    /// By gateways and APIs.
    pub(super) hosts: HostIndex,
    /// Of `hosts` those that are held.
    pub(super) held_hosts: HostIndex,
    /// By external services.
    pub(super) external_hosts: HostIndex,
    /// By gateways and APIs.
    pub(super) ports: Index<Port>,
    /// Of `ports` those that are held.
    pub(super) held_ports: Index<Port>,
    /// Gateways and APIs, by the namespace of their workload.
    pub(super) workloads: Index<Label>,
    /// Gateways and APIs, by the workspace whose hosts they borrow.
    pub(super) lenders: Index<Fqn>,
    /// Routes of a service, by their workspace.
    pub(super) services: Index<(Fqn, ServiceId)>,
    /// Nodes that say something themselves, and settings.
    pub(super) settings: Set<Fqn>,
    /// Resources that name another one, by that one.
    pub(super) named_by: Index<Fqn>,
}

/// One update on its way through the stages.
pub(super) struct Update<'a> {
    pub(super) to: &'a mut Resolver,
    pub(super) touched: Touched,
    pub(super) recomputed: usize,
    /// Workspaces that hold other selectors than before, with those.
    pub(super) moved: BTreeMap<Fqn, BTreeSet<Selector>>,
    /// Resources that hold something that others have begun or ceased to want.
    contested: BTreeSet<Fqn>,
}

impl Part {
    const ALL: [Part; 2] = [Part::Claims, Part::Settings];
}

impl Edit {
    pub fn name(&self) -> &Fqn {
        match self {
            Edit::Put(resource) => &resource.name,
            Edit::Remove(name) => name,
        }
    }
}

impl Resolver {
    /// Takes a change as one step. What it leaves as it was may be among the edits.
    pub fn update(&mut self, edits: impl IntoIterator<Item = Edit>) -> Changed {
        let findings = self.findings.clone();
        let touched = self.tree.apply(edits);
        let mut update = Update {
            to: self,
            touched,
            recomputed: 0,
            moved: BTreeMap::new(),
            contested: BTreeSet::new(),
        };
        let touched: Vec<Fqn> = update.touched.all().map(|touch| touch.name.clone()).collect();
        for name in &touched {
            update.forget(name);
        }
        // Each stage looks at what the ones before it have made.
        let clusters = cluster::update(&mut update);
        workspace::update(&mut update, &clusters);
        setting::update(&mut update, &clusters);
        let groups = workspace::update_groups(&mut update);
        route::update(&mut update, &groups);
        reference::update(&mut update);
        grant::update(&mut update);
        gateway::update(&mut update);
        external::update(&mut update);
        for (name, finding) in std::mem::take(&mut update.touched.orphans) {
            update.tell(Part::Claims, &name, finding.into_iter().collect());
        }
        Changed {
            recomputed: update.recomputed,
            findings: !update.to.findings.ptr_eq(&findings),
        }
    }

    pub fn intent(&self) -> &Intent {
        &self.tree.intent
    }

    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Sorted, each once.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flat_map(|findings| findings.iter())
    }

    pub fn findings_of(&self, resource: &Fqn) -> &[Finding] {
        self.findings.get(resource).map_or(&[], |findings| findings)
    }

    /// What is found here and was not before, sorted.
    pub fn findings_since<'a>(&'a self, before: &'a Resolver) -> impl Iterator<Item = &'a Finding> {
        before
            .findings
            .diff(&self.findings, |was, is| was == is)
            .into_iter()
            .flat_map(|differs| {
                let was = differs.before.map_or(&[][..], |was| was);
                let is = differs.after.map_or(&[][..], |is| is);
                is.iter().filter(move |finding| !was.contains(finding))
            })
    }
}

impl Update<'_> {
    /// Replaces what one stage says of a resource.
    pub(super) fn tell(&mut self, part: Part, resource: &Fqn, findings: Vec<Finding>) {
        let key = (resource.clone(), part);
        let told = self.to.told.get(&key).map_or(&[][..], |told| told);
        if told == findings.as_slice() {
            return;
        }
        if findings.is_empty() {
            self.to.told.remove(&key);
        } else {
            self.to.told.insert(key, findings.into());
        }
        self.gather(resource);
    }

    /// What all stages have said of a resource that is not as it was.
    fn forget(&mut self, resource: &Fqn) {
        for part in Part::ALL {
            self.to.told.remove(&(resource.clone(), part));
        }
        self.gather(resource);
    }

    /// What there is to say of a resource, from all that say something.
    fn gather(&mut self, resource: &Fqn) {
        let parts = Part::ALL.map(|part| self.to.told.get(&(resource.clone(), part)));
        let told = parts
            .into_iter()
            .flatten()
            .flat_map(|findings| findings.iter().cloned());
        let own = self
            .to
            .tree
            .get(resource)
            .into_iter()
            .flat_map(|resource| not_enforced(resource));
        let mut findings: Vec<Finding> = told.chain(own).collect();
        findings.sort();
        findings.dedup();
        if self.to.findings_of(resource) == findings.as_slice() {
            return;
        }
        let (was, is) = (holders(self.to.findings_of(resource)), holders(&findings));
        for holder in was.difference(&is) {
            self.to.losers.remove(holder, resource);
        }
        for holder in is.difference(&was) {
            self.to.losers.insert(holder, resource);
        }
        self.contested.extend(was.symmetric_difference(&is).cloned());
        if findings.is_empty() {
            self.to.findings.remove(resource);
        } else {
            self.to.findings.insert(resource.clone(), findings.into());
        }
    }

    /// The origin of what a resource holds, with those that wanted it.
    pub(super) fn origin(&self, resource: &Fqn, field: &str) -> Origin {
        Origin {
            resource: resource.clone(),
            field: field.to_owned(),
            lost: self.to.losers.of(resource).cloned().collect(),
        }
    }

    /// Those of some kinds whose origin has become another one since this was last asked.
    pub(super) fn take_contested(&mut self, kinds: &[Kind]) -> BTreeSet<Fqn> {
        let contested = std::mem::take(&mut self.contested).into_iter();
        let (taken, kept) = contested.partition(|name| kinds.contains(&name.kind()));
        self.contested = kept;
        taken
    }
}

fn not_enforced(resource: &Resource) -> impl Iterator<Item = Finding> {
    resource.gaps.iter().map(|gap| {
        let message = format!("accepted, not yet enforced: {}", gap.reason);
        Finding::warning(&resource.name, gap.field.clone(), Code::NotEnforced, message)
    })
}

fn holders(findings: &[Finding]) -> BTreeSet<Fqn> {
    let claims = findings.iter().filter_map(|finding| finding.claim.as_ref());
    claims.map(|claim| claim.holder.clone()).collect()
}
