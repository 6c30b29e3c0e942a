//! Where attempts come from, as it is counted.

use std::net::{IpAddr, Ipv6Addr};

/// An address of version 4, or a network of version 6: whoever has one address of it has them all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(Option<IpAddr>);

/// Of a network of version 6 that is handed out to one customer, RFC 6177.
const NETWORK_BITS: u32 = 64;

impl Source {
    pub(crate) fn of(address: &str) -> Source {
        let address = address
            .parse()
            .ok()
            .map(|address: IpAddr| match address.to_canonical() {
                IpAddr::V6(address) => {
                    let network = address.to_bits() >> NETWORK_BITS << NETWORK_BITS;
                    IpAddr::V6(Ipv6Addr::from_bits(network))
                }
                address => address,
            });
        Source(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_customer_are_one_source() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(Source::of(one) == Source::of(other), same, "{one} {other}");
        }
    }
}
