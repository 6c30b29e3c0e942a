//! A request at one of the doors, and whether what came back is what was explained.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use http::header::HOST;
use http_body_util::Full;
use proptest::sample::{select, subsequence};
use proptest::strategy::Strategy;
use tombolo_compiler::explain::request::Request;
use tombolo_compiler::explain::{Destination, Entry, Host, Hosts, Outcome};
use tombolo_compiler::http::HeaderName;
use tombolo_tests::client::{self, Reply};

use crate::decision::NUMBER;
use crate::site::{Door, Site};

/// Envoy's default: a tier of which less than 100/140 can be used gives a share to the next.
const OVERPROVISIONING_PERCENT: usize = 140;

/// How many doors a site has is known when it stands, so the door is what is left of a division.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    door: usize,
    /// By what it is called inside, and by a gateway's host: each door takes what suits it.
    service: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

pub(crate) fn questions() -> impl Strategy<Value = Question> {
    let service = select(vec![
        "reviews",
        "reviews.shop",
        "reviews.shop:90",
        "reviews.shop:5432",
        "REVIEWS.shop.svc",
        "web.shop.svc:80",
        "web.shop",
        "basket",
        "basket.cart.svc.clusterset.local",
        "basket.cart.svc.cluster.local:80",
        "basket.cart:81",
        "nobody.shop",
        "a.example.com",
    ]);
    let host = select(vec![
        "a.example.com:8080",
        "A.example.com:8080",
        "a.example.com:8081",
        "b.example.com:8080",
        "b.example.com:8081",
        "x.y.example.com:8080",
        "example.com:8080",
        "nobody.example.org:8081",
    ]);
    let path = select(vec![
        "/",
        "/a",
        "/A",
        "/a/",
        "/a/b",
        "/ab",
        "/b/c?d=e",
        "/b?d=f&d=e",
        "/a?x-a=1",
        "/a?x-a",
        "/a%2Fb",
    ]);
    let cookie = select(vec![
        "user=anna",
        "theme=dark; user=\"bert\"",
        "user=carl;user=anna",
        "User=anna; user",
    ]);
    let headers = (
        subsequence(
            vec![("x-a", "1"), ("x-b", "1"), ("x-b", "23"), ("x-c", "2")],
            0..4,
        ),
        proptest::option::of(cookie),
    );
    let headers = headers.prop_map(|(headers, cookie)| {
        let names: BTreeMap<&str, &str> = headers.into_iter().collect();
        let cookie = cookie.map(|cookie| ("cookie", cookie));
        names.into_iter().chain(cookie).collect()
    });
    (0..64_usize, service, host, path, headers).prop_map(|(door, service, host, path, headers)| Question {
        door,
        service,
        host,
        path,
        headers,
    })
}

impl Question {
    pub(crate) fn door<'a>(&self, site: &'a Site) -> &'a Door {
        let doors = site.doors();
        &doors[self.door % doors.len()]
    }

    pub(crate) fn request(&self, entry: &Entry) -> Request {
        let headers: BTreeMap<HeaderName, String> = self
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned().try_into().unwrap(), (*value).to_owned()))
            .collect();
        Request::new(
            "GET",
            &format!("http://{}{}", self.authority(entry), self.path),
            headers,
        )
        .unwrap()
    }

    /// Sends it as clients do: without the port that a URL means anyway. `None` when nobody listens.
    pub(crate) async fn send(&self, door: &Door, number: &str) -> Result<Option<Reply>> {
        let port = self.request(&door.entry).port();
        let address: SocketAddr = door.address(port);
        let written = self.authority(&door.entry);
        let host = written.strip_suffix(":80").unwrap_or(written);
        let mut request = http::Request::get(self.path)
            .header(HOST, host)
            .header(NUMBER, number);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        match client::send(address, request.body(Full::<Bytes>::default())?).await {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if format!("{error:#}").contains("Connection refused") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn authority(&self, entry: &Entry) -> &'static str {
        match entry {
            Entry::Sidecar(_) => self.service,
            Entry::Ingress(_) | Entry::EastWest(_) => self.host,
        }
    }
}

/// What can come back.
#[derive(Debug)]
pub(crate) enum Expected {
    Refused,
    Status(u16),
    Says(u16, String),
    LeadsTo(u16, String),
    /// One of these answers; or nobody, with 503.
    AnsweredBy(BTreeSet<String>, bool),
}

impl Expected {
    pub(crate) fn of(outcome: &Outcome, site: &Site) -> Expected {
        match outcome {
            Outcome::NotTaken { .. } => Expected::Refused,
            // Of what no rule decides a proxy says nothing.
            Outcome::Refuse {
                status, origin: None, ..
            } => Expected::Status(*status),
            Outcome::Refuse {
                status: 404, reason, ..
            } if reason == "no rule matches" => Expected::Status(404),
            Outcome::Refuse { status, reason, .. } => Expected::Says(*status, reason.clone()),
            Outcome::Redirect { status, location, .. } => Expected::LeadsTo(*status, location.clone()),
            Outcome::Forward { targets, .. } => {
                let (names, nobody): (Vec<_>, Vec<_>) =
                    targets.iter().map(|target| serving(target, site)).unzip();
                Expected::AnsweredBy(names.into_iter().flatten().collect(), nobody.contains(&true))
            }
        }
    }

    pub(crate) fn check(&self, reply: Option<&Reply>) -> Result<()> {
        let reply = match (self, reply) {
            (Expected::Refused, None) => return Ok(()),
            (_, None) => bail!("nobody listens"),
            (_, Some(reply)) => reply,
        };
        let (status, text) = (reply.status.as_u16(), reply.text());
        match self {
            Expected::Refused => bail!("somebody listens and answers {status}: {text}"),
            Expected::Status(expected) => ensure!(status == *expected, "{status}: {text}"),
            Expected::Says(expected, reason) => {
                ensure!(
                    status == *expected && text.trim_end() == reason,
                    "{status}: {text}"
                );
            }
            Expected::LeadsTo(expected, location) => {
                let leads = reply.header("location");
                ensure!(status == *expected && leads == *location, "{status} to {leads:?}");
            }
            Expected::AnsweredBy(names, nobody) => {
                let by = reply.header("x-answered-by");
                let fits = (status == 200 && names.contains(&by)) || (status == 503 && *nobody);
                ensure!(fits, "{status} by {by:?}: {text}");
            }
        }
        Ok(())
    }
}

/// The applications that may answer, and whether nobody may be there. A tier takes its requests as long as enough of it
/// can be used, else the next has a share; where nothing can be used, anything is tried.
fn serving(target: &Destination, site: &Site) -> (BTreeSet<String>, bool) {
    let mut tiers: BTreeMap<usize, Vec<&Host>> = BTreeMap::new();
    for place in &target.places {
        if let Hosts::Instances(hosts) | Hosts::Gateways(hosts) = &place.hosts {
            tiers.entry(place.priority).or_default().extend(hosts);
        }
    }
    let names = |hosts: &mut dyn Iterator<Item = &&Host>| -> BTreeSet<String> {
        hosts
            .filter_map(|host| site.at(host.address))
            .map(str::to_owned)
            .collect()
    };
    let mut serving = BTreeSet::new();
    let mut left_percent = 100;
    for hosts in tiers.values() {
        let usable: Vec<&Host> = hosts.iter().copied().filter(|host| host.usable).collect();
        if left_percent > 0 {
            serving.extend(names(&mut usable.iter()));
        }
        let share = usable.len() * OVERPROVISIONING_PERCENT / hosts.len();
        left_percent -= i64::try_from(share.min(100)).unwrap();
    }
    if serving.is_empty() {
        return (names(&mut tiers.values().flatten()), true);
    }
    (serving, false)
}
