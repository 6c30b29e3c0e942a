//! The intent at one version, in memory: what reads answer from, writes start from, and the feed publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tombolo_compiler::fields::{Fields, Kept};
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_compiler::persistent::Map;
use tombolo_compiler::plan::left;
use tombolo_compiler::resolve::{Edit, Resolver};
use tombolo_proto::codec;
use tombolo_proto::held::{Stamp, Version};
use tombolo_proto::resource::Set;
use tombolo_proto::session::Publication;
use uuid::Uuid;

use crate::break_glass;
use crate::iam::Bindings;
use crate::managed::Managed;
use crate::realm::{Holdings, RealmChange, Realms};

/// Every replica publishes the same bytes at one version, so the thing published is the source.
const SOURCE: &str = "management";

/// A resource with what the server says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) resource: Arc<Resource>,
    pub(crate) uid: Uuid,
    pub(crate) etag: String,
    /// Of its last change.
    pub(crate) revision: u64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) managed: Option<Managed>,
    /// By uid, who created it, or was given it since.
    pub(crate) owner: Option<Uuid>,
}

/// What the server says of a resource, in its REST form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Known<'a> {
    uid: Uuid,
    etag: &'a str,
    revision: u64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_fields: Option<&'a Fields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a Fqn>,
}

pub(crate) type Tree = Map<Fqn, Arc<Stored>>;

/// A copy costs nothing, so that a change costs what it changes.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) version: Version,
    pub(crate) tree: Tree,
    /// The tree as intent, and what `resolve` says of it.
    pub(crate) judged: Resolver,
    /// Of the intent what never leaves management: all that decides who may do what, and little beside it.
    private: Intent,
    pub(crate) bindings: Bindings,
    owned: Holdings,
    /// By uid, clusters that were heard of at some time.
    joined: Arc<BTreeSet<Uuid>>,
    /// Clusters that a change mattered to for what was before it, with its revision. Known of the changes since this
    /// replica started.
    left: Map<Fqn, Arc<BTreeMap<ClusterName, u64>>>,
    published: Arc<Set>,
}

/// What lies between two versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    pub(crate) removed: Vec<Fqn>,
    /// Applied after `removed`: a name may be in both.
    pub(crate) put: Vec<Stored>,
    pub(crate) joined: Vec<Uuid>,
}

impl Stored {
    pub(crate) fn name(&self) -> &Fqn {
        &self.resource.name
    }
}

impl Snapshot {
    /// Before the organization exists.
    pub(crate) fn empty() -> Snapshot {
        Snapshot {
            version: Version::default(),
            tree: Tree::new(),
            judged: Resolver::default(),
            private: Intent::new(),
            bindings: Bindings::default(),
            owned: Holdings::default(),
            joined: Arc::default(),
            left: Map::new(),
            published: Arc::default(),
        }
    }

    /// A resource's REST form. Where it was looked up, what its manager keeps is the tree's to know.
    pub(crate) fn to_json(&self, stored: &Stored) -> serde_json::Value {
        serde_json::from_str(&self.to_text(stored)).expect("invariant: it was written as JSON")
    }

    /// As [`Snapshot::to_json`], for whoever only sends it: what was written is not read first.
    pub(crate) fn to_text(&self, stored: &Stored) -> String {
        // The document is as it was looked up: another epoch may have had another one under the same ETag.
        let in_memory = self.get(stored.name()).filter(|held| held.etag == stored.etag);
        let managed = in_memory.map_or(stored, |held| held.as_ref()).managed.as_ref();
        let known = Known {
            uid: stored.uid,
            etag: &stored.etag,
            revision: stored.revision,
            create_time: stored.created_at,
            update_time: stored.updated_at,
            managed_by: managed.map(|managed| managed.by.as_str()),
            managed_revision: managed.map(|managed| managed.revision),
            managed_fields: managed.and_then(|managed| match &managed.kept {
                Kept::Fields(fields) => Some(fields),
                Kept::Whole => None,
            }),
            owner: stored.owner.and_then(|uid| self.bindings.name_of(uid)),
        };
        let known = serde_json::to_string(&known).expect("invariant: its keys are text");
        // Two objects that are not empty, made one.
        let written = stored.resource.written().strip_suffix('}');
        let written = written.expect("invariant: a resource is written as an object");
        format!("{written},{}", &known[1..])
    }

    /// Whether it is at least as new as what somebody has seen in the database.
    pub(crate) fn has(&self, seen: Version) -> bool {
        seen <= self.version
    }

    pub(crate) fn get(&self, name: &Fqn) -> Option<&Arc<Stored>> {
        self.tree.get(name)
    }

    pub(crate) fn private(&self) -> &Intent {
        &self.private
    }

    /// What the second wall must know of bindings and owners.
    pub(crate) fn realms(&self) -> Realms {
        let mut realms = Realms::of(&self.bindings, &self.owned);
        if let Some(organization) = self.organization() {
            realms.open_everything(break_glass::uid(&organization));
        }
        realms
    }

    /// `None` before it exists.
    pub(crate) fn organization(&self) -> Option<Fqn> {
        self.tree.keys().next().map(Fqn::organization)
    }

    /// Whether the second wall is where it is in `next`, as far as can be told at a glance.
    pub(crate) fn opens_the_same(&self, next: &Snapshot) -> bool {
        self.bindings.give_the_same(&next.bindings) && self.owned.same_realms(&next.owned)
    }

    /// What the second wall must be told when this becomes `next`.
    pub(crate) fn realms_to(&self, next: &Snapshot) -> RealmChange {
        match self.opens_the_same(next) {
            true => RealmChange::default(),
            false => self.realms().to(&next.realms()),
        }
    }

    /// The clusters that exist, with whether each has joined.
    pub(crate) fn clusters(&self) -> BTreeMap<ClusterName, (&Arc<Stored>, bool)> {
        self.top(Kind::Cluster)
            .filter_map(|stored| {
                let name = stored.name().leaf().parse().ok()?;
                Some((name, (stored, self.joined.contains(&stored.uid))))
            })
            .collect()
    }

    pub(crate) fn joined_clusters(&self) -> BTreeSet<ClusterName> {
        let clusters = self.clusters().into_iter();
        clusters
            .filter_map(|(name, (_, joined))| joined.then_some(name))
            .collect()
    }

    /// All of a kind that stands directly below the organization.
    fn top(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        let organization = self.tree.keys().next().map(Fqn::organization);
        let collection = organization.map(|name| format!("{name}/{}", kind.collection()));
        collection
            .into_iter()
            .flat_map(|collection| below(&self.tree, &collection))
            .filter(move |stored| stored.resource.kind() == kind)
    }

    /// The next version. `judged` is what the caller knows already of the tree that results.
    pub(crate) fn advance(&self, version: Version, delta: Delta, judged: Option<Resolver>) -> Snapshot {
        let mut next = Snapshot {
            version,
            ..self.clone()
        };
        let mut edits = Vec::new();
        for name in delta.removed {
            if let Some(was) = next.tree.remove(&name) {
                next.owned.remove(&was);
            }
            edits.push(Edit::Remove(name));
        }
        for stored in delta.put {
            edits.push(Edit::Put(stored.resource.clone()));
            next.owned.insert(&stored);
            if let Some(was) = next.tree.insert(stored.name().clone(), Arc::new(stored)) {
                next.owned.remove(&was);
            }
        }
        if !delta.joined.is_empty() {
            Arc::make_mut(&mut next.joined).extend(delta.joined);
        }
        let changed: Vec<Fqn> = edits.iter().map(|edit| edit.name().clone()).collect();
        if let Some(private) = self.private_after(&edits) {
            next.private = private;
        }
        next.bindings = match changed.iter().any(|name| name.kind().is_identity()) {
            true => Bindings::of(&next.private, next.tree.clone()),
            false => self.bindings.over(next.tree.clone()),
        };
        match judged {
            Some(judged) => next.judged = judged,
            None => drop(next.judged.update(edits)),
        }
        for name in &changed {
            next.leave(self, name);
        }
        next.published = next.publish(&self.published, &changed);
        next
    }

    /// The clusters that have to withdraw something of a resource, or to order it anew, by the revision that says so.
    pub(crate) fn left<'a>(&'a self, name: &Fqn) -> impl Iterator<Item = (&'a ClusterName, u64)> + use<'a> {
        let left = self.left.get(name).into_iter();
        left.flat_map(|left| left.iter().map(|(cluster, revision)| (cluster, *revision)))
    }

    fn leave(&mut self, before: &Snapshot, name: &Fqn) {
        if self.tree.get(name).is_none() {
            self.left.remove(name);
            return;
        }
        if !can_leave(name.kind()) || before.tree.get(name).is_none() {
            return;
        }
        let left = left(before.judged.resolved(), self.judged.resolved(), name);
        if left.is_empty() {
            return;
        }
        let mut known = self
            .left
            .get(name)
            .map(|left| (**left).clone())
            .unwrap_or_default();
        known.extend(left.into_iter().map(|cluster| (cluster, self.version.revision)));
        self.left.insert(name.clone(), Arc::new(known));
    }

    /// What decides who may do what, if some of that is among the edits.
    pub(crate) fn private_after(&self, edits: &[Edit]) -> Option<Intent> {
        let mut edits = edits
            .iter()
            .filter(|edit| !edit.name().kind().is_published())
            .peekable();
        edits.peek()?;
        let mut private = self.private.clone();
        for edit in edits {
            match edit {
                Edit::Put(resource) => private.insert(resource.name.clone(), resource.clone()),
                Edit::Remove(name) => private.remove(name),
            };
        }
        Some(private)
    }

    pub(crate) fn publication(&self) -> Publication {
        Publication {
            stamp: Stamp {
                version: self.version,
                source: SOURCE.to_owned(),
                sequence: 0,
            },
            set: self.published.clone(),
            complete: true,
        }
    }

    /// The same pointer when nothing changes that central needs: then only the stamp travels.
    fn publish(&self, before: &Arc<Set>, changed: &[Fqn]) -> Arc<Set> {
        let mut set = before.clone();
        for name in changed.iter().filter(|name| name.kind().is_published()) {
            match self.tree.get(name) {
                Some(stored) => put(&mut set, name.as_str(), &*stored.resource),
                None => remove(&mut set, name.as_str()),
            }
        }
        let joined = self.joined_clusters();
        let stale: Vec<String> = set
            .starting_with("joined/")
            .filter(|(name, _)| !joined.contains(&name["joined/".len()..]))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            remove(&mut set, &name);
        }
        for cluster in joined {
            put(&mut set, &format!("joined/{cluster}"), &true);
        }
        set
    }
}

/// An update of any other kind matters to the clusters of its workspace, before and after.
fn can_leave(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Workspace | Kind::Cluster | Kind::Application | Kind::Api | Kind::ReferenceGrant
    )
}

/// Unique to one write of one resource: content that comes back does not bring its ETag back.
pub(crate) fn etag(uid: Uuid, revision: u64) -> String {
    let sum: [u8; 32] = Sha256::new()
        .chain_update(uid.as_bytes())
        .chain_update(revision.to_be_bytes())
        .finalize()
        .into();
    sum[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything whose name continues `node`, which may be a resource or a collection.
pub(crate) fn below<'a, T>(tree: &'a Map<Fqn, T>, node: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
    tree.starting_with(&format!("{node}/")).map(|(_, value)| value)
}

fn put<T: Serialize>(set: &mut Arc<Set>, name: &str, noun: &T) {
    match codec::encode(name, noun) {
        Ok(resource) if set.get(name) == Some(&resource) => {}
        Ok(resource) => {
            Arc::make_mut(set).insert(name.to_owned(), resource);
        }
        // A body is at most as large as a request, far below the feed's limit; the last good one stays.
        Err(error) => tracing::error!(fqn = name, %error, "cannot publish"),
    }
}

fn remove(set: &mut Arc<Set>, name: &str) {
    if set.contains_key(name) {
        Arc::make_mut(set).remove(name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored(document: serde_json::Value, revision: u64) -> Stored {
        let uid = Uuid::now_v7();
        Stored {
            resource: Arc::new(Resource::from_json(document).unwrap()),
            uid,
            etag: etag(uid, revision),
            revision,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        }
    }

    fn version(revision: u64) -> Version {
        Version { epoch: 1, revision }
    }

    #[test]
    fn what_central_does_not_need_moves_only_the_stamp() {
        let delta = |document| Delta {
            put: vec![stored(document, 1)],
            ..Delta::default()
        };
        let one = Snapshot::empty().advance(version(1), delta(json!({"name": "organizations/acme"})), None);
        let two = one.advance(
            version(2),
            delta(json!({"name": "organizations/acme/users/ann"})),
            None,
        );
        assert_eq!(one.publication().set.len(), 1);
        assert!(Arc::ptr_eq(&one.publication().set, &two.publication().set));
        assert_eq!(two.publication().stamp.version, version(2));
    }

    #[test]
    fn a_cluster_that_is_created_again_has_not_joined() {
        let name: Fqn = "organizations/acme/clusters/us".parse().unwrap();
        let document = json!({"name": name, "spec": {"region": "us"}});
        let cluster = stored(document.clone(), 1);
        let uid = cluster.uid;
        let delta = Delta {
            put: vec![cluster],
            joined: vec![uid],
            ..Delta::default()
        };
        let one = Snapshot::empty().advance(version(1), delta, None);
        assert!(one.publication().set.contains_key("joined/us"));
        let delta = Delta {
            removed: vec![name],
            put: vec![stored(document, 2)],
            ..Delta::default()
        };
        let two = one.advance(version(2), delta, None);
        assert!(!two.publication().set.contains_key("joined/us"));
        assert_eq!(two.clusters().len(), 1);
    }

    #[test]
    fn what_was_left_is_known_until_the_resource_is_gone() {
        let name: Fqn = "organizations/acme/tenants/a/workspaces/w".parse().unwrap();
        let workspace = |namespaces: &[&str], revision| {
            let document = json!({"name": name, "spec": {"namespaces": namespaces}});
            stored(document, revision)
        };
        let put = |put: Vec<Stored>| Delta {
            put,
            ..Delta::default()
        };
        let cluster = |leaf: &str, region: &str, revision| {
            let document =
                json!({"name": format!("organizations/acme/clusters/{leaf}"), "spec": {"region": region}});
            stored(document, revision)
        };
        let mut all = vec![
            stored(json!({"name": "organizations/acme"}), 1),
            stored(json!({"name": "organizations/acme/tenants/a"}), 1),
            workspace(&["*/shop"], 1),
        ];
        all.extend(["east", "west"].map(|leaf| cluster(leaf, leaf, 1)));
        let left = |snapshot: &Snapshot, name: &Fqn| -> Vec<(String, u64)> {
            let left = snapshot.left(name);
            left.map(|(cluster, revision)| (cluster.to_string(), revision))
                .collect()
        };
        let wide = Snapshot::empty().advance(version(1), put(all), None);
        assert_eq!(left(&wide, &name), []);
        let narrow = wide.advance(version(2), put(vec![workspace(&["east/shop"], 2)]), None);
        assert_eq!(left(&narrow, &name), [("west".to_owned(), 2)]);
        let later = narrow.advance(
            version(3),
            put(vec![workspace(&["east/shop", "east/web"], 3)]),
            None,
        );
        assert_eq!(left(&later, &name), [("west".to_owned(), 2)], "west left at 2");

        let moved = later.advance(version(4), put(vec![cluster("west", "east", 4)]), None);
        let west: Fqn = "organizations/acme/clusters/west".parse().unwrap();
        let everywhere = [("east".to_owned(), 4), ("west".to_owned(), 4)];
        assert_eq!(left(&moved, &west), everywhere);

        let delta = Delta {
            removed: vec![name.clone()],
            ..Delta::default()
        };
        assert_eq!(left(&moved.advance(version(5), delta, None), &name), []);
    }

    #[test]
    fn below_does_not_mistake_a_longer_name_for_a_child() {
        let put = [
            "organizations/acme",
            "organizations/acme/tenants/a",
            "organizations/acme/tenants/ab",
        ]
        .map(|name| stored(json!({"name": name}), 1))
        .to_vec();
        let delta = Delta {
            put,
            ..Delta::default()
        };
        let snapshot = Snapshot::empty().advance(version(1), delta, None);
        let below = |node: &str| below(&snapshot.tree, node).count();
        assert_eq!(below("organizations/acme"), 2);
        assert_eq!(below("organizations/acme/tenants/a"), 0);
    }
}
