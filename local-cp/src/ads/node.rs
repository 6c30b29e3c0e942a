//! Who a proxy says it is, checked before it is told anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::Node as PbNode;
use envoy_types::pb::google::protobuf::value::Kind as PbKind;
use serde::{Deserialize, Serialize};
use tombolo_compiler::name::{ClusterName, Label, WorkloadId};
use tombolo_compiler::proxy::{ProxyNode, ProxyRole};

/// Our own proxy acknowledges after it has activated; any other only after it has accepted.
const OWN_AGENT: &str = "tombolo";
/// Longer than any name that a person or a platform gives; it appears in logs and receipts.
const ID_BYTES_MAX: usize = 256;

/// Where a client listens that sends for itself.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A proxy that may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) node: ProxyNode,
    pub(crate) acknowledges: Acknowledges,
    pub(crate) dialect: Dialect,
}

/// For whom resources are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Proxy,
    /// A gRPC client that sends for itself what its sidecar would send.
    Proxyless,
}

/// What an acknowledgement of this proxy proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Acknowledges {
    Activated,
    Accepted,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadNode {
    #[error("node is missing from the first request: docs/xds.md lists what it holds")]
    NoNode,
    #[error("{field} is missing: docs/xds.md lists what a node says of itself")]
    Missing { field: &'static str },
    #[error("{field} is {given:?}; use {expected}")]
    Value {
        field: &'static str,
        given: String,
        expected: &'static str,
    },
    #[error(
        "node.cluster is {given:?}, and this edge serves {own}: check the proxy's cluster and its edge's address"
    )]
    OtherCluster { given: String, own: ClusterName },
}

pub(crate) fn introduce(node: Option<&PbNode>, own: &ClusterName) -> Result<Introduction, BadNode> {
    let node = node.ok_or(BadNode::NoNode)?;
    if node.cluster != own.as_str() {
        return Err(BadNode::OtherCluster {
            given: node.cluster.clone(),
            own: own.clone(),
        });
    }
    if node.id.is_empty() {
        return Err(BadNode::Missing { field: "node.id" });
    }
    if node.id.len() > ID_BYTES_MAX || node.id.chars().any(char::is_control) {
        return Err(BadNode::Value {
            field: "node.id",
            given: node.id.chars().take(ID_BYTES_MAX).collect(),
            expected: "up to 256 bytes without control characters",
        });
    }
    let acknowledges = if node.user_agent_name == OWN_AGENT {
        Acknowledges::Activated
    } else {
        Acknowledges::Accepted
    };
    let (role, dialect) = role(node)?;
    let id = node.id.clone();
    Ok(Introduction {
        node: ProxyNode { id, role },
        acknowledges,
        dialect,
    })
}

fn role(node: &PbNode) -> Result<(ProxyRole, Dialect), BadNode> {
    const ROLE: &str = "node.metadata[\"tombolo.role\"]";
    let namespace = label(node, "tombolo.namespace", "node.metadata[\"tombolo.namespace\"]");
    let role = match text(node, "tombolo.role", ROLE)? {
        "gateway" => ProxyRole::Gateway {
            workload: WorkloadId {
                namespace: namespace?,
                name: label(node, "tombolo.workload", "node.metadata[\"tombolo.workload\"]")?,
            },
        },
        "sidecar" => ProxyRole::Sidecar {
            namespace: namespace?,
            outbound: outbound(node)?,
        },
        "proxyless" => {
            let role = ProxyRole::Sidecar {
                namespace: namespace?,
                outbound: NOWHERE,
            };
            return Ok((role, Dialect::Proxyless));
        }
        other => {
            return Err(BadNode::Value {
                field: ROLE,
                given: other.to_owned(),
                expected: "gateway, sidecar or proxyless",
            });
        }
    };
    Ok((role, Dialect::Proxy))
}

fn outbound(node: &PbNode) -> Result<SocketAddr, BadNode> {
    const FIELD: &str = "node.metadata[\"tombolo.outbound\"]";
    let given = text(node, "tombolo.outbound", FIELD)?;
    given.parse().map_err(|_| BadNode::Value {
        field: FIELD,
        given: given.to_owned(),
        expected: "an IP address and a port such as 127.0.0.1:15001",
    })
}

fn label(node: &PbNode, key: &str, field: &'static str) -> Result<Label, BadNode> {
    let given = text(node, key, field)?;
    given.parse().map_err(|_| BadNode::Value {
        field,
        given: given.to_owned(),
        expected: "1 to 63 of a-z, 0-9 and '-'",
    })
}

fn text<'a>(node: &'a PbNode, key: &str, field: &'static str) -> Result<&'a str, BadNode> {
    let value = node
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.fields.get(key));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(PbKind::StringValue(text)) if !text.is_empty() => Ok(text),
        None | Some(PbKind::StringValue(_) | PbKind::NullValue(_)) => Err(BadNode::Missing { field }),
        Some(_) => Err(BadNode::Value {
            field,
            given: "no string".to_owned(),
            expected: "a string",
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use envoy_types::pb::google::protobuf::{Struct, Value};

    use super::*;

    pub(crate) fn node(id: &str, cluster: &str, metadata: &[(&str, &str)]) -> PbNode {
        let value = |text: &str| Value {
            kind: Some(PbKind::StringValue(text.to_owned())),
        };
        PbNode {
            id: id.to_owned(),
            cluster: cluster.to_owned(),
            user_agent_name: "tombolo".to_owned(),
            metadata: Some(Struct {
                fields: metadata
                    .iter()
                    .map(|(key, text)| ((*key).to_owned(), value(text)))
                    .collect(),
            }),
            ..PbNode::default()
        }
    }

    #[test]
    fn a_proxy_introduces_itself() {
        let own: ClusterName = "us-east".parse().unwrap();
        let gateway = node(
            "gw-1",
            "us-east",
            &[
                ("tombolo.role", "gateway"),
                ("tombolo.namespace", "mesh"),
                ("tombolo.workload", "gateway"),
            ],
        );
        let met = introduce(Some(&gateway), &own).unwrap();
        let workload = "mesh/gateway".parse().unwrap();
        assert_eq!(met.node.role, ProxyRole::Gateway { workload });
        assert_eq!(met.acknowledges, Acknowledges::Activated);

        let mut sidecar = node(
            "app-1",
            "us-east",
            &[
                ("tombolo.role", "sidecar"),
                ("tombolo.namespace", "shop"),
                ("tombolo.outbound", "127.0.0.1:15001"),
            ],
        );
        sidecar.user_agent_name = "envoy".to_owned();
        let met = introduce(Some(&sidecar), &own).unwrap();
        assert_eq!(met.acknowledges, Acknowledges::Accepted);
        assert_eq!(met.dialect, Dialect::Proxy);

        let metadata = [("tombolo.role", "proxyless"), ("tombolo.namespace", "shop")];
        let met = introduce(Some(&node("app-2", "us-east", &metadata)), &own).unwrap();
        assert_eq!(met.dialect, Dialect::Proxyless);
    }

    #[test]
    fn who_cannot_be_served_is_told_the_field() {
        let own: ClusterName = "us-east".parse().unwrap();
        let sidecar = [("tombolo.role", "sidecar"), ("tombolo.namespace", "shop")];
        for (given, expected) in [
            (None, "node is missing"),
            (Some(node("", "us-east", &[])), "node.id is missing"),
            (Some(node("a\n", "us-east", &[])), "node.id is \"a\\n\""),
            (
                Some(node("a", "us-west", &[])),
                "node.cluster is \"us-west\", and this edge serves us-east",
            ),
            (Some(node("a", "us-east", &[])), "[\"tombolo.role\"] is missing"),
            (
                Some(node("a", "us-east", &[("tombolo.role", "router")])),
                "is \"router\"; use gateway, sidecar or proxyless",
            ),
            (
                Some(node("a", "us-east", &[("tombolo.role", "gateway")])),
                "[\"tombolo.namespace\"] is missing",
            ),
            (
                Some(node(
                    "a",
                    "us-east",
                    &[("tombolo.role", "gateway"), ("tombolo.namespace", "mesh")],
                )),
                "[\"tombolo.workload\"] is missing",
            ),
            (
                Some(node("a", "us-east", &sidecar)),
                "[\"tombolo.outbound\"] is missing",
            ),
            (
                Some(node(
                    "a",
                    "us-east",
                    &[sidecar[0], sidecar[1], ("tombolo.outbound", "here")],
                )),
                "is \"here\"; use an IP address and a port",
            ),
        ] {
            let error = introduce(given.as_ref(), &own).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
