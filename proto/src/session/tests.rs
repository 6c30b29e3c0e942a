//! The protocol as tables of events: what happens to one side, and what it does, both as short text.

use std::fmt::Write;
use std::sync::Arc;

use super::{Action, CHUNK_BYTES, Event, Expect, Party, Publication, Session};
use crate::frame::{Ack, Answer, Complete, Frame, Heartbeat, Hello, Question, Rejection, Update};
use crate::held::{Held, Stamp, Version};
use crate::resource::{ContentHash, Digest, Resource, Set};

type Content<'a> = &'a [(&'a str, &'a str)];

/// What greets the central; nothing is published to it.
const JOINED: &str = "joined central-1 of central holding nothing | send heartbeat r1 of nothing part";

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

// --- questions ----------------------------------------------------------------------------------------

#[test]
fn only_a_peer_that_takes_questions_is_asked() {
    let answering = |answers| match hello(&edge(), 1, nothing()) {
        Event::Frame(Frame::Hello(hello)) => Event::Frame(Frame::Hello(Hello { answers, ..hello })),
        other => other,
    };
    const EDGE_JOINED: &str = "joined us-east of edge holding nothing | send heartbeat r1 of nothing part";
    const OLDER: &str = "answered 3, refused: the plane below takes no questions: it is of an older version";
    const AWAY: &str = "answered 3, refused: the plane below is not connected";
    for (answers, asked) in [(true, "send question 3 of us-east: why"), (false, OLDER)] {
        let mut above = Session::new(central(), expect("edge"), nothing());
        check(
            &mut above,
            [
                (Event::Ask(question()), AWAY),
                (Event::Connected, "send hello r1 of nothing []"),
                (Event::Ask(question()), AWAY),
                (answering(answers), EDGE_JOINED),
                (Event::Ask(question()), asked),
                (Event::Frame(Frame::Answer(answer(Ok("so")))), "answered 3: so"),
                (Event::Disconnected, ""),
                (Event::Ask(question()), AWAY),
            ],
        );
    }
}

#[test]
fn a_question_is_answered_while_the_link_is_up() {
    let mut edge = new_edge(nothing()).answering();
    let hello = edge.on(Event::Connected);
    assert!(
        matches!(
            &hello[..],
            [Action::Send(Frame::Hello(Hello { answers: true, .. }))]
        ),
        "{hello:?}"
    );
    check(
        &mut edge,
        [
            (central_hello(), JOINED),
            (
                Event::Frame(Frame::Question(question())),
                "asked 3 of us-east: why",
            ),
            (Event::Answer(answer(Ok("so"))), "send answer 3: so"),
            (Event::Answer(answer(Err("busy"))), "send answer 3, refused: busy"),
            (Event::Disconnected, ""),
            (Event::Answer(answer(Ok("so"))), ""),
        ],
    );
}

// --- the subscriber -----------------------------------------------------------------------------------

#[test]
fn a_first_session_says_hello_takes_what_there_is_and_acknowledges() {
    let mut edge = new_edge(nothing());
    check(
        &mut edge,
        [
            (Event::Connected, "send hello r1 of nothing []"),
            (central_hello(), JOINED),
            (Event::Settled, ""),
            (
                update("c", 7, &[("a", "1"), ("b", "1")], &[], &[("a", "1"), ("b", "1")]),
                "apply 1.7#0 of c +a +b part | in sync 1.7#0 of c part",
            ),
            (Event::Settled, "send ack 1.7#0 of c"),
            (
                complete("c", 7, &[("a", "1"), ("b", "1")]),
                "apply 1.7#0 of c whole | in sync 1.7#0 of c whole",
            ),
            (Event::Settled, "send ack 1.7#0 of c"),
            (Event::Settled, ""),
        ],
    );
}

#[test]
fn a_reconnect_withdraws_nothing_and_asks_for_nothing_again() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [
            (Event::Disconnected, ""),
            (Event::Tick, ""),
            (Event::Connected, "send hello r2 of 1.7#0 of c [a]"),
            (Event::Settled, "send ack 1.7#0 of c"),
            (central_hello(), JOINED),
            (heartbeat_in(2, "c", 7, &[("a", "1")]), "in sync 1.7#0 of c whole"),
            (heartbeat_in(2, "c", 7, &[("a", "1")]), ""),
        ],
    );
    assert_eq!(names(&edge), ["a"]);
}

#[test]
fn tombstones_remove() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1"), ("b", "1")]));
    check(
        &mut edge,
        [(
            update("c", 8, &[], &["a"], &[("b", "1")]),
            "apply 1.8#0 of c -a part | in sync 1.8#0 of c part",
        )],
    );
    assert_eq!(names(&edge), ["b"]);
}

#[test]
fn a_complete_removes_what_it_does_not_list() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1"), ("b", "1")]));
    check(
        &mut edge,
        [(
            complete("c", 8, &[("b", "1")]),
            "apply 1.8#0 of c -a whole | in sync 1.8#0 of c whole",
        )],
    );
    assert_eq!(names(&edge), ["b"]);
}

#[test]
fn an_older_version_after_a_restart_changes_nothing_and_is_told_once() {
    let backwards = "alarm offered 1.6#0 of c2, which is older than 1.7#0 of c: keeping what is held; \
                     was the publisher restored from a backup?";
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [
            (
                update("c2", 6, &[("b", "1")], &[], &[("a", "1"), ("b", "1")]),
                backwards,
            ),
            (Event::Settled, "send ack 1.7#0 of c"),
            (complete("c2", 6, &[("b", "1")]), ""),
            (heartbeat("c2", 6, &[("b", "1")]), ""),
            (Event::Tick, "send heartbeat r1 of nothing part"),
        ],
    );
    assert_eq!(edge.held(), held("c", 7, &[("a", "1")]));
}

#[test]
fn one_version_with_other_content_changes_nothing_and_is_told_once() {
    let diverged =
        "alarm offered other content under 1.7#0 of c, which is held already: keeping what is held";
    for event in [
        update("c", 7, &[("a", "2")], &[], &[("a", "2")]),
        update("c", 7, &[], &["a"], &[]),
        complete("c", 7, &[]),
    ] {
        let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
        check(
            &mut edge,
            [
                (event, diverged),
                (complete("c", 7, &[("a", "2")]), ""),
                (heartbeat("c", 7, &[("a", "2")]), ""),
            ],
        );
        assert_eq!(edge.held(), held("c", 7, &[("a", "1")]));
    }
}

#[test]
fn another_source_may_take_over_at_the_same_version() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [(
            update("c2", 7, &[("a", "2")], &[], &[("a", "2")]),
            "apply 1.7#0 of c2 +a part | in sync 1.7#0 of c2 part",
        )],
    );
}

#[test]
fn a_duplicate_update_is_only_acknowledged_again() {
    let mut edge = connected_edge(nothing());
    let first = || update("c", 7, &[("a", "1")], &[], &[("a", "1")]);
    check(
        &mut edge,
        [
            (first(), "apply 1.7#0 of c +a part | in sync 1.7#0 of c part"),
            (first(), ""),
            (Event::Settled, "send ack 1.7#0 of c"),
        ],
    );
}

#[test]
fn a_lost_update_is_found_by_the_heartbeat_and_asked_for_once_a_tick() {
    let mismatch = "alarm what is held does not add up to 1.8#0 of c: resynchronising";
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    let beat = |round| heartbeat_in(round, "c", 8, &[("a", "1"), ("b", "1")]);
    check(
        &mut edge,
        [
            (beat(1), &*format!("{mismatch} | send hello r2 of 1.7#0 of c [a]")),
            // Sent before our hello arrived.
            (beat(1), ""),
            (beat(2), ""),
            (
                Event::Tick,
                &*format!("{mismatch} | send hello r3 of 1.7#0 of c [a] | send heartbeat r1 of nothing part"),
            ),
            (
                update_in(3, "c", 8, &[("b", "1")], &[], &[("a", "1"), ("b", "1")]),
                "apply 1.8#0 of c +b part | in sync 1.8#0 of c part",
            ),
        ],
    );
}

#[test]
fn an_update_that_does_not_add_up_is_not_applied() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [(
            update("c", 8, &[("b", "1")], &[], &[("b", "1")]),
            "alarm what is held does not add up to 1.8#0 of c: resynchronising | send hello r2 of 1.7#0 of c [a]",
        )],
    );
    assert_eq!(edge.held(), held("c", 7, &[("a", "1")]));
}

#[test]
fn a_heartbeat_brings_a_version_that_changed_nothing() {
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [
            (
                heartbeat("c", 9, &[("a", "1")]),
                "apply 1.9#0 of c whole | in sync 1.9#0 of c whole",
            ),
            (Event::Settled, "send ack 1.9#0 of c"),
        ],
    );
}

#[test]
fn the_brake_holds_removals_until_an_operator_confirms() {
    let all: Vec<_> = (0..30).map(|i| (format!("n{i:02}"), "1".to_owned())).collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, body)| (name.as_str(), body.as_str()))
        .collect();
    let (kept, dropped) = all.split_at(10);
    let now: Vec<_> = kept.iter().copied().chain([("new", "1")]).collect();
    let gone: Vec<_> = dropped.iter().map(|(name, _)| *name).collect();

    let mut edge = connected_edge(held("c", 7, &all));
    let braked = format!("braked 1.8#0 of c {}", gone.join(" "));
    let mut ticks = vec![
        (
            update("c", 8, &[("new", "1")], &gone, &now),
            format!("apply 1.8#0 of c +new part | {braked} | in sync 1.8#0 of c part"),
        ),
        (Event::Settled, "send ack 1.8#0 of c braked 20".to_owned()),
        // Both sides agree about the rest, and what is held is not all that the publisher has.
        (heartbeat("c", 8, &now), "apply 1.8#0 of c part".to_owned()),
    ];
    for _ in 0..4 {
        ticks.push((Event::Tick, "send heartbeat r1 of nothing part".to_owned()));
    }
    check(
        &mut edge,
        ticks
            .iter()
            .map(|(event, expected)| (event.clone(), expected.as_str())),
    );
    assert_eq!(edge.held().names.len(), 31, "no timeout applies it");

    // The owner has one of them again: it is held as before and no longer concerned.
    let with_back: Vec<_> = now.iter().copied().chain([dropped[0]]).collect();
    let removals: String = gone[1..].iter().fold(String::new(), |mut text, name| {
        let _ = write!(text, " -{name}");
        text
    });
    check(
        &mut edge,
        [
            (
                update("c", 9, &[dropped[0]], &[], &with_back),
                "apply 1.9#0 of c +n10 part | in sync 1.9#0 of c part",
            ),
            (
                Event::ConfirmRemovals,
                &*format!("apply 1.9#0 of c{removals} part"),
            ),
            (Event::Settled, "send ack 1.9#0 of c"),
            (Event::ConfirmRemovals, ""),
        ],
    );
    assert_eq!(edge.held().names.len(), 12);
}

#[test]
fn the_brake_survives_a_restart() {
    let all: Vec<_> = (0..30).map(|i| (format!("n{i:02}"), "1".to_owned())).collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, body)| (name.as_str(), body.as_str()))
        .collect();
    let mut edge = connected_edge(held("c", 7, &all));
    edge.on(complete("c", 8, &[]));
    let stored = edge.held();
    assert_eq!((stored.names.len(), stored.complete), (30, false));

    let mut edge = connected_edge(stored);
    let actions = edge.on(complete("c", 8, &[]));
    assert!(
        matches!(&actions[1], Action::Braked { names, .. } if names.len() == 30),
        "{actions:?}"
    );
    assert_eq!(edge.held().names.len(), 30);
}

#[test]
fn the_brake_needs_both_its_share_and_its_names() {
    // held, removed, braked
    for (held_count, removed_count, braked) in [
        (19, 19, false),
        (20, 20, true),
        (40, 20, false),
        (39, 20, true),
        (1000, 500, false),
        (1000, 501, true),
    ] {
        let all: Vec<_> = (0..held_count).map(|i| format!("n{i:04}")).collect();
        let all: Vec<_> = all.iter().map(|name| (name.as_str(), "1")).collect();
        let gone: Vec<_> = all[..removed_count].iter().map(|(name, _)| *name).collect();
        let mut edge = connected_edge(held("c", 7, &all));
        let actions = edge.on(update("c", 8, &[], &gone, &all[removed_count..]));
        let found = actions
            .iter()
            .any(|action| matches!(action, Action::Braked { .. }));
        assert_eq!(found, braked, "{removed_count} of {held_count}");
    }
}

#[test]
fn rejections_travel_with_the_acknowledgement_until_the_resource_changes() {
    let mut edge = connected_edge(nothing());
    let reject = |name: &str| {
        Event::Rejected(Rejection {
            name: name.to_owned(),
            reason: "no such cluster".to_owned(),
        })
    };
    check(
        &mut edge,
        [
            (
                update("c", 7, &[("a", "1")], &[], &[("a", "1")]),
                "apply 1.7#0 of c +a part | in sync 1.7#0 of c part",
            ),
            (reject("a"), ""),
            (reject("unknown"), ""),
            (Event::Settled, "send ack 1.7#0 of c rejected a: no such cluster"),
            (
                update("c", 8, &[("a", "2")], &[], &[("a", "2")]),
                "apply 1.8#0 of c +a part | in sync 1.8#0 of c part",
            ),
            (Event::Settled, "send ack 1.8#0 of c"),
        ],
    );
}

#[test]
fn chunks_are_applied_together_or_not_at_all() {
    let chunk = |more, put, removed| {
        let Event::Frame(Frame::Update(update)) = update("c", 8, put, removed, &[("b", "1"), ("c", "1")])
        else {
            unreachable!()
        };
        Event::Frame(Frame::Update(Update { more, ..update }))
    };
    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [
            (chunk(true, &[("b", "1")], &[]), ""),
            (chunk(true, &[("c", "1")], &[]), ""),
            (
                chunk(false, &[], &["a"]),
                "apply 1.8#0 of c +b +c -a part | in sync 1.8#0 of c part",
            ),
        ],
    );

    let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
    check(
        &mut edge,
        [
            (chunk(true, &[("b", "1")], &[]), ""),
            (Event::Disconnected, ""),
            (Event::Connected, "send hello r2 of 1.7#0 of c [a]"),
        ],
    );
    assert_eq!(edge.held(), held("c", 7, &[("a", "1")]));
}

#[test]
fn nonsense_closes_the_connection_and_applies_nothing() {
    let chunk = Event::Frame(Frame::Update(Update {
        round: 1,
        stamp: stamp("c", 8),
        put: Vec::new(),
        removed: Vec::new(),
        digest: Digest::default(),
        complete: false,
        more: true,
    }));
    let cases = [
        (
            vec![update("c", 8, &[("b", "1"), ("b", "2")], &[], &[])],
            "close one update names b twice",
        ),
        (
            vec![update("c", 8, &[("b", "1")], &["b"], &[])],
            "close one update names b twice",
        ),
        (
            vec![chunk.clone(), update("c", 9, &[("b", "1")], &[], &[])],
            "close a chunk does not continue what was begun",
        ),
        (
            vec![chunk, complete("c", 8, &[])],
            "close a chunk does not continue what was begun",
        ),
        (
            vec![hello(
                &Party {
                    node: "x".into(),
                    plane: "edge".into(),
                },
                1,
                nothing(),
            )],
            "close the peer says that it is x of edge, which is not who was expected on this connection",
        ),
    ];
    for (events, expected) in cases {
        let mut edge = connected_edge(held("c", 7, &[("a", "1")]));
        let mut last = String::new();
        for event in events {
            last = show_all(&edge.on(event));
        }
        assert_eq!(last, expected);
        assert_eq!(edge.held(), held("c", 7, &[("a", "1")]));
        assert_eq!(
            edge.on(update("c", 8, &[], &[], &[("a", "1")])),
            [],
            "nothing more is taken"
        );
    }

    let mut edge = new_edge(nothing());
    edge.on(Event::Connected);
    check(
        &mut edge,
        [(
            update("c", 8, &[("b", "1")], &[], &[]),
            "close the peer must introduce itself with a hello before anything else",
        )],
    );
}

#[test]
fn a_peer_that_stalls_is_given_up_after_five_ticks() {
    let mut edge = connected_edge(nothing());
    let beat = "send heartbeat r1 of nothing part";
    check(
        &mut edge,
        [
            (Event::Tick, beat),
            (Event::Tick, beat),
            (Event::Tick, beat),
            (
                heartbeat("c", 1, &[]),
                "apply 1.1#0 of c part | in sync 1.1#0 of c part",
            ),
            (Event::Tick, beat),
            (Event::Tick, beat),
            (Event::Tick, beat),
            (Event::Tick, beat),
            (Event::Tick, "silent"),
        ],
    );
}

// --- the publisher ------------------------------------------------------------------------------------

#[test]
fn a_publisher_sends_what_differs_then_only_changes() {
    let mut central = new_central();
    check(
        &mut central,
        [
            (publish(7, &[("a", "1"), ("b", "1")], true), ""),
            (Event::Connected, "send hello r1 of nothing []"),
            (
                hello(&edge(), 1, held("c", 6, &[("a", "1"), ("x", "1")])),
                "joined us-east of edge holding 1.6#0 of c | send update r1 1.7#0 of c +b part \
                 | send complete r1 1.7#0 of c [a b]",
            ),
            (Event::Tick, "send heartbeat r1 of 1.7#0 of c whole"),
            (
                publish(8, &[("a", "2")], true),
                "send update r1 1.8#0 of c +a -b whole",
            ),
            (
                publish(9, &[("a", "2")], true),
                "send heartbeat r1 of 1.9#0 of c whole",
            ),
            (Event::Tick, "send heartbeat r1 of 1.9#0 of c whole"),
        ],
    );
}

#[test]
fn a_partial_publisher_removes_nothing_until_it_knows_all() {
    let mut central = new_central();
    check(
        &mut central,
        [
            (Event::Connected, "send hello r1 of nothing []"),
            (
                hello(&edge(), 1, held("c", 6, &[("a", "1"), ("b", "1")])),
                "joined us-east of edge holding 1.6#0 of c | send heartbeat r1 of nothing part",
            ),
            (
                publish(7, &[("a", "2")], false),
                "send update r1 1.7#0 of c +a part",
            ),
            (publish(8, &[], false), "send heartbeat r1 of 1.8#0 of c part"),
            (Event::Tick, "send heartbeat r1 of 1.8#0 of c part"),
            (
                publish(9, &[("c", "1")], true),
                "send update r1 1.9#0 of c +c part | send complete r1 1.9#0 of c [c]",
            ),
            (publish(10, &[], false), "send heartbeat r1 of 1.10#0 of c part"),
            (publish(11, &[], true), "send update r1 1.11#0 of c -c whole"),
            (publish(12, &[], false), "send heartbeat r1 of 1.12#0 of c part"),
        ],
    );
}

#[test]
fn a_hello_in_between_starts_over_from_what_it_says() {
    let mut central = new_central();
    check(
        &mut central,
        [
            (publish(7, &[("a", "1")], true), ""),
            (Event::Connected, "send hello r1 of nothing []"),
            (
                hello(&edge(), 1, nothing()),
                "joined us-east of edge holding nothing | send update r1 1.7#0 of c +a part \
                 | send complete r1 1.7#0 of c [a]",
            ),
            (
                hello(&edge(), 2, nothing()),
                "send update r2 1.7#0 of c +a part | send complete r2 1.7#0 of c [a]",
            ),
            (
                hello(&edge(), 3, held("c", 7, &[("a", "1")])),
                "send complete r3 1.7#0 of c [a]",
            ),
        ],
    );
}

#[test]
fn what_the_peer_acknowledges_is_told() {
    let mut central = new_central();
    let ack = Event::Frame(Frame::Ack(Ack {
        stamp: stamp("c", 7),
        digest: Digest::default(),
        rejected: vec![Rejection {
            name: "a".to_owned(),
            reason: "no".to_owned(),
        }],
        braked: 3,
    }));
    central.on(Event::Connected);
    central.on(hello(&edge(), 1, nothing()));
    check(&mut central, [(ack, "acked 1.7#0 of c rejected a: no braked 3")]);
}

#[test]
fn large_sets_travel_in_chunks_that_fit_and_arrive_whole() {
    let body = "x".repeat(1024 * 1024);
    let set: Set = (0..10)
        .map(|i| (format!("n{i}"), resource(&format!("n{i}"), &body)))
        .collect();
    let publication = Publication {
        stamp: stamp("c", 7),
        set: Arc::new(set),
        complete: true,
    };
    let mut central = new_central();
    central.on(Event::Publish(publication.clone()));
    central.on(Event::Connected);
    let frames = frames(central.on(hello(&edge(), 1, nothing())));

    let mut edge = connected_edge(nothing());
    let mut applied = Vec::new();
    let mut updates = 0;
    for frame in frames {
        if let Frame::Update(update) = &frame {
            updates += 1;
            let bytes: usize = update.put.iter().map(|resource| resource.body().len()).sum();
            assert!(bytes <= CHUNK_BYTES);
        }
        applied.extend(
            edge.on(Event::Frame(frame))
                .into_iter()
                .filter_map(|action| match action {
                    Action::Apply(applied) => Some(applied.put.len()),
                    _ => None,
                }),
        );
    }
    assert_eq!((updates, applied), (4, vec![10, 0]));
    assert_eq!(edge.held().digest(), Digest::of(&edge.held().names));
}

#[test]
fn long_lists_of_names_travel_in_chunks() {
    let name = |i: usize| format!("{i:05}{}", "x".repeat(500));
    let set: Set = (0..20_000).map(|i| (name(i), resource(&name(i), "1"))).collect();
    let mut edge = new_edge(Held {
        stamp: Some(stamp("c", 6)),
        names: set
            .values()
            .map(|resource| (resource.name().to_owned(), resource.hash()))
            .collect(),
        complete: true,
    });
    let hellos = frames(edge.on(Event::Connected));
    assert_eq!(hellos.len(), 4);
    edge.on(central_hello());

    let mut central = new_central();
    central.on(Event::Publish(Publication {
        stamp: stamp("c", 7),
        set: Arc::new(set),
        complete: true,
    }));
    central.on(Event::Connected);
    let answer: Vec<_> = hellos
        .into_iter()
        .flat_map(|frame| frames(central.on(Event::Frame(frame))))
        .collect();
    assert_eq!(answer.len(), 4, "only the names, in chunks");
    let actions: Vec<_> = answer
        .into_iter()
        .flat_map(|frame| edge.on(Event::Frame(frame)))
        .collect();
    assert_eq!(
        show_all(&actions),
        "apply 1.7#0 of c whole | in sync 1.7#0 of c whole"
    );
}

// --- building and showing -----------------------------------------------------------------------------

#[track_caller]
fn check<'a>(session: &mut Session, table: impl IntoIterator<Item = (Event, &'a str)>) {
    for (row, (event, expected)) in table.into_iter().enumerate() {
        let shown = show_all(&session.on(event.clone()));
        assert_eq!(shown, expected, "row {row}, {event:?}");
    }
}

fn new_edge(held: Held) -> Session {
    Session::new(edge(), expect("central"), held)
}

fn connected_edge(held: Held) -> Session {
    let mut edge = new_edge(held);
    edge.on(Event::Connected);
    edge.on(central_hello());
    edge.on(Event::Settled);
    edge
}

fn new_central() -> Session {
    Session::new(central(), expect("edge"), nothing())
}

fn nothing() -> Held {
    Held::default()
}

fn stamp(source: &str, revision: u64) -> Stamp {
    Stamp {
        version: Version { epoch: 1, revision },
        source: source.to_owned(),
        sequence: 0,
    }
}

fn held(source: &str, revision: u64, content: Content<'_>) -> Held {
    let names = content
        .iter()
        .map(|(name, body)| ((*name).to_owned(), ContentHash::of(body.as_bytes())));
    Held {
        stamp: Some(stamp(source, revision)),
        names: names.collect(),
        complete: true,
    }
}

fn digest(content: Content<'_>) -> Digest {
    held("", 0, content).digest()
}

fn names(session: &Session) -> Vec<String> {
    session.held().names.into_keys().collect()
}

fn hello(from: &Party, round: u64, held: Held) -> Event {
    Event::Frame(Frame::Hello(Hello {
        answers: false,
        node: from.node.clone(),
        plane: from.plane.clone(),
        round,
        stamp: held.stamp,
        names: held.names,
        more: false,
    }))
}

fn question() -> Question {
    Question {
        id: 3,
        cluster: "us-east".to_owned(),
        body: "why".into(),
    }
}

fn answer(answer: Result<&'static str, &str>) -> Answer {
    Answer {
        id: 3,
        answer: answer.map(Into::into).map_err(str::to_owned),
    }
}

fn central_hello() -> Event {
    hello(&central(), 1, nothing())
}

fn update(source: &str, revision: u64, put: Content<'_>, removed: &[&str], after: Content<'_>) -> Event {
    update_in(1, source, revision, put, removed, after)
}

fn update_in(
    round: u64,
    source: &str,
    revision: u64,
    put: Content<'_>,
    removed: &[&str],
    after: Content<'_>,
) -> Event {
    Event::Frame(Frame::Update(Update {
        round,
        stamp: stamp(source, revision),
        put: put.iter().map(|(name, body)| resource(name, body)).collect(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
        digest: digest(after),
        complete: false,
        more: false,
    }))
}

fn complete(source: &str, revision: u64, content: Content<'_>) -> Event {
    Event::Frame(Frame::Complete(Complete {
        round: 1,
        stamp: stamp(source, revision),
        digest: digest(content),
        names: content.iter().map(|(name, _)| (*name).to_owned()).collect(),
        more: false,
    }))
}

/// Of a publisher that says of what was held that it is all.
fn heartbeat(source: &str, revision: u64, content: Content<'_>) -> Event {
    heartbeat_in(1, source, revision, content)
}

fn heartbeat_in(round: u64, source: &str, revision: u64, content: Content<'_>) -> Event {
    Event::Frame(Frame::Heartbeat(Heartbeat {
        round,
        stamp: Some(stamp(source, revision)),
        digest: digest(content),
        complete: !content.is_empty(),
    }))
}

fn publish(revision: u64, content: Content<'_>, complete: bool) -> Event {
    let set = content
        .iter()
        .map(|(name, body)| ((*name).to_owned(), resource(name, body)))
        .collect();
    Event::Publish(Publication {
        stamp: stamp("c", revision),
        set: Arc::new(set),
        complete,
    })
}

fn frames(actions: Vec<Action>) -> Vec<Frame> {
    actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Send(frame) => Some(frame),
            _ => None,
        })
        .collect()
}

fn show_all(actions: &[Action]) -> String {
    actions.iter().map(show).collect::<Vec<_>>().join(" | ")
}

fn show(action: &Action) -> String {
    match action {
        Action::Send(frame) => format!("send {}", show_frame(frame)),
        Action::PeerJoined { node, plane, held } => {
            format!("joined {node} of {plane} holding {}", show_stamp(held.as_ref()))
        }
        Action::Apply(applied) => {
            format!(
                "apply {}{} {}",
                applied.stamp,
                show_changes(&applied.put, &applied.removed),
                show_complete(applied.complete)
            )
        }
        Action::Braked { stamp, names } => format!("braked {stamp} {}", names.join(" ")),
        Action::InSync { stamp, complete } => format!("in sync {stamp} {}", show_complete(*complete)),
        Action::PeerAcked(ack) => format!("acked {}{}", ack.stamp, show_verdict(&ack.rejected, ack.braked)),
        Action::Asked(question) => format!("asked {}", show_question(question)),
        Action::Answered(answer) => format!("answered {}", show_answer(answer)),
        Action::Alarm(alarm) => format!("alarm {alarm}"),
        Action::PeerSilent => "silent".to_owned(),
        Action::Close(error) => format!("close {error}"),
    }
}

fn show_frame(frame: &Frame) -> String {
    match frame {
        Frame::Hello(hello) => {
            let names: Vec<_> = hello.names.keys().map(String::as_str).collect();
            format!(
                "hello r{} of {} [{}]",
                hello.round,
                show_stamp(hello.stamp.as_ref()),
                names.join(" ")
            )
        }
        Frame::Update(update) => format!(
            "update r{} {}{} {}",
            update.round,
            update.stamp,
            show_changes(&update.put, &update.removed),
            show_complete(update.complete)
        ),
        Frame::Complete(complete) => {
            format!(
                "complete r{} {} [{}]",
                complete.round,
                complete.stamp,
                complete.names.join(" ")
            )
        }
        Frame::Ack(ack) => format!("ack {}{}", ack.stamp, show_verdict(&ack.rejected, ack.braked)),
        Frame::Heartbeat(beat) => format!(
            "heartbeat r{} of {} {}",
            beat.round,
            show_stamp(beat.stamp.as_ref()),
            show_complete(beat.complete)
        ),
        Frame::Question(question) => format!("question {}", show_question(question)),
        Frame::Answer(answer) => format!("answer {}", show_answer(answer)),
    }
}

fn show_question(question: &Question) -> String {
    format!(
        "{} of {}: {}",
        question.id,
        question.cluster,
        show_body(&question.body)
    )
}

fn show_answer(answer: &Answer) -> String {
    match &answer.answer {
        Ok(body) => format!("{}: {}", answer.id, show_body(body)),
        Err(reason) => format!("{}, refused: {reason}", answer.id),
    }
}

fn show_body(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn show_stamp(stamp: Option<&Stamp>) -> String {
    stamp.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn show_complete(complete: bool) -> &'static str {
    if complete { "whole" } else { "part" }
}

fn show_changes(put: &[Resource], removed: &[String]) -> String {
    let put = put.iter().map(|resource| format!(" +{}", resource.name()));
    put.chain(removed.iter().map(|name| format!(" -{name}")))
        .collect()
}

fn show_verdict(rejected: &[Rejection], braked: u32) -> String {
    let mut text: String = rejected
        .iter()
        .map(|rejection| format!(" rejected {}: {}", rejection.name, rejection.reason))
        .collect();
    if braked > 0 {
        let _ = write!(text, " braked {braked}");
    }
    text
}
