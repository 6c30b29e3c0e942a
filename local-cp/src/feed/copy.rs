//! What one central has told this edge, decoded item by item.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tombolo_compiler::routes::{Slice, SliceItem, SliceKey};
use tombolo_proto::codec;
use tombolo_proto::frame::Rejection;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::resource::Resource;
use tombolo_proto::session::Applied;
use tombolo_runtime::telemetry::chain;

/// The items that are usable, and where they stand. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SliceCopy {
    pub(crate) stamp: Option<Stamp>,
    /// The publisher has nothing else at `stamp`.
    pub(crate) complete: bool,
    items: BTreeMap<String, Arc<Item>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Item {
    resource: Resource,
    key: SliceKey,
    value: SliceItem,
}

/// How a copy lies on disk: the bytes as they came, so that their hashes stay what the central knows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    epoch: u64,
    revision: u64,
    source: String,
    sequence: u64,
    complete: bool,
    items: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadCopy {
    #[error("the stored slice is not of a form that this version reads")]
    Form(#[source] serde_json::Error),
    #[error("none of the {0} items of the stored slice is of a form that this version reads")]
    Items(usize),
}

impl SliceCopy {
    /// Takes one step of the feed. An item that cannot be used is rejected alone, and the one before it stays.
    pub(crate) fn apply(&mut self, applied: Applied) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for resource in applied.put {
            let name = resource.name().to_owned();
            match Item::decode(resource) {
                Ok(item) => drop(self.items.insert(name, Arc::new(item))),
                Err(reason) => rejections.push(Rejection { name, reason }),
            }
        }
        for name in &applied.removed {
            self.items.remove(name);
        }
        self.stamp = Some(applied.stamp);
        self.complete = applied.complete;
        rejections
    }

    /// This copy where it speaks, `held` where it is silent: only a complete copy removes.
    pub(crate) fn over(&self, held: Option<&SliceCopy>) -> SliceCopy {
        let Some(held) = held.filter(|_| !self.complete) else {
            return self.clone();
        };
        let mut over = self.clone();
        for (name, item) in &held.items {
            over.items.entry(name.clone()).or_insert_with(|| item.clone());
        }
        over
    }

    pub(crate) fn version(&self) -> Option<Version> {
        self.stamp.as_ref().map(|stamp| stamp.version)
    }

    /// What a session starts from.
    pub(crate) fn held(&self) -> Held {
        Held {
            stamp: self.stamp.clone(),
            names: self
                .items
                .iter()
                .map(|(name, item)| (name.clone(), item.resource.hash()))
                .collect(),
            complete: self.complete,
        }
    }

    pub(crate) fn slice(&self) -> Slice {
        Slice {
            items: self
                .items
                .values()
                .map(|item| (item.key.clone(), item.value.clone()))
                .collect(),
            complete: self.complete,
        }
    }

    /// The bytes for the disk; `None` when nothing was ever received.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let stamp = self.stamp.clone()?;
        let text = |item: &Arc<Item>| String::from_utf8_lossy(item.resource.body()).into_owned();
        let stored = Stored {
            epoch: stamp.version.epoch,
            revision: stamp.version.revision,
            source: stamp.source,
            sequence: stamp.sequence,
            complete: self.complete,
            items: self
                .items
                .iter()
                .map(|(name, item)| (name.clone(), text(item)))
                .collect(),
        };
        Some(serde_json::to_vec(&stored).expect("invariant: strings and numbers have a JSON form"))
    }

    /// What can be read of what another version may have written, and what cannot. Without an item the copy is not
    /// complete: only the central can say whether it is still wanted.
    ///
    /// # Errors
    /// When the bytes are not those of [`SliceCopy::to_bytes`], or no item in them is usable any more.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(SliceCopy, Vec<Rejection>), BadCopy> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(BadCopy::Form)?;
        let (mut items, mut unread) = (BTreeMap::new(), Vec::new());
        for (name, body) in stored.items {
            let resource = Resource::new(name.clone(), body).map_err(|error| chain(&error));
            match resource.and_then(Item::decode) {
                Ok(item) => drop(items.insert(name, Arc::new(item))),
                Err(reason) => unread.push(Rejection { name, reason }),
            }
        }
        if items.is_empty() && !unread.is_empty() {
            return Err(BadCopy::Items(unread.len()));
        }
        let copy = SliceCopy {
            stamp: Some(Stamp {
                version: Version {
                    epoch: stored.epoch,
                    revision: stored.revision,
                },
                source: stored.source,
                sequence: stored.sequence,
            }),
            complete: stored.complete && unread.is_empty(),
            items,
        };
        Ok((copy, unread))
    }
}

impl Item {
    fn decode(resource: Resource) -> Result<Item, String> {
        let key: SliceKey = resource.name().parse().map_err(|error| chain(&error))?;
        let value: SliceItem = codec::decode(&resource).map_err(|error| chain(&error))?;
        if !belong_together(&key, &value) {
            return Err(format!("{key}: its body is about something else than its name"));
        }
        Ok(Item { resource, key, value })
    }
}

fn belong_together(key: &SliceKey, item: &SliceItem) -> bool {
    match (key, item) {
        (SliceKey::Namespace(_), SliceItem::Namespace(_))
        | (SliceKey::Gateway(_), SliceItem::Gateway(_))
        | (SliceKey::Cluster, SliceItem::Cluster(_)) => true,
        (SliceKey::Service(id, workspace), SliceItem::Service(service)) => {
            service.value.id == *id && service.value.workspace == *workspace
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn stamp(source: &str, revision: u64, sequence: u64) -> Stamp {
        Stamp {
            version: Version { epoch: 1, revision },
            source: source.to_owned(),
            sequence,
        }
    }

    pub(crate) fn namespace(name: &str, workspace: &str) -> Resource {
        let workspace = format!("organizations/acme/tenants/t/workspaces/{workspace}");
        let body = format!(r#"{{"namespace":{{"value":{{"workspace":"{workspace}"}}}}}}"#);
        Resource::new(format!("namespaces/{name}"), body).unwrap()
    }

    pub(crate) fn applied(stamp: Stamp, put: Vec<Resource>, removed: &[&str], complete: bool) -> Applied {
        Applied {
            stamp,
            put,
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            complete,
        }
    }

    #[test]
    fn an_item_that_does_not_parse_is_rejected_alone_and_the_old_one_stays() {
        let mut copy = SliceCopy::default();
        let first = vec![namespace("shop", "a"), namespace("pay", "a")];
        assert_eq!(copy.apply(applied(stamp("c", 1, 1), first, &[], true)), []);
        for (bad, reason) in [
            (
                Resource::new("namespaces/shop", "{").unwrap(),
                "cannot read the body of namespaces/shop",
            ),
            (
                Resource::new("pods/x", "{}").unwrap(),
                "is not the name of a slice's resource",
            ),
            (
                Resource::new("cluster", namespace("shop", "a").body().clone()).unwrap(),
                "about something else than its name",
            ),
        ] {
            let name = bad.name().to_owned();
            let step = applied(stamp("c", 2, 2), vec![bad, namespace("pay", "b")], &[], true);
            let rejections = copy.apply(step);
            assert_eq!(rejections.len(), 1);
            assert_eq!(rejections[0].name, name);
            assert!(rejections[0].reason.contains(reason), "{}", rejections[0].reason);
        }
        let slice = copy.slice();
        let owner = |namespace: &str| match &slice.items[&format!("namespaces/{namespace}").parse().unwrap()]
        {
            SliceItem::Namespace(owner) => owner.value.workspace.leaf().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!((owner("shop"), owner("pay")), ("a".to_owned(), "b".to_owned()));
        assert_eq!(
            copy.held().names["namespaces/shop"],
            namespace("shop", "a").hash(),
            "the disk says what is usable"
        );
    }

    #[test]
    fn a_copy_survives_the_disk() {
        let mut copy = SliceCopy::default();
        assert_eq!(copy.to_bytes(), None);
        copy.apply(applied(stamp("c", 7, 3), vec![namespace("shop", "a")], &[], true));
        let bytes = copy.to_bytes().unwrap();
        assert_eq!(SliceCopy::from_bytes(&bytes).unwrap(), (copy, vec![]));
        for bad in [
            "",
            "{}",
            r#"{"epoch":1,"revision":1,"source":"c","sequence":1,"complete":true,"items":{"x":"y"}}"#,
        ] {
            SliceCopy::from_bytes(bad.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn invariant_4_what_another_version_wrote_is_read_as_far_as_it_goes() {
        let mut copy = SliceCopy::default();
        let items = vec![namespace("shop", "a"), namespace("pay", "a")];
        copy.apply(applied(stamp("c", 7, 3), items, &[], true));
        let text = String::from_utf8(copy.to_bytes().unwrap()).unwrap();
        let newer = text.replacen(r#"{\"namespace\""#, r#"{\"nameplace\""#, 1);
        assert_ne!(newer, text);
        let (read, unread) = SliceCopy::from_bytes(newer.as_bytes()).unwrap();
        assert_eq!(unread.len(), 1);
        assert_eq!(unread[0].name, "namespaces/pay");
        assert_eq!(
            read.held().names.into_keys().collect::<Vec<_>>(),
            ["namespaces/shop"]
        );
        assert_eq!((read.complete, read.stamp), (false, copy.stamp));
    }

    #[test]
    fn invariant_5_only_a_complete_copy_removes() {
        let mut held = SliceCopy::default();
        held.apply(applied(
            stamp("a", 1, 1),
            vec![namespace("shop", "a"), namespace("pay", "a")],
            &[],
            true,
        ));
        let mut other = SliceCopy::default();
        other.apply(applied(
            stamp("b", 1, 1),
            vec![namespace("shop", "b")],
            &[],
            false,
        ));
        assert_eq!(other.over(Some(&held)).slice().items.len(), 2);
        other.complete = true;
        assert_eq!(other.over(Some(&held)).slice().items.len(), 1);
    }
}
