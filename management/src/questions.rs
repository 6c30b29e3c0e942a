//! Questions to the edges, through whichever central hears them: asked once, and waited for so long and no longer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tombolo_compiler::name::ClusterName;
use tombolo_proto::frame::{Answer, QUESTION_BYTES_MAX, Question};
use tombolo_proto::session::Event;

/// Two hops there and back, and a moment to compute; a person waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that wait for their answers; more than people ask in two seconds.
const WAITING_MAX: usize = 256;
/// Questions that wait for one central's connection.
pub(crate) const QUEUED_MAX: usize = 16;

/// The links to the centrals, as far as questions go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// By central, the connection that takes questions.
    links: BTreeMap<String, (u64, mpsc::Sender<Event>)>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Bytes, String>>>,
}

/// A link's right to be asked; ends with its connection.
#[derive(Debug)]
pub(crate) struct Linked {
    questions: Questions,
    central: String,
    id: u64,
}

impl Questions {
    pub(crate) fn link(&self, central: &str, events: mpsc::Sender<Event>) -> Linked {
        let mut state = self.lock();
        state.last += 1;
        let id = state.last;
        state.links.insert(central.to_owned(), (id, events));
        Linked {
            questions: self.clone(),
            central: central.to_owned(),
            id,
        }
    }

    /// What the edge of a cluster answers.
    ///
    /// # Errors
    /// Nobody can ask it, or it does not answer in time: a sentence that says so.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &self,
        cluster: &ClusterName,
        asked: &impl Serialize,
    ) -> Result<A, String> {
        let body = serde_json::to_vec(asked).map_err(|error| error.to_string())?;
        if body.len() > QUESTION_BYTES_MAX {
            return Err(format!("the question to the edge of {cluster} is too large"));
        }
        let answer = self.ask_bytes(cluster, body.into()).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| format!("cannot read what the edge of {cluster} answers: {error}"))
    }

    async fn ask_bytes(&self, cluster: &ClusterName, body: Bytes) -> Result<Bytes, String> {
        let asking = async {
            let mut reason = "no central is connected".to_owned();
            for events in self.links() {
                match self.ask_one(events, cluster, body.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(why) => reason = why,
                }
            }
            Err(reason)
        };
        timeout(ANSWER_TIMEOUT, asking).await.unwrap_or_else(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Err(format!("the edge of {cluster} did not answer within {seconds} s"))
        })
    }

    /// To an answer that nobody waits for any more it does nothing.
    pub(crate) fn answered(&self, answer: Answer) {
        if let Some(waiting) = self.lock().waiting.remove(&answer.id) {
            // Whoever asked has gone.
            let _ = waiting.send(answer.answer);
        }
    }

    async fn ask_one(
        &self,
        events: mpsc::Sender<Event>,
        cluster: &ClusterName,
        body: Bytes,
    ) -> Result<Bytes, String> {
        let (answered, answer) = oneshot::channel();
        let waits = Waits {
            questions: self,
            id: self.note(answered),
        };
        let question = Question {
            id: waits.id,
            cluster: cluster.to_string(),
            body,
        };
        events
            .try_send(Event::Ask(question))
            .map_err(|_| "too many questions at once".to_owned())?;
        answer
            .await
            .unwrap_or_else(|_| Err("too many questions at once".to_owned()))
    }

    fn note(&self, answered: oneshot::Sender<Result<Bytes, String>>) -> u64 {
        let mut state = self.lock();
        if state.waiting.len() >= WAITING_MAX {
            state.waiting.pop_first();
        }
        state.last += 1;
        let id = state.last;
        state.waiting.insert(id, answered);
        id
    }

    fn links(&self) -> Vec<mpsc::Sender<Event>> {
        self.lock()
            .links
            .values()
            .map(|(_, events)| events.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one insert or removal, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An asker that gives up leaves nothing behind.
struct Waits<'a> {
    questions: &'a Questions,
    id: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.questions.lock().waiting.remove(&self.id);
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        let mut state = self.questions.lock();
        // A newer connection of the same central stays.
        if state
            .links
            .get(&self.central)
            .is_some_and(|(id, _)| *id == self.id)
        {
            state.links.remove(&self.central);
        }
    }
}
