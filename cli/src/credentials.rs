//! What `tombolo login` keeps, for each server: a file that its owner alone can read.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What others may not have.
const OTHERS: u32 = 0o077;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    pub(crate) token: String,
    /// By their full name.
    pub(crate) user: String,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// By the server's address.
    servers: BTreeMap<String, Login>,
}

impl Credentials {
    /// Of whoever runs the command; none when they have never logged in.
    ///
    /// # Errors
    /// The file is there and cannot be read, or others can read it.
    pub(crate) fn load() -> anyhow::Result<Credentials> {
        match place() {
            Some(path) => Credentials::read(&path),
            None => Ok(Credentials::default()),
        }
    }

    /// # Errors
    /// There is no place for it, or it cannot be written.
    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        let path = place().context("where to keep the login? set HOME or XDG_CONFIG_HOME")?;
        self.write(&path)?;
        Ok(path)
    }

    pub(crate) fn get(&self, server: &str) -> Option<&Login> {
        self.servers.get(server)
    }

    pub(crate) fn set(&mut self, server: &str, login: Login) {
        self.servers.insert(server.to_owned(), login);
    }

    pub(crate) fn remove(&mut self, server: &str) -> Option<Login> {
        self.servers.remove(server)
    }

    fn read(path: &Path) -> anyhow::Result<Credentials> {
        let shown = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Credentials::default()),
            Err(error) => return Err(error).with_context(|| format!("read the logins in {shown}")),
        };
        let mode = fs::metadata(path)
            .with_context(|| format!("look at {shown}"))?
            .permissions()
            .mode();
        ensure!(
            mode & OTHERS == 0,
            "others can read the logins in {shown}: run `chmod 600 {shown}`, and `tombolo logout` if they may have"
        );
        serde_json::from_str(&text).with_context(|| format!("read the logins in {shown}"))
    }

    /// Beside its place and renamed when it is whole, so that nobody ever reads half of it.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .with_context(|| format!("make the folder {}", folder.display()))?;
        let draft = path.with_extension(format!("{}.draft", process::id()));
        let writing = || -> anyhow::Result<()> {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE)
                .open(&draft)?;
            // Of a draft that was there already, `mode` says nothing.
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            Ok(())
        };
        let written = writing();
        if written.is_err() {
            fs::remove_file(&draft).ok();
        }
        written.with_context(|| format!("write the logins to {}", path.display()))
    }
}

fn place() -> Option<PathBuf> {
    let from = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = from("XDG_CONFIG_HOME").or_else(|| Some(from("HOME")?.join(".config")))?;
    Some(base.join("tombolo/credentials.json"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn logins_read_back_and_are_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/tombolo/credentials.json");
        assert_eq!(Credentials::read(&path).unwrap(), Credentials::default());
        let mut credentials = Credentials::default();
        let login = Login {
            token: "tb_x".to_owned(),
            user: "organizations/acme/users/ann".to_owned(),
        };
        credentials.set("http://h:1", login.clone());
        credentials.write(&path).unwrap();
        credentials.write(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            FILE_MODE
        );
        let mut read = Credentials::read(&path).unwrap();
        assert_eq!(read.get("http://h:1"), Some(&login));
        assert_eq!(read.get("http://h:2"), None);
        assert_eq!(read.remove("http://h:1"), Some(login));

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.starts_with("others can read the logins"), "{error}");
    }
}
