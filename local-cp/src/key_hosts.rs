//! Where the hosts are that have issuers' keys: asked of this machine's DNS, so that proxies need none. What was known last
//! holds while nobody answers.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tombolo_compiler::routes::{Slice, SliceItem};
use tombolo_compiler::setting::Issuers;
use tombolo_runtime::shutdown::Shutdown;

use crate::feed::Adopted;

/// By the host as its URL names it.
pub(crate) type Addresses = BTreeMap<String, BTreeSet<IpAddr>>;

/// What the system's resolver says has no time to live; a host that moves leaves its old addresses for longer.
const ASKED_AGAIN: Duration = Duration::from_secs(30);
/// Two servers of names that do not answer, at the resolver's five seconds each.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Each keeps a thread until it is answered, and files are read and written by the same threads.
const LOOKUPS_MAX: usize = 8;

/// Asks for those that the slice names, anew when it names others, until the shutdown.
pub(crate) async fn run(
    mut slices: watch::Receiver<Option<Adopted>>,
    known: watch::Sender<Option<Arc<Addresses>>>,
    mut shutdown: Shutdown,
) {
    loop {
        let wanted = named(&mut slices);
        let look = async {
            // Before there is a slice, what is on disk is what is wanted.
            if let Some(wanted) = &wanted {
                look_up(wanted, &known).await;
            }
            sleep(ASKED_AGAIN).await;
        };
        tokio::select! {
            () = look => {}
            () = others_named(&mut slices, wanted.as_ref()) => {}
            () = shutdown.wait() => return,
        }
    }
}

/// Slices change more often than the hosts in them.
async fn others_named(slices: &mut watch::Receiver<Option<Adopted>>, than: Option<&BTreeSet<String>>) {
    while slices.changed().await.is_ok() {
        if named(slices).as_ref() != than {
            return;
        }
    }
    pending::<()>().await;
}

fn named(slices: &mut watch::Receiver<Option<Adopted>>) -> Option<BTreeSet<String>> {
    let adopted = slices.borrow_and_update();
    adopted.as_ref().map(|adopted| wanted(&adopted.slice))
}

fn wanted(slice: &Slice) -> BTreeSet<String> {
    let gateways = slice.items.values().filter_map(|item| match item {
        SliceItem::Gateway(gateway) => gateway.value.conduct.jwt.as_ref(),
        _ => None,
    });
    gateways
        .flat_map(Issuers::iter)
        .filter_map(|issuer| Some(issuer.jwks_uri.authority()?.0.to_owned()))
        .collect()
}

/// Each is told as soon as it is known: one that nobody knows holds up none of the others.
async fn look_up(wanted: &BTreeSet<String>, known: &watch::Sender<Option<Arc<Addresses>>>) {
    let tell = |change: &dyn Fn(&mut Addresses)| {
        known.send_if_modified(|known| {
            let mut now = known.as_deref().cloned().unwrap_or_default();
            change(&mut now);
            let differs = known.as_deref() != Some(&now);
            *known = Some(Arc::new(now));
            differs
        });
    };
    tell(&|known| known.retain(|host, _| wanted.contains(host)));
    let mut waiting = wanted.iter().cloned();
    let mut lookups = JoinSet::new();
    let ask = |lookups: &mut JoinSet<_>, host: Option<String>| {
        if let Some(host) = host {
            lookups.spawn(async move {
                let found = of_one_family(addresses_of(&host).await);
                (host, found)
            });
        }
    };
    for _ in 0..LOOKUPS_MAX {
        ask(&mut lookups, waiting.next());
    }
    while let Some(looked_up) = lookups.join_next().await {
        ask(&mut lookups, waiting.next());
        match looked_up {
            Ok((host, found)) => tell(&|known| learn(known, &host, &found)),
            Err(error) => tracing::error!(%error, "a lookup of an issuer's host has failed"),
        }
    }
}

/// What was known of a host holds while nobody answers, and while some of it is still so: of many addresses a DNS tells a few at a
/// time, others each time.
fn learn(known: &mut Addresses, host: &str, found: &BTreeSet<IpAddr>) {
    let holds = known.get(host).is_some_and(|held| !held.is_disjoint(found));
    if !found.is_empty() && !holds {
        known.insert(host.to_owned(), found.clone());
    }
}

/// None where nobody says.
async fn addresses_of(host: &str) -> BTreeSet<IpAddr> {
    match timeout(ANSWER_TIME_MAX, lookup_host((host, 0))).await {
        Ok(Ok(found)) => return found.map(|address| address.ip()).collect(),
        Ok(Err(error)) => tracing::warn!(host, %error, "cannot look up the host of an issuer's keys"),
        Err(_) => tracing::warn!(host, "nobody says in time where the host of an issuer's keys is"),
    }
    BTreeSet::new()
}

/// Where there are any of IPv4: half of the fetches would fail in a cluster that has no way out for the others.
fn of_one_family(addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    if addresses.iter().any(IpAddr::is_ipv4) {
        addresses.into_iter().filter(IpAddr::is_ipv4).collect()
    } else {
        addresses
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_known_holds_while_nobody_answers() {
        let ip = |text: &str| -> BTreeSet<IpAddr> { [text.parse().unwrap()].into() };
        let before: Addresses = [
            ("127.0.0.1".to_owned(), ip("10.0.0.1")),
            // No name, so that nobody has to be asked for it.
            ("a b".to_owned(), ip("10.0.0.2")),
            ("gone".to_owned(), ip("10.0.0.3")),
        ]
        .into();
        let (out, known) = watch::channel(Some(Arc::new(before)));
        let more = (1..20).map(|last| format!("127.0.1.{last}"));
        let named = ["127.0.0.1", "::1", "a b", "c d"].map(str::to_owned);
        let wanted = named.into_iter().chain(more.clone()).collect();
        look_up(&wanted, &out).await;
        let mut expected: Addresses = [
            ("127.0.0.1".to_owned(), ip("127.0.0.1")),
            ("::1".to_owned(), ip("::1")),
            ("a b".to_owned(), ip("10.0.0.2")),
        ]
        .into();
        expected.extend(more.map(|one| (one.clone(), ip(&one))));
        assert_eq!(known.borrow().as_deref(), Some(&expected));
    }

    #[test]
    fn a_host_that_tells_some_of_its_addresses_has_not_moved() {
        let ips = |ips: &[&str]| -> BTreeSet<IpAddr> { ips.iter().map(|ip| ip.parse().unwrap()).collect() };
        let (a, b, c) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
        for (held, found, kept) in [
            (&[a, b][..], &[b, c][..], &[a, b][..]),
            (&[a, b], &[b], &[a, b]),
            (&[a, b], &[c], &[c]),
            (&[a], &[], &[a]),
            (&[], &[a], &[a]),
        ] {
            let mut known: Addresses = [("h".to_owned(), ips(held))].into();
            learn(&mut known, "h", &ips(found));
            assert_eq!(known["h"], ips(kept), "{held:?} {found:?}");
        }
    }

    #[test]
    fn addresses_are_of_one_family() {
        let ips = |ips: &[&str]| -> BTreeSet<IpAddr> { ips.iter().map(|ip| ip.parse().unwrap()).collect() };
        for (found, kept) in [
            (ips(&["10.0.0.1", "::1"]), ips(&["10.0.0.1"])),
            (ips(&["::1", "::2"]), ips(&["::1", "::2"])),
            (ips(&[]), ips(&[])),
        ] {
            assert_eq!(of_one_family(found), kept);
        }
    }
}
