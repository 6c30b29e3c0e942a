//! Clients that ask one after the other, each on a connection of its own, until they are stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::task::JoinHandle;

use super::proxy::{client, get};

pub(crate) struct Clients {
    done: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Clients {
    pub(crate) fn start(url: &str, clients: usize) -> Self {
        let done = Arc::<AtomicBool>::default();
        let ask = |_| tokio::spawn(ask(url.to_owned(), Arc::clone(&done)));
        Self {
            clients: (0..clients).map(ask).collect(),
            done,
        }
    }

    /// How often they were answered: every time, and with 200.
    pub(crate) async fn stop(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        let mut answered = 0;
        for client in self.clients {
            answered += client.await.unwrap();
        }
        answered
    }
}

async fn ask(url: String, done: Arc<AtomicBool>) -> u64 {
    let client = client();
    let mut answered = 0;
    while !done.load(Ordering::Relaxed) {
        let answer = get(&client, &url).await.expect("every request is answered");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answered += 1;
    }
    answered
}
