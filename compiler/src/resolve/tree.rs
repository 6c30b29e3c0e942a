//! The resources that have an effect: those whose ancestors all exist.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::resolver::Edit;
use crate::finding::{Code, Finding};
use crate::intent::{Intent, Resource, Spec};
use crate::name::{Fqn, Kind};
use crate::persistent::Set;

#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) intent: Intent,
    /// Below something that does not exist.
    orphans: Set<Fqn>,
}

/// Resources that came, went or say something else, or that have an effect since, or none any more.
#[derive(Debug, Default)]
pub(super) struct Touched {
    by_kind: BTreeMap<Kind, Vec<Touch>>,
    /// What is to be told of those that have no effect; nothing of those that have gone without ever having had one.
    pub(super) orphans: BTreeMap<Fqn, Option<Finding>>,
}

/// One resource as it had an effect before and has one now.
#[derive(Debug)]
pub(super) struct Touch {
    pub(super) name: Fqn,
    was: Option<Arc<Resource>>,
    is: Option<Arc<Resource>>,
}

impl Touched {
    pub(super) fn all(&self) -> impl Iterator<Item = &Touch> {
        self.by_kind.values().flatten()
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Touch> {
        self.by_kind.get(&kind).into_iter().flatten()
    }
}

impl Touch {
    pub(super) fn was(&self) -> Option<&Spec> {
        self.was.as_ref().map(|resource| &resource.spec)
    }

    pub(super) fn is(&self) -> Option<&Spec> {
        self.is.as_ref().map(|resource| &resource.spec)
    }

    /// Whether it came or went.
    pub(super) fn flipped(&self) -> bool {
        self.was.is_some() != self.is.is_some()
    }
}

impl Tree {
    pub(super) fn get(&self, name: &Fqn) -> Option<&Arc<Resource>> {
        self.intent.get(name).filter(|_| !self.orphans.contains_key(name))
    }

    pub(super) fn spec(&self, name: &Fqn) -> Option<&Spec> {
        self.get(name).map(|resource| &resource.spec)
    }

    /// All of a kind directly below a node, without looking at what else is there.
    pub(super) fn children<'a>(&'a self, node: &Fqn, kind: Kind) -> impl Iterator<Item = &'a Fqn> + use<'a> {
        let collection = format!("{node}/{}/", kind.collection());
        let names = self.intent.starting_with(&collection).map(|(name, _)| name);
        names
            .filter(move |name| name.kind() == kind)
            .filter(|name| !self.orphans.contains_key(*name))
    }

    /// Takes the edits and tells what they touch.
    pub(super) fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) -> Touched {
        let before = self.clone();
        let mut edited = BTreeSet::new();
        for edit in edits {
            let name = match edit {
                Edit::Put(resource) => {
                    let name = resource.name.clone();
                    self.intent.insert(name.clone(), resource);
                    name
                }
                Edit::Remove(name) => {
                    self.intent.remove(&name);
                    name
                }
            };
            edited.insert(name);
        }
        let mut touched = Touched::default();
        for name in self.concerned(&before, &edited) {
            let (was, is) = (before.get(&name).cloned(), self.stand(&name, &mut touched));
            let same = match (&was, &is) {
                (Some(was), Some(is)) => Arc::ptr_eq(was, is) || says_the_same(was, is),
                (None, None) => true,
                _ => false,
            };
            if !same {
                let touches = touched.by_kind.entry(name.kind()).or_default();
                touches.push(Touch { name, was, is });
            }
        }
        touched
    }

    /// Those that were edited, and all below those of them that came or went.
    fn concerned(&self, before: &Tree, edited: &BTreeSet<Fqn>) -> BTreeSet<Fqn> {
        let flipped = |name: &str| before.intent.contains_key(name) != self.intent.contains_key(name);
        let mut concerned = edited.clone();
        for name in edited.iter().filter(|name| flipped(name.as_str())) {
            // Whoever is below another one that flipped is found there.
            if !name.above().any(|above| edited.contains(above) && flipped(above)) {
                concerned.extend(within(&self.intent, name).cloned());
            }
        }
        concerned
    }

    /// The resource if it has an effect now. What is said of one that has none replaces all that was said of it.
    fn stand(&mut self, name: &Fqn, touched: &mut Touched) -> Option<Arc<Resource>> {
        let resource = self.intent.get(name).cloned();
        let missing = name.above().find(|above| !self.intent.contains_key(*above));
        let is_orphan = resource.is_some() && missing.is_some();
        if !is_orphan {
            if self.orphans.remove(name).is_some() && resource.is_none() {
                touched.orphans.insert(name.clone(), None);
            }
            return resource;
        }
        let finding = missing.map(|missing| {
            let message = format!(
                "{missing} does not exist; create it before, or in the same change as, what stands below it"
            );
            Finding::error(name, "", Code::ParentMissing, message)
        });
        self.orphans.insert(name.clone(), ());
        touched.orphans.insert(name.clone(), finding);
        None
    }
}

/// Whether nothing is made of one that is not made of the other: what only people read changes nothing.
fn says_the_same(was: &Resource, is: &Resource) -> bool {
    was.spec == is.spec && was.gaps == is.gaps
}

/// All names below a node, whether they have an effect or not.
fn within<'a>(intent: &'a Intent, node: &Fqn) -> impl Iterator<Item = &'a Fqn> + use<'a> {
    intent.starting_with(&format!("{node}/")).map(|(name, _)| name)
}
