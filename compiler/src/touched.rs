//! Which proxies of a cluster would run something else after a change of its routes. Asked of the edge, which alone knows
//! its proxies and what it sees, and found by lowering for each kind of proxy before and after: by the law itself, and not
//! by rules beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::lower::lower;
use crate::name::ClusterName;
use crate::plan::SliceChange;
use crate::proxy::{ProxyNode, ProxyRole};
use crate::routes::{BadSliceKey, Slice, SliceItem, SliceKey};
use crate::view::View;

/// Of one cluster: a plan is for reading, and the rest is counted.
pub const NAMED_MAX: usize = 20;

/// What an edge is asked: which of its proxies would run something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TouchedAsked {
    /// What would differ from the slice that the edge holds, by name; `None` for what would go.
    after: BTreeMap<String, Option<SliceItem>>,
}

/// What an edge answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Touched {
    /// (epoch, revision) of the slice that it holds.
    pub version: (u64, u64),
    /// The first of them, by name.
    pub names: BTreeSet<String>,
    /// How many there are beside those.
    pub more: usize,
    /// How many proxies went silent and may run on: what they would run is not known.
    pub silent: usize,
}

/// The proxies of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    pub connected: Vec<ProxyNode>,
    pub silent: usize,
}

/// Why it is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    #[error(transparent)]
    Key(#[from] BadSliceKey),
    #[error("it has {all} kinds of proxies, and there was time for {seen} of them")]
    OutOfTime { seen: usize, all: usize },
}

impl TouchedAsked {
    pub fn of<'a>(changes: impl IntoIterator<Item = &'a SliceChange>) -> TouchedAsked {
        let after = changes
            .into_iter()
            .map(|change| (change.key.to_string(), change.after.clone()));
        TouchedAsked {
            after: after.collect(),
        }
    }

    fn applied_to(&self, slice: &Slice) -> Result<Slice, BadSliceKey> {
        let mut slice = slice.clone();
        for (key, after) in &self.after {
            let key: SliceKey = key.parse()?;
            match after {
                Some(item) => drop(slice.items.insert(key, item.clone())),
                None => drop(slice.items.remove(&key)),
            }
        }
        Ok(slice)
    }
}

/// # Errors
/// When what is asked names no item of a slice, or it is not `in_time` any more for another kind of proxy.
pub fn touched(
    cluster: &ClusterName,
    (version, slice): ((u64, u64), &Slice),
    view: &View,
    proxies: &Proxies,
    asked: &TouchedAsked,
    mut in_time: impl FnMut() -> bool,
) -> Result<Touched, Untold> {
    let after = asked.applied_to(slice)?;
    let mut by_role: BTreeMap<ProxyRole, Vec<&str>> = BTreeMap::new();
    for node in &proxies.connected {
        by_role.entry(kind(&node.role)).or_default().push(&node.id);
    }
    let kinds = by_role.len();
    let mut all = BTreeSet::new();
    for (seen, (role, ids)) in by_role.into_iter().enumerate() {
        if !in_time() {
            return Err(Untold::OutOfTime { seen, all: kinds });
        }
        let node = ProxyNode {
            id: String::new(),
            role,
        };
        let [before, after] = [slice, &after].map(|slice| lower(cluster, slice, view, &node).0);
        if before != after {
            all.extend(ids);
        }
    }
    Ok(Touched {
        version,
        names: all.iter().take(NAMED_MAX).map(|id| (*id).to_owned()).collect(),
        more: all.len().saturating_sub(NAMED_MAX),
        silent: proxies.silent,
    })
}

/// Where a sidecar listens does not change what a change does to it, and each may listen elsewhere.
fn kind(role: &ProxyRole) -> ProxyRole {
    match role {
        ProxyRole::Gateway { .. } => role.clone(),
        ProxyRole::Sidecar { namespace, .. } => ProxyRole::Sidecar {
            namespace: namespace.clone(),
            outbound: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Traced;
    use crate::routes::NamespaceOwner;

    fn sidecar(id: &str, namespace: &str, port: u16) -> ProxyNode {
        ProxyNode {
            id: id.to_owned(),
            role: ProxyRole::Sidecar {
                namespace: namespace.parse().unwrap(),
                outbound: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            },
        }
    }

    fn owned(namespace: &str, by: Option<&str>) -> SliceChange {
        let item = |workspace: &str| {
            SliceItem::Namespace(Traced::untraced(NamespaceOwner {
                workspace: format!("organizations/acme/tenants/a/workspaces/{workspace}")
                    .parse()
                    .unwrap(),
            }))
        };
        SliceChange {
            key: SliceKey::Namespace(namespace.parse().unwrap()),
            before: None,
            after: by.map(item),
        }
    }

    fn view() -> View {
        serde_json::from_value(json!({"services": {
            "shop/web": {"ports": [{"name": "http", "port": 80}], "instances": [{"address": "10.0.0.1"}]},
            "media/web": {"ports": [{"name": "http", "port": 80}], "instances": [{"address": "10.0.0.2"}]},
        }}))
        .unwrap()
    }

    #[test]
    fn those_are_named_whose_configuration_differs() {
        let cluster = "us-east".parse().unwrap();
        let gateway = ProxyNode {
            id: "gw".to_owned(),
            role: ProxyRole::Gateway {
                workload: "mesh/gateway".parse().unwrap(),
            },
        };
        let proxies = Proxies {
            connected: vec![
                sidecar("shop-2", "shop", 2),
                sidecar("shop-1", "shop", 1),
                sidecar("media-1", "media", 1),
                gateway,
            ],
            silent: 1,
        };
        let slice = TouchedAsked::of(&[owned("shop", Some("shop"))])
            .applied_to(&Slice::default())
            .unwrap();
        for (change, expected) in [
            (vec![], vec![]),
            (vec![owned("shop", Some("shop"))], vec![]),
            (vec![owned("shop", None)], vec!["shop-1", "shop-2"]),
            (vec![owned("media", Some("media"))], vec!["media-1"]),
            // Another namespace of the same workspace: each sidecar of it reaches more than before.
            (
                vec![owned("media", Some("shop"))],
                vec!["media-1", "shop-1", "shop-2"],
            ),
        ] {
            let asked = TouchedAsked::of(&change);
            let found = touched(&cluster, ((1, 7), &slice), &view(), &proxies, &asked, || true).unwrap();
            assert_eq!(
                found.names.into_iter().collect::<Vec<_>>(),
                expected,
                "{change:?}"
            );
            assert_eq!((found.version, found.more, found.silent), ((1, 7), 0, 1));
        }
    }

    #[test]
    fn the_first_are_named_and_the_rest_counted() {
        let ids = (0..NAMED_MAX + 3).map(|number| sidecar(&format!("p-{number:03}"), "shop", 1));
        let proxies = Proxies {
            connected: ids.collect(),
            silent: 0,
        };
        let asked = TouchedAsked::of(&[owned("shop", Some("shop"))]);
        let cluster = "us-east".parse().unwrap();
        let found = touched(
            &cluster,
            ((1, 7), &Slice::default()),
            &view(),
            &proxies,
            &asked,
            || true,
        )
        .unwrap();
        assert_eq!((found.names.len(), found.more), (NAMED_MAX, 3));
        assert!(found.names.contains("p-000") && !found.names.contains("p-022"));
        let nonsense: TouchedAsked = serde_json::from_value(json!({"after": {"pods/x": null}})).unwrap();
        assert!(
            touched(
                &cluster,
                ((1, 7), &Slice::default()),
                &view(),
                &proxies,
                &nonsense,
                || true
            )
            .is_err()
        );
    }

    /// What is lowered for each kind of a large cluster must end before those who ask have gone.
    #[test]
    fn what_takes_too_long_is_not_told() {
        let proxies = Proxies {
            connected: vec![
                sidecar("a", "shop", 1),
                sidecar("b", "media", 1),
                sidecar("c", "shop", 2),
            ],
            silent: 0,
        };
        let asked = TouchedAsked::of(&[owned("shop", Some("shop"))]);
        let cluster = "us-east".parse().unwrap();
        let tell = |kinds: usize| {
            let mut left = kinds;
            let in_time = || left.checked_sub(1).inspect(|rest| left = *rest).is_some();
            touched(
                &cluster,
                ((1, 7), &Slice::default()),
                &view(),
                &proxies,
                &asked,
                in_time,
            )
        };
        assert_eq!(tell(1), Err(Untold::OutOfTime { seen: 1, all: 2 }));
        assert_eq!(tell(2).unwrap().names.len(), 2);
    }
}
