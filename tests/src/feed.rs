//! A plane above that says what a test tells it to: a real feed over mTLS, in front of a central or an edge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::link::{Inputs, Link, server};
use tombolo_proto::resource::{Resource, Set};
use tombolo_proto::session::{Action, Expect, Party, PeerAck, Publication, Session};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::{self, Identity};

/// The organization of every mesh of the tests.
pub const ORGANIZATION: &str = "acme";

/// The upper side of a hop; gone on drop.
#[derive(Debug)]
pub struct Above {
    address: SocketAddr,
    publications: watch::Sender<Option<Publication>>,
    heard: watch::Receiver<Heard>,
    server: JoinHandle<()>,
}

/// What the planes below have said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// All resources, by name.
    pub items: BTreeMap<String, Bytes>,
    /// The latest acknowledgement.
    pub ack: Option<PeerAck>,
}

impl Above {
    /// Listens on `address` (port 0 will do) with the identity that `authority` gives it.
    ///
    /// # Errors
    /// The address is taken, or the identity cannot be written below `dir`.
    pub async fn start(
        authority: &Authority,
        id: &PlaneId,
        address: SocketAddr,
        dir: &Path,
    ) -> Result<Above> {
        tls::install_crypto();
        let files = dir.join(format!("{}-{}", id.plane, id.name));
        authority.issue(id, &files).context("cannot issue an identity")?;
        let identity = Arc::new(Identity::load(&files).context("cannot load the identity")?);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("a bound listener has an address")?;
        let (publications, published) = watch::channel(None);
        let (record, heard) = watch::channel(Heard::default());
        let local = Party {
            node: id.name.clone(),
            plane: id.plane.to_string(),
        };
        let expect = Expect {
            plane: below(id.plane).to_string(),
            node: None,
        };
        let record = Arc::new(record);
        let accept = move |link: Link, _: &tonic::Extensions| {
            let session = Session::new(local.clone(), expect.clone(), Held::default());
            // It ends with its connection.
            tokio::spawn(drive(link, session, published.clone(), Arc::clone(&record)));
            Ok(())
        };
        let server = tokio::spawn(async move {
            let serving = tls::server().add_service(server(accept));
            serving
                .serve_with_incoming(tls::incoming(listener, identity))
                .await
                .expect("cannot serve a feed");
        });
        Ok(Above {
            address,
            publications,
            heard,
            server,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As planes below want to be told of it.
    pub fn target(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Publishes this, all there is, as `stamp`.
    ///
    /// # Errors
    /// A name or a body is beyond the feed's limits.
    pub fn publish(&self, stamp: Stamp, items: BTreeMap<String, Bytes>) -> Result<()> {
        let publication = publication(stamp, items)?;
        self.publications.send_replace(Some(publication));
        Ok(())
    }

    /// Publishes this, which may not be all.
    ///
    /// # Errors
    /// As for [`Above::publish`].
    pub fn publish_part(&self, stamp: Stamp, items: BTreeMap<String, Bytes>) -> Result<()> {
        let mut publication = publication(stamp, items)?;
        publication.complete = false;
        self.publications.send_replace(Some(publication));
        Ok(())
    }

    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Wakes whenever anything is heard.
    pub fn hearing(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }
}

impl Drop for Above {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A stamp of intent, or of a central's slices for it.
pub fn stamp(source: &str, epoch: u64, revision: u64, sequence: u64) -> Stamp {
    Stamp {
        version: Version { epoch, revision },
        source: source.to_owned(),
        sequence,
    }
}

fn publication(stamp: Stamp, items: BTreeMap<String, Bytes>) -> Result<Publication> {
    let set: Set = items
        .into_iter()
        .map(|(name, body)| Ok((name.clone(), Resource::new(name, body)?)))
        .collect::<Result<_>>()?;
    Ok(Publication {
        stamp,
        set: Arc::new(set),
        complete: true,
    })
}

fn below(plane: Plane) -> Plane {
    match plane {
        Plane::Management => Plane::Central,
        Plane::Central | Plane::Edge => Plane::Edge,
    }
}

async fn drive(
    link: Link,
    mut session: Session,
    publications: watch::Receiver<Option<Publication>>,
    record: Arc<watch::Sender<Heard>>,
) {
    let (_say, events) = mpsc::channel(1);
    let mut inputs = Inputs { publications, events };
    // Why it ended is the business of the plane below, which dials again.
    let _ = link
        .drive(&mut session, &mut inputs, |action| {
            match action {
                Action::Apply(applied) => record.send_modify(|heard| {
                    for name in &applied.removed {
                        heard.items.remove(name);
                    }
                    for resource in applied.put {
                        heard
                            .items
                            .insert(resource.name().to_owned(), resource.body().clone());
                    }
                }),
                Action::PeerAcked(ack) => record.send_modify(|heard| heard.ack = Some(ack)),
                _ => {}
            }
            Vec::new()
        })
        .await;
}
