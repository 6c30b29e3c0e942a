//! What the tests of the whole share: real Postgres and real Envoy, and waiting without sleeping blindly.
//!
//! Everything here panics when a test cannot run, saying what is missing: a test never passes quietly.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub mod ads;
pub mod browser;
pub mod central;
pub mod client;
pub mod console;
pub mod edits;
pub mod envoy;
pub mod feed;
pub mod island;
pub mod issuer;

pub mod mesh;
pub mod oidc;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod upstream;

mod watchdog;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is `Ok`, and gives it; panics with the last error when
/// `deadline` has passed.
pub async fn eventually<T, F>(deadline: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "not within {deadline:?}: {error:#}"),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// As [`eventually`], but gives the last error to the caller: for programs and for what knows more to say of it.
///
/// # Errors
/// The last answer when `deadline` has passed.
pub async fn within<T>(
    deadline: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("not within {deadline:?}")));
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

/// A TCP port on the loopback address that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind a port on 127.0.0.1");
    listener
        .local_addr()
        .expect("invariant: a bound listener has an address")
        .port()
}

/// The `tombolo` binary of the profile that this test was built in.
pub fn tombolo_binary() -> PathBuf {
    let own = std::env::current_exe().expect("cannot tell the path of this program");
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("tombolo"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no tombolo binary beside {}; run `cargo build --workspace --bin tombolo`",
            own.display()
        )
    })
}
