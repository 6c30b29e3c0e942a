//! WASM extensions: modules that proxies run, and who may use them.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::name::Fqn;
use crate::url::{Digest, ModuleUrl};

/// A module that settings may attach to proxies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WasmExtension {
    pub url: ModuleUrl,
    /// Of the module: what is fetched from the URL and is something else does not run.
    pub sha256: Digest,
    pub phase: Phase,
    /// Of two in one phase, the greater comes first; equals by their names.
    #[serde(default)]
    pub priority: i32,
    /// The tenants that may use it; nobody when empty.
    #[serde(default)]
    pub tenants: BTreeSet<Fqn>,
    /// What the module is told at its start.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// When it sees a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the caller is known.
    Authn,
    /// When the caller is known, before it is decided.
    Authz,
    /// When the answer is known.
    Stats,
}
