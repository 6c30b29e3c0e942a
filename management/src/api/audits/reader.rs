//! What of the record a caller may read. Most may read all of some nodes and of what stands below them, which is looked up; of
//! a role of some kinds, with a scope, or under a condition, each record is decided by itself.

use std::sync::Arc;

use serde::Deserialize;
use tombolo_compiler::name::Fqn;

use super::super::App;
use crate::caller::Caller;
use crate::iam::{self, Action};
use crate::snapshot::Snapshot;
use crate::store::audit::Listed;

pub(super) struct Reader {
    /// It may read nothing that is neither about these nor about what stands below them.
    pub(super) nodes: Vec<String>,
    /// Who decides of each record there; nobody where all may be read.
    judge: Option<(Arc<Snapshot>, Caller)>,
}

/// Of a record, what it is about.
#[derive(Deserialize)]
struct Subject {
    name: String,
}

impl Reader {
    pub(super) fn of(app: &App, caller: &Caller) -> Reader {
        let snapshot = app.writes.snapshot();
        let reach = snapshot.bindings.reach(&caller.principal, Action::ReadAudit);
        Reader {
            nodes: reach.nodes.iter().map(Fqn::to_string).collect(),
            judge: (!reach.is_whole).then(|| (snapshot, caller.clone())),
        }
    }

    /// Whether no record has to be looked at before it is shown.
    pub(super) fn may_read_all(&self) -> bool {
        self.judge.is_none()
    }

    pub(super) fn may_read_all_of(&self, organization: &Fqn) -> bool {
        self.may_read_all() && self.nodes.iter().any(|node| node == organization.as_str())
    }

    /// One that is about the nodes, or about what stands below them.
    pub(super) fn may_read(&self, listed: &Listed) -> bool {
        let Some((snapshot, caller)) = &self.judge else {
            return true;
        };
        let subject = serde_json::from_slice::<Subject>(&listed.bytes);
        let name: Option<Fqn> = subject.ok().and_then(|subject| subject.name.parse().ok());
        name.is_some_and(|name| {
            iam::may(&caller.asker(), Action::ReadAudit, &name, &snapshot.bindings).is_some()
        })
    }
}
