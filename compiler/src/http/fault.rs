//! Faults that are made on purpose, to see what they do to those who call.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BadRule, Share, Span, StatusCode};

/// Requests wait, are answered with an error, or both; at least one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "FaultDocument", into = "FaultDocument")]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

/// Before anything else happens to a request; the rule's timeout begins after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    pub duration: Span,
    /// Of the requests; all of them when it is left out.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub percent: Share,
}

/// The answer, instead of what the backend would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    /// From 200.
    pub status_code: StatusCode,
    /// Of the requests; all of them when it is left out.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub percent: Share,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FaultDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abort: Option<Abort>,
}

/// Codes below it are no answers.
const STATUS_MIN: u16 = 200;

impl TryFrom<FaultDocument> for Fault {
    type Error = BadRule;

    fn try_from(document: FaultDocument) -> Result<Self, BadRule> {
        let FaultDocument { delay, abort } = document;
        if delay.is_none() && abort.is_none() {
            return Err(BadRule::NoFault);
        }
        if delay.is_some_and(|delay| delay.duration.as_ms() == 0) {
            return Err(BadRule::NoDelay);
        }
        if let Some(abort) = abort.filter(|abort| abort.status_code.as_u16() < STATUS_MIN) {
            return Err(BadRule::Abort(abort.status_code.as_u16()));
        }
        Ok(Fault { delay, abort })
    }
}

impl From<Fault> for FaultDocument {
    fn from(Fault { delay, abort }: Fault) -> FaultDocument {
        FaultDocument { delay, abort }
    }
}

fn all() -> Share {
    Share::ALL
}

fn is_all(percent: &Share) -> bool {
    *percent == Share::ALL
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_are_given_back_or_refused() {
        for document in [
            json!({"delay": {"duration": "2s"}}),
            json!({"abort": {"statusCode": 503, "percent": 12.5}}),
            json!({"delay": {"duration": "50ms", "percent": 1.0}, "abort": {"statusCode": 429}}),
        ] {
            let fault: Fault = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(serde_json::to_value(fault).unwrap(), document);
        }
        for (document, expected) in [
            (json!({}), "a fault has a delay, an abort, or both"),
            (json!({"delay": {"duration": "0s"}}), "a delay of no time is none"),
            (
                json!({"abort": {"statusCode": 101}}),
                "no request can be answered with 101",
            ),
            (json!({"abort": {}}), "missing field `statusCode`"),
        ] {
            let error = serde_json::from_value::<Fault>(document.clone()).unwrap_err();
            assert!(error.to_string().contains(expected), "{document}: {error}");
        }
    }
}
