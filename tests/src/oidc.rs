//! A real OpenID provider as a process of its own: `tests/oidc/provider.mjs` on Node.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tombolo_management::OidcConfig;

use crate::process::Process;
use crate::within;

/// Node compiles the provider's modules first, on a machine that may be busy.
const START_TIME_MAX: Duration = Duration::from_secs(60);
const SECRET: &str = "what management and the provider share";

#[derive(Debug)]
pub struct OidcProvider {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl OidcProvider {
    /// `people` are the claims of everybody whom it knows, by subject. A browser that does not say who is in front of it is
    /// that of the first.
    pub async fn start(people: &Value) -> OidcProvider {
        OidcProvider::try_start(people)
            .await
            .unwrap_or_else(|error| panic!("cannot start an OpenID provider: {error:#}"))
    }

    async fn try_start(people: &Value) -> Result<OidcProvider> {
        let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
        let file = dir.path().join("people.json");
        fs::write(&file, people.to_string()).context("cannot write down who there is")?;
        let visitor = people.as_object().and_then(|people| people.keys().next());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc/provider.mjs");
        let mut command = Command::new("node");
        command
            .arg(script)
            .env("TOMBOLO_OIDC_PROVIDER", modules()?)
            .env("PEOPLE", &file)
            .env("VISITOR", visitor.map_or("", String::as_str))
            .env("CLIENT_SECRET", SECRET);
        let mut process = Process::start("oidc-provider", &mut command, dir.path())?;
        let port = within(START_TIME_MAX, async || {
            process.check()?;
            let log = process.log_tail();
            let said = log.lines().find_map(|line| line.strip_prefix("listening on "));
            said.context("it does not listen yet")?
                .parse()
                .context("it tells no port")
        })
        .await?;
        Ok(OidcProvider { process, port, dir })
    }

    /// Whoever logs in from now on is as described here.
    pub fn set_people(&self, people: &Value) {
        let file = self.dir.path().join("people.json");
        fs::write(file, people.to_string()).expect("cannot write down who there is");
    }

    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What management is to know of it.
    pub fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer(),
            client_id: "tombolo".to_owned(),
            client_secret: Some(SECRET.to_owned()),
            scopes: vec!["profile".to_owned(), "email".to_owned()],
            groups_claim: "groups".to_owned(),
            authorities: None,
        }
    }

    /// What it has said last.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

fn modules() -> Result<PathBuf> {
    let dir = env::var_os("TOMBOLO_OIDC_PROVIDER").map(PathBuf::from).context(
        "TOMBOLO_OIDC_PROVIDER is not set; run `cargo xtask test`, or export what `cargo xtask assets` prints",
    )?;
    ensure!(
        dir.join("node_modules/oidc-provider").is_dir(),
        "TOMBOLO_OIDC_PROVIDER={} has no node_modules/oidc-provider",
        dir.display()
    );
    Ok(dir)
}
