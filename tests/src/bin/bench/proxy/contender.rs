//! A proxy that takes part.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tombolo_tests::ads::{Ads, Resources};
use tombolo_tests::process::{Process, Usage};
use tombolo_tests::proxy::{Proxy, Software};
use tombolo_tests::within;

use super::node;
use crate::load::{Load, Outcome};

const START_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Contender {
    pub(super) listener: SocketAddr,
    running: Running,
}

enum Running {
    Xds { proxy: Proxy, ads: Arc<Ads> },
    File(Process),
}

impl Contender {
    /// A proxy that is given `resources`, which have it listen at `listener`; `id` tells it from the others of the bench.
    pub(super) async fn over_xds(
        software: Software,
        id: &str,
        listener: SocketAddr,
        resources: Resources,
        dir: &Path,
    ) -> Result<Contender> {
        Contender::under_plane(software, id, listener, Arc::new(Ads::start(resources).await), dir).await
    }

    /// [`Contender::over_xds`] from a control plane that runs.
    pub(super) async fn under_plane(
        software: Software,
        id: &str,
        listener: SocketAddr,
        ads: Arc<Ads>,
        dir: &Path,
    ) -> Result<Contender> {
        let proxy = Proxy::start(software, &node(id), ads.address(), &crate::tombolo()?, dir)
            .await
            .with_context(|| format!("cannot start {}", software.name()))?;
        Ok(Contender {
            listener,
            running: Running::Xds { proxy, ads },
        })
    }

    pub(super) fn of_file(listener: SocketAddr, process: Process) -> Contender {
        Contender {
            listener,
            running: Running::File(process),
        }
    }

    /// Waits until a request as `load` sends them is answered.
    pub(super) async fn serves(&self, load: Load) -> Result<()> {
        within(START_TIMEOUT, async || {
            load.single().run(self.listener).await?.whole()
        })
        .await
        .map(drop)
        .with_context(|| format!("it does not serve; its log ends with:\n{}", self.log_tail()))
    }

    /// Sends the load through it; what came of it, and what it used before and after.
    pub(super) async fn under(&self, load: Load) -> Result<(Outcome, [Usage; 2])> {
        let before = self.usage()?;
        let outcome = load.run(self.listener).await?;
        Ok((outcome, [before, self.usage()?]))
    }

    pub(super) fn publish(&self, resources: Resources) {
        match &self.running {
            Running::Xds { ads, .. } => ads.publish(resources),
            Running::File(_) => unreachable!("invariant: it is configured over xDS"),
        }
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(match &self.running {
            Running::Xds { proxy, .. } => proxy.pid(),
            Running::File(process) => process.pid(),
        })
    }

    fn log_tail(&self) -> String {
        match &self.running {
            Running::Xds { proxy, .. } => proxy.log_tail(),
            Running::File(process) => process.log_tail(),
        }
    }
}
