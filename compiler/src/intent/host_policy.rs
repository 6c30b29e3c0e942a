//! What a gateway asks of the requests for a host before it forwards them: who sends them, how many, from where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::http::{
    ExactHostname, HeaderName, Method, PlainPath, RedirectScheme, RedirectStatus, RedirectTo, Span,
};
use crate::url::{HttpsUrl, WebOrigin};

/// All of it is optional, and each part stands by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    pub jwt: Option<Jwt>,
    pub authorization: Option<Authorization>,
    pub cors: Option<Cors>,
    pub rate_limit: Option<RateLimit>,
    pub redirect: Option<HostRedirect>,
}

/// Every request carries a valid bearer token of one of these issuers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    pub issuers: Vec<JwtIssuer>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JwtIssuer {
    /// The token's `iss`, to the letter.
    pub issuer: String,
    /// One of them is in the token's `aud`; any when empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub audiences: BTreeSet<String>,
    /// Where the keys are.
    pub jwks_uri: HttpsUrl,
}

/// A request that one of `deny` matches is refused; of the others, those that one of `allow` matches pass. An empty
/// `allow` lets nobody through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    pub allow: Vec<AccessRule>,
    #[serde(default)]
    pub deny: Vec<AccessRule>,
}

/// All parts that are given must hold; a rule with none matches every request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Blocks of addresses, one of which the client is in.
    #[serde(default, deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub sources: BTreeSet<AddressBlock>,
    /// Claims of the token, each with the values of which it has one.
    #[serde(default, deserialize_with = "some")]
    pub claims: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub methods: BTreeSet<Method>,
    #[serde(default, deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub paths: Vec<PlainPath>,
}

/// What is left out is any; a list of which the last item was taken out must not become that.
fn some<'de, D: Deserializer<'de>, C>(deserializer: D) -> Result<C, D::Error>
where
    C: Deserialize<'de>,
    for<'a> &'a C: IntoIterator,
{
    let given = C::deserialize(deserializer)?;
    if (&given).into_iter().next().is_none() {
        return Err(D::Error::custom(
            "is empty, so nothing could match; leave it out to match everything",
        ));
    }
    Ok(given)
}

/// Which pages of other origins a browser lets read the answers, in the words of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cors {
    /// Such as `https://app.example.com`, or `*` without credentials.
    pub allow_origins: BTreeSet<WebOrigin>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_methods: BTreeSet<Method>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_headers: BTreeSet<HeaderName>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub expose_headers: BTreeSet<HeaderName>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_credentials: bool,
    /// How long a browser may remember the answer to its question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

/// Requests beyond it are answered with 429.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub requests: std::num::NonZeroU32,
    pub per: Span,
    #[serde(default)]
    pub over: RateLimitScope,
    /// What is counted apart; all requests together when left out.
    pub by: Option<RateLimitKey>,
}

/// Whose requests a limit counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RateLimitScope {
    /// Those of each proxy by itself.
    #[default]
    Proxy,
    /// Those of all proxies of the gateway's workload in a cluster.
    Gateway,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RateLimitKey {
    /// The address that the request comes from.
    Client,
    /// The value of a header.
    Header(HeaderName),
}

/// Where every request for the host is sent instead, with its path and query. What is left out stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HostRedirect {
    pub scheme: Option<RedirectScheme>,
    pub hostname: Option<ExactHostname>,
    pub port: Option<std::num::NonZeroU16>,
    /// 302 when left out.
    #[serde(default)]
    pub status_code: RedirectStatus,
}

impl HostRedirect {
    pub fn to(&self) -> RedirectTo {
        RedirectTo {
            scheme: self.scheme,
            host: self.hostname.clone(),
            port: self.port,
            path: None,
            status: self.status_code,
        }
    }
}

/// `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressBlock {
    address: IpAddr,
    prefix_bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a block of addresses; write an IP address, or one with the length of its prefix, such as 10.0.0.0/8"
)]
pub struct BadAddressBlock(String);

impl AddressBlock {
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of the address all in it have.
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }
}

impl From<AddressBlock> for String {
    fn from(AddressBlock { address, prefix_bits }: AddressBlock) -> String {
        format!("{address}/{prefix_bits}")
    }
}

impl TryFrom<String> for AddressBlock {
    type Error = BadAddressBlock;

    fn try_from(text: String) -> Result<Self, BadAddressBlock> {
        let read = || {
            let (address, bits) = match text.split_once('/') {
                None => (text.as_str(), None),
                Some((address, bits)) => (address, Some(bits)),
            };
            let address: IpAddr = address.parse().ok()?;
            let bits_max = if address.is_ipv4() { 32 } else { 128 };
            let prefix_bits = bits.map_or(Some(bits_max), |bits| bits.parse().ok())?;
            (prefix_bits <= bits_max).then_some(AddressBlock { address, prefix_bits })
        };
        read().ok_or(BadAddressBlock(text))
    }
}
