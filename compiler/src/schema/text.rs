//! What is written as text: for each newtype, what its parser takes, as far as a pattern can say it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::http::{
    ATTEMPTS_MAX, Attempts, CookieName, ExactHostname, HeaderName, PATTERN_BYTES_MAX, Path, PathPattern,
    QueryPart, RedirectStatus, Share, Span, StatusCode,
};
use crate::intent::{
    AddressBlock, CONDITION_BYTES_MAX, Condition, OpenApi, PROVIDER_GROUP_BYTES_MAX, ProviderGroup, RoleName,
};
use crate::name::{
    ClusterName, FQN_BYTES_MAX, Fqn, HOSTNAME_BYTES_MAX, HostPort, Hostname, LABEL_BYTES_MAX, Label,
    ServiceId, TrustDomain,
};
use crate::selector::Selector;
use crate::setting::PrincipalPattern;
use crate::url::{Digest, HttpsUrl, ModuleUrl, URL_BYTES_MAX, WebOrigin};

/// Gives a type the schema that is written out.
macro_rules! schema {
    ($type:ident, $($schema:tt)+) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ $($schema)+ })
            }
        }
    };
}

schema!(
    Label,
    "description": "A name such as a region, a namespace or a subset.",
    "type": "string",
    "minLength": 1,
    "maxLength": LABEL_BYTES_MAX,
    "pattern": "^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$"
);
schema!(
    ClusterName,
    "description": "The name of a cluster.",
    "type": "string",
    "minLength": 1,
    "maxLength": LABEL_BYTES_MAX,
    "pattern": "^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$"
);
schema!(
    Fqn,
    "description": "The path of a resource, such as `organizations/acme/tenants/payments`.",
    "type": "string",
    "maxLength": FQN_BYTES_MAX,
    "pattern": "^organizations/[a-z0-9-]+(?:/[a-z]+/[a-z0-9-]+)*$"
);
schema!(
    Hostname,
    "description": "A host name in lower case, or all below one: `*.example.com`.",
    "type": "string",
    "minLength": 1,
    "maxLength": HOSTNAME_BYTES_MAX,
    "pattern": "^(?:\\*\\.)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$"
);
schema!(
    ExactHostname,
    "description": "A host name in lower case.",
    "type": "string",
    "minLength": 1,
    "maxLength": HOSTNAME_BYTES_MAX,
    "pattern": "^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$"
);
schema!(
    TrustDomain,
    "description": "A SPIFFE trust domain, such as `prod.example.com`.",
    "type": "string",
    "minLength": 1,
    "maxLength": HOSTNAME_BYTES_MAX,
    "pattern": "^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$"
);
schema!(
    ServiceId,
    "description": "A service or a workload: `namespace/name`.",
    "type": "string",
    "maxLength": 2 * LABEL_BYTES_MAX + 1,
    "pattern": "^[a-z0-9-]+/[a-z0-9-]+$"
);
schema!(
    HostPort,
    "description": "An IP address and a port: `192.0.2.1:80` or `[2001:db8::1]:80`.",
    "type": "string",
    "pattern": "^(?:[0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+$"
);
schema!(
    Selector,
    "description": "`cluster/namespace`, where each side is a name, `prefix*` or `*`.",
    "type": "string",
    "pattern": "^[a-z0-9-]*\\*?/[a-z0-9-]*\\*?$"
);
schema!(
    PrincipalPattern,
    "description": "Workload identities: `namespace/account`, where each side is a name, `prefix*` or `*`.",
    "type": "string",
    "pattern": "^[a-z0-9-]*\\*?/[a-z0-9-]*\\*?$"
);
schema!(
    Span,
    "description": "A whole number with its unit: `150ms`, `2s`, `1m`, `1h`; at most `24h`.",
    "type": "string",
    "pattern": "^[0-9]+(?:ms|s|m|h)$"
);
schema!(
    Path,
    "description": "The path of a request, without its query.",
    "type": "string",
    "pattern": "^/[^?#\\s]*$"
);
schema!(
    Share,
    "description": "A part of the requests, in percent with up to four decimals.",
    "type": "number",
    "minimum": 0,
    "maximum": 100
);
schema!(
    PathPattern,
    "description": "A regular expression that the whole path matches, without its query. Its letters are those of ASCII.",
    "type": "string",
    "maxLength": PATTERN_BYTES_MAX
);
schema!(
    CookieName,
    "description": "The name of a cookie.",
    "type": "string",
    "minLength": 1,
    "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
);
schema!(
    HeaderName,
    "description": "The name of a header, whatever its case.",
    "type": "string",
    "minLength": 1,
    "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
);
schema!(
    QueryPart,
    "description": "The name or the value of a query parameter as it stands in the URL: escaped.",
    "type": "string",
    "pattern": "^[!-\"$%'-<>-~]+$"
);
schema!(
    StatusCode,
    "description": "The status of an answer.",
    "type": "integer",
    "minimum": 100,
    "maximum": 599
);
schema!(
    RedirectStatus,
    "description": "The status of a redirect.",
    "type": "integer",
    "enum": [301, 302, 303, 307, 308]
);
schema!(
    Attempts,
    "description": "How many tries after the first.",
    "type": "integer",
    "minimum": 0,
    "maximum": ATTEMPTS_MAX
);
schema!(
    HttpsUrl,
    "description": "A URL of https.",
    "type": "string",
    "maxLength": URL_BYTES_MAX,
    "pattern": "^https://[A-Za-z0-9\\[]\\S*$"
);
schema!(
    ModuleUrl,
    "description": "Where a module is: `oci://` or `https://`.",
    "type": "string",
    "maxLength": URL_BYTES_MAX,
    "pattern": "^(?:oci|https)://[A-Za-z0-9\\[]\\S*$"
);
schema!(
    WebOrigin,
    "description": "Where a page is from, as browsers send it: `https://app.example.com`, `https://*.example.com`, or `*` for anywhere.",
    "type": "string",
    "maxLength": URL_BYTES_MAX,
    "pattern": r"^(?:\*|https?://(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::[0-9]+)?)$"
);
schema!(
    Digest,
    "description": "A SHA-256 sum.",
    "type": "string",
    "pattern": "^[0-9a-f]{64}$"
);
schema!(
    AddressBlock,
    "description": "An IP address, or a block of them: `10.0.0.0/8`.",
    "type": "string",
    "pattern": "^[0-9a-fA-F:.]+(?:/[0-9]{1,3})?$"
);
schema!(
    RoleName,
    "description": "The word of a role that comes with Tombolo, or the full name of a role of one's own.",
    "type": "string",
    "pattern": "^(?:reader|auditor|traffic-admin|gateway-admin|security-admin|writer|editor|admin\
                |organizations/[a-z0-9-]+(?:/[a-z]+/[a-z0-9-]+)*/roles/[a-z0-9-]+)$"
);
schema!(
    ProviderGroup,
    "description": "A group's name as it stands in the tokens of the provider that people log in at.",
    "type": "string",
    "minLength": 1,
    "maxLength": PROVIDER_GROUP_BYTES_MAX
);
schema!(
    Condition,
    "description": "A CEL expression.",
    "type": "string",
    "minLength": 1,
    "maxLength": CONDITION_BYTES_MAX
);
schema!(
    OpenApi,
    "description": "An OpenAPI document of 3.0 or 3.1, whole: references lead to itself.",
    "type": "object",
    "required": ["openapi", "info", "servers", "paths"],
    "properties": {
        "openapi": {"type": "string", "pattern": "^3\\.[01]\\."},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {"type": "array", "minItems": 1},
        "paths": {"type": "object", "minProperties": 1}
    }
);
