//! A copy of a rule's requests, sent elsewhere, in the words of the Gateway API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::BadFilter;
use crate::name::{Label, ServiceId};

/// Sends a copy of each request, or of a part of them, to a service of the same workspace in the same cluster. What it
/// answers is thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "MirrorDocument", into = "MirrorDocument")]
pub struct RequestMirror {
    pub backend: MirrorBackend,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorBackend {
    Service(ServiceId, Option<u16>),
    /// Of the service whose route it is.
    Subset(Label),
}

/// Of requests, in millionths; written in percent with up to four decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(u32);

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MirrorDocument {
    backend_ref: BackendDocument,
    /// All of them when neither this nor `fraction` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<Share>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fraction: Option<Fraction>,
}

/// `namespace` and `name` of a service, with its `port` unless it has only one; or a `subset` of the route's own service.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BackendDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subset: Option<Label>,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fraction {
    numerator: u32,
    #[serde(default = "hundred")]
    denominator: std::num::NonZeroU32,
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a percentage from 0 to 100 with up to four decimals")]
pub struct BadShare(f64);

const MILLION: u32 = 1_000_000;
/// Of one percent.
const MILLIONTHS: f64 = 10_000.0;

fn hundred() -> std::num::NonZeroU32 {
    const { std::num::NonZeroU32::new(100).expect("invariant: not zero") }
}

impl Share {
    pub const NONE: Share = Share(0);
    pub const ALL: Share = Share(MILLION);

    pub fn as_millionths(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = BadShare;

    fn try_from(percent: f64) -> Result<Self, BadShare> {
        let millionths = (percent * MILLIONTHS).round();
        let is_exact = (percent * MILLIONTHS - millionths).abs() < 1e-6;
        if (0.0..=f64::from(MILLION)).contains(&millionths) && is_exact {
            // Within the range, and whole.
            Ok(Share(millionths as u32))
        } else {
            Err(BadShare(percent))
        }
    }
}

impl From<Share> for f64 {
    fn from(percent: Share) -> f64 {
        f64::from(percent.0) / MILLIONTHS
    }
}

impl TryFrom<MirrorDocument> for RequestMirror {
    type Error = BadFilter;

    fn try_from(document: MirrorDocument) -> Result<Self, BadFilter> {
        let BackendDocument {
            namespace,
            name,
            port,
            subset,
        } = document.backend_ref;
        let backend = match (namespace, name, port, subset) {
            (Some(namespace), Some(name), port, None) => {
                MirrorBackend::Service(ServiceId { namespace, name }, port)
            }
            (None, None, None, Some(subset)) => MirrorBackend::Subset(subset),
            _ => return Err(BadFilter::MirrorBackend),
        };
        let share = match (document.percent, document.fraction) {
            (None, None) => Share::ALL,
            (Some(percent), None) => percent,
            (None, Some(fraction)) => {
                let (part, whole) = (
                    u64::from(fraction.numerator),
                    u64::from(fraction.denominator.get()),
                );
                let millionths = u32::try_from(part * u64::from(MILLION) / whole).ok();
                let share = millionths.filter(|share| *share <= MILLION && (part == 0 || *share > 0));
                Share(share.ok_or(BadFilter::Fraction(
                    fraction.numerator,
                    fraction.denominator.get(),
                ))?)
            }
            (Some(_), Some(_)) => return Err(BadFilter::PercentAndFraction),
        };
        Ok(RequestMirror { backend, share })
    }
}

impl From<RequestMirror> for MirrorDocument {
    fn from(mirror: RequestMirror) -> MirrorDocument {
        let backend_ref = match mirror.backend {
            MirrorBackend::Service(id, port) => BackendDocument {
                namespace: Some(id.namespace),
                name: Some(id.name),
                port,
                subset: None,
            },
            MirrorBackend::Subset(subset) => BackendDocument {
                subset: Some(subset),
                ..BackendDocument::default()
            },
        };
        MirrorDocument {
            backend_ref,
            percent: (mirror.share != Share::ALL).then_some(mirror.share),
            fraction: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mirror(more: &Value) -> Result<RequestMirror, String> {
        let mut document = json!({"backendRef": {"namespace": "shop", "name": "web"}});
        for (field, value) in more.as_object().unwrap() {
            document[field] = value.clone();
        }
        serde_json::from_value(document).map_err(|error| error.to_string())
    }

    #[test]
    fn a_part_is_given_in_percent_or_as_a_fraction() {
        for (more, millionths) in [
            (json!({}), 1_000_000),
            (json!({"percent": 0}), 0),
            (json!({"percent": 12.5}), 125_000),
            (json!({"percent": 0.0001}), 1),
            (json!({"fraction": {"numerator": 5}}), 50_000),
            (json!({"fraction": {"numerator": 1, "denominator": 3}}), 333_333),
        ] {
            assert_eq!(mirror(&more).unwrap().share.as_millionths(), millionths, "{more}");
        }
    }

    #[test]
    fn a_mirror_that_cannot_be_had_says_why() {
        for (more, expected) in [
            (json!({"percent": 101}), "101 is not a percentage from 0 to 100"),
            (json!({"percent": -1}), "-1 is not a percentage"),
            (json!({"percent": 0.00001}), "0.00001 is not a percentage"),
            (
                json!({"percent": 5, "fraction": {"numerator": 1}}),
                "write percent or fraction",
            ),
            (
                json!({"fraction": {"numerator": 3, "denominator": 2}}),
                "3/2 is no fraction",
            ),
            (
                json!({"fraction": {"numerator": 1, "denominator": 2_000_000}}),
                "1/2000000 is no fraction",
            ),
            (
                json!({"backendRef": {"namespace": "shop"}}),
                "names a service by namespace and name",
            ),
            (
                json!({"backendRef": {"namespace": "shop", "name": "web", "subset": "v1"}}),
                "names a service by namespace and name",
            ),
        ] {
            let error = mirror(&more).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }

    #[test]
    fn a_mirror_is_given_back() {
        for more in [
            json!({}),
            json!({"percent": 12.5}),
            json!({"backendRef": {"subset": "v2"}}),
        ] {
            let found = mirror(&more).unwrap();
            let again = serde_json::from_value(serde_json::to_value(&found).unwrap()).unwrap();
            assert_eq!(found, again, "{more}");
        }
    }
}
