//! A process of the system under test: started, frozen, measured, and ended with whoever started it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::watchdog::Watchdog;

/// Linux counts a process's CPU time in these on every architecture that we run on (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A child process whose output goes to a file; killed on drop, and when the process that started it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    watchdog: Watchdog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Kill,
    /// Freezes it: it holds its ports and answers nothing.
    Stop,
    Continue,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In user and kernel mode, of all threads.
    pub cpu: Duration,
    /// In user mode alone, as far as the kernel's clock ticks tell: what is left of [`Self::cpu`] are system calls.
    pub user: Duration,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

impl Process {
    /// Starts `command` with its output in `LOG_DIR/NAME.log`, which is appended to.
    ///
    /// # Errors
    /// The log cannot be created or the program cannot be run.
    pub fn start(name: &str, command: &mut Command, log_dir: &Path) -> Result<Process> {
        fs::create_dir_all(log_dir).context("cannot create the folder of the logs")?;
        let log = log_dir.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let watchdog = Watchdog::new("kill -KILL \"$1\"", child.id(), log_dir);
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            watchdog,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// It has ended; then the end of its log is in the text.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait().context("cannot ask for its state")?;
        ensure!(
            ended.is_none(),
            "{} has ended with {}; its log ends with:\n{}",
            self.name,
            ended.unwrap_or_default(),
            self.log_tail()
        );
        Ok(())
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        // A signal needs either unsafe code or another process.
        let script = format!("kill -{} {}", signal.name(), self.pid());
        let sent = Command::new("sh").args(["-c", &script]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "cannot send {signal:?} to {} ({})",
            self.name,
            self.pid()
        );
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to end, and kills it when it has not after `grace`.
    ///
    /// # Errors
    /// It had to be killed, or it ended with a failure.
    pub fn terminate(mut self, grace: Duration) -> Result<()> {
        self.check()?;
        self.signal(Signal::Terminate);
        let (ended, wait) = mpsc::channel();
        let pid = self.pid();
        let status = thread::scope(|scope| {
            let child = &mut self.child;
            scope.spawn(move || ended.send(child.wait()));
            let first = wait.recv_timeout(grace);
            if first.is_err() {
                let _ = Command::new("sh")
                    .args(["-c", &format!("kill -KILL {pid}")])
                    .status();
            }
            first
        });
        let status = status
            .with_context(|| format!("{} did not end within {grace:?}", self.name))?
            .context("cannot wait for it")?;
        ensure!(
            status.success(),
            "{} ended with {status}; its log ends with:\n{}",
            self.name,
            self.log_tail()
        );
        Ok(())
    }

    pub(crate) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.watchdog.cancel();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        }
    }
}

impl Usage {
    /// # Errors
    /// The process is gone.
    pub fn of(pid: u32) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let [user, system] = cpu(&read("stat")?).context("cannot parse /proc/PID/stat")?;
        Ok(Usage {
            cpu: user + system,
            user,
            rss_bytes: rss_bytes(&read("status")?).context("cannot parse /proc/PID/status")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .with_context(|| format!("cannot read /proc/{pid}/fd"))?
                .count(),
        })
    }
}

/// In user and in kernel mode: fields 14 and 15 of proc_pid_stat(5); the second field, a name in parentheses, may hold anything.
fn cpu(stat: &str) -> Option<[Duration; 2]> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    };
    Some([next()?, next()?])
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 1 0 99";
        assert_eq!(cpu(stat), Some([2500, 500].map(Duration::from_millis)));
        assert_eq!(rss_bytes("VmPeak:\t 1 kB\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
        for bad in ["", "42 (a) S 1", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(cpu(bad), None, "{bad}");
            assert_eq!(rss_bytes(bad), None, "{bad}");
        }
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.rss_bytes > 0 && own.descriptors > 0);
    }

    #[tokio::test]
    async fn a_process_says_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let shell = |name: &str, script: &str| {
            Process::start(name, Command::new("sh").args(["-c", script]), dir.path()).unwrap()
        };
        let mut failing = shell("failing", "echo no luck; exit 3");
        let words = eventually(Duration::from_secs(5), || {
            let ended = failing.check();
            async { ended.map_or_else(|error| Ok(error.to_string()), |()| anyhow::bail!("it runs")) }
        })
        .await;
        assert!(
            words.contains("exit status: 3") && words.contains("no luck"),
            "{words}"
        );

        let deaf = shell("deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done");
        eventually(Duration::from_secs(5), || async {
            ensure!(deaf.log_tail() == "deaf", "it has not set its trap");
            Ok(())
        })
        .await;
        let error = deaf.terminate(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error:#}");
    }
}
