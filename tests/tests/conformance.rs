//! The same edge drives real Envoy and our proxy through the same requests, and both do the same: the contract of
//! docs/xds.md is kept by what stands on either side of it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_tests::client::{Connection, Reply};
use tombolo_tests::island::{Given, Island};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::{Application, Applications, KEY, WISH};
use tombolo_tests::{eventually, tombolo_binary};

const CLUSTER: &str = "here";
const DEADLINE: Duration = Duration::from_secs(20);
const TEN_MEGABYTES: usize = 10 << 20;

const INTENT: &str = "
- {name: organizations/acme}
- {name: organizations/acme/clusters/here, spec: {region: north}}
- {name: organizations/acme/clusters/there, spec: {region: south}}
- {name: organizations/acme/tenants/t}
- {name: organizations/acme/tenants/t/workspaces/w, spec: {namespaces: ['*/shop']}}
- {name: organizations/acme/tenants/t/workspaces/w/trafficgroups/g}
- {name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g}
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/envoy
  spec:
    workload: mesh/envoy
    type: ingress
    port: 8080
    hosts: [envoy.example.com]
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/tombolo
  spec:
    workload: mesh/tombolo
    type: ingress
    port: 8080
    hosts: [tombolo.example.com]
    rules: [{backendRefs: [{namespace: shop, name: web}]}]
- name: organizations/acme/tenants/t/workspaces/w/trafficgroups/g/serviceroutes/web
  spec:
    service: shop/web
    subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    rules:
    - matches: [{path: {type: Exact, value: /exact}}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /prefix}}]
      backendRefs: [{subset: v2}]
    - matches: [{headers: [{name: x-variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /split}}]
      backendRefs: [{subset: v1, weight: 80}, {subset: v2, weight: 20}]
    - matches: [{path: {type: PathPrefix, value: /split}, headers: [{name: x-variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /slow}}]
      backendRefs: [{subset: v1}]
      timeouts: {request: 300ms}
    - matches: [{path: {type: PathPrefix, value: /broken}}]
      backendRefs: [{subset: v3}]
    - matches: [{path: {type: PathPrefix, value: /method}, method: POST}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /query}, queryParams: [{name: variant, value: two}]}]
      backendRefs: [{subset: v2}]
    - matches: [{path: {type: PathPrefix, value: /headers}}]
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier:
          set: [{name: x-set, value: 100%}]
          add: [{name: x-add, value: more}]
          remove: [x-remove]
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-route, value: filtered}], remove: [content-type]}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/prefix}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/root}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /rewrite/whole}}]
      filters:
      - type: URLRewrite
        urlRewrite: {hostname: other.example.com, path: {type: ReplaceFullPath, replaceFullPath: /whole}}
      backendRefs: [{subset: v1}]
    - matches: [{path: {type: PathPrefix, value: /redirect/secure}}]
      filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
    - matches: [{path: {type: PathPrefix, value: /redirect/elsewhere}}]
      filters:
      - type: RequestRedirect
        requestRedirect:
          hostname: elsewhere.example.com
          port: 8443
          path: {type: ReplaceFullPath, replaceFullPath: /there}
          statusCode: 308
    - matches: [{path: {type: PathPrefix, value: /redirect/prefix}}]
      filters:
      - type: RequestRedirect
        requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /moved}, statusCode: 307}
    - backendRefs: [{subset: v1}]
";

const PLATFORM: &str = "
services:
- namespace: shop
  name: web
  ports: [{name: http, port: 8080}]
  instances:
  - {address: 127.0.29.11, labels: {version: v1}}
  - {address: 127.0.29.12, labels: {version: v2}}
- namespace: shop
  name: pair
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.21}, {address: 127.0.29.22}]
- namespace: shop
  name: grpc
  ports: [{name: grpc, port: 9090, protocol: http2}]
  instances: [{address: 127.0.29.31}]
- namespace: shop
  name: half
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.41}, {address: 127.0.29.42}, {address: 127.0.29.43, state: down}]
- namespace: shop
  name: far
  ports: [{name: http, port: 8080}]
  instances: [{address: 127.0.29.51}]
gateways:
- {namespace: mesh, name: envoy, bind: 127.0.29.1}
- {namespace: mesh, name: tombolo, bind: 127.0.29.2}
";

/// Name, address and port of each application. `half-down` is said to be down and would answer; at 127.0.29.42 nobody
/// ever listens; `far-gateway` stands for another cluster's gateway.
const APPLICATIONS: &[(&str, &str)] = &[
    ("web-v1", "127.0.29.11:8080"),
    ("web-v2", "127.0.29.12:8080"),
    ("pair-a", "127.0.29.21:8080"),
    ("pair-b", "127.0.29.22:8080"),
    ("grpc", "127.0.29.31:9090"),
    ("half-up", "127.0.29.41:8080"),
    ("half-down", "127.0.29.43:8080"),
    ("far-local", "127.0.29.51:8080"),
    ("far-gateway", "127.0.29.60:15443"),
];

/// Which instances must have answered through a proxy before its cases begin, and again after one was away.
const SERVING: &[(&str, &[&str])] = &[
    ("pair.shop:8080", &["pair-a", "pair-b"]),
    ("grpc.shop:9090", &["grpc"]),
    ("half.shop:8080", &["half-up"]),
    ("far.shop:8080", &["far-local"]),
];

struct Case {
    name: &'static str,
    via: Via,
    version: Version,
    method: Method,
    /// `PROXY` in it is the proxy's name.
    host: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body_bytes: usize,
    /// How often it is sent; every reply must be as expected.
    times: usize,
    /// An application that dies just before.
    dies: Option<&'static str>,
    expect: &'static [Expect],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Sidecar,
    Gateway,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Status(u16),
    AnsweredBy(&'static [&'static str]),
    /// So many of a hundred replies come from it.
    Share(&'static str, (usize, usize)),
    Says(&'static str),
    Empty,
    Bytes(usize),
    /// The reply's body is the request's.
    Echo,
    Trailer(&'static str, &'static str),
    /// What the application saw of the request.
    Saw(&'static str, &'static str),
    SawHost(&'static str),
    SawHeader(&'static str, &'static str),
    SawStart(&'static str, &'static str),
    SawSome(&'static str),
    SawNone(&'static str),
    /// So many tries, each of another instance.
    Tries(usize),
    /// A header of the reply.
    Header(&'static str, &'static str),
    NoHeader(&'static str),
}

use Expect::{
    AnsweredBy, Bytes as BodyBytes, Echo, Empty, Header, NoHeader, Saw, SawHeader, SawHost, SawNone, SawSome,
    SawStart, Says, Share, Status, Trailer, Tries,
};

const GET: Case = Case {
    name: "",
    via: Via::Sidecar,
    version: Version::HTTP_11,
    method: Method::GET,
    host: "web.shop:8080",
    path: "/",
    headers: &[],
    body_bytes: 0,
    times: 1,
    dies: None,
    expect: &[],
};

const CASES: &[Case] = &[
    Case {
        name: "an exact path",
        path: "/exact?with=query",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v2"]),
            Saw("path", "/exact?with=query"),
        ],
        ..GET
    },
    Case {
        name: "below an exact path is another path",
        path: "/exact/more",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a prefix matches itself and whole segments",
        path: "/prefix/more",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a prefix does not match half a segment",
        path: "/prefixed",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a header",
        headers: &[("X-Variant", "two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "another value of the header",
        headers: &[("x-variant", "Two")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a method",
        method: Method::POST,
        path: "/method",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "another method",
        path: "/method",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a query parameter",
        path: "/query?a=b&variant=two",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "the first query parameter of a name decides",
        path: "/query?variant=one&variant=two",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a query parameter is compared as it stands in the URL",
        path: "/query?variant=tw%6F",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "headers set, added and removed",
        path: "/headers",
        headers: &[("x-set", "old"), ("x-add", "some"), ("x-remove", "gone")],
        expect: &[
            Status(200),
            SawHeader("x-set", "100%"),
            SawHeader("x-add", "some,more"),
            SawNone("gone"),
            Header("x-route", "filtered"),
            NoHeader("content-type"),
        ],
        ..GET
    },
    Case {
        name: "a prefix of the path is replaced",
        path: "/rewrite/prefix/a?b=c",
        expect: &[Status(200), Saw("path", "/new/a?b=c")],
        ..GET
    },
    Case {
        name: "a path that is the prefix is replaced",
        path: "/rewrite/prefix",
        expect: &[Status(200), Saw("path", "/new")],
        ..GET
    },
    Case {
        name: "a prefix of the path is taken away",
        path: "/rewrite/root/a",
        expect: &[Status(200), Saw("path", "/a")],
        ..GET
    },
    Case {
        name: "a path that is the prefix is taken away",
        path: "/rewrite/root",
        expect: &[Status(200), Saw("path", "/")],
        ..GET
    },
    Case {
        name: "the whole path and the host are replaced",
        path: "/rewrite/whole/a?b=c",
        expect: &[
            Status(200),
            Saw("path", "/whole?b=c"),
            SawHost("other.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a gateway's request meets the rewrite of its service",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/rewrite/prefix/a",
        expect: &[Status(200), Saw("path", "/new/a")],
        ..GET
    },
    Case {
        name: "a redirect to another scheme",
        path: "/redirect/secure/a?b=c",
        expect: &[
            Status(301),
            Header("location", "https://web.shop:8080/redirect/secure/a?b=c"),
            Empty,
        ],
        ..GET
    },
    Case {
        name: "a redirect to another host, port and path",
        path: "/redirect/elsewhere/a?b=c",
        expect: &[
            Status(308),
            Header("location", "http://elsewhere.example.com:8443/there?b=c"),
        ],
        ..GET
    },
    Case {
        name: "a redirect to another prefix",
        path: "/redirect/prefix/a",
        expect: &[Status(307), Header("location", "http://web.shop:8080/moved/a")],
        ..GET
    },
    Case {
        name: "weights",
        path: "/split",
        times: 1000,
        // Six standard deviations of 1.3 %.
        expect: &[Status(200), Share("web-v1", (72, 88)), Share("web-v2", (12, 28))],
        ..GET
    },
    Case {
        name: "a header comes before weights",
        path: "/split",
        headers: &[("x-variant", "two")],
        times: 50,
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a refused connection is tried on another host",
        host: "pair.shop:8080",
        times: 20,
        dies: Some("pair-b"),
        expect: &[Status(200), AnsweredBy(&["pair-a"])],
        ..GET
    },
    Case {
        name: "a refused connection is tried on another host for POST too",
        method: Method::POST,
        host: "pair.shop:8080",
        headers: &[(WISH, "echo")],
        body_bytes: 1000,
        times: 20,
        dies: Some("pair-a"),
        expect: &[Status(200), AnsweredBy(&["pair-b"]), Echo],
        ..GET
    },
    Case {
        name: "a 503 is tried on another host for GET",
        host: "pair.shop:8080",
        headers: &[(WISH, "first=503")],
        times: 10,
        expect: &[Status(200), Tries(2)],
        ..GET
    },
    Case {
        name: "a 503 is final for POST",
        method: Method::POST,
        host: "pair.shop:8080",
        headers: &[(WISH, "first=503")],
        times: 10,
        expect: &[Status(503), Tries(1)],
        ..GET
    },
    Case {
        name: "another error is final",
        host: "pair.shop:8080",
        headers: &[(WISH, "status=500")],
        expect: &[Status(500), Tries(1)],
        ..GET
    },
    Case {
        name: "a request that takes too long",
        path: "/slow",
        headers: &[(WISH, "hang")],
        expect: &[Status(504)],
        ..GET
    },
    Case {
        name: "a service that is not there, through a sidecar",
        host: "nothing.shop:8080",
        expect: &[Status(404)],
        ..GET
    },
    Case {
        name: "a host that is not there, through a gateway",
        via: Via::Gateway,
        host: "nothing.example.com",
        expect: &[Status(404)],
        ..GET
    },
    Case {
        name: "a host of a gateway",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/exact",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a host with a port",
        via: Via::Gateway,
        host: "PROXY.example.com:8080",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v1"]),
            Saw("host", "PROXY.example.com:8080"),
        ],
        ..GET
    },
    Case {
        name: "a host in capitals",
        via: Via::Gateway,
        host: "PROXY.EXAMPLE.COM",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a rule that cannot be had answers with the reason",
        path: "/broken",
        expect: &[Status(503), Says("v3")],
        ..GET
    },
    Case {
        name: "HTTP/2 in, HTTP/1.1 out",
        version: Version::HTTP_2,
        path: "/exact",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v2"]),
            Saw("version", "HTTP/1.1"),
            Saw("host", "web.shop:8080"),
        ],
        ..GET
    },
    Case {
        name: "HTTP/1.1 in, HTTP/2 out",
        host: "grpc.shop:9090",
        expect: &[
            Status(200),
            Saw("version", "HTTP/2.0"),
            Saw("host", "grpc.shop:9090"),
        ],
        ..GET
    },
    Case {
        name: "HTTP/2 in and out, with trailers",
        version: Version::HTTP_2,
        method: Method::POST,
        host: "grpc.shop:9090",
        headers: &[(WISH, "trailers"), ("te", "trailers")],
        body_bytes: 100,
        expect: &[Status(200), Saw("version", "HTTP/2.0"), Trailer("x-end", "yes")],
        ..GET
    },
    Case {
        name: "ten megabytes there and back",
        method: Method::POST,
        headers: &[(WISH, "echo")],
        body_bytes: TEN_MEGABYTES,
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES), Echo],
        ..GET
    },
    Case {
        name: "ten megabytes there and back over HTTP/2",
        version: Version::HTTP_2,
        method: Method::POST,
        host: "grpc.shop:9090",
        headers: &[(WISH, "echo")],
        body_bytes: TEN_MEGABYTES,
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES), Echo],
        ..GET
    },
    Case {
        name: "ten megabytes of answer",
        headers: &[(WISH, "bytes=10485760")],
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES)],
        ..GET
    },
    Case {
        name: "a request gets an id and tells where it came from",
        headers: &[("x-forwarded-for", "10.1.2.3")],
        expect: &[
            Status(200),
            SawSome("x-request-id"),
            // Envoy names its own address where a client is on loopback.
            SawStart("x-forwarded-for", "10.1.2.3,"),
        ],
        ..GET
    },
    Case {
        name: "an application cannot name its destination",
        headers: &[("x-tombolo-destination", "secrets.other:80")],
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawNone("secrets.other:80")],
        ..GET
    },
    Case {
        name: "an outsider cannot name the destination either",
        via: Via::Gateway,
        host: "PROXY.example.com",
        headers: &[("x-tombolo-destination", "secrets.other:80")],
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawNone("secrets.other:80")],
        ..GET
    },
    Case {
        name: "the local service dies, another cluster answers",
        host: "far.shop:8080",
        times: 20,
        dies: Some("far-local"),
        expect: &[
            Status(200),
            AnsweredBy(&["far-gateway"]),
            SawHeader("x-tombolo-destination", "far.shop:8080"),
        ],
        ..GET
    },
    Case {
        name: "hosts that are down or dead get nothing",
        host: "half.shop:8080",
        times: 50,
        expect: &[Status(200), AnsweredBy(&["half-up"]), Tries(1)],
        ..GET
    },
    Case {
        name: "HEAD has no body",
        method: Method::HEAD,
        path: "/exact",
        expect: &[Status(200), AnsweredBy(&["web-v2"]), Empty],
        ..GET
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_and_our_proxy_do_the_same() {
    let mut stage = Stage::start().await.unwrap();
    let mut failures = Vec::new();
    for case in CASES {
        for software in Software::BOTH {
            if let Err(error) = stage.play(case, software).await {
                failures.push(format!("{}, {}: {error:#}", software.name(), case.name));
            }
        }
    }
    let played = CASES.len() * Software::BOTH.len();
    assert!(
        failures.is_empty(),
        "{} of {played} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The edge, the applications, and a sidecar and a gateway of each software.
struct Stage {
    _island: Island,
    applications: Applications,
    instances: BTreeMap<&'static str, Application>,
    _proxies: Vec<Proxy>,
    keys: usize,
}

impl Stage {
    async fn start() -> Result<Stage> {
        let applications = Applications::default();
        let mut instances = BTreeMap::new();
        for (name, address) in APPLICATIONS {
            instances.insert(*name, applications.start(name, address.parse()?).await?);
        }
        let island = Island::start(Given {
            cluster: CLUSTER,
            intent: INTENT,
            platform: PLATFORM,
            others: [there()?].into(),
        })
        .await?;
        let binary = tombolo_binary();
        let mut proxies = Vec::new();
        for software in Software::BOTH {
            for via in [Via::Sidecar, Via::Gateway] {
                let node = node(software, via);
                let started = Proxy::start(software, &node, island.xds(), &binary, island.dir()).await;
                proxies.push(started.with_context(|| format!("{} as {via:?}", software.name()))?);
            }
        }
        let stage = Stage {
            _island: island,
            applications,
            instances,
            _proxies: proxies,
            keys: 0,
        };
        for software in Software::BOTH {
            stage.serving(software, SERVING).await;
        }
        Ok(stage)
    }

    /// Waits until these instances have all answered lately.
    async fn serving(&self, software: Software, wanted: &[(&str, &[&str])]) {
        for (host, names) in wanted {
            eventually(DEADLINE, || async {
                let mut answered = BTreeSet::new();
                for _ in 0..20 {
                    let reply = Case { host: "", ..GET }.send(software, host, &[]).await?;
                    answered.insert(reply.header("x-answered-by"));
                }
                let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
                ensure!(
                    answered == wanted,
                    "{host} is answered by {answered:?}, not {wanted:?}"
                );
                Ok(())
            })
            .await;
        }
    }

    async fn play(&mut self, case: &Case, software: Software) -> Result<()> {
        if let Some(name) = case.dies {
            self.instances
                .get_mut(name)
                .context("no such application")?
                .take_down()
                .await;
        }
        let played = self.requests(case, software).await;
        if let Some(name) = case.dies {
            self.instances
                .get_mut(name)
                .context("no such application")?
                .bring_up()
                .await?;
            for software in Software::BOTH {
                self.serving(software, SERVING).await;
            }
        }
        played
    }

    async fn requests(&mut self, case: &Case, software: Software) -> Result<()> {
        let host = case.host.replace("PROXY", software.name());
        let host = if case.host.contains("EXAMPLE") {
            host.to_uppercase()
        } else {
            host
        };
        let mut connection = Connection::open(case.via.address(software), case.version).await?;
        let mut by = BTreeMap::<String, usize>::new();
        for nth in 0..case.times {
            self.keys += 1;
            let key = format!("key-{}", self.keys);
            let body = pattern(case.body_bytes);
            let request = case.request(&host, &[(KEY, &key)], body.clone())?;
            let reply = connection
                .send(request)
                .await
                .with_context(|| format!("request {nth}"))?;
            *by.entry(reply.header("x-answered-by")).or_default() += 1;
            for expect in case.expect {
                expect
                    .check(&reply, &body, &self.applications.tries(&key), &host)
                    .with_context(|| format!("request {nth} got {} from {by:?}", reply.status))?;
            }
        }
        for expect in case.expect {
            if let Share(name, (least, most)) = *expect {
                let share = by.get(name).copied().unwrap_or(0) * 100 / case.times;
                ensure!(
                    (least..=most).contains(&share),
                    "{name} answered {share} %, not {least} to {most}: {by:?}"
                );
            }
        }
        Ok(())
    }
}

impl Case {
    /// One request on a connection of its own.
    async fn send(&self, software: Software, host: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        let mut connection = Connection::open(self.via.address(software), self.version).await?;
        connection.send(self.request(host, headers, Bytes::new())?).await
    }

    fn request(&self, host: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::HOST, host);
        for (name, value) in self.headers.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        Ok(request.body(Full::new(body))?)
    }
}

impl Expect {
    fn check(self, reply: &Reply, sent: &Bytes, tries: &[String], host: &str) -> Result<()> {
        let saw =
            || serde_json::from_slice::<Value>(&reply.body).context("the answer is not the application's");
        match self {
            Status(status) => ensure!(
                reply.status == StatusCode::from_u16(status)?,
                "expected {status}: {:.200}",
                reply.text()
            ),
            AnsweredBy(names) => {
                let by = reply.header("x-answered-by");
                ensure!(names.contains(&by.as_str()), "answered by {by:?}, not {names:?}");
            }
            // Of all replies.
            Share(..) => {}
            Says(text) => ensure!(
                reply.text().contains(text),
                "{:?} does not say {text:?}",
                reply.text()
            ),
            Empty => ensure!(reply.body.is_empty(), "a body of {} bytes", reply.body.len()),
            BodyBytes(count) => ensure!(
                reply.body.len() == count,
                "{} bytes, not {count}",
                reply.body.len()
            ),
            Echo => ensure!(reply.body == *sent, "the body came back changed"),
            Trailer(name, value) => {
                let found = reply.trailers.get(name).map(|found| found.as_bytes());
                ensure!(
                    found == Some(value.as_bytes()),
                    "trailers are {:?}",
                    reply.trailers
                );
            }
            Saw(what, value) => {
                let value = if what == "host" { host } else { value };
                ensure!(
                    saw()?[what] == json!(value),
                    "the application saw {what} {}",
                    saw()?[what]
                );
            }
            SawHost(value) => ensure!(
                saw()?["host"] == json!(value),
                "the application saw host {}",
                saw()?["host"]
            ),
            Header(name, value) => {
                let found = reply.header(name);
                ensure!(found == value, "the reply's {name} is {found:?}, not {value:?}");
            }
            NoHeader(name) => {
                let found = reply.header(name);
                ensure!(found.is_empty(), "the reply has {name}: {found:?}");
            }
            SawHeader(name, value) => {
                let found = saw()?["headers"][name]
                    .as_str()
                    .unwrap_or_default()
                    .replace(' ', "");
                ensure!(
                    found == value,
                    "the application saw {name}: {found:?}, not {value:?}"
                );
            }
            SawStart(name, start) => {
                let found = saw()?["headers"][name]
                    .as_str()
                    .unwrap_or_default()
                    .replace(' ', "");
                ensure!(
                    found.starts_with(start) && found.len() > start.len(),
                    "the application saw {name}: {found:?}, not {start:?} and more"
                );
            }
            SawSome(name) => {
                let found = saw()?["headers"][name].as_str().unwrap_or_default().to_owned();
                ensure!(!found.is_empty(), "the application saw no {name}");
            }
            SawNone(value) => ensure!(!reply.text().contains(value), "the application saw {value}"),
            Tries(count) => {
                let hosts: BTreeSet<&String> = tries.iter().collect();
                ensure!(
                    tries.len() == count && hosts.len() == count,
                    "it was tried on {tries:?}"
                );
            }
        }
        Ok(())
    }
}

impl Via {
    fn address(self, software: Software) -> SocketAddr {
        let ip: IpAddr = match software {
            Software::Envoy => [127, 0, 29, 1].into(),
            Software::Tombolo => [127, 0, 29, 2].into(),
        };
        match self {
            Via::Sidecar => SocketAddr::new(ip, 15001),
            Via::Gateway => SocketAddr::new(ip, 8080),
        }
    }
}

fn node(software: Software, via: Via) -> Node {
    let (namespace, role) = match via {
        Via::Gateway => (
            "mesh",
            Role::Gateway {
                workload: software.name().to_owned(),
            },
        ),
        Via::Sidecar => (
            "shop",
            Role::Sidecar {
                outbound: via.address(software),
            },
        ),
    };
    Node {
        id: format!("{}-{via:?}", software.name()).to_lowercase(),
        cluster: CLUSTER.to_owned(),
        namespace: namespace.to_owned(),
        role,
    }
}

/// What the other cluster reports: the same service, behind its gateway.
fn there() -> Result<(ClusterName, ClusterReport)> {
    let report = json!({
        "services": {"shop/far": {"ports": [{"name": "http", "port": 8080}], "state": "up"}},
        "gateways": {"mesh/east-west": {"eastWest": ["127.0.29.60:15443"], "state": "up"}},
    });
    Ok(("there".parse()?, serde_json::from_value(report)?))
}

/// Bytes in which a lost or doubled piece shows.
fn pattern(count: usize) -> Bytes {
    (0..count).map(|at| (at / 251 + at % 251) as u8).collect()
}
