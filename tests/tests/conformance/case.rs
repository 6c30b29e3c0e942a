//! A request that both proxies are sent, and what is expected of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tombolo_tests::client::{Connection, Reply};
use tombolo_tests::issuer::token;
use tombolo_tests::proxy::Software;

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) via: Via,
    pub(crate) version: Version,
    pub(crate) method: Method,
    /// `PROXY` in it is the proxy's name.
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    /// A value of `TOKEN` and claims is a token that says so.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body_bytes: usize,
    /// How often it is sent; every reply must be as expected.
    pub(crate) times: usize,
    /// An application that dies just before.
    pub(crate) dies: Option<&'static str>,
    pub(crate) expect: &'static [Expect],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Sidecar,
    Gateway,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Status(u16),
    AnsweredBy(&'static [&'static str]),
    /// So many of a hundred replies come from it.
    Share(&'static str, (usize, usize)),
    Says(&'static str),
    /// All of it.
    Body(&'static str),
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
    /// A copy of it comes to this one, sooner or later.
    CopiedTo(&'static str),
    /// A header of the reply.
    Header(&'static str, &'static str),
    NoHeader(&'static str),
}

use Expect::{
    AnsweredBy, Body, Bytes as BodyBytes, CopiedTo, Echo, Empty, Header, NoHeader, Saw, SawHeader, SawHost,
    SawNone, SawSome, SawStart, Says, Share, Status, Trailer, Tries,
};

pub(crate) const GET: Case = Case {
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

impl Case {
    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        software: Software,
        host: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let mut connection = Connection::open(self.via.address(software), self.version).await?;
        connection.send(self.request(host, headers, Bytes::new())?).await
    }

    pub(crate) fn request(
        &self,
        host: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::HOST, host);
        for (name, value) in self.headers.iter().chain(headers) {
            request = match value.strip_prefix("TOKEN ") {
                Some(claims) => {
                    let token = token(&serde_json::from_str(claims)?);
                    request.header(*name, format!("Bearer {token}"))
                }
                None => request.header(*name, *value),
            };
        }
        Ok(request.body(Full::new(body))?)
    }
}

impl Expect {
    pub(crate) fn check(self, reply: &Reply, sent: &Bytes, tries: &[String], host: &str) -> Result<()> {
        let saw =
            || serde_json::from_slice::<Value>(&reply.body).context("the answer is not the application's");
        match self {
            Status(status) => ensure!(
                reply.status == StatusCode::from_u16(status)?,
                "expected {status}, not {}: {:.200}",
                reply.status,
                reply.text()
            ),
            AnsweredBy(names) => {
                let by = reply.header("x-answered-by");
                ensure!(names.contains(&by.as_str()), "answered by {by:?}, not {names:?}");
            }
            // Of all replies.
            Share(..) | CopiedTo(_) => {}
            Says(text) => ensure!(
                reply.text().contains(text),
                "{:?} does not say {text:?}",
                reply.text()
            ),
            Body(text) => ensure!(reply.text() == text, "{:?} is not {text:?}", reply.text()),
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
            SawNone(value) => {
                saw()?;
                ensure!(!reply.text().contains(value), "the application saw {value}");
            }
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
    pub(crate) fn address(self, software: Software) -> SocketAddr {
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
