//! The user that the server runs as when we are root, which Postgres refuses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::EmbeddedError;

/// In order of preference.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// Nothing when we are not root: the server then runs as we do.
    pub(super) async fn for_server() -> Result<Option<Account>, EmbeddedError> {
        if id(&["-u"]).await != Some(0) {
            return Ok(None);
        }
        for name in CANDIDATES {
            if let (Some(uid), Some(gid)) = (id(&["-u", name]).await, id(&["-g", name]).await) {
                return Ok(Some(Account {
                    name: name.to_owned(),
                    uid,
                    gid,
                }));
            }
        }
        Err(EmbeddedError::NoAccount)
    }

    /// Drops our privileges, and with them root's supplementary groups.
    pub(super) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Whether this account may pass through `dir` and all its parents; `dir` must be canonical.
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        dir.ancestors().all(|part| {
            fs::metadata(part).is_ok_and(|found| self.may_execute(found.uid(), found.gid(), found.mode()))
        })
    }

    fn may_execute(&self, owner: u32, group: u32, mode: u32) -> bool {
        let bit = match () {
            () if owner == self.uid => 0o100,
            () if group == self.gid => 0o010,
            () => 0o001,
        };
        mode & bit != 0
    }
}

/// Asks `id`, which also knows users that are not in `/etc/passwd`.
async fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    if output.status.success() {
        text.trim().parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_permission_decides() {
        let account = Account {
            name: "postgres".into(),
            uid: 101,
            gid: 104,
        };
        let cases = [
            (0, 0, 0o755, true),
            (0, 0, 0o750, false),
            (101, 0, 0o700, true),
            (101, 0, 0o655, false),
            (0, 104, 0o710, true),
            (0, 104, 0o701, false),
        ];
        for (owner, group, mode, allowed) in cases {
            assert_eq!(
                account.may_execute(owner, group, mode),
                allowed,
                "{owner}:{group} {mode:o}"
            );
        }
    }
}
