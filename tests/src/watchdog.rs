//! Cleans up after a test process, however it ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs a shell script as soon as this value, or this process, is gone. The script finds `pid` as `$1` and `dir` as `$2`.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// Reads from a pipe whose only other end is held here.
    shell: Child,
}

impl Watchdog {
    pub(crate) fn new(script: &str, pid: u32, dir: &Path) -> Watchdog {
        let shell = Command::new("sh")
            .args([
                "-c",
                &format!("read -r _; {script}"),
                "watchdog",
                &pid.to_string(),
            ])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the Ctrl-C that ends the tests.
            .process_group(0)
            .spawn()
            .expect("cannot run sh");
        Watchdog { shell }
    }

    /// Ends the shell before its script: the process is gone, and its pid may be another's soon.
    pub(crate) fn cancel(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
