//! What a write is answered. It is made before the commit, so that it can be stored with the write.

use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use crate::change::Step;
use crate::snapshot::Snapshot;

/// Which answer a write of resources is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reply {
    /// What was done to each.
    #[default]
    Changes,
    Created(Fqn),
    Updated(Fqn),
    Deleted(Fqn),
}

/// The answer of a write that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// Without its quotes.
    pub(crate) etag: Option<String>,
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// Whether it was given before.
    pub(crate) is_replayed: bool,
}

impl Reply {
    /// After `steps`, which have led to `snapshot`.
    pub(crate) fn answer(&self, snapshot: &Snapshot, steps: &[Step]) -> Answer {
        let revision = snapshot.version.revision;
        match self {
            Reply::Changes => {
                let changes: Vec<Value> = steps.iter().map(|step| told(step, snapshot)).collect();
                Answer::ok(&json!({"revision": revision, "changes": changes}))
            }
            Reply::Created(name) => Answer {
                status: 201,
                location: Some(format!("/v1/{name}")),
                ..resource(name, snapshot)
            },
            Reply::Updated(name) => resource(name, snapshot),
            Reply::Deleted(name) => Answer::ok(&json!({"name": name, "revision": revision})),
        }
    }
}

impl Answer {
    pub(crate) fn ok(body: &Value) -> Answer {
        Answer {
            status: 200,
            location: None,
            etag: None,
            body: body.to_string().into_bytes(),
            is_replayed: false,
        }
    }
}

fn resource(name: &Fqn, snapshot: &Snapshot) -> Answer {
    let stored = snapshot.get(name);
    let stored = stored.expect("invariant: what a write has stored is in the tree that it led to");
    Answer {
        etag: Some(stored.etag.clone()),
        ..Answer::ok(&snapshot.to_json(stored))
    }
}

fn told(step: &Step, snapshot: &Snapshot) -> Value {
    let mut told = json!({"name": step.name(), "action": step.action()});
    if let Some(stored) = snapshot.get(step.name()) {
        told["etag"] = stored.etag.clone().into();
        told["revision"] = stored.revision.into();
    }
    told
}
