//! What a connection of a client is besides whose: what filters ask of it.

use std::net::SocketAddr;

use crate::tls::Peer;

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
}

#[cfg(test)]
mod tests {
    use std::net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
    use std::str::FromStr;

    use super::Channel;
    use crate::matcher::Client;

    static PLAIN: Channel = Channel {
        scheme: "http",
        to: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80)),
        server_name: None,
        peer: None,
    };

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
