//! The steps of one request through one proxy, from what its edge holds. Edges call it with what they have; `explain`
//! with what is planned.

use std::collections::BTreeSet;

use super::access::{Admission, Asker, admission};
use super::request::Request;
use super::walk::{Walk, arrival, walk};
use super::{Destination, Entry, Host, Hosts, Location, Outcome, Stage, Step, Trace, Tried};
use crate::finding::{Origin, Traced};
use crate::http::{Affinity, HttpMatch, Retry, Span};
use crate::intent::{AddressBlock, hosts_field};
use crate::lower::{EAST_WEST, OUTBOUND, lower, named_service};
use crate::name::{ClusterName, Fqn, Label, ServiceId, WorkloadId};
use crate::proxy::{ProxyConfig, ProxyNode, Route, RouteAction};
use crate::resolve::listed;
use crate::routes::{
    Conduct, GatewayAction, HostConduct, MirrorTarget, Over, RateLimit, RoutedGateway, RoutedService,
    ServiceAction, Slice, SliceItem, SliceKey,
};
use crate::view::View;

/// What the proxy at `entry` does with `request`.
pub fn trace(cluster: &ClusterName, slice: &Slice, view: &View, entry: &Entry, request: &Request) -> Trace {
    let node = ProxyNode {
        id: String::new(),
        role: entry.role(),
    };
    let (config, _) = lower(cluster, slice, view, &node);
    let mut tracer = Tracer {
        cluster,
        slice,
        config: &config,
        request,
        steps: Vec::new(),
    };
    let outcome = match entry {
        Entry::Sidecar(namespace) => tracer.sidecar(namespace),
        Entry::Ingress(workload) => tracer.ingress(workload),
        Entry::EastWest(_) => tracer.outcome(walk(&config, EAST_WEST, request)),
    };
    Trace {
        steps: tracer.steps,
        outcome,
    }
}

struct Tracer<'a> {
    cluster: &'a ClusterName,
    slice: &'a Slice,
    config: &'a ProxyConfig,
    request: &'a Request,
    steps: Vec<Step>,
}

impl<'a> Tracer<'a> {
    fn sidecar(&mut self, namespace: &Label) -> Outcome {
        let owner = match self.slice.items.get(&SliceKey::Namespace(namespace.clone())) {
            Some(SliceItem::Namespace(owner)) => Some(owner),
            _ => None,
        };
        let told = match owner {
            Some(owner) => format!(
                "a sidecar in namespace {namespace} of {} reaches the services of its workspace, {}",
                self.cluster,
                owner.value.workspace.leaf()
            ),
            None => format!(
                "nobody owns namespace {namespace} of {}: a sidecar there reaches the services of that namespace in its own cluster",
                self.cluster
            ),
        };
        self.step(Stage::Entry, told, owner.and_then(|owner| owner.origin.clone()));
        let walked = walk(self.config, OUTBOUND, self.request);
        let service = named_service(self.request.host(), namespace);
        if let (Walk::Route { host, route }, Some(id)) = (walked, service)
            && !host.value.domains.contains("*")
        {
            let workspace = owner.map(|owner| &owner.value.workspace);
            let routed = workspace.and_then(|workspace| self.service(workspace, &id));
            let origin = routed.map_or(&route.origin, |routed| &routed.origin).clone();
            let told = format!("host {} is service {}", self.request.authority(), host.value.name);
            self.step(Stage::Host, told, origin);
            if let Some(routed) = routed {
                self.service_rule(&id, &routed.value);
            }
        }
        self.outcome(walked)
    }

    fn ingress(&mut self, workload: &WorkloadId) -> Outcome {
        let Some((listener, bound)) = arrival(self.config, self.request) else {
            let reason = match self.request.port() {
                Some(port) => format!(
                    "no gateway of workload {workload} listens on port {port} in {}",
                    self.cluster
                ),
                None => format!("no gateway listens on workload {workload} in {}", self.cluster),
            };
            return Outcome::NotTaken { reason };
        };
        let port = bound.bind.port();
        let told = format!("workload {workload} of {} takes it on port {port}", self.cluster);
        self.step(Stage::Entry, told, None);
        let walked = walk(self.config, listener, self.request);
        let host = match walked {
            Walk::Route { host, .. } | Walk::NoRoute { host } => host,
            Walk::NoListener | Walk::NoHost => return self.outcome(walked),
        };
        let gateway = host.value.name.parse::<Fqn>().ok();
        let gateway = gateway.and_then(|name| self.gateway(&name));
        if let Some(gateway) = gateway {
            let domains = listed(&host.value.domains);
            let told = format!("host {} is one of {domains}", self.request.host());
            let origin = gateway.origin.clone().map(|origin| Origin {
                field: hosts_field(origin.resource.kind()).to_owned(),
                ..origin
            });
            self.step(Stage::Host, told, origin);
            self.gateway_rule(&gateway.value);
            // What no route takes meets no filter of its host.
            if matches!(walked, Walk::Route { .. })
                && let Some(refused) = self.host_conduct(gateway)
            {
                return refused;
            }
        }
        self.outcome(walked)
    }

    /// What a gateway does with every request for its hosts before it forwards any.
    fn host_conduct(&mut self, gateway: &'a Traced<RoutedGateway>) -> Option<Outcome> {
        let HostConduct {
            cors,
            jwt,
            access,
            rate_limit,
        } = &gateway.value.conduct;
        let at = |field: &str| {
            let origin = gateway.origin.clone();
            origin.map(|origin| Origin {
                field: field.to_owned(),
                ..origin
            })
        };
        if cors.is_some() && self.request.is_preflight() {
            let told = "it is a preflight: of an origin that may read, the gateway answers it with 200 before it asks anything else";
            self.step(Stage::Host, told.to_owned(), at("spec.cors"));
            return None;
        }
        if let Some(issuers) = jwt {
            let names: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
            let told = format!(
                "it needs a valid token of {}, and is answered with {UNAUTHORIZED} without one",
                names.join(" or ")
            );
            self.step(Stage::Host, told, at("spec.jwt"));
        }
        match access.as_ref().map(|access| admission(access, self.request)) {
            None => {}
            Some(Admission::Refused(field)) => {
                return Some(Outcome::Refuse {
                    origin: at(&field),
                    status: FORBIDDEN,
                    reason: "the gateway's authorization does not let it through, whoever asks".to_owned(),
                });
            }
            Some(Admission::Closed) => {
                return Some(Outcome::Refuse {
                    origin: at("spec"),
                    status: FORBIDDEN,
                    reason: "the gateway lets nobody through, by what its jwt or its authorization says"
                        .to_owned(),
                });
            }
            Some(Admission::Admitted) => {
                let told = "its authorization lets it through, whoever asks".to_owned();
                self.step(Stage::Host, told, at("spec.authorization"));
            }
            Some(Admission::Depends { of, but }) => {
                let told = format!(
                    "its authorization lets it through {}, and answers {FORBIDDEN} to others",
                    whom(of, but)
                );
                self.step(Stage::Host, told, at("spec.authorization"));
            }
        }
        if let Some(limit) = rate_limit {
            self.step(Stage::Host, limited(limit), at("spec.rateLimit"));
        }
        None
    }

    fn gateway_rule(&mut self, gateway: &'a RoutedGateway) {
        let (tried, matched) = first(gateway.rules(), |rule| &rule.matches, self.request);
        let Some(rule) = matched else {
            let told = "none of its rules matches".to_owned();
            self.push(Stage::GatewayRule, told, None, tried);
            return;
        };
        let told = match &rule.value.action {
            GatewayAction::Refuse(_) => "the rule cannot be had, so it refuses".to_owned(),
            GatewayAction::Redirect(_) => "it answers with a redirect".to_owned(),
            GatewayAction::Split(split) => {
                let shares = split.iter().map(|(id, port, share)| {
                    let port = port.map_or_else(String::new, |port| format!(":{port}"));
                    format!("{share} % to service {id}{port}")
                });
                listed(shares)
            }
        };
        let told = told + &besides(&rule.value.conduct, rule.value.timeout, rule.value.retry.as_ref());
        self.push(Stage::GatewayRule, told, rule.origin.clone(), tried);
        let GatewayAction::Split(split) = &rule.value.action else {
            return;
        };
        match split.as_slice() {
            [(id, ..)] => {
                if let Some(service) = self.service(&gateway.workspace, id) {
                    self.service_rule(id, &service.value);
                }
            }
            several => {
                for (id, _, share) in several {
                    let service = self.service(&gateway.workspace, id).filter(|_| *share > 0);
                    if let Some(last) = service.and_then(|service| service.value.rules.last()) {
                        let told = format!(
                            "of service {id} its last rule applies: {}",
                            split_in_words(&last.value.action)
                        );
                        self.step(Stage::ServiceRule, told, last.origin.clone());
                    }
                }
            }
        }
    }

    fn service_rule(&mut self, id: &ServiceId, service: &'a RoutedService) {
        let (tried, matched) = first(&service.rules, |rule| &rule.matches, self.request);
        if let Some(rule) = matched {
            let besides = besides(&rule.value.conduct, rule.value.timeout, rule.value.retry.as_ref());
            let told = format!("of service {id}: {}{besides}", split_in_words(&rule.value.action));
            self.push(Stage::ServiceRule, told, rule.origin.clone(), tried);
        }
    }

    fn outcome(&self, walked: Walk<'_>) -> Outcome {
        match walked {
            Walk::NoListener => Outcome::NotTaken {
                reason: format!("the proxy in {} does not listen for it", self.cluster),
            },
            Walk::NoHost => Outcome::Refuse {
                origin: None,
                status: NO_ROUTE,
                reason: format!("no gateway has host {} on this port", self.request.host()),
            },
            Walk::NoRoute { host } => Outcome::Refuse {
                origin: host.origin.clone(),
                status: NO_ROUTE,
                reason: "no rule matches".to_owned(),
            },
            Walk::Route { route, .. } => self.acted(route),
        }
    }

    fn acted(&self, route: &Traced<Route>) -> Outcome {
        let origin = route.origin.clone();
        match &route.value.action {
            RouteAction::Respond { status, body } => Outcome::Refuse {
                origin,
                status: *status,
                reason: body.trim_end().to_owned(),
            },
            RouteAction::Redirect(to) => Outcome::Redirect {
                origin,
                status: to.status.into(),
                location: to.location(self.request),
            },
            RouteAction::Forward(forward) => {
                let targets = forward.targets.iter().map(|target| Destination {
                    upstream: target.cluster.clone(),
                    weight: target.weight,
                    places: self.places(&target.cluster),
                });
                Outcome::Forward {
                    origin,
                    targets: targets.collect(),
                }
            }
        }
    }

    fn places(&self, upstream: &str) -> Vec<Location> {
        let Some(endpoints) = self.config.endpoints.get(upstream) else {
            return Vec::new();
        };
        let priorities = endpoints.value.priorities.iter().enumerate();
        let groups =
            priorities.flat_map(|(priority, groups)| groups.iter().map(move |group| (priority, group)));
        groups
            .map(|(priority, group)| {
                let hosts = group.endpoints.iter().map(|endpoint| Host {
                    address: endpoint.address,
                    usable: endpoint.usable,
                });
                let hosts = hosts.collect();
                Location {
                    priority,
                    cluster: group.cluster.clone(),
                    region: group.region.clone(),
                    hosts: if group.cluster == *self.cluster {
                        Hosts::Instances(hosts)
                    } else {
                        Hosts::Gateways(hosts)
                    },
                }
            })
            .collect()
    }

    fn service(&self, workspace: &Fqn, id: &ServiceId) -> Option<&'a Traced<RoutedService>> {
        let key = SliceKey::Service(id.clone(), workspace.clone());
        match self.slice.items.get(&key) {
            Some(SliceItem::Service(service)) => Some(service),
            _ => None,
        }
    }

    fn gateway(&self, name: &Fqn) -> Option<&'a Traced<RoutedGateway>> {
        match self.slice.items.get(&SliceKey::Gateway(name.clone())) {
            Some(SliceItem::Gateway(gateway)) => Some(gateway),
            _ => None,
        }
    }

    fn step(&mut self, stage: Stage, told: String, origin: Option<Origin>) {
        self.push(stage, told, origin, Vec::new());
    }

    fn push(&mut self, stage: Stage, told: String, origin: Option<Origin>, tried: Vec<Tried>) {
        self.steps.push(Step {
            stage,
            told,
            origin,
            tried,
        });
    }
}

/// What a proxy answers by itself when it knows the host and no route takes the request, or not even the host.
const NO_ROUTE: u16 = 404;
/// To whom shows no good token.
const UNAUTHORIZED: u16 = 401;
/// To whom an authorization does not let through.
const FORBIDDEN: u16 = 403;

/// Such as `from 10.0.0.0/8 or with the claim role of staff but those with the claim sub of mallory`.
fn whom(of: BTreeSet<Asker>, but: BTreeSet<Asker>) -> String {
    let blocks = |blocks: BTreeSet<AddressBlock>| listed(blocks.into_iter().map(String::from));
    let claims = |asker: &Asker| {
        let claims = asker.claims.iter().map(|(claim, values)| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            format!("the claim {claim} of {}", values.join(" or "))
        });
        claims.collect::<Vec<_>>().join(" and ")
    };
    let one = |asker: Asker| match (asker.sources.is_empty(), asker.claims.is_empty()) {
        (_, true) => format!("from {}", blocks(asker.sources)),
        (true, false) => format!("with {}", claims(&asker)),
        (false, false) => format!("with {} from {}", claims(&asker), blocks(asker.sources)),
    };
    let not_one = |asker: Asker| match asker.claims.is_empty() {
        true => blocks(asker.sources),
        false => format!("those {}", one(asker)),
    };
    let of: Vec<String> = of.into_iter().map(one).collect();
    let of = match of.is_empty() {
        true => "from anywhere".to_owned(),
        false => of.join(" or "),
    };
    let but: Vec<String> = but.into_iter().map(not_one).collect();
    let but = match but.is_empty() {
        true => String::new(),
        false => format!(" but {}", but.join(" and ")),
    };
    of + &but
}

/// The first rule that takes the request, and those before it with why they do not.
fn first<'a, R>(
    rules: &'a [Traced<R>],
    matches: impl Fn(&R) -> &[HttpMatch],
    request: &Request,
) -> (Vec<Tried>, Option<&'a Traced<R>>) {
    let mut tried = Vec::new();
    for rule in rules {
        let alternatives = matches(&rule.value);
        let mut why = Vec::new();
        for alternative in alternatives {
            match alternative.admits(request) {
                Ok(()) => return (tried, Some(rule)),
                Err(mismatch) => why.push(mismatch.to_string()),
            }
        }
        if alternatives.is_empty() {
            return (tried, Some(rule));
        }
        tried.push(Tried {
            origin: rule.origin.clone(),
            why,
        });
    }
    (tried, None)
}

fn limited(limit: &RateLimit) -> String {
    let RateLimit { requests, per, over } = limit;
    match over {
        Over::Proxy => format!("each proxy answers 429 beyond {requests} requests in {per} for its hosts"),
        Over::Gateway { by } => {
            let apart = by.as_ref().map(|header| {
                let header = header.as_str();
                format!(" of one {header}; those without {header} are not counted")
            });
            let apart = apart.unwrap_or_default();
            format!(
                "its proxies in this cluster answer 429 beyond {requests} requests in {per} for its hosts, all of them together{apart}"
            )
        }
    }
}

/// What a rule does with a request beside sending it somewhere.
fn besides(conduct: &Conduct, timeout: Option<Span>, retry: Option<&Retry>) -> String {
    let timeout = timeout.map(|timeout| format!("; it has {timeout} in all"));
    let retry = retry.map(|retry| {
        let codes: Vec<String> = retry.codes.iter().map(|code| code.as_u16().to_string()).collect();
        let codes = match codes.is_empty() {
            true => String::new(),
            false => format!(" or an answer of {}", codes.join(" or ")),
        };
        let attempts = retry.attempts.as_u32();
        format!("; it is sent again up to {attempts} times after a failed connection{codes}")
    });
    let copies = conduct.mirrors.iter().map(|mirror| {
        let to = match &mirror.target {
            MirrorTarget::Port(_) => format!("service {}", mirror.service),
            MirrorTarget::Subset(subset) => format!("subset {subset}"),
        };
        format!("; copies of {} % go to {to}", f64::from(mirror.share))
    });
    let fault = conduct.fault.as_ref();
    let delay = fault.and_then(|fault| fault.delay).map(|delay| {
        let percent = f64::from(delay.percent);
        format!("; {percent} % wait {} on purpose", delay.duration)
    });
    let abort = fault.and_then(|fault| fault.abort).map(|abort| {
        let (percent, status) = (f64::from(abort.percent), abort.status_code.as_u16());
        format!("; {percent} % are answered with {status} on purpose")
    });
    let session = conduct.session.as_ref().map(|session| match session {
        Affinity::Header(name) => format!("; the same {} finds the same instance", name.as_str()),
        Affinity::Cookie { name, .. } => {
            format!("; the same cookie {} finds the same instance", name.as_str())
        }
        Affinity::Source => "; the same address finds the same instance".to_owned(),
    });
    copies
        .chain(session)
        .chain(timeout)
        .chain(retry)
        .chain(delay)
        .chain(abort)
        .collect()
}

fn split_in_words(action: &ServiceAction) -> String {
    match action {
        ServiceAction::Refuse(_) => "the rule cannot be had, so it refuses".to_owned(),
        ServiceAction::Redirect(_) => "it answers with a redirect".to_owned(),
        ServiceAction::Split(split) => listed(split.iter().map(|(subset, share)| match subset {
            Some(subset) => format!("{share} % to subset {subset}"),
            None => format!("{share} % to all of its instances"),
        })),
    }
}
