//! The feed towards management: dialled for ever, with a growing wait between failures. Nothing that central serves
//! depends on it.

use std::sync::Arc;
use std::time::Duration;

use tombolo_proto::link::{Inputs, LinkError, dial};
use tombolo_proto::session::{Action, Expect, Party, Session};
use tombolo_runtime::backoff::{Backoff, jitter};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;
use tombolo_runtime::tls::{Identity, TlsError, connect};

use crate::item::Wanted;
use crate::peer::Peer;
use crate::relay::Relay;

const WAIT_MIN: Duration = Duration::from_millis(50);
/// Also the longest that a management that comes back waits for its centrals, so it is short.
const WAIT_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Uplink {
    pub(crate) target: String,
    pub(crate) identity: Arc<Identity>,
    pub(crate) local: Party,
    pub(crate) management: Arc<Peer<Wanted>>,
    pub(crate) relay: Arc<Relay>,
}

#[derive(Debug, thiserror::Error)]
enum UplinkError {
    #[error(transparent)]
    Connect(#[from] TlsError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Uplink {
    pub(crate) async fn run(self, mut inputs: Inputs, mut shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.wait() => {}
            () = self.dial_for_ever(&mut inputs) => {}
        }
    }

    async fn dial_for_ever(&self, inputs: &mut Inputs) {
        let expect = Expect {
            plane: Plane::Management.to_string(),
            node: None,
        };
        let mut session = Session::new(self.local.clone(), expect, self.management.held()).answering();
        let mut backoff = Backoff::new(WAIT_MIN, WAIT_MAX);
        let mut last_error = None;
        loop {
            let mut joined = false;
            let error = self.once(&mut session, inputs, &mut joined).await;
            let text = chain(&error);
            match &error {
                UplinkError::Link(error) if joined => {
                    self.management.disconnected(error);
                    backoff.reset();
                    last_error = None;
                }
                // The same reason is said once, not every second.
                _ if last_error.as_ref() != Some(&text) => {
                    tracing::warn!(
                        target = self.target,
                        error = text,
                        "cannot reach management, trying on"
                    );
                    last_error = Some(text);
                }
                _ => {}
            }
            tokio::time::sleep(backoff.next(jitter())).await;
        }
    }

    async fn once(&self, session: &mut Session, inputs: &mut Inputs, joined: &mut bool) -> UplinkError {
        let channel = match connect(&self.target, Plane::Management, self.identity.clone()).await {
            Ok(channel) => channel,
            Err(error) => return error.into(),
        };
        let link = match dial(channel).await {
            Ok(link) => link,
            Err(error) => return error.into(),
        };
        let on_action = |action| {
            *joined |= matches!(action, Action::PeerJoined { .. });
            match action {
                Action::Asked(question) => self.relay.ask(question),
                action => self.management.on(action),
            }
        };
        link.drive(session, inputs, on_action).await.into()
    }
}
