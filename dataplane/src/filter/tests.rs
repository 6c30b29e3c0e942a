#![allow(clippy::unwrap_used)]

use super::*;
use crate::balance::Always;
use crate::config::MILLION;

fn abort(status: u16) -> Filter {
    Filter::Fault(Fault {
        abort: Some((
            Abort::Status(StatusCode::from_u16(status).unwrap_or_default()),
            MILLION,
        )),
        ..Fault::default()
    })
}

fn answered(chain: &Chain) -> Option<u16> {
    let subject = Subject {
        authority: "a",
        path: "/",
        client: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 9].into(),
        request: &http::Request::new(()).into_parts().0,
    };
    let verdict = chain.judge(None, &subject, Instant::now, &Always(0));
    verdict.answer.map(|answer| answer.status.as_u16())
}

#[test]
fn the_most_specific_override_counts() {
    use Override::{Off, On, Replaced};
    let of = |status| Some(Replaced(abort(status)));
    // What the listener has, what the route, its host and its table say, and what a request is answered.
    let cases = [
        ((true, Some(500)), [None, None, None], Some(500)),
        ((true, None), [None, None, None], None),
        ((false, Some(500)), [None, None, None], None),
        ((true, Some(500)), [of(501), of(502), of(503)], Some(501)),
        ((true, Some(500)), [None, of(502), of(503)], Some(502)),
        ((true, Some(500)), [None, None, of(503)], Some(503)),
        ((true, Some(500)), [Some(Off), of(502), None], None),
        ((true, Some(500)), [of(501), Some(Off), None], Some(501)),
        ((false, None), [of(501), None, None], Some(501)),
        ((false, Some(500)), [Some(On), None, None], Some(500)),
        ((false, Some(500)), [Some(On), of(502), None], Some(502)),
        ((true, Some(500)), [Some(On), Some(Off), of(503)], Some(503)),
    ];
    for ((is_on, status), said, expected) in cases {
        let filter = ListenerFilter {
            name: "f".into(),
            is_on,
            filter: status.map_or(Filter::Fault(Fault::default()), abort),
        };
        let level = |said: &Option<Override>| {
            let said = said.iter().map(|said| ("f".into(), said.clone()));
            Arc::new(said.collect::<Overrides>())
        };
        let levels = said.iter().map(level).collect();
        let chains = chains(&[filter], &[levels], Held::default());
        assert_eq!(answered(&chains[0]), expected, "{is_on} {status:?} {said:?}");
    }
}

#[test]
fn an_override_of_another_name_is_nobodys() {
    let filter = ListenerFilter {
        name: "f".into(),
        is_on: true,
        filter: Filter::Fault(Fault::default()),
    };
    let other = Arc::new(Overrides::from([("g".into(), Override::Replaced(abort(501)))]));
    let levels = vec![vec![], vec![other]];
    assert_eq!(
        chains(&[filter], &levels, Held::default())[..],
        [Chain::default(), Chain::default()]
    );
    assert!(
        chains(&[], &levels, Held::default()).is_empty(),
        "nothing to look for"
    );
}

#[test]
fn the_first_that_answers_ends_the_chain() {
    let filters = [500, 501].map(|status| ListenerFilter {
        name: status.to_string().into(),
        is_on: true,
        filter: abort(status),
    });
    let levels = vec![
        vec![],
        vec![Arc::new(Overrides::from([("500".into(), Override::Off)]))],
    ];
    let found: Vec<Option<u16>> = chains(&filters, &levels, Held::default())
        .iter()
        .map(answered)
        .collect();
    assert_eq!(found, [Some(500), Some(501)]);
}

#[test]
fn a_limit_that_stays_keeps_what_is_left_of_it() {
    let filter = ListenerFilter {
        name: "f".into(),
        is_on: true,
        filter: Filter::LocalRateLimit(None),
    };
    let limited = |place: &str, tokens| {
        let limit = LocalRateLimit::new(Limit {
            place: place.into(),
            rate: Rate::new(tokens, 1, Duration::from_secs(3600)),
            asked: MILLION,
            enforced: MILLION,
            status: StatusCode::TOO_MANY_REQUESTS,
            code: None,
            descriptors: None,
            tells: false,
            told: HeaderEdits::default(),
            unenforced: HeaderEdits::default(),
        });
        let limit = Override::Replaced(Filter::LocalRateLimit(Some(limit)));
        vec![Arc::new(Overrides::from([("f".into(), limit)]))]
    };
    let filters = [filter];
    let before = chains(&filters, &[limited("a", 1)], Held::default());
    let held = Held {
        chains: &before,
        routes: &[],
    };
    assert_eq!(answered(&before[0]), None);
    for (place, tokens, expected) in [("a", 1, Some(429)), ("a", 2, None), ("b", 1, None)] {
        let after = chains(&filters, &[vec![], limited(place, tokens)], held);
        assert_eq!(answered(&after[1]), expected, "{place} {tokens}");
    }
}

#[test]
fn a_chain_that_stays_is_made_once() {
    let filters = [ListenerFilter {
        name: "f".into(),
        is_on: true,
        filter: abort(500),
    }];
    let says = |status| {
        vec![Arc::new(Overrides::from([(
            "f".into(),
            Override::Replaced(abort(status)),
        )]))]
    };
    let levels = vec![vec![], says(501), says(502)];
    let before = chains(&filters, &levels, Held::default());
    let mut changed = levels.clone();
    changed[1] = says(503);
    let held = Held {
        chains: &before,
        routes: &levels,
    };
    let after = chains(&filters, &changed, held);
    let answers: Vec<_> = after.iter().map(answered).collect();
    assert_eq!(answers, [Some(500), Some(503), Some(502)]);
    let is_held = |place: usize| Arc::ptr_eq(&before[place].0, &after[place].0);
    assert_eq!([0, 1, 2].map(is_held), [true, false, true]);
    // Other filters make other chains, whatever routes say.
    let others = Held {
        chains: &before,
        routes: &[],
    };
    let after = chains(&filters, &levels, others);
    assert!(!Arc::ptr_eq(&before[0].0, &after[0].0));
}
