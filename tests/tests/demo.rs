//! `tombolo demo`: what it leaves behind. The story itself is played by `cargo xtask demo --once`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use tombolo_tests::{eventually, tombolo_binary};

const DEADLINE: Duration = Duration::from_secs(20);

/// Ends the demo with the test, also with one that fails.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes whose command line names the folder.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&dir) && !line.contains(" demo "))
        .collect()
}

#[tokio::test]
async fn interrupted_it_leaves_no_process_and_no_data() {
    let parent = tempfile::Builder::new()
        .prefix("demo")
        .tempdir_in("/var/tmp")
        .unwrap();
    let dir = parent.path().join("mesh");
    open_to_everyone(parent.path()).unwrap();
    for signal in ["INT", "HUP"] {
        let mut command = Command::new(tombolo_binary());
        command.args(["demo", "--once", "--dir"]).arg(&dir);
        // A Ctrl-C on a terminal goes to the whole group; this one goes to the demo alone.
        command.process_group(0).stdout(Stdio::piped());
        let mut demo = Demo(command.spawn().unwrap());
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
        let up = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.starts_with("up after"));
        assert!(up.is_some(), "the demo never came up");
        assert!(!processes_of(&dir).is_empty());
        let killed = Command::new("kill")
            .args(["-s", signal, &demo.0.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let status = demo.0.wait().unwrap();
        assert!(!status.success(), "{rest:?}");
        eventually(DEADLINE, || async {
            let left = processes_of(&dir);
            ensure!(left.is_empty(), "after SIG{signal}: {left:?}");
            Ok(())
        })
        .await;
        assert!(!dir.exists(), "after SIG{signal}");
    }
}

#[test]
fn somebody_elses_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, "data").unwrap();
    let output = Command::new(tombolo_binary())
        .args(["demo", "--once", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("is not empty"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
}

/// Postgres does not run as root and must get at its data.
fn open_to_everyone(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?)
}
