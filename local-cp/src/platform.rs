//! Where the edge learns what its cluster has. Whatever the platform, losing sight of it withdraws nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tombolo_compiler::view::View;
use tombolo_runtime::shutdown::Shutdown;

pub(crate) mod static_dir;

/// One source of a cluster's services and gateways.
pub(crate) trait Platform: Send + 'static {
    /// Watches until the shutdown and tells all it sees through `seen`, whenever that changes.
    fn run(
        self: Box<Self>,
        seen: watch::Sender<Seen>,
        shutdown: Shutdown,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The latest that a platform has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) listing: Listing,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listing {
    /// Not listed yet.
    #[default]
    Unknown,
    /// The place of the lists is there and holds none, as a volume that is not mounted: whoever means "nothing" writes so.
    Bare,
    /// Some of it cannot be read and was never read: what is not in it may exist all the same.
    Partial(Arc<View>),
    /// What is not in it does not exist.
    Whole(Arc<View>),
}

/// A part of the platform that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Fault {
    pub(crate) place: String,
    pub(crate) reason: String,
}

impl Listing {
    /// What is held after this listing.
    pub(crate) fn over(&self, held: Option<&Arc<View>>) -> Option<Arc<View>> {
        match self {
            Listing::Unknown => held.cloned(),
            Listing::Bare => Some(held.cloned().unwrap_or_default()),
            Listing::Whole(view) => Some(view.clone()),
            Listing::Partial(view) => {
                let mut merged = held.map(|held| View::clone(held)).unwrap_or_default();
                merged.services.extend(view.services.clone());
                merged.gateways.extend(view.gateways.clone());
                // A partial first sight is no view: the rest is unknown.
                held.map(|_| Arc::new(merged))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::view::LocalGateway;

    use super::*;

    fn view(gateways: &[(&str, &str)]) -> Arc<View> {
        let gateway = |bind: &str| LocalGateway {
            bind: bind.parse().unwrap(),
            east_west_port: None,
            east_west_addresses: vec![],
            state: Default::default(),
        };
        Arc::new(View {
            services: Default::default(),
            gateways: gateways
                .iter()
                .map(|(id, bind)| (id.parse().unwrap(), gateway(bind)))
                .collect(),
        })
    }

    #[test]
    fn invariant_5_a_partial_listing_withdraws_nothing() {
        let held = view(&[("mesh/a", "127.0.1.1"), ("mesh/b", "127.0.1.2")]);
        let partial = Listing::Partial(view(&[("mesh/b", "127.0.1.3")]));
        let expected = view(&[("mesh/a", "127.0.1.1"), ("mesh/b", "127.0.1.3")]);
        assert_eq!(partial.over(Some(&held)), Some(expected));
        assert_eq!(
            partial.over(None),
            None,
            "the rest is unknown, which is not empty"
        );
        assert_eq!(Listing::Unknown.over(Some(&held)), Some(held.clone()));
        assert_eq!(Listing::Unknown.over(None), None);
        assert_eq!(Listing::Bare.over(Some(&held)), Some(held.clone()));
        assert_eq!(
            Listing::Bare.over(None),
            Some(Arc::default()),
            "a new cluster may be empty"
        );
        let whole = view(&[("mesh/b", "127.0.1.2")]);
        assert_eq!(Listing::Whole(whole.clone()).over(Some(&held)), Some(whole));
    }
}
