//! Which virtual host has a request.

use super::{Ask, BOTH, Site, prefix, says};
use crate::case::{Expect, GET};

/// Each host says its name.
pub(super) fn sites() -> Vec<Site> {
    let sites: [(&'static str, &[&str], &[&str]); 8] = [
        (
            "exact",
            &["www.a.domain", "a"],
            &["www.a.domain", "WWW.a.Domain", "a"],
        ),
        (
            "suffix",
            &["*.a.domain"],
            &["x.a.domain", "x.y.a.domain", "xb.a.domain", "a.a.domain"],
        ),
        (
            "longer suffix",
            &["*.b.a.domain"],
            &["x.b.a.domain", "X.y.b.A.domain"],
        ),
        (
            "half a label",
            &["*-b.a.domain"],
            &["x-b.a.domain", "-x-b.a.domain"],
        ),
        (
            "prefix",
            &["www.*"],
            &["www.elsewhere", "www.a", "www.domain", "WWW.x"],
        ),
        ("longer prefix", &["www.shop-*"], &["www.shop-1", "www.shop-a.b"]),
        ("with a port", &["c.domain:8443"], &["c.domain:8443"]),
        ("without a port", &["c.domain"], &["c.domain"]),
    ];
    let site = |(name, domains, hosts): (&'static str, &[&str], &[&str])| Site {
        name,
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        versions: BOTH,
        routes: vec![says(prefix("/"), name)],
        asks: hosts
            .iter()
            .map(|host| Ask {
                host: (*host).to_owned(),
                case: GET,
                expect: Expect::Body(name),
            })
            .collect(),
    };
    let nobodys = Site {
        name: "nobody's",
        domains: vec!["nobody.domain".to_owned()],
        versions: BOTH,
        routes: vec![],
        asks: ["nobody.domain", "a.domain", "elsewhere", "c.domain:80", "a:8080"]
            .map(|host| Ask {
                host: host.to_owned(),
                case: GET,
                expect: Expect::Status(404),
            })
            .into(),
    };
    sites.into_iter().map(site).chain([nobodys]).collect()
}
