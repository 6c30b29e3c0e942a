//! How a connection arrives: whose it is and where it was to go, which who passes it on may say, and the kernel may know.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::h1::Buffer;
use crate::original_dst::{self, Redirected};
use crate::pool::OwnPools;
use crate::proxy_protocol::{self, Addresses, Taken};

/// What a listener asks of connections before anything else is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Which headers they begin with, if they do.
    pub(crate) proxy: Option<Taken>,
    pub(crate) redirected: Redirected,
    /// For this, and for what is looked at after it.
    pub(crate) timeout: Option<Duration>,
}

/// Both ends of a client's connection.
pub(crate) struct Ends {
    /// Whose it is.
    pub(crate) client: SocketAddr,
    /// Who has connected, whatever is said of it.
    pub(crate) direct: IpAddr,
    /// Where it was to go.
    pub(crate) to: SocketAddr,
    /// Whether that is somewhere else than where it came in.
    pub(crate) is_redirected: bool,
    /// Connections to hosts that are told of it.
    pub(crate) pools: OwnPools,
}

impl Ends {
    /// Of a connection to a listener on `address`, of which nothing is said.
    pub(crate) fn new(stream: &TcpStream, peer: SocketAddr, address: SocketAddr) -> io::Result<Self> {
        let to = if address.ip().is_unspecified() {
            stream.local_addr()?
        } else {
            address
        };
        let client = canonical(peer);
        Ok(Self {
            client,
            direct: client.ip(),
            to: canonical(to),
            is_redirected: false,
            pools: OwnPools::default(),
        })
    }

    fn redirect(&mut self, to: SocketAddr) {
        let to = canonical(to);
        self.is_redirected |= to != self.to;
        self.to = to;
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            from: self.client,
            to: self.to,
        }
    }
}

impl Arrival {
    /// Learns of both ends; `None` for a connection that does not begin as it should.
    pub(crate) async fn learn(
        &self,
        ends: &mut Ends,
        stream: &mut TcpStream,
        input: &mut Buffer,
    ) -> Option<()> {
        if let Some(taken) = self.proxy
            && let Some(said) = proxy_protocol::take(taken, stream, input).await?
        {
            ends.client = said.from;
            ends.redirect(said.to);
        }
        if self.redirected != Redirected::Unknown
            && let Some(to) = original_dst::of(stream, ends.to)
        {
            ends.redirect(to);
        }
        Some(())
    }
}

/// An IPv4 address is one however it is written.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
