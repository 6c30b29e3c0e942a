#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::balance::Always;

const SECOND: Duration = Duration::from_secs(1);

/// Three in a row of each kind; nobody is compared with others.
fn three() -> Detection {
    Detection {
        consecutive: [(3, 0), (3, 100), (3, 100)],
        interval: 10 * SECOND,
        base_time: 30 * SECOND,
        max_time: 300 * SECOND,
        max_jitter: Duration::ZERO,
        max_percent: 100,
        always_one: false,
        splits: false,
        success_rate: SuccessRate {
            hosts_min: 3,
            requests_min: 10,
            deviation_thousandths: 1000,
            enforcing: [0, 0],
        },
        failure_percentage: FailurePercentage {
            hosts_min: 1,
            requests_min: 10,
            threshold: 85,
            enforcing: [0, 0],
        },
        returns_checked: true,
    }
}

/// Hosts of one cluster, a detector, and a clock.
struct Play {
    detector: Detector,
    records: Vec<Record>,
    start: Instant,
    now: Instant,
}

/// Draws the middle.
struct Half;

impl Draw for Half {
    fn below(&self, bound: u32) -> u32 {
        bound / 2
    }
}

impl Play {
    fn new(detection: &Detection, hosts: u64) -> Self {
        let wake = Arc::default();
        let records = (0..hosts).map(|_| Record::new(detection, 2, &wake)).collect();
        let mut detector = Detector::new(detection.clone());
        detector.keep(0..hosts);
        let start = Instant::now();
        Self {
            detector,
            records,
            start,
            now: start,
        }
    }

    fn hear(&mut self, draw: &impl Draw) {
        let records: Records<'_> = (0..).zip(&self.records).collect();
        heard(&mut self.detector, &records, self.now, draw);
    }

    fn sweep(&mut self, draw: &impl Draw) {
        let records: Records<'_> = (0..).zip(&self.records).collect();
        swept(&mut self.detector, &records, self.now, draw);
    }

    fn ejected(&self) -> String {
        let names = ('a'..).zip(&self.records);
        names
            .filter(|(_, record)| record.is_ejected())
            .map(|(name, _)| name)
            .collect()
    }

    /// `a500*3`: the host `a` answers so three times; `a-` cannot be reached, `a!` breaks, `a~` is late, `a+` passes a check.
    /// `@30`: a sweep when so many seconds have passed. `=ab`: these are left out, and no other.
    fn step(&mut self, step: &str) {
        let (what, times) = step
            .split_once('*')
            .map_or((step, 1), |(what, times)| (what, times.parse().unwrap()));
        let (first, rest) = what.split_at(1);
        match first {
            "=" => assert_eq!(self.ejected(), rest),
            "@" => {
                self.now = self.start + SECOND * rest.parse().unwrap();
                self.sweep(&Half);
            }
            host => {
                let record = usize::from(host.as_bytes()[0] - b'a');
                for nth in 0..times {
                    let report = match rest {
                        "-" => Report::NoConnection,
                        "!" => Report::Broken,
                        "~" => Report::TimedOut,
                        "+" => {
                            self.records[record].check_passed();
                            continue;
                        }
                        status => Report::Status(status.parse().unwrap()),
                    };
                    self.records[record].report(nth % 2, report);
                }
                self.hear(&Half);
            }
        }
    }
}

fn check(detection: &Detection, scripts: &[&str]) {
    for script in scripts {
        println!("{script}");
        let mut play = Play::new(detection, 3);
        script.split(' ').for_each(|step| play.step(step));
    }
}

#[test]
fn failures_in_a_row_eject() {
    check(
        &three(),
        &[
            "= a500*2 = a500 =a",
            "a500*2 a499 a500*2 =",
            "a500*2 b500*2 = b500 =b a500 =ab",
            // What brings no answer is one of ours.
            "a- a! a~ =a",
            "a503*3 =a",
        ],
    );
    let gateway = Detection {
        consecutive: [(3, 100), (9, 100), (3, 100)],
        ..three()
    };
    check(
        &gateway,
        &[
            "a502 a503 a504 =a",
            "a- a! a~ =a",
            "a503*2 a500 a503*2 =",
            "a500*3 =",
        ],
    );
    let never = Detection {
        consecutive: [(0, 100), (0, 100), (0, 100)],
        ..three()
    };
    check(&never, &["a500*50 =", "a503*50 =", "a-*50 ="]);
}

#[test]
fn what_is_of_local_origin_may_count_apart() {
    let split = Detection {
        splits: true,
        ..three()
    };
    check(
        &split,
        &[
            "a-*3 =a",
            "a-*2 a500 a- =",
            "a500*2 a-*2 = a500 =a",
            // There was a connection.
            "a!*9 =",
            "a-*2 a~ a-*2 =a",
            "a-*2 a! a- =",
        ],
    );
}

#[test]
fn a_share_of_what_is_found_is_enforced() {
    for (enforcing, expected) in [
        (0, "a500*3 ="),
        (50, "a500*3 ="),
        (51, "a500*3 =a"),
        (100, "a500*3 =a"),
    ] {
        let detection = Detection {
            consecutive: [(3, 0), (3, enforcing), (3, 0)],
            ..three()
        };
        check(&detection, &[expected]);
    }
}

#[test]
fn hosts_return_after_a_while() {
    check(
        &three(),
        &[
            "a500*3 @29 =a @30 =",
            // Twice as long the second time,
            "a500*3 @30 = a500*3 @89 =a @90 =",
            // unless it was well in between.
            "a500*3 @30 = @40 a500*3 @69 =a @70 =",
            "a500*3 @30 a500*3 @90 @91 @92 a500*3 =a @121 =a @122 =",
            // What fails while it is left out does not count when it is back.
            "a500*3 a500*2 @30 = a500 = a500*2 =a",
        ],
    );
    let bounded = Detection {
        max_time: 45 * SECOND,
        ..three()
    };
    check(
        &bounded,
        &["a500*3 @30 = a500*3 @74 =a @75 = a500*3 @119 =a @120 ="],
    );
    let jittered = Detection {
        max_jitter: 10 * SECOND,
        ..three()
    };
    check(&jittered, &["a500*3 @34 =a @35 ="]);
}

#[test]
fn a_check_that_passes_returns_a_host() {
    check(
        &three(),
        &["a500*3 =a a+ =", "a500*3 =a a500*2 a+ = a500 =", "a+ a500*3 =a"],
    );
    let stays = Detection {
        returns_checked: false,
        ..three()
    };
    check(&stays, &["a500*3 =a a+ =a @30 ="]);
}

/// What Envoy 1.40 did when it was asked.
#[test]
fn so_many_may_be_left_out() {
    for (max_percent, always_one, hosts, expected) in [
        (10, false, 2, ""),
        (10, true, 2, "a"),
        (50, false, 2, "a"),
        (50, false, 3, "a"),
        (34, false, 3, "a"),
        (33, false, 3, ""),
        (0, true, 3, "a"),
        (70, false, 3, "ab"),
        (100, false, 3, "abc"),
    ] {
        let detection = Detection {
            max_percent,
            always_one,
            ..three()
        };
        let mut play = Play::new(&detection, hosts);
        for host in ["a", "b", "c"].iter().take(hosts as usize) {
            play.step(&format!("{host}500*3"));
        }
        assert_eq!(
            play.ejected(),
            expected,
            "{max_percent} % of {hosts}, {always_one}"
        );
    }
    let half = Detection {
        max_percent: 50,
        ..three()
    };
    check(&half, &["a500*3 b500*3 =a @30 = b500*3 =b"]);
}

#[test]
fn hosts_are_compared() {
    let rate = |deviation_thousandths, hosts_min| Detection {
        consecutive: [(0, 0); 3],
        success_rate: SuccessRate {
            hosts_min,
            deviation_thousandths,
            enforcing: [100, 100],
            ..three().success_rate
        },
        ..three()
    };
    check(
        &rate(1000, 3),
        &[
            "a200*10 b200*10 c200*5 c500*5 = @10 =c",
            "a200*10 b200*10 c200*5 c500*4 @10 =",
            "a200*10 b200*10 c200*10 @10 =",
            "a500*10 b500*10 c500*10 @10 =",
            // Only what came since the last sweep,
            "a200*10 b200*10 @10 c500*10 @20 =",
            // and of those who are used.
            "a200*10 b200*10 c500*10 @10 =c a200*10 b500*10 c200*10 @20 =c",
        ],
    );
    check(&rate(1900, 3), &["a200*10 b200*10 c200*5 c500*5 @10 ="]);
    check(&rate(1000, 4), &["a200*10 b200*10 c200*5 c500*5 @10 ="]);
    let percentage = Detection {
        consecutive: [(0, 0); 3],
        failure_percentage: FailurePercentage {
            enforcing: [100, 100],
            ..three().failure_percentage
        },
        ..three()
    };
    check(
        &percentage,
        &[
            "a500*9 a200 @10 =a",
            "a500*8 a200*2 @10 =",
            "a500*9 @10 =",
            "a500*10 b500*10 c500*10 @10 =abc",
        ],
    );
    let split = Detection {
        splits: true,
        ..percentage
    };
    check(&split, &["a-*10 @10 =a", "a-*8 a200*2 @10 =", "a!*50 @10 ="]);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Report(usize, Report),
    Checked(usize),
    Wait(u32),
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    let report = select(vec![
        Report::Status(200),
        Report::Status(200),
        Report::Status(500),
        Report::Status(503),
        Report::NoConnection,
        Report::Broken,
        Report::TimedOut,
    ]);
    prop_oneof![
        20 => (0..4usize, report).prop_map(|(host, report)| Op::Report(host, report)),
        1 => (0..4usize).prop_map(Op::Checked),
        3 => (1..4u32).prop_map(Op::Wait),
        4 => Just(Op::Sweep),
    ]
}

fn detection() -> impl Strategy<Value = Detection> {
    let small = || 1..4u32;
    let rules = (
        small(),
        small(),
        small(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let rest = (
        select(vec![0, 25, 49, 50, 100]),
        small(),
        0..6u32,
        any::<bool>(),
        any::<bool>(),
    );
    (rules, rest).prop_map(
        |(
            (gateway, five_xx, local, splits, always_one, returns_checked),
            (max_percent, base, longer, rates, shares),
        )| {
            let enforcing = |is_on| if is_on { [100, 100] } else { [0, 0] };
            Detection {
                consecutive: [(gateway, 100), (five_xx, 100), (local, 100)],
                base_time: SECOND * base,
                max_time: SECOND * (base + longer),
                max_percent,
                always_one,
                splits,
                returns_checked,
                success_rate: SuccessRate {
                    hosts_min: 2,
                    requests_min: 3,
                    enforcing: enforcing(rates),
                    ..three().success_rate
                },
                failure_percentage: FailurePercentage {
                    hosts_min: 2,
                    requests_min: 2,
                    threshold: 50,
                    enforcing: enforcing(shares),
                },
                ..three()
            }
        },
    )
}

/// The same, told from all that has happened instead of from counters.
struct Model {
    detection: Detection,
    now_s: u32,
    hosts: Vec<Past>,
}

#[derive(Default)]
struct Past {
    events: Vec<Event>,
    /// In the present interval: who says so, and whether it succeeded.
    interval: Vec<(Origin, bool)>,
    /// When, and how long.
    ejected: Option<(u32, u32)>,
    multiplier: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Answer(u16),
    Local(bool),
    Tripped(Trip),
}

impl Past {
    /// How many failures of that kind there are at the end.
    fn row(&self, trip: Trip) -> u32 {
        let mut row = 0;
        for event in self.events.iter().rev() {
            let fails = match (trip, event) {
                (_, Event::Tripped(other)) if *other == trip => return row,
                (Trip::Gateway, Event::Answer(status)) => (502..=504).contains(status),
                (Trip::FiveXx, Event::Answer(status)) => *status >= 500,
                (Trip::LocalOrigin, Event::Local(succeeded)) => !succeeded,
                _ => continue,
            };
            if !fails {
                return row;
            }
            row += 1;
        }
        row
    }

    fn rate(&self, origin: Origin, requests_min: usize) -> Option<f64> {
        let of: Vec<bool> = self
            .interval
            .iter()
            .filter(|(by, _)| *by == origin)
            .map(|(_, ok)| *ok)
            .collect();
        (of.len() >= requests_min)
            .then(|| of.iter().filter(|ok| **ok).count() as f64 * 100.0 / of.len() as f64)
    }
}

impl Model {
    fn play(&mut self, op: Op) {
        match op {
            Op::Wait(seconds) => self.now_s += seconds,
            Op::Checked(host) if self.detection.returns_checked && self.hosts[host].ejected.is_some() => {
                self.readmit(host);
            }
            Op::Checked(_) => {}
            Op::Report(host, report) => {
                let events: &[Event] = match (report, self.detection.splits) {
                    (Report::Status(status), true) => &[Event::Local(true), Event::Answer(status)],
                    (Report::Status(status), false) => &[Event::Answer(status)],
                    (Report::NoConnection, true) => &[Event::Local(false)],
                    (Report::Broken | Report::TimedOut, true) => &[Event::Local(true), Event::Local(false)],
                    (Report::NoConnection | Report::Broken, false) => &[Event::Answer(503)],
                    (Report::TimedOut, false) => &[Event::Answer(504)],
                };
                let mut tripped = Vec::new();
                for event in events {
                    let past = &mut self.hosts[host];
                    past.events.push(*event);
                    match event {
                        Event::Answer(status) => past.interval.push((Origin::External, *status < 500)),
                        Event::Local(succeeded) => past.interval.push((Origin::Local, *succeeded)),
                        Event::Tripped(_) => {}
                    }
                    for trip in Trip::ALL {
                        if past.row(trip) == self.detection.consecutive[trip as usize].0 {
                            past.events.push(Event::Tripped(trip));
                            tripped.push(trip);
                        }
                    }
                }
                tripped.into_iter().for_each(|_| self.eject(host));
            }
            Op::Sweep => {
                for host in 0..self.hosts.len() {
                    match self.hosts[host].ejected {
                        Some((since, time)) if self.now_s >= since + time => self.readmit(host),
                        Some(_) => {}
                        None => self.hosts[host].multiplier = self.hosts[host].multiplier.saturating_sub(1),
                    }
                }
                self.compare(Origin::External);
                if self.detection.splits {
                    self.compare(Origin::Local);
                }
                self.hosts.iter_mut().for_each(|past| past.interval.clear());
            }
        }
    }

    fn compare(&mut self, origin: Origin) {
        let rates = |requests_min| -> Vec<(usize, f64)> {
            let used = self
                .hosts
                .iter()
                .enumerate()
                .filter(|(_, past)| past.ejected.is_none());
            used.filter_map(|(host, past)| Some((host, past.rate(origin, requests_min)?)))
                .collect()
        };
        let mut outliers = Vec::new();
        let some = rates(3);
        if self.detection.success_rate.enforcing[0] > 0 && some.len() >= 2 {
            let mean = some.iter().map(|(_, rate)| rate).sum::<f64>() / some.len() as f64;
            let squares = some.iter().map(|(_, rate)| (rate - mean) * (rate - mean));
            let deviation = (squares.sum::<f64>() / some.len() as f64).sqrt();
            outliers.extend(
                some.iter()
                    .filter(|(_, rate)| *rate < mean - deviation)
                    .map(|(host, _)| *host),
            );
        }
        let some = rates(2);
        if self.detection.failure_percentage.enforcing[0] > 0 && some.len() >= 2 {
            outliers.extend(
                some.iter()
                    .filter(|(_, rate)| *rate <= 50.0)
                    .map(|(host, _)| *host),
            );
        }
        outliers.into_iter().for_each(|host| self.eject(host));
    }

    fn eject(&mut self, host: usize) {
        let active = self.hosts.iter().filter(|past| past.ejected.is_some()).count();
        let share = 100.0 * (active + 1) as f64 / self.hosts.len() as f64;
        let may = share <= self.detection.max_percent.into() || (self.detection.always_one && active == 0);
        let (base, max) = (
            self.detection.base_time.as_secs() as u32,
            self.detection.max_time.as_secs() as u32,
        );
        let past = &mut self.hosts[host];
        if past.ejected.is_none() && may {
            if past.multiplier * base < max + base {
                past.multiplier += 1;
            }
            past.ejected = Some((self.now_s, (past.multiplier * base).min(max)));
        }
    }

    fn readmit(&mut self, host: usize) {
        self.hosts[host].ejected = None;
        self.hosts[host].events.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_all_that_happened_says(detection in detection(), ops in vec(op(), 1..120)) {
        let mut play = Play::new(&detection, 4);
        let mut model = Model { detection, now_s: 0, hosts: (0..4).map(|_| Past::default()).collect() };
        for (nth, op) in ops.into_iter().enumerate() {
            model.play(op);
            match op {
                Op::Report(host, report) => play.records[host].report(nth % 2, report),
                Op::Checked(host) => play.records[host].check_passed(),
                Op::Wait(seconds) => play.now += SECOND * seconds,
                Op::Sweep => play.sweep(&Always(0)),
            }
            play.hear(&Always(0));
            let expected: String = ('a'..).zip(&model.hosts).filter(|(_, past)| past.ejected.is_some()).map(|(name, _)| name).collect();
            prop_assert_eq!(play.ejected(), expected, "{:?}, the {}th", op, nth);
        }
    }
}
