//! Passes questions from management on to the edges, and their answers back. What waits for an answer is bounded; who
//! asked does not wait for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_compiler::observe::Agent;
use tombolo_proto::frame::{Answer, Question};
use tombolo_proto::session::Event;

use crate::peers::Peers;

/// Questions are asked by people. When more wait than this, the oldest is given up: its asker has gone long since.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Relay {
    peers: Arc<Peers>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// By our own number: the number that management gave the question.
    asked: BTreeMap<u64, u64>,
}

impl Relay {
    pub(crate) fn new(peers: Arc<Peers>) -> Relay {
        Relay {
            peers,
            waiting: Mutex::default(),
        }
    }

    /// Passes a question on; what it returns goes back to management at once.
    pub(crate) fn ask(&self, question: Question) -> Vec<Event> {
        let asked = question.id;
        let cluster = question.cluster.clone();
        match self.pass_on(question) {
            Ok(()) => Vec::new(),
            Err(reason) => vec![Event::Answer(Answer {
                id: asked,
                answer: Err(format!("{reason} {cluster}")),
            })],
        }
    }

    /// Passes an answer back.
    pub(crate) fn answered(&self, answer: Answer) {
        let Some(id) = self.lock().asked.remove(&answer.id) else {
            return;
        };
        self.peers
            .management()
            .say(Event::Answer(Answer { id, ..answer }));
    }

    fn pass_on(&self, question: Question) -> Result<(), &'static str> {
        let edge = self.peers.edge(&question.cluster);
        let edge = edge.filter(|edge| edge.agent() == Agent::Live);
        let edge = edge.ok_or("this central does not hear the edge of")?;
        let id = self.lock().note(question.id);
        if edge.say(Event::Ask(Question { id, ..question })) {
            return Ok(());
        }
        self.lock().asked.remove(&id);
        Err("too many questions at once for the edge of")
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each change is one insert or removal, so a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn note(&mut self, asked: u64) -> u64 {
        if self.asked.len() >= WAITING_MAX {
            self.asked.pop_first();
        }
        self.last += 1;
        self.asked.insert(self.last, asked);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let mut waiting = Waiting::default();
        let numbers: Vec<u64> = (0..WAITING_MAX as u64 + 2)
            .map(|asked| waiting.note(asked))
            .collect();
        assert_eq!(waiting.asked.len(), WAITING_MAX);
        assert_eq!(waiting.asked.get(&numbers[1]), None);
        assert_eq!(waiting.asked.get(&numbers[2]), Some(&2));
    }
}
