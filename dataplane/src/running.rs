//! What the proxy runs, whoever says so.

use std::sync::Arc;

use crate::activation::Activation;
use crate::decode::Resources;
use crate::status::Status;

pub(crate) struct Running {
    pub(crate) activation: Activation,
    pub(crate) resources: Arc<Resources>,
    pub(crate) status: Arc<Status>,
}

impl Running {
    /// These run now.
    pub(crate) fn run(&mut self, resources: Resources) {
        self.resources = Arc::new(resources);
        self.status.run(Arc::clone(&self.resources));
    }
}
