//! The SPIFFE identity of a process of a plane:
//! `spiffe://<organization>/plane/<management|central|edge>/<name>`.

use std::fmt;
use std::str::FromStr;

/// The planes that speak to each other over mTLS. The proxies' identities are their workloads', not these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plane {
    Management,
    Central,
    Edge,
}

/// Who a process is. Two processes of different organizations never speak to each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaneId {
    pub organization: String,
    pub plane: Plane,
    /// The process's name: for an edge its cluster, for a central or a management its replica.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlaneId {
    #[error("`{given}` is not a plane identity: it must read spiffe://ORGANIZATION/plane/PLANE/NAME")]
    Shape { given: String },
    #[error("`{given}` is not a plane: use management, central or edge")]
    Plane { given: String },
    #[error("`{given}` is not a name: use 1 to 63 of a-z, 0-9, `-`, `.` and `_`")]
    Name { given: String },
}

impl PlaneId {
    /// # Errors
    /// When the organization or the name holds anything but 1 to 63 of `a-z 0-9 - . _`.
    pub fn new(organization: &str, plane: Plane, name: &str) -> Result<Self, BadPlaneId> {
        for given in [organization, name] {
            if !is_name(given) {
                return Err(BadPlaneId::Name {
                    given: given.to_owned(),
                });
            }
        }
        Ok(Self {
            organization: organization.to_owned(),
            plane,
            name: name.to_owned(),
        })
    }
}

impl FromStr for PlaneId {
    type Err = BadPlaneId;

    fn from_str(text: &str) -> Result<Self, BadPlaneId> {
        let shape = || BadPlaneId::Shape {
            given: text.to_owned(),
        };
        let path = text.strip_prefix("spiffe://").ok_or_else(shape)?;
        let parts: Vec<_> = path.split('/').collect();
        let [organization, "plane", plane, name] = parts.as_slice() else {
            return Err(shape());
        };
        Self::new(organization, plane.parse()?, name)
    }
}

impl fmt::Display for PlaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/plane/{}/{}",
            self.organization, self.plane, self.name
        )
    }
}

impl FromStr for Plane {
    type Err = BadPlaneId;

    fn from_str(text: &str) -> Result<Self, BadPlaneId> {
        match text {
            "management" => Ok(Self::Management),
            "central" => Ok(Self::Central),
            "edge" => Ok(Self::Edge),
            _ => Err(BadPlaneId::Plane {
                given: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Management => "management",
            Self::Central => "central",
            Self::Edge => "edge",
        })
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Plane, PlaneId};

    #[test]
    fn identities_read_back() {
        for plane in [Plane::Management, Plane::Central, Plane::Edge] {
            let id = PlaneId::new("acme", plane, "us-east.1").unwrap();
            assert_eq!(id.to_string().parse::<PlaneId>().unwrap(), id);
        }
    }

    #[test]
    fn what_is_no_identity_says_what_to_write() {
        let cases = [
            ("", "must read spiffe://ORGANIZATION/plane/PLANE/NAME"),
            ("https://acme/plane/edge/a", "must read spiffe://"),
            ("spiffe://acme/ns/shop/sa/cart", "must read spiffe://"),
            ("spiffe://acme/plane/edge/a/b", "must read spiffe://"),
            ("spiffe://acme/plane/proxy/a", "`proxy` is not a plane"),
            ("spiffe:///plane/edge/a", "`` is not a name"),
            ("spiffe://acme/plane/edge/A", "`A` is not a name"),
            ("spiffe://acme/plane/edge/a b", "`a b` is not a name"),
        ];
        for (given, expected) in cases {
            let error = given.parse::<PlaneId>().unwrap_err().to_string();
            assert!(error.contains(expected), "{given}: {error}");
        }
    }
}
