//! Two sessions on a link that loses frames with its connections: whatever happens on the way, once it is
//! quiet the subscriber holds what the publisher has, and it never went backwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{central, edge, resource};
use super::{Action, Brake, Event, Publication, Session};
use crate::frame::Frame;
use crate::generated::feed as pb;
use crate::held::{Held, Stamp, Version};
use crate::replica::Replica;
use crate::resource::Set;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sets a name to a body, or removes it, and publishes.
    Publish {
        name: u8,
        body: Option<u8>,
        complete: bool,
    },
    /// Only the version moves.
    Advance,
    /// Delivers up to so many frames in one direction.
    Down(u8),
    Up(u8),
    /// Drops everything under way.
    Cut,
    Connect,
    Tick,
    /// The subscriber restarts from its last-good file, the publisher from nothing but its set.
    RestartSubscriber,
    RestartPublisher,
    /// The publisher comes back from an old backup: what it offers is refused until it has caught up.
    Restore {
        revisions: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12u8, proptest::option::weighted(0.7, 0..4u8), any::<bool>())
            .prop_map(|(name, body, complete)| Step::Publish { name, body, complete }),
        1 => Just(Step::Advance),
        4 => (1..6u8).prop_map(Step::Down),
        4 => (1..6u8).prop_map(Step::Up),
        1 => Just(Step::Cut),
        3 => Just(Step::Connect),
        2 => Just(Step::Tick),
        1 => Just(Step::RestartSubscriber),
        1 => Just(Step::RestartPublisher),
        1 => (1..8u8).prop_map(|revisions| Step::Restore { revisions }),
    ];
    vec(step, 0..60)
}

struct World {
    publisher: Session,
    subscriber: Session,
    down: VecDeque<Frame>,
    up: VecDeque<Frame>,
    connected: bool,
    set: BTreeMap<String, String>,
    revision: u64,
    /// The newest revision that was published before a restore.
    newest: u64,
    life: u32,
    complete: bool,
    replica: Replica,
    alarms: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self {
            publisher: Session::new(central(), super::tests::expect("edge"), Held::default()),
            subscriber: Self::subscriber(&Replica::default()),
            down: VecDeque::new(),
            up: VecDeque::new(),
            connected: false,
            set: BTreeMap::new(),
            revision: 0,
            newest: 0,
            life: 0,
            complete: false,
            replica: Replica::default(),
            alarms: Vec::new(),
        }
    }

    fn subscriber(replica: &Replica) -> Session {
        // The brake has its own tests; here it would hold back what we wait for.
        let brake = Brake {
            share_percent: 50,
            names_min: 1000,
        };
        Session::with_brake(edge(), super::tests::expect("central"), replica.held(), brake)
    }

    fn publication(&self) -> Publication {
        let set: Set = self
            .set
            .iter()
            .map(|(name, body)| (name.clone(), resource(name, body)))
            .collect();
        Publication {
            stamp: Stamp {
                version: Version {
                    epoch: 1,
                    revision: self.revision,
                },
                source: format!("central-1/{}", self.life),
                sequence: 0,
            },
            set: Arc::new(set),
            complete: self.complete,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish { name, body, complete } => {
                let name = format!("name-{name}");
                match body {
                    Some(body) => self.set.insert(name, format!("body-{body}")),
                    None => self.set.remove(&name),
                };
                self.complete = complete;
                self.revision += 1;
                self.tell_publisher(Event::Publish(self.publication()));
            }
            Step::Advance => {
                self.revision += 1;
                self.tell_publisher(Event::Publish(self.publication()));
            }
            Step::Down(count) => self.deliver_down(usize::from(count)),
            Step::Up(count) => self.deliver_up(usize::from(count)),
            Step::Cut => self.cut(),
            Step::Connect => self.connect(),
            Step::Tick => {
                self.tell_publisher(Event::Tick);
                self.tell_subscriber(Event::Tick);
            }
            Step::RestartSubscriber => {
                self.cut();
                self.replica = Replica::from_bytes(&self.replica.to_bytes()).unwrap();
                self.subscriber = Self::subscriber(&self.replica);
            }
            Step::RestartPublisher | Step::Restore { .. } => {
                self.cut();
                self.life += 1;
                if let Step::Restore { revisions } = step {
                    self.newest = self.newest.max(self.revision);
                    self.revision = self.revision.saturating_sub(u64::from(revisions));
                }
                self.publisher = Session::new(central(), super::tests::expect("edge"), Held::default());
                self.tell_publisher(Event::Publish(self.publication()));
            }
        }
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.tell_publisher(Event::Connected);
            self.tell_subscriber(Event::Connected);
        }
    }

    fn cut(&mut self) {
        self.connected = false;
        self.down.clear();
        self.up.clear();
        self.publisher.on(Event::Disconnected);
        self.subscriber.on(Event::Disconnected);
    }

    fn deliver_down(&mut self, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.down.pop_front() else {
                return;
            };
            self.tell_subscriber(Event::Frame(over_the_wire(frame)));
        }
    }

    fn deliver_up(&mut self, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.up.pop_front() else { return };
            self.tell_publisher(Event::Frame(over_the_wire(frame)));
        }
    }

    fn tell_publisher(&mut self, event: Event) {
        for action in self.publisher.on(event) {
            match action {
                Action::Send(frame) if self.connected => self.down.push_back(frame),
                Action::Alarm(_) | Action::Close(_) => self.alarms.push(action),
                _ => {}
            }
        }
    }

    fn tell_subscriber(&mut self, event: Event) {
        let mut actions = self.subscriber.on(event);
        actions.extend(self.subscriber.on(Event::Settled));
        for action in actions {
            match action {
                Action::Send(frame) if self.connected => self.up.push_back(frame),
                Action::Apply(applied) => {
                    let before = self.replica.stamp().map(|stamp| stamp.version);
                    assert!(
                        before <= Some(applied.stamp.version),
                        "went backwards to {}",
                        applied.stamp
                    );
                    self.replica.apply(applied);
                    assert_eq!(self.replica.held(), self.subscriber.held());
                }
                Action::Alarm(_) | Action::Close(_) => self.alarms.push(action),
                _ => {}
            }
        }
    }

    fn quiet(&mut self) {
        self.complete = true;
        self.revision = self.revision.max(self.newest) + 1;
        self.tell_publisher(Event::Publish(self.publication()));
        for _ in 0..4 {
            self.connect();
            while !(self.down.is_empty() && self.up.is_empty()) {
                self.deliver_down(1);
                self.deliver_up(1);
            }
            self.take(Step::Tick);
        }
    }
}

/// Through the generated types and back, so that the conversions are part of what is tested.
fn over_the_wire(frame: Frame) -> Frame {
    Frame::try_from(pb::Frame::from(frame)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn two_sessions_converge_and_never_go_backwards(steps in steps()) {
        let mut world = World::new();
        let restored = steps.iter().any(|step| matches!(step, Step::Restore { .. }));
        for step in steps {
            world.take(step);
        }
        world.quiet();
        let publication = world.publication();
        prop_assert_eq!(world.replica.set(), &*publication.set);
        prop_assert_eq!(world.replica.stamp(), Some(&publication.stamp));
        prop_assert!(world.replica.is_complete());
        // Without a restore, nothing is ever refused and everything adds up.
        if !restored {
            prop_assert_eq!(world.alarms, Vec::new());
        }
    }
}
