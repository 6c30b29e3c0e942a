//! What a connection of a client is besides whose: what filters ask of it.

use std::net::SocketAddr;

use crate::stream::Stream;
use crate::tls::{Cipher, Peer};

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) scheme: &'static str,
    /// Where it was to go.
    pub(crate) to: SocketAddr,
    /// What was asked for in TLS.
    pub(crate) server_name: Option<Box<str>>,
    /// Who it is in TLS: nobody in particular without a certificate.
    pub(crate) peer: Option<Box<Peer>>,
    /// How what goes over it is encrypted.
    pub(crate) cipher: Option<Cipher>,
}

impl Channel {
    /// Of a connection that was to go there.
    pub(crate) fn new(stream: &mut Stream, to: SocketAddr) -> Self {
        Self {
            scheme: stream.scheme(),
            to,
            server_name: stream.server_name().map(Box::from),
            peer: stream.peer().map(Box::new),
            cipher: stream.cipher(),
        }
    }

    /// Who the client is, if it has shown who.
    pub(crate) fn principal(&self) -> &str {
        self.peer.as_deref().map_or("", Peer::principal)
    }
}

/// In plain text.
#[cfg(test)]
pub(crate) static PLAIN: Channel = Channel {
    scheme: "http",
    to: SocketAddr::V4(std::net::SocketAddrV4::new(
        std::net::Ipv4Addr::new(10, 0, 0, 2),
        80,
    )),
    server_name: None,
    peer: None,
    cipher: None,
};

#[cfg(test)]
mod tests {
    use std::net::{AddrParseError, IpAddr};
    use std::str::FromStr;

    use super::PLAIN;
    use crate::matcher::Client;

    impl<T: Into<IpAddr>> From<T> for Client<'static> {
        fn from(address: T) -> Self {
            Self {
                address: address.into(),
                channel: &PLAIN,
            }
        }
    }

    impl FromStr for Client<'static> {
        type Err = AddrParseError;

        fn from_str(address: &str) -> Result<Self, AddrParseError> {
            address.parse::<IpAddr>().map(Self::from)
        }
    }
}
