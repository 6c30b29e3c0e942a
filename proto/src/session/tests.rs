//! The protocol as tables of events.
use super::{Expect, Party};
use crate::resource::Resource;

pub(super) fn central() -> Party {
    Party {
        node: "central-1".to_owned(),
        plane: "central".to_owned(),
    }
}

pub(super) fn edge() -> Party {
    Party {
        node: "us-east".to_owned(),
        plane: "edge".to_owned(),
    }
}

pub(super) fn expect(plane: &str) -> Expect {
    Expect {
        plane: plane.to_owned(),
        node: None,
    }
}

pub(super) fn resource(name: &str, body: &str) -> Resource {
    Resource::new(name, body.to_owned()).unwrap()
}
