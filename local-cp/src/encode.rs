//! The one encoder from the compiler's proxy model to Envoy's types: what docs/xds.md lists and nothing else. It is
//! pure, and gives the same bytes for the same configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::address::Address as PbAddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address as PbAddress, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
    SocketAddress,
};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;
use prost::{Message, Name};
use tombolo_compiler::finding::{Origin, Traced};
use tombolo_compiler::http::{Share, Span};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{DESTINATION_HEADER, ProxyConfig};
use tombolo_proto::resource::ContentHash;

mod cluster;
mod endpoint;
mod filter;
mod key_host;
mod listener;
mod proxyless;
mod quota;
mod route;
mod token;

/// The four types of xDS resource, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
}

/// Everything that one proxy should hold, encoded, by type and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    by_kind: BTreeMap<Kind, BTreeMap<String, Arc<Encoded>>>,
}

/// One resource as it goes on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoded {
    /// The hash of the body: two edges that lower the same say the same.
    pub(crate) version: String,
    pub(crate) body: Any,
    /// The clusters that must work in the proxy before this is of use.
    pub(crate) needs: BTreeSet<String>,
    /// Of a listener: the routes that it goes by.
    pub(crate) table: Option<String>,
    pub(crate) origins: Origins,
}

/// Which resource of the user's a piece of an encoded resource came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    whole: Option<Origin>,
    /// By the piece's field path, such as `virtual_hosts[0].routes[3]`.
    pieces: Vec<(String, Origin)>,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes];

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub(crate) fn from_type_url(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

impl Resources {
    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        self.by_kind.get(&kind)?.get(name)
    }

    pub(crate) fn shared(&self, kind: Kind) -> impl Iterator<Item = (&String, &Arc<Encoded>)> {
        self.by_kind.get(&kind).into_iter().flatten()
    }

    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = (&String, &Encoded)> {
        self.shared(kind).map(|(name, encoded)| (name, encoded.as_ref()))
    }
}

/// Two resources of one name are the same when their bodies are; where they came from moves no proxy.
impl Eq for Encoded {}

impl Encoded {
    /// As it was said before, if that means the same: what is in a map of Envoy's has another order each time, and would be news.
    fn or_as(self, before: Option<&Arc<Encoded>>) -> Encoded {
        match before {
            Some(before) => Encoded {
                version: before.version.clone(),
                body: before.body.clone(),
                ..self
            },
            None => self,
        }
    }
}

impl Origins {
    /// The resources to show `reason` on: the piece that it names, else the whole, else everything in it, since all of
    /// it was refused.
    pub(crate) fn blamed(&self, reason: &str) -> Vec<Origin> {
        let named = self
            .pieces
            .iter()
            .find(|(path, _)| names_path(reason, path))
            .map(|(_, origin)| origin)
            .or(self.whole.as_ref());
        match named {
            Some(origin) => vec![origin.clone()],
            None => {
                let all: BTreeSet<&Origin> = self.pieces.iter().map(|(_, origin)| origin).collect();
                all.into_iter().cloned().collect()
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn encode(config: &ProxyConfig) -> Resources {
    encode_since(&ProxyConfig::default(), &Resources::default(), config, None)
}

/// Encodes all that a proxy runs, but takes from `held`, which `old` was encoded to, what has not changed. Without
/// `authorities`, in PEM, no issuer is believed, and no keys are fetched.
pub(crate) fn encode_since(
    old: &ProxyConfig,
    held: &Resources,
    config: &ProxyConfig,
    authorities: Option<&str>,
) -> Resources {
    let mut clusters = encode_changed(
        &old.clusters,
        held.by_kind.get(&Kind::Cluster),
        &config.clusters,
        cluster::encode,
    );
    let mut endpoints = encode_changed(
        &old.endpoints,
        held.by_kind.get(&Kind::Endpoints),
        &config.endpoints,
        endpoint::encode,
    );
    if let Some(authorities) = authorities {
        clusters.extend(encode_changed(
            &old.key_hosts,
            held.by_kind.get(&Kind::Cluster),
            &config.key_hosts,
            |name, host| key_host::cluster(name, host, authorities),
        ));
        endpoints.extend(encode_changed(
            &old.key_hosts,
            held.by_kind.get(&Kind::Endpoints),
            &config.key_hosts,
            key_host::endpoints,
        ));
    }
    // Always made again, as is a listener, which shares them: the origins within a table may be newer although its
    // value is the same.
    let tables = encode_all(&config.route_tables, |name, table| {
        let (body, pieces) = route::encode(name, &table.value);
        let before = old.route_tables.get(name).filter(|old| old.value == table.value);
        let before = before.and_then(|_| held.get(Kind::Routes, name));
        let made = sealed(
            body,
            route::clusters(&table.value),
            Origins {
                pieces,
                ..whole(table)
            },
        );
        made.or_as(before)
    });
    let listeners = encode_all(&config.listeners, |name, listener| {
        // A listener opens when the routes that it starts with work. It does not wait for keys: tokens are refused until they
        // have come, and whoever shows none needs none.
        let needs = tables
            .get(&listener.value.route_table)
            .map(|table| table.needs.clone())
            .unwrap_or_default();
        let table = config.route_tables.get(&listener.value.route_table);
        let origins = Origins {
            pieces: table.map(|table| route::hosts(&table.value)).unwrap_or_default(),
            ..whole(listener)
        };
        let before = old.listeners.get(name).filter(|old| old.value == listener.value);
        let before = before.and_then(|_| held.get(Kind::Listener, name));
        let made = Encoded {
            table: Some(listener.value.route_table.clone()),
            ..sealed(listener::encode(name, &listener.value), needs, origins)
        };
        made.or_as(before)
    });
    Resources {
        by_kind: [
            (Kind::Cluster, clusters),
            (Kind::Endpoints, endpoints),
            (Kind::Listener, listeners),
            (Kind::Routes, tables),
        ]
        .into(),
    }
}

/// As [`encode_since`], for a gRPC client without a proxy in `own`. Its configuration is that of a sidecar.
pub(crate) fn encode_proxyless_since(
    own: &ClusterName,
    old: &ProxyConfig,
    held: &Resources,
    config: &ProxyConfig,
) -> Resources {
    let hosts = proxyless::hosts(config);
    let keyed = proxyless::keyed(&hosts);
    // Made again, because they depend on routes too.
    let clusters = encode_all(&config.clusters, |name, upstream| {
        let body = proxyless::cluster(name, &upstream.value, keyed.contains(name));
        sealed(body, BTreeSet::new(), whole(upstream))
    });
    let endpoints = encode_changed(
        &old.endpoints,
        held.by_kind.get(&Kind::Endpoints),
        &config.endpoints,
        |name, endpoints| proxyless::endpoints(name, own, endpoints),
    );
    let (mut tables, mut listeners) = (BTreeMap::new(), BTreeMap::new());
    for (host, names, table) in hosts {
        let (body, pieces) = proxyless::table(&host, &table.value);
        let needs = route::clusters(&table.value);
        let origins = Origins {
            pieces,
            ..whole(&table)
        };
        for name in names {
            let body = proxyless::listener(&name, &host);
            let listener = Encoded {
                table: Some(host.clone()),
                ..sealed(body, needs.clone(), origins.clone())
            };
            listeners.insert(name, Arc::new(listener));
        }
        tables.insert(host, Arc::new(sealed(body, needs, origins)));
    }
    Resources {
        by_kind: [
            (Kind::Cluster, clusters),
            (Kind::Endpoints, endpoints),
            (Kind::Listener, listeners),
            (Kind::Routes, tables),
        ]
        .into(),
    }
}

/// Of a type whose resources depend on nothing but their value.
fn encode_changed<T: PartialEq, B: Name + Message>(
    old: &BTreeMap<String, Traced<T>>,
    held: Option<&BTreeMap<String, Arc<Encoded>>>,
    values: &BTreeMap<String, Traced<T>>,
    encode: impl Fn(&str, &T) -> B,
) -> BTreeMap<String, Arc<Encoded>> {
    let unchanged = |name: &str, value: &Traced<T>| {
        let same = old.get(name)?.is_identical(value);
        same.then(|| held?.get(name).cloned())?
    };
    values
        .iter()
        .map(|(name, value)| {
            let encoded = unchanged(name, value).unwrap_or_else(|| {
                Arc::new(sealed(encode(name, &value.value), BTreeSet::new(), whole(value)))
            });
            (name.clone(), encoded)
        })
        .collect()
}

fn encode_all<T>(
    values: &BTreeMap<String, Traced<T>>,
    encode: impl Fn(&str, &Traced<T>) -> Encoded,
) -> BTreeMap<String, Arc<Encoded>> {
    values
        .iter()
        .map(|(name, value)| (name.clone(), Arc::new(encode(name, value))))
        .collect()
}

fn sealed<T: Name + Message>(body: T, needs: BTreeSet<String>, origins: Origins) -> Encoded {
    let body = pack_any(body);
    Encoded {
        version: ContentHash::of(&body.value).to_string(),
        body,
        needs,
        table: None,
        origins,
    }
}

fn whole<T>(traced: &Traced<T>) -> Origins {
    Origins {
        whole: traced.origin.clone(),
        pieces: Vec::new(),
    }
}

/// Whether `reason` speaks of `path` or of something below it.
fn names_path(reason: &str, path: &str) -> bool {
    reason.match_indices(path).any(|(at, _)| {
        let after = reason[at + path.len()..].bytes().next();
        !after.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn address(address: SocketAddr) -> PbAddress {
    PbAddress {
        address: Some(PbAddressKind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn duration(span: Span) -> Duration {
    let ms = i64::try_from(span.as_ms()).expect("invariant: a span is at most a day");
    Duration {
        seconds: ms / 1000,
        nanos: i32::try_from(ms % 1000 * 1_000_000).expect("invariant: less than a second fits"),
    }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

fn share(percent: Share) -> FractionalPercent {
    FractionalPercent {
        numerator: percent.as_millionths(),
        denominator: DenominatorType::Million as i32,
    }
}

fn yes() -> BoolValue {
    BoolValue { value: true }
}

/// Says which service a request is for, over whatever the application sent.
fn destination_header(destination: Option<&String>) -> Vec<HeaderValueOption> {
    let action = HeaderAppendAction::OverwriteIfExistsOrAdd;
    let option = destination.map(|value| header(DESTINATION_HEADER, value, action));
    option.into_iter().collect()
}

/// A percent sign would begin one of Envoy's substitutions.
fn header(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.replace('%', "%%"),
            raw_value: Vec::new(),
        }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests;
