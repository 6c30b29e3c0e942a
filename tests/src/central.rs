//! A central that tells management what a test says that clusters report, and is nothing else of a central.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_proto::codec;
use tombolo_proto::held::Held;
use tombolo_proto::link::{self, Inputs};
use tombolo_proto::resource::Set;
use tombolo_proto::session::{Action, Expect, Party, Publication, Session};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::{self, Identity};

use crate::feed::{ORGANIZATION, stamp};

const NAME: &str = "reporter";
/// Until management has taken a report, on a machine that may be busy.
const TAKEN_TIME_MAX: Duration = Duration::from_secs(60);

/// Gone on drop.
#[derive(Debug)]
pub struct Central {
    task: JoinHandle<()>,
}

impl Central {
    /// Returns when management has taken what the clusters report.
    ///
    /// # Errors
    /// Management cannot be reached with an identity that `authority` gives, or does not take it.
    pub async fn report(
        authority: &Authority,
        management: SocketAddr,
        dir: &Path,
        clusters: &BTreeMap<ClusterName, ClusterReport>,
    ) -> Result<Central> {
        tls::install_crypto();
        let files = dir.join(NAME);
        let id =
            PlaneId::new(ORGANIZATION, Plane::Central, NAME).context("invariant: the names are valid")?;
        authority.issue(&id, &files).context("cannot issue an identity")?;
        let identity = Arc::new(Identity::load(&files).context("cannot load the identity")?);
        let channel = tls::connect(&format!("https://{management}"), Plane::Management, identity)
            .await
            .context("cannot reach management")?;
        let link = link::dial(channel).await.context("cannot dial the feed")?;
        let publication = Publication {
            stamp: stamp(NAME, 1, 1, 0),
            set: Arc::new(reported(clusters)?),
            complete: true,
        };
        let party = Party {
            node: NAME.to_owned(),
            plane: Plane::Central.to_string(),
        };
        let expect = Expect {
            plane: Plane::Management.to_string(),
            node: None,
        };
        let (taken, is_taken) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut session = Session::new(party, expect, Held::default());
            let (_reports, publications) = watch::channel(Some(publication));
            let (_events, events) = mpsc::channel(1);
            let mut inputs = Inputs { publications, events };
            let mut taken = Some(taken);
            // Why it ended is the business of the test that management ended it for.
            let _ = link
                .drive(&mut session, &mut inputs, |action| {
                    if matches!(action, Action::PeerAcked(_))
                        && let Some(taken) = taken.take()
                    {
                        let _ = taken.send(());
                    }
                    Vec::new()
                })
                .await;
        });
        let central = Central { task };
        timeout(TAKEN_TIME_MAX, is_taken)
            .await
            .context("management takes no report")?
            .context("management has ended the feed")?;
        Ok(central)
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As the feed has it.
fn reported(clusters: &BTreeMap<ClusterName, ClusterReport>) -> Result<Set> {
    let items = clusters.iter().flat_map(|(cluster, report)| {
        let items = report.items().into_iter();
        items.map(move |(name, item)| (format!("clusters/{cluster}/{name}"), item))
    });
    items
        .map(|(name, item)| {
            let resource = codec::encode(&name, &item).with_context(|| format!("cannot report {name}"))?;
            Ok((name, resource))
        })
        .collect()
}
