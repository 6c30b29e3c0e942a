//! What lies between a folder and the resources below a node. Pure: two trees in, a list of differences out.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tombolo_compiler::fields::{Fields, Kept};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;

use crate::output::text;

/// What the server says of a resource, and a folder may repeat: that makes get, save, sync work.
const SERVER_FIELDS: [&str; 10] = [
    "etag",
    "uid",
    "revision",
    "createTime",
    "updateTime",
    "status",
    "managedBy",
    "managedRevision",
    "managedFields",
    "owner",
];

/// A resource as the server has it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    resource: Resource,
    etag: String,
    managed_by: Option<String>,
    /// What its manager keeps.
    kept: Kept,
    /// Somebody else has written to that since its manager did.
    is_touched: bool,
}

/// Why a resource is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// In the folder, and not on the server.
    Missing,
    /// The folder says something new.
    Changed,
    /// Somebody else has changed what the folder manages.
    ChangedElsewhere,
    /// The folder newly sets what somebody else has set otherwise: taken over with `--force` only.
    Contested,
    /// Not managed by anybody: the folder takes it over.
    Unmanaged,
    /// Managed by somebody else: taken over with `--force` only.
    Foreign,
    /// As the folder says, but the server does not have the record of which fields that are. No drift: only written along.
    Unrecorded,
    /// The folder manages it, and does not hold it any more: deleted with `--prune` only.
    Surplus,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    pub(crate) name: Fqn,
    pub(crate) state: State,
    /// Who manages it, or who changed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// Of a resource that is there and the folder's own: what differs, as JSON pointers.
    #[serde(skip_serializing_if = "Fields::is_empty")]
    pub(crate) fields: Fields,
    /// Whether this run has mended it.
    pub(crate) applied: bool,
    #[serde(skip)]
    change: Value,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Drift {
    /// Parents before what stands below them.
    pub(crate) differences: Vec<Difference>,
    /// As the folder says, but for the record of which fields it sets.
    pub(crate) unrecorded: Vec<Difference>,
    /// Below the node, and neither in the folder nor managed by it: left alone.
    pub(crate) others: usize,
}

impl State {
    /// Whether the way to mend it is a deletion.
    pub(crate) fn is_deletion(self) -> bool {
        self == State::Surplus
    }

    pub(crate) fn as_text(self) -> &'static str {
        match self {
            State::Missing => "missing",
            State::Changed => "changed",
            State::ChangedElsewhere => "changed elsewhere",
            State::Contested => "contested",
            State::Unmanaged => "unmanaged",
            State::Foreign => "foreign",
            State::Unrecorded => "unrecorded",
            State::Surplus => "surplus",
        }
    }
}

impl Held {
    /// # Errors
    /// When it is not a resource of this version.
    pub(crate) fn read(item: &Value) -> anyhow::Result<Held> {
        let number = |field: &str| item[field].as_u64().unwrap_or_default();
        let managed_by = item["managedBy"].as_str().map(str::to_owned);
        let fields = &item["managedFields"];
        let kept = match fields.is_null() {
            true => Kept::Whole,
            false => Kept::Fields(Fields::deserialize(fields)?),
        };
        Ok(Held {
            kept,
            is_touched: managed_by.is_some() && number("revision") > number("managedRevision"),
            managed_by,
            etag: text(&item["etag"]),
            resource: resource(item.clone()).with_context(|| {
                format!(
                    "read {} from the server: is it of the same version?",
                    item["name"]
                )
            })?,
        })
    }

    pub(crate) fn name(&self) -> &Fqn {
        &self.resource.name
    }

    /// How it differs from what its own folder wants, and in which fields.
    fn differs(&self, wanted: &Resource) -> Option<(State, Fields)> {
        let (held, sent) = (self.resource.to_json(), wanted.to_json());
        let contested = self.kept.contested(&held, &sent);
        if !contested.is_empty() {
            return Some((State::Contested, contested));
        }
        let after = self.kept.merged(&held, &sent);
        // Of what cannot stand together, the server says why.
        if Resource::from_json(after.clone()).is_ok_and(|after| after == self.resource) {
            let is_recorded = self.kept == Kept::Fields(Fields::of(&sent));
            return (!is_recorded).then(|| (State::Unrecorded, Fields::default()));
        }
        let state = match self.is_touched {
            true => State::ChangedElsewhere,
            false => State::Changed,
        };
        Some((state, Kept::Whole.differing(&held, &after)))
    }
}

/// # Errors
/// When the document is not a resource.
pub(crate) fn resource(mut document: Value) -> anyhow::Result<Resource> {
    if let Some(fields) = document.as_object_mut() {
        for field in SERVER_FIELDS {
            fields.remove(field);
        }
    }
    Ok(Resource::from_json(document)?)
}

/// `manager` is the folder's own name as a manager.
pub(crate) fn compare(
    folder: &BTreeMap<Fqn, Resource>,
    server: &BTreeMap<Fqn, Held>,
    manager: &str,
) -> Drift {
    let mut drift = Drift::default();
    for (name, wanted) in folder {
        let (state, fields, change) = match server.get(name) {
            None => (
                State::Missing,
                Fields::default(),
                json!({"op": "create", "resource": wanted.to_json()}),
            ),
            Some(held) => {
                let (state, fields) = match held.managed_by.as_deref() {
                    None => (State::Unmanaged, Fields::default()),
                    Some(by) if by != manager => (State::Foreign, Fields::default()),
                    Some(_) => match held.differs(wanted) {
                        Some(differs) => differs,
                        None => continue,
                    },
                };
                let change = json!({"op": "apply", "resource": wanted.to_json(), "etag": held.etag});
                (state, fields, change)
            }
        };
        let holder = server.get(name).and_then(|held| held.managed_by.clone());
        let list = match state {
            State::Unrecorded => &mut drift.unrecorded,
            _ => &mut drift.differences,
        };
        list.push(Difference {
            name: name.clone(),
            state,
            by: holder.filter(|_| state == State::Foreign),
            fields,
            applied: false,
            change,
        });
    }
    for (name, held) in server.iter().filter(|(name, _)| !folder.contains_key(*name)) {
        if held.managed_by.as_deref() != Some(manager) {
            drift.others += 1;
            continue;
        }
        drift.differences.push(Difference {
            name: name.clone(),
            state: State::Surplus,
            by: None,
            fields: Fields::default(),
            applied: false,
            change: json!({"op": "delete", "name": name, "etag": held.etag}),
        });
    }
    drift.differences.sort_by(|a, b| a.name.cmp(&b.name));
    drift
}

/// Changes in requests of at most so many changes and bytes: first what is created and changed, parents first, then what
/// is deleted, children first. One that is larger than a request goes alone, and the server says what is wrong with it.
pub(crate) fn batches(differences: &[&Difference], changes_max: usize, bytes_max: usize) -> Vec<Vec<Value>> {
    let (deletions, others): (Vec<&Difference>, Vec<&Difference>) = differences
        .iter()
        .copied()
        .partition(|difference| difference.state.is_deletion());
    let mut batches: Vec<Vec<Value>> = Vec::new();
    let mut bytes = 0;
    for difference in others.into_iter().chain(deletions.into_iter().rev()) {
        // With the comma behind it.
        let length = difference.change.to_string().len() + 1;
        bytes += length;
        match batches.last_mut() {
            Some(batch) if batch.len() < changes_max && bytes <= bytes_max => {
                batch.push(difference.change.clone());
            }
            _ => {
                bytes = length;
                batches.push(vec![difference.change.clone()]);
            }
        }
    }
    batches
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAY: &str = "organizations/acme/tenants/pay";
    const ME: &str = "sync/organizations/acme/tenants/pay";

    fn folder(all: &[(&str, &str)]) -> BTreeMap<Fqn, Resource> {
        let resources = all.iter().map(|(leaf, description)| {
            resource(
                json!({"name": format!("{PAY}/workspaces/{leaf}"), "description": description,
                "spec": {"namespaces": []}}),
            )
            .unwrap()
        });
        resources
            .map(|resource| (resource.name.clone(), resource))
            .collect()
    }

    /// A name, its description, who manages it - its description and namespaces, or all of it - and the revisions of its last
    /// change and of its manager's.
    fn server(all: &[(&str, &str, Option<&str>, u64, u64)]) -> BTreeMap<Fqn, Held> {
        let held = all.iter().map(|(leaf, description, by, revision, managed)| {
            let item = json!({"kind": "Workspace", "name": format!("{PAY}/workspaces/{leaf}"),
                "description": description, "spec": {"namespaces": []}, "etag": "e", "uid": "u",
                "revision": revision, "managedBy": by, "managedRevision": by.map(|_| managed),
                "managedFields": by.map(|_| ["/description", "/spec/namespaces"])});
            Held::read(&item).unwrap()
        });
        held.map(|held| (held.name().clone(), held)).collect()
    }

    fn states(drift: &Drift) -> Vec<(&str, State)> {
        let differences = drift.differences.iter();
        differences
            .map(|difference| (difference.name.leaf(), difference.state))
            .collect()
    }

    #[test]
    fn each_way_to_differ_has_its_state() {
        let folder = folder(&[
            ("a", "same"),
            ("b", "new"),
            ("c", "mine"),
            ("d", "mine"),
            ("e", "mine"),
            ("f", "mine"),
        ]);
        let server = server(&[
            ("a", "same", Some(ME), 3, 3),
            ("c", "old", Some(ME), 3, 3),
            ("d", "by hand", Some(ME), 4, 3),
            ("e", "mine", None, 3, 0),
            ("f", "mine", Some("terraform"), 3, 3),
            ("g", "gone", Some(ME), 3, 3),
            ("h", "somebody's", None, 3, 0),
        ]);
        let drift = compare(&folder, &server, ME);
        let expected = [
            ("b", State::Missing),
            ("c", State::Changed),
            ("d", State::ChangedElsewhere),
            ("e", State::Unmanaged),
            ("f", State::Foreign),
            ("g", State::Surplus),
        ];
        assert_eq!(states(&drift), expected);
        assert_eq!(drift.differences[4].by.as_deref(), Some("terraform"));
        assert_eq!(drift.others, 1, "h is neither ours nor wanted");
    }

    /// What a person has set beside the folder is neither drift nor lost, and what the folder newly wants of it is contested.
    #[test]
    fn fields_that_the_folder_does_not_set_are_not_its_business() {
        let wanted = |document: Value| {
            let resource = resource(document).unwrap();
            BTreeMap::from([(resource.name.clone(), resource)])
        };
        let name = format!("{PAY}/workspaces/a");
        let held = |fields: Option<&[&str]>| {
            let item = json!({"name": name, "description": "by hand", "spec": {"namespaces": ["*/a"]}, "etag": "e",
                "uid": "u", "revision": 9, "managedBy": ME, "managedRevision": 9, "managedFields": fields});
            let held = Held::read(&item).unwrap();
            BTreeMap::from([(held.name().clone(), held)])
        };
        let found = |folder: Value, fields: Option<&[&str]>| {
            let drift = compare(&wanted(folder), &held(fields), ME);
            let told = drift.differences.iter().chain(&drift.unrecorded);
            let told: Vec<String> = told
                .map(|one| format!("{} {}", one.state.as_text(), one.fields))
                .collect();
            told.join("; ")
        };
        let plain = json!({"name": name, "spec": {"namespaces": ["*/a"]}});
        let (mut described, mut moved) = (plain.clone(), plain.clone());
        described["description"] = "mine".into();
        moved["spec"]["namespaces"] = json!(["*/b"]);
        let own: &[&str] = &["/spec/namespaces"];
        for (folder, fields, expected) in [
            (&plain, Some(own), ""),
            (&moved, Some(own), "changed /spec/namespaces"),
            (&described, Some(own), "contested /description"),
            (
                &described,
                Some(&["/description", "/spec/namespaces"]),
                "changed /description",
            ),
            // It has set the description, and does so no more.
            (
                &plain,
                Some(&["/description", "/spec/namespaces"]),
                "changed /description",
            ),
            // As older versions left it: all of it is the folder's.
            (&plain, None, "changed /description"),
        ] {
            assert_eq!(found(folder.clone(), fields), expected, "{folder} {fields:?}");
        }
        let mut same = plain.clone();
        same["description"] = "by hand".into();
        assert_eq!(found(same.clone(), None), "unrecorded ");
        assert_eq!(
            found(same, Some(own)),
            "unrecorded ",
            "it is the folder's from now on"
        );
    }

    /// Whoever put back by hand what the folder says has caused no difference.
    #[test]
    fn a_change_elsewhere_that_was_undone_is_none() {
        let drift = compare(&folder(&[("a", "x")]), &server(&[("a", "x", Some(ME), 9, 3)]), ME);
        assert!(drift.differences.is_empty());
    }

    #[test]
    fn batches_create_downwards_and_delete_upwards() {
        let folder = folder(&[("b", ""), ("d", "")]);
        let server = server(&[("a", "", Some(ME), 1, 1), ("c", "", Some(ME), 1, 1)]);
        let drift = compare(&folder, &server, ME);
        let names = |batches: Vec<Vec<Value>>| -> Vec<Vec<String>> {
            let name = |change: &Value| {
                let name = change["name"].as_str().or(change["resource"]["name"].as_str());
                name.unwrap().rsplit('/').next().unwrap().to_owned()
            };
            batches
                .iter()
                .map(|batch| batch.iter().map(name).collect())
                .collect()
        };
        let all: Vec<&Difference> = drift.differences.iter().collect();
        assert_eq!(names(batches(&all, 9, 9999)), [["b", "d", "c", "a"]]);
        assert_eq!(names(batches(&all, 3, 9999)), [vec!["b", "d", "c"], vec!["a"]]);
        assert_eq!(batches(&all, 9, 1).len(), 4);
    }
}
