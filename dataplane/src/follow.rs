//! Who says what the proxy runs.

use std::convert::Infallible;

use crate::ads::Ads;
use crate::file::Watched;
use crate::running::Running;

pub(crate) enum Follow {
    Edge(Box<Ads>),
    File(Watched),
}

impl Follow {
    /// Follows until dropped.
    pub(crate) async fn run(&mut self, running: &mut Running) -> Infallible {
        match self {
            Self::Edge(edge) => edge.run(running).await,
            Self::File(file) => file.follow(running).await,
        }
    }
}
