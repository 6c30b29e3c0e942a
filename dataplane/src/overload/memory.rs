//! How much memory this process has, and may have: by its cgroup and all above it, of either version.

use std::fs::read_to_string;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// How the files of a group are called.
struct Version {
    limit: &'static str,
    used: &'static str,
    /// Of `memory.stat`, caches with all groups below: that of the files that are read again and again too, and that of their names,
    /// since a group that shares its disk with a busy one would else seem full all the time.
    cache: &'static [&'static str],
}

const V2: Version = Version {
    limit: "memory.max",
    used: "memory.current",
    cache: &["inactive_file", "active_file", "slab_reclaimable"],
};

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: &["total_inactive_file", "total_active_file"],
};

/// Bytes, of those that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) used: u64,
    pub(super) limit: u64,
}

struct Group {
    folder: PathBuf,
    version: &'static Version,
}

impl Share {
    /// Whether it is nearer to its limit.
    pub(super) fn is_nearer(self, other: Self) -> bool {
        let part = |of: Self, by: Self| u128::from(of.used) * u128::from(by.limit);
        part(self, other) > part(other, self)
    }
}

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

/// What the groups of this process have and may have, where any of them has a limit; `own` is what this process has by itself, where
/// they do not say what they have.
pub(super) fn of_groups(own: u64) -> io::Result<Option<Share>> {
    tightest(Path::new("/proc/self/cgroup"), Path::new(GROUPS), own)
}

/// Of its own group, all that shares it counts, since the kernel ends any of them. The groups above have room for as much more as they
/// are below their limits; what another group of theirs has of a limit of its own is nothing to this process as long as there is room.
fn tightest(groups: &Path, root: &Path, own: u64) -> io::Result<Option<Share>> {
    let read = |group: Group| io::Result::Ok((group.used()?, group.limit()?));
    let read: Vec<_> = found(&said(groups)?, root)
        .into_iter()
        .map(read)
        .collect::<Result<_, _>>()?;
    let used = read.iter().find_map(|(used, _)| *used).unwrap_or(own);
    let room = read
        .iter()
        .filter_map(|(of_group, limit)| Some((*limit)?.saturating_sub(of_group.unwrap_or(used))));
    Ok(room.min().map(|room| Share {
        used,
        limit: used.saturating_add(room),
    }))
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

/// The groups that are listed so, and those above them. In a container it is the folder itself.
fn found(groups: &str, root: &Path) -> Vec<Group> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, version) = match controllers {
            "" => (root.to_owned(), &V2),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), &V1)
            }
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        let above = group.ancestors().take_while(|above| above.starts_with(&root));
        found.extend(above.map(|folder| Group {
            folder: folder.to_owned(),
            version,
        }));
    }
    found
}

impl Group {
    fn said(&self, file: &str) -> io::Result<String> {
        said(&self.folder.join(file))
    }

    fn limit(&self) -> io::Result<Option<u64>> {
        Ok(limit(&self.said(self.version.limit)?))
    }

    /// Less what the kernel takes back before it ends anybody; `None` where the group does not say.
    fn used(&self) -> io::Result<Option<u64>> {
        let used: Option<u64> = self.said(self.version.used)?.trim().parse().ok();
        let Some(used) = used else { return Ok(None) };
        let stat = self.said("memory.stat")?;
        let cache = self.version.cache.iter().map(|name| value(&stat, name)).sum();
        Ok(Some(used.saturating_sub(cache)))
    }
}

/// 0 where there is none.
fn value(stat: &str, name: &str) -> u64 {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(found, _)| *found == name);
    found
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
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
        let share = || tightest(&groups, &root, 100);
        assert_eq!(share().unwrap(), None);
        std::fs::write(&groups, "0::/a/b\n").unwrap();
        assert_eq!(share().unwrap(), None);
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/memory.max"), "4096\n").unwrap();
        std::fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        let limit = |used, limit| Some(Share { used, limit });
        assert_eq!(share().unwrap(), limit(100, 4096));
        std::fs::create_dir(root.join("memory.max")).unwrap();
        assert!(share().is_err());
    }

    /// Of one group in another one: what each has, how much of it is cache, and may have.
    #[test]
    fn what_shares_a_group_counts_and_what_has_a_limit_of_its_own_does_not() {
        type Given = (u64, u64, Option<u64>);
        let share = |used, limit| Some(Share { used, limit });
        let cases: [(Given, Given, Option<Share>); 8] = [
            ((60, 0, None), (4000, 0, None), None),
            ((60, 0, Some(256)), (4000, 0, None), share(60, 256)),
            // With others in its own group.
            ((460, 0, Some(512)), (460, 0, None), share(460, 512)),
            // What is only cache is taken back.
            ((460, 400, Some(512)), (4000, 0, None), share(60, 512)),
            // A pod, of which another container has nearly all of its own limit.
            ((60, 0, Some(256)), (3960, 0, Some(4352)), share(60, 256)),
            // One that has no limit of its own, in a pod that has.
            ((60, 0, None), (3960, 0, Some(4352)), share(60, 452)),
            ((60, 0, Some(256)), (4350, 0, Some(4352)), share(60, 62)),
            ((60, 0, Some(256)), (4400, 10, Some(4352)), share(60, 60)),
        ];
        for (version, line, folder) in [
            (&V2, "0::/a/b\n", "a/b"),
            (&V1, "3:memory,cpu:/a/b\n", "memory/a/b"),
        ] {
            for (own, above, expected) in &cases {
                let dir = tempfile::tempdir().unwrap();
                let (groups, root) = (dir.path().join("cgroup"), dir.path().join("root"));
                std::fs::write(&groups, line).unwrap();
                let folder = root.join(folder);
                std::fs::create_dir_all(&folder).unwrap();
                for (folder, (used, cache, limit)) in [(&*folder, own), (folder.parent().unwrap(), above)] {
                    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
                    // All but the last have a quarter each.
                    let mut left = *cache;
                    let mut stat = "anon 7\n".to_owned();
                    for (place, name) in version.cache.iter().enumerate() {
                        let is_last = place + 1 == version.cache.len();
                        let part = if is_last { left } else { cache / 4 };
                        left -= part;
                        stat.push_str(&format!("{name} {part}\nx{name} 9\n"));
                    }
                    write("memory.stat", stat);
                    write(version.used, format!("{used}\n"));
                    let limit = limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
                    write(version.limit, limit);
                }
                assert_eq!(
                    tightest(&groups, &root, 1).unwrap(),
                    *expected,
                    "{own:?} in {above:?}"
                );
            }
        }
    }

    #[test]
    fn the_limit_that_is_nearer() {
        for (used, limit, than_used, than_limit, expected) in [
            (90, 100, 80, 100, true),
            (80, 100, 90, 100, false),
            (80, 100, 80, 100, false),
            (60, 62, 60, 256, true),
            (1, 0, 1, 100, true),
            (u64::MAX, u64::MAX, 1, 2, true),
        ] {
            let (share, than) = (
                Share { used, limit },
                Share {
                    used: than_used,
                    limit: than_limit,
                },
            );
            assert_eq!(share.is_nearer(than), expected, "{share:?} {than:?}");
        }
    }

    #[test]
    fn groups_are_asked_from_the_own_one_upwards() {
        let root = Path::new("/g");
        let cases: [(&str, &[&str]); 5] = [
            ("0::/\n", &["/g"]),
            (
                "0::/system.slice/p.service\n",
                &["/g/system.slice/p.service", "/g/system.slice", "/g"],
            ),
            (
                "5:cpu,memory:/docker/a\n4:pids:/docker/a\n",
                &["/g/memory/docker/a", "/g/memory/docker", "/g/memory"],
            ),
            ("1:name=systemd:/x\n", &[]),
            ("nothing", &[]),
        ];
        for (groups, expected) in cases {
            let found: Vec<PathBuf> = found(groups, root)
                .into_iter()
                .map(|group| group.folder)
                .collect();
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
