//! How much memory this process has, and may have: by its cgroup and all above it, of either version.

use std::fs::read_to_string;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Resident bytes of this process.
pub(super) fn used() -> io::Result<u64> {
    let statm = read_to_string("/proc/self/statm")?;
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    let pages: u64 = pages.ok_or(ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The least of what the groups of this process may have; `None` where none of them has a limit.
pub(super) fn of_groups() -> io::Result<Option<u64>> {
    least(Path::new("/proc/self/cgroup"), Path::new(GROUPS))
}

fn least(groups: &Path, root: &Path) -> io::Result<Option<u64>> {
    let mut least: Option<u64> = None;
    for file in files(&said(groups)?, root) {
        let limit = limit(&said(&file)?);
        least = least.into_iter().chain(limit).min();
    }
    Ok(least)
}

/// What is not there, or not for us to see, says nothing; what cannot be read now may say what it did.
fn said(file: &Path) -> io::Result<String> {
    match read_to_string(file) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Ok(String::new())
        }
        said => said,
    }
}

/// The files that may say a limit, of the groups that are listed so, and of those above them. In a container it is the folder
/// itself.
fn files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        let above = group.ancestors().take_while(|above| above.starts_with(&root));
        files.extend(above.map(|above| above.join(name)));
    }
    files
}

/// `max`, or a number that no machine has, is none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some() {
        assert!(used().unwrap() > 1 << 20);
    }

    #[test]
    fn what_is_not_there_is_no_limit_and_what_cannot_be_read_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let (groups, root) = (dir.path().join("cgroup"), dir.path().join("root"));
        assert_eq!(least(&groups, &root).unwrap(), None);
        std::fs::write(&groups, "0::/a/b\n").unwrap();
        assert_eq!(least(&groups, &root).unwrap(), None);
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/memory.max"), "4096\n").unwrap();
        std::fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        assert_eq!(least(&groups, &root).unwrap(), Some(4096));
        std::fs::create_dir(root.join("memory.max")).unwrap();
        assert!(least(&groups, &root).is_err());
    }

    #[test]
    fn groups_are_asked_from_the_own_one_upwards() {
        let root = Path::new("/g");
        let cases: [(&str, &[&str]); 5] = [
            ("0::/\n", &["/g/memory.max"]),
            (
                "0::/system.slice/p.service\n",
                &[
                    "/g/system.slice/p.service/memory.max",
                    "/g/system.slice/memory.max",
                    "/g/memory.max",
                ],
            ),
            (
                "5:cpu,memory:/docker/a\n4:pids:/docker/a\n",
                &[
                    "/g/memory/docker/a/memory.limit_in_bytes",
                    "/g/memory/docker/memory.limit_in_bytes",
                    "/g/memory/memory.limit_in_bytes",
                ],
            ),
            ("1:name=systemd:/x\n", &[]),
            ("nothing", &[]),
        ];
        for (groups, expected) in cases {
            let found = files(groups, root);
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{groups:?}");
        }
    }

    #[test]
    fn limits() {
        for (text, expected) in [
            ("max\n", None),
            ("536870912\n", Some(536_870_912)),
            ("9223372036854771712\n", None),
            ("", None),
        ] {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }
}
