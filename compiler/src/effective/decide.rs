//! One field of one node: of all that settings say about it, what counts, because of whom, and who lost.

use std::borrow::Cow;

use serde::Serialize;

use super::order::Order;
use crate::finding::{Origin, Traced};
use crate::name::Fqn;

/// What a setting says to all that stands below it.
#[derive(Clone, Debug)]
pub(super) struct Layer<'a, S: Clone> {
    pub(super) resource: Fqn,
    /// Where the defaults stand in the resource, such as `spec.defaults`.
    pub(super) defaults_at: &'static str,
    pub(super) defaults: Cow<'a, S>,
    /// At `spec.mandates`.
    pub(super) mandates: Option<&'a S>,
}

/// The layers from the organization down to a node, farthest first. A service that several groups take has a path
/// through each of them.
pub(super) type Path<'a, S> = Vec<Layer<'a, S>>;

/// What counts for a field. `None` where nobody says anything and nothing is built in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided<T> {
    /// Its origin is the setting that decided; those that said something else and lost are in it. A mandate that agrees
    /// with a nearer default is named, because changing the default alone would change nothing.
    pub value: Traced<Option<T>>,
    /// Further settings without which the value would be weaker.
    pub with: Vec<Origin>,
}

/// A setting that asks for less than one above it mandates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relaxation {
    pub(super) below: Origin,
    pub(super) mandate: Origin,
}

/// How a field is found, ordered and, where nobody says anything, decided.
pub(super) struct Field<S, T> {
    /// Below `spec.defaults` and `spec.mandates`.
    pub(super) name: &'static str,
    pub(super) get: fn(&S) -> Option<&T>,
    pub(super) order: Order<T>,
    pub(super) built_in: Option<T>,
}

/// One setting's word, written in the one way of its order.
struct Said<T> {
    origin: Origin,
    value: T,
}

impl<S: Clone, T: Clone + PartialEq> Field<S, T> {
    /// The nearest default of each path and every mandate, made into one value that is as strict as each.
    pub(super) fn decide(&self, paths: &[Path<'_, S>]) -> Decided<T> {
        let mandates = distinct(paths.iter().flatten().filter_map(|layer| self.mandate(layer)));
        let nearest: Vec<_> = paths
            .iter()
            .map(|path| path.iter().rev().find_map(|layer| self.default(layer)))
            .collect();
        let is_silent = nearest.is_empty() || nearest.iter().any(Option::is_none);
        let built_in = self.built_in.as_ref().filter(|_| is_silent);
        let nearest = distinct(nearest.into_iter().flatten());

        let said: Vec<&Said<T>> = mandates.iter().chain(&nearest).collect();
        let Some(value) = self.fold(said.iter().map(|said| &said.value).chain(built_in)) else {
            return Decided {
                value: Traced::untraced(None),
                with: Vec::new(),
            };
        };
        let mut deciding = self.deciding(&said, built_in, &value).into_iter();
        let Some(mut origin) = deciding.next() else {
            return Decided {
                value: Traced::untraced(Some(value)),
                with: Vec::new(),
            };
        };
        let with: Vec<Origin> = deciding.collect();
        let overruled = mandates
            .into_iter()
            .filter(|said| self.order.tighten(&said.value, &value) != value);
        let defaults = paths.iter().flatten().filter_map(|layer| self.default(layer));
        let other = defaults.filter(|said| said.value != value);
        for loser in overruled.chain(other).map(|said| said.origin.resource) {
            let took_part = with.iter().chain([&origin]).any(|part| part.resource == loser);
            if !took_part && !origin.lost.contains(&loser) {
                origin.lost.push(loser);
            }
        }
        Decided {
            value: Traced::new(Some(value), origin),
            with,
        }
    }

    /// Of the last layer, what asks for less than a mandate of another layer, or of its own, says.
    pub(super) fn relaxations(&self, path: &[Layer<'_, S>]) -> Vec<Relaxation> {
        let Some((last, above)) = path.split_last() else {
            return Vec::new();
        };
        let own = self.mandate(last);
        let relaxed = |said: &Said<T>, mandate: Option<Said<T>>| {
            let mandate = mandate.filter(|mandate| self.order.relaxes(&mandate.value, &said.value))?;
            Some(Relaxation {
                below: said.origin.clone(),
                mandate: mandate.origin,
            })
        };
        let mandates = || above.iter().map(|layer| self.mandate(layer));
        let of_default = self.default(last).and_then(|said| {
            mandates()
                .chain([self.mandate(last)])
                .find_map(|mandate| relaxed(&said, mandate))
        });
        let of_mandate = own.and_then(|said| mandates().find_map(|mandate| relaxed(&said, mandate)));
        of_mandate.into_iter().chain(of_default).collect()
    }

    /// The first of them that gives the value by itself; else all that take part in it. Empty when it is built in.
    fn deciding(&self, said: &[&Said<T>], built_in: Option<&T>, value: &T) -> Vec<Origin> {
        let alone = said.iter().find(|said| said.value == *value);
        if let Some(alone) = alone {
            return vec![alone.origin.clone()];
        }
        let mut so_far = built_in.cloned();
        let mut deciding = Vec::new();
        for said in said {
            let next = match &so_far {
                None => said.value.clone(),
                Some(so_far) => self.order.tighten(so_far, &said.value),
            };
            if so_far.as_ref() != Some(&next) {
                deciding.push(said.origin.clone());
                so_far = Some(next);
            }
        }
        deciding
    }

    fn fold<'a>(&self, mut values: impl Iterator<Item = &'a T>) -> Option<T>
    where
        T: 'a,
    {
        let first = values.next()?.clone();
        Some(values.fold(first, |so_far, value| self.order.tighten(&so_far, value)))
    }

    fn default(&self, layer: &Layer<'_, S>) -> Option<Said<T>> {
        let value = (self.get)(&layer.defaults)?;
        Some(self.said(layer, layer.defaults_at, value))
    }

    fn mandate(&self, layer: &Layer<'_, S>) -> Option<Said<T>> {
        let value = (self.get)(layer.mandates?)?;
        Some(self.said(layer, "spec.mandates", value))
    }

    fn said(&self, layer: &Layer<'_, S>, half: &str, value: &T) -> Said<T> {
        Said {
            origin: Origin::new(layer.resource.clone(), format!("{half}.{}", self.name)),
            value: self.order.tighten(value, value),
        }
    }
}

/// Paths share their upper layers.
fn distinct<T>(all: impl Iterator<Item = Said<T>>) -> Vec<Said<T>> {
    let mut distinct: Vec<Said<T>> = Vec::new();
    for said in all {
        if distinct.iter().all(|other| other.origin != said.origin) {
            distinct.push(said);
        }
    }
    distinct
}
