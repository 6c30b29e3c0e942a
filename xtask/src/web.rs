//! Building and testing the web admin, which takes Node. Its packages are those of `web/package-lock.json`,
//! and the browser's those of `web/e2e/package-lock.json`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// The folder with the built admin; `tombolo` and the tests read it too.
pub(crate) const DIR_ENV: &str = "TOMBOLO_WEB_DIR";
/// What Vite runs on.
const NODE_MIN: [u32; 2] = [20, 19];

/// Whether it can be built here; the error says what is missing.
pub(crate) fn require_node() -> Result<()> {
    let [major, minor] = NODE_MIN;
    let wanted = format!("install Node {major}.{minor} or newer, with npm");
    let output = Command::new("node")
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let output = output.with_context(|| format!("there is no `node`: {wanted}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = version(&text).with_context(|| format!("`node --version` says {text:?}: {wanted}"))?;
    ensure!(found >= NODE_MIN, "Node is {}: {wanted}", text.trim());
    let npm = Command::new("npm")
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    npm.with_context(|| format!("there is no `npm`: {wanted}"))?;
    Ok(())
}

/// Installs what is not installed yet and builds; the folder is what management serves.
pub(crate) fn build() -> Result<PathBuf> {
    require_node()?;
    let web = folder();
    install(&web, "the web admin's packages")?;
    eprintln!("web admin: building (npm run build)");
    npm(&web, &["run", "--silent", "build", "--", "--logLevel", "warn"])?;
    Ok(web.join("dist"))
}

/// Runs what needs no browser, and installs the browser for what does.
pub(crate) fn test() -> Result<()> {
    npm(&folder(), &["run", "--silent", "test"])?;
    install(&folder().join("e2e"), "a browser (70 MB)")
}

/// Unless it is done.
fn install(folder: &Path, what: &str) -> Result<()> {
    if is_installed(folder) {
        return Ok(());
    }
    eprintln!("web admin: fetching {what} (npm ci)");
    npm(folder, &["ci", "--no-audit", "--no-fund", "--loglevel=error"])
}

/// As `v20.20.2`.
fn version(text: &str) -> Option<[u32; 2]> {
    let mut parts = text.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some([parts.next()?.ok()?, parts.next()?.ok()?])
}

/// npm writes its own lock when it has installed all of ours.
fn is_installed(folder: &Path) -> bool {
    let written =
        |path: &str| -> Option<SystemTime> { fs::metadata(folder.join(path)).ok()?.modified().ok() };
    let (wanted, installed) = (
        written("package-lock.json"),
        written("node_modules/.package-lock.json"),
    );
    installed.is_some() && installed >= wanted
}

fn npm(folder: &Path, args: &[&str]) -> Result<()> {
    let status = Command::new("npm")
        .args(args)
        .current_dir(folder)
        // Its output is progress, and ours may be read by a program.
        .stdout(std::io::stderr())
        .status()
        .context("cannot run npm")?;
    ensure!(
        status.success(),
        "`npm {}` failed in {}",
        args.join(" "),
        folder.display()
    );
    Ok(())
}

fn folder() -> PathBuf {
    cargo::root().join("web")
}

/// Where all must be tested that can be.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version("v20.20.2\n"), Some([20, 20]));
        assert!(version("v22.4.0") > Some(NODE_MIN));
        assert!(version("v20.9.0") < Some(NODE_MIN));
        assert_eq!(version("node"), None);
    }
}
