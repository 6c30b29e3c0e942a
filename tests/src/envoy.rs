//! A real Envoy, driven by a bootstrap that the test writes.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::POLL_INTERVAL;
use crate::watchdog::Watchdog;

/// Envoy waits up to 15 s for the first answer of its control plane before it says that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running Envoy with one worker; killed on drop.
#[derive(Debug)]
pub struct Envoy {
    process: Child,
    admin: SocketAddr,
    dir: TempDir,
    watchdog: Watchdog,
}

impl Envoy {
    /// Starts Envoy with this bootstrap and waits until its admin port says that it is ready. The bootstrap must
    /// have an `admin.address` on 127.0.0.1; port 0 will do.
    ///
    /// # Errors
    /// There is no Envoy binary, or it did not get ready; then the end of its log is in the text.
    pub async fn start(bootstrap_yaml: &str) -> Result<Envoy> {
        let binary = binary()?;
        let dir = tempfile::Builder::new().prefix("tombolo-envoy-").tempdir()?;
        let (config, log, admin_file) = (
            dir.path().join("bootstrap.yaml"),
            dir.path().join("log"),
            dir.path().join("admin"),
        );
        fs::write(&config, bootstrap_yaml).context("cannot write the bootstrap")?;
        let mut process = Command::new(&binary)
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_file)
            // Hot restart would need a shared memory region per process.
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "info",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot create the log")?)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let mut watchdog = Watchdog::new("kill -KILL \"$1\"; rm -rf \"$2\"", process.id(), dir.path());

        match await_ready(&mut process, &admin_file).await {
            Ok(admin) => Ok(Envoy {
                process,
                admin,
                dir,
                watchdog,
            }),
            Err(error) => {
                stop(&mut process);
                watchdog.cancel();
                Err(error.context(format!(
                    "envoy did not get ready; its log ends with:\n{}",
                    tail(&log)
                )))
            }
        }
    }

    /// The address of the admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process id, for measurements and for tests that freeze it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.dir.path().join("log"))
    }

    /// The body that the admin port answers with to a GET.
    ///
    /// # Errors
    /// The port cannot be reached or its status is not 200.
    pub async fn admin_get(&self, path: &str) -> Result<String> {
        admin_get(self.admin, path).await
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        stop(&mut self.process);
        self.watchdog.cancel();
    }
}

fn binary() -> Result<PathBuf> {
    let path = env::var_os("TOMBOLO_ENVOY").map(PathBuf::from).context(
        "TOMBOLO_ENVOY is not set; run `cargo xtask test`, or export what `cargo xtask assets` prints",
    )?;
    ensure!(path.is_file(), "TOMBOLO_ENVOY={} is not a file", path.display());
    Ok(path)
}

async fn await_ready(process: &mut Child, admin_file: &PathBuf) -> Result<SocketAddr> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        if let Some(status) = process.try_wait().context("cannot wait for envoy")? {
            anyhow::bail!("it exited with {status}");
        }
        let attempt = async {
            let text = fs::read_to_string(admin_file).context("it has no admin port yet")?;
            let admin = text
                .trim()
                .parse()
                .with_context(|| format!("bad admin address {text:?}"))?;
            admin_get(admin, "/ready").await.map(|_| admin)
        };
        match attempt.await {
            Ok(admin) => return Ok(admin),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

async fn admin_get(admin: SocketAddr, path: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(ADMIN_TIMEOUT, exchange)
        .await
        .context("the admin port did not answer in time")??;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the admin port did not answer in HTTP")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "GET {path}: {}", answer.trim());
    Ok(
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            unchunked(body)
        } else {
            body.to_owned()
        },
    )
}

/// The content of a chunked body that is all there.
fn unchunked(mut body: &str) -> String {
    let mut content = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some((chunk, rest)) = rest.split_at_checked(size).filter(|_| size > 0) else {
            break;
        };
        content.push_str(chunk);
        body = rest.strip_prefix("\r\n").unwrap_or(rest);
    }
    content
}

fn stop(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

fn tail(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let cases = [
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("2\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\n", "ab0123456789"),
            ("0\r\n\r\n", ""),
            ("", ""),
        ];
        for (body, content) in cases {
            assert_eq!(unchunked(body), content, "{body:?}");
        }
    }
}
