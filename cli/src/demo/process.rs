//! The demo's processes: each one real, with a log of its own, started and ended by its id.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::probe;

/// Every plane answers within a second or two; a busy machine may need longer for twenty of them.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);
/// This very program, also when a newer build has taken its place on disk meanwhile.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// How much of a log is shown when its process fails.
const LOG_TAIL_LINES: usize = 15;

/// How a process is started; kept, so that it can be started again as it was.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Answers 200 once the process is ready to serve.
    pub(super) ready: Option<(SocketAddr, &'static str)>,
}

pub(super) struct Process {
    recipe: Recipe,
    child: Child,
    log: PathBuf,
}

impl Recipe {
    pub(super) fn new(name: impl Into<String>, command: &str) -> Recipe {
        Recipe {
            name: name.into(),
            args: vec![command.to_owned()],
            env: vec![],
            ready: None,
        }
    }

    pub(super) fn flag(mut self, flag: &str, value: &dyn std::fmt::Display) -> Recipe {
        self.args.extend([format!("--{flag}"), value.to_string()]);
        self
    }

    pub(super) fn ready_at(mut self, address: SocketAddr, path: &'static str) -> Recipe {
        self.ready = Some((address, path));
        self
    }

    /// Starts this very program with the recipe's arguments. It gets a process group of its own, so that Ctrl-C
    /// reaches the demo alone, which then ends everybody in order.
    pub(super) fn start(&self, logs: &Path) -> anyhow::Result<Process> {
        let log = logs.join(format!("{}.log", self.name.replace('/', "-")));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = Command::new(PROGRAM)
            .args(&self.args)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        Ok(Process {
            recipe: self.clone(),
            child,
            log,
        })
    }
}

impl Process {
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let Some((address, path)) = self.recipe.ready else {
            return Ok(());
        };
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().context("look after a child")? {
                bail!(
                    "{} ended ({status}) before it was ready:\n{}",
                    self.recipe.name,
                    self.log_tail()
                );
            }
            let answer = probe::get(address, path).await;
            match answer {
                Ok(200) => return Ok(()),
                Ok(status) if Instant::now() > deadline => {
                    bail!(
                        "{} still says {status} at {path}:\n{}",
                        self.recipe.name,
                        self.log_tail()
                    )
                }
                Err(error) if Instant::now() > deadline => {
                    bail!(
                        "{} does not answer: {error}\n{}",
                        self.recipe.name,
                        self.log_tail()
                    )
                }
                _ => sleep(READY_POLL).await,
            }
        }
    }

    /// As a power cut would end it.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.recipe.name))?;
        Ok(())
    }

    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(pid) = pid else {
            bail!("{} has ended already:\n{}", self.recipe.name, self.log_tail())
        };
        kill_process(pid, signal).with_context(|| format!("signal {}", self.recipe.name))
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        format!("{}:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}
