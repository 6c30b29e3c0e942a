//! What a connection of a client is besides whose: what filters ask of it.

/// Of one connection.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    pub(crate) scheme: &'static str,
}

#[cfg(test)]
mod tests {
    use std::net::{AddrParseError, IpAddr};
    use std::str::FromStr;

    use super::Channel;
    use crate::matcher::Client;

    static PLAIN: Channel = Channel { scheme: "http" };

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
