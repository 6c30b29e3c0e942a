//! Reads out of a proxy's own words which resources it refuses, and why.

use std::collections::BTreeMap;

/// By name, the part of `message` that speaks of it. Our proxy writes `NAME: reason; NAME: reason`, Envoy
/// `Error adding/updating cluster(s) NAME: reason, NAME: reason`. A message that names none of `names` is about all.
pub(crate) fn blame<'a>(
    message: &str,
    names: impl Iterator<Item = &'a String> + Clone,
) -> BTreeMap<String, String> {
    let mut spoken: Vec<(usize, &String)> = names
        .clone()
        .filter_map(|name| Some((position(message, name)?, name)))
        .collect();
    spoken.sort_unstable();
    if spoken.is_empty() {
        return names.map(|name| (name.clone(), message.to_owned())).collect();
    }
    let ends = spoken.iter().skip(1).map(|(at, _)| *at).chain([message.len()]);
    spoken
        .iter()
        .zip(ends)
        .map(|((at, name), end)| {
            let part = &message[at + name.len()..end];
            let reason = part.trim_matches(|c: char| c.is_whitespace() || ":;,".contains(c));
            let reason = if reason.is_empty() { message } else { reason };
            ((*name).clone(), reason.to_owned())
        })
        .collect()
}

/// Where `name` stands as a whole word; names hold dots and colons, so `b:80` is not in `a.b:80` nor in `b:8080`.
fn position(message: &str, name: &str) -> Option<usize> {
    let part_of_name = |c: char| c.is_alphanumeric() || "-_./:|*".contains(c);
    message
        .match_indices(name)
        .find(|(at, _)| {
            let before = message[..*at].chars().next_back();
            let mut after = message[at + name.len()..].chars();
            let ends = match after.next() {
                // The colon before a reason.
                Some(':') => after.next().is_none_or(char::is_whitespace),
                Some(next) => !part_of_name(next),
                None => true,
            };
            ends && !before.is_some_and(part_of_name)
        })
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message, the names it may be about, and what it says of which.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)]);

    #[test]
    fn a_refusal_is_laid_on_the_resources_that_it_names() {
        let all: &[Case<'_>] = &[
            (
                "outbound: virtual_hosts[0].routes[1]: bad; in: no",
                &["in", "outbound", "other"],
                &[("in", "no"), ("outbound", "virtual_hosts[0].routes[1]: bad")],
            ),
            (
                "Error adding/updating cluster(s) b.shop:80: bad timeout, v1.b.shop:80: worse",
                &["b.shop:80", "v1.b.shop:80", "b.shop:8080"],
                &[("b.shop:80", "bad timeout"), ("v1.b.shop:80", "worse")],
            ),
            (
                "Proto constraint validation failed",
                &["a", "b"],
                &[
                    ("a", "Proto constraint validation failed"),
                    ("b", "Proto constraint validation failed"),
                ],
            ),
            ("gw", &["gw"], &[("gw", "gw")]),
            ("", &["gw"], &[("gw", "")]),
        ];
        for (message, names, expected) in all {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = blame(message, names.iter());
            let expected: BTreeMap<String, String> = expected
                .iter()
                .map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned()))
                .collect();
            assert_eq!(found, expected, "{message}");
        }
    }
}
