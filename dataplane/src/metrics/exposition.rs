//! Prometheus' text format.

use std::fmt::Write as _;

use super::{Kind, Sink};

#[derive(Default)]
pub(super) struct Exposition {
    pub(super) text: String,
    name: &'static str,
}

impl Sink for Exposition {
    fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.put("", labels, value);
    }

    fn histogram(&mut self, labels: &[(&str, &str)], bounds_us: &[u64], counts: &[u64], sum_us: u64) {
        let mut count = 0;
        for (in_bucket, bound) in counts.iter().zip(bounds_us.iter().map(Some).chain([None])) {
            count += in_bucket;
            let le = bound.map_or("+Inf".to_owned(), |us| seconds(*us));
            self.put("_bucket", &[labels, &[("le", &le)]].concat(), count);
        }
        self.put("_sum", labels, seconds(sum_us));
        self.put("_count", labels, count);
    }
}

impl Exposition {
    fn put(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let mut shown = String::new();
        for (name, value) in labels {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let comma = if shown.is_empty() { "" } else { "," };
            shown += &format!("{comma}{name}=\"{value}\"");
        }
        let name = self.name;
        if shown.is_empty() {
            self.line(format_args!("{name}{suffix} {value}\n"));
        } else {
            self.line(format_args!("{name}{suffix}{{{shown}}} {value}\n"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(line)
            .expect("invariant: writing to a string cannot fail");
    }
}

/// Microseconds as seconds, without rounding.
fn seconds(us: u64) -> String {
    let shown = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    let trimmed = shown.trim_end_matches('0');
    trimmed.strip_suffix('.').unwrap_or(trimmed).to_owned()
}
