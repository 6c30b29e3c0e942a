//! What the proxy is to reach, beside what was found. It is told and not enforced: what else a machine does, and what its kernel
//! takes of a request, counts as well.

use crate::report::Table;

/// The most that a key of the line for scripts may be.
const BARS: [(&str, f64); 21] = [
    ("h1_cpu_vs_envoy", 0.25),
    ("h1_cpu_vs_haproxy", 0.85),
    ("h1log_cpu_vs_envoy", 0.27),
    ("h2h1_cpu_vs_envoy", 0.33),
    ("h2h2_cpu_vs_envoy", 0.33),
    ("grpc_cpu_vs_envoy", 0.33),
    ("tls_cpu_vs_envoy", 0.30),
    ("tls_cpu_vs_haproxy", 0.85),
    ("hs_cpu_vs_envoy", 0.55),
    ("tcp_vs_splice", 1.15),
    ("p50_vs_haproxy", 1.0),
    ("idle_mem_vs_envoy", 0.33),
    ("config_mem_vs_envoy", 0.25),
    ("config_time_vs_envoy", 0.10),
    ("reload_p99_ratio", 1.20),
    ("lost", 0.0),
    ("h1_instructions", 15_000.0),
    ("h1_syscalls", 4.3),
    ("soak_memory_growth", 1.05),
    ("soak_descriptors_left", 0.0),
    ("soak_lost", 0.0),
];

/// A row for each key that has a bar.
pub(super) fn table(keys: &[(String, f64)]) -> Option<Table> {
    let row = |(key, found): &(String, f64)| {
        let (_, most) = BARS.iter().find(|(name, _)| name == key)?;
        let held = if found <= most { "held" } else { "missed" };
        let number = |value: f64| {
            if value.fract() == 0.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.2}")
            }
        };
        Some(vec![key.clone(), number(*found), number(*most), held.to_owned()])
    };
    let rows: Vec<_> = keys.iter().filter_map(row).collect();
    (!rows.is_empty()).then(|| Table {
        title: "What it is to reach".to_owned(),
        heads: ["found", "at most", ""].map(str::to_owned).to_vec(),
        rows,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_held_up_to_its_number() {
        let keys = [
            ("h1_cpu_vs_envoy", 0.25),
            ("h1_cpu_vs_nginx", 9.0),
            ("lost", 1.0),
            ("h1_instructions", 15_000.4),
        ];
        let keys = keys.map(|(key, found)| (key.to_owned(), found));
        let rows = table(&keys).unwrap().rows;
        assert_eq!(
            rows,
            [
                ["h1_cpu_vs_envoy", "0.25", "0.25", "held"],
                ["lost", "1", "0", "missed"],
                ["h1_instructions", "15000.40", "15000", "missed"],
            ]
        );
        assert!(table(&[]).is_none());
    }
}
