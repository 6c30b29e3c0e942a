//! The client of the management plane's REST API.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use chrono::{TimeDelta, Utc};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, USER_AGENT,
};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tombolo_compiler::name::Fqn;
use tombolo_management::account_key::assertion::Signer;
use uuid::Uuid;

use crate::credentials::Credentials;
use crate::problem::Problem;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request whose connection was lost is sent again: a server that is restarted is back by then.
const REPEAT_TIME: Duration = Duration::from_secs(10);
const REPEAT_INTERVAL: Duration = Duration::from_millis(200);
/// Of what is signed for a request, each time that it is sent: by so much our clock may be wrong.
const ASSERTION_LIFE: TimeDelta = TimeDelta::minutes(2);
/// With it, a write that is sent again is not done again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// More than any answer that a person or a script has use for.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The management plane's API.
    #[arg(long, env = "TOMBOLO_SERVER", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// Who asks; by default whom `tombolo login` has logged in.
    #[arg(long, env = "TOMBOLO_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token, which no list of processes shows.
    #[arg(long, env = "TOMBOLO_TOKEN_FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// A file with the key of a service account, as `tombolo key create` writes it: each request is signed with it.
    #[arg(long, env = "TOMBOLO_KEY_FILE", conflicts_with_all = ["token", "token_file"])]
    key_file: Option<PathBuf>,
    /// Completes names that do not start with `organizations/`.
    #[arg(long, env = "TOMBOLO_ORGANIZATION")]
    organization: Option<String>,
}

impl ServerArgs {
    /// As whoever `tombolo login` has logged in, whatever else the environment names.
    pub(crate) fn logged_in(self) -> ServerArgs {
        ServerArgs {
            token: None,
            token_file: None,
            key_file: None,
            ..self
        }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    server: String,
    proof: Option<Proof>,
    organization: Option<String>,
}

/// Of who asks.
#[derive(Debug)]
enum Proof {
    Token(String),
    Key(Signer),
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) etag: Option<String>,
    pub(crate) body: Value,
}

/// What a request may carry besides its path.
#[derive(Debug, Default)]
pub(crate) struct Extras<'a> {
    pub(crate) body: Option<Value>,
    pub(crate) if_match: Option<&'a str>,
    pub(crate) headers: Vec<(&'static str, &'a str)>,
    /// How long the server itself may wait before it answers.
    pub(crate) patience: Duration,
    /// The server tells the answer once, so that the request must not be sent again.
    pub(crate) is_secret: bool,
}

impl ServerArgs {
    /// For who has no command line.
    pub(crate) fn new(server: &str, token: Option<&str>) -> ServerArgs {
        ServerArgs {
            server: server.to_owned(),
            token: token.map(str::to_owned),
            token_file: None,
            key_file: None,
            organization: None,
        }
    }

    /// What was given, or else what `tombolo login` has kept for that server.
    fn proof(&self, server: &str) -> anyhow::Result<Option<Proof>> {
        let read = |file: &Path, what: &str| {
            fs::read_to_string(file).with_context(|| format!("read the {what} in {}", file.display()))
        };
        if let Some(file) = &self.key_file {
            let signer = Signer::new(&read(file, "key")?);
            let signer = signer.with_context(|| format!("use the key in {}", file.display()))?;
            return Ok(Some(Proof::Key(signer)));
        }
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => read(file, "token")?.trim().to_owned(),
            (None, None) => {
                let kept = Credentials::load()?;
                kept.get(server)
                    .map_or_else(String::new, |login| login.token.clone())
            }
        };
        Ok((!token.is_empty()).then_some(Proof::Token(token)))
    }
}

impl Proof {
    /// What is sent with a request that is sent now. What is signed is of use once: a request that is sent again is signed
    /// again.
    fn bearer(&self) -> anyhow::Result<HeaderValue> {
        let bearer = match self {
            Proof::Token(token) => format!("Bearer {token}"),
            Proof::Key(signer) => format!("Bearer {}", signer.sign(Utc::now(), ASSERTION_LIFE)),
        };
        HeaderValue::try_from(bearer).context("check the token for characters that no header may hold")
    }
}

impl Client {
    /// # Errors
    /// When the server's address or the token cannot be used.
    pub(crate) fn new(args: ServerArgs) -> anyhow::Result<Client> {
        let server = args.server.trim_end_matches('/').to_owned();
        if server.starts_with("https://") {
            bail!(
                "https is not supported yet: use http://HOST:PORT over loopback or a tunnel instead of {server}"
            );
        }
        if !server.starts_with("http://") {
            bail!("{server} is not a server: use http://HOST:PORT with --server or TOMBOLO_SERVER");
        }
        let proof = args.proof(&server)?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Client {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            server,
            proof,
            organization: args.organization.filter(|organization| !organization.is_empty()),
        })
    }

    /// The path of a name or of a collection as people write it, without `/v1/`.
    pub(crate) fn path(&self, written: &str) -> anyhow::Result<String> {
        let written = written.trim_matches('/');
        let written = written.strip_prefix("v1/").unwrap_or(written);
        if written == "organizations" || written.starts_with("organizations/") {
            return Ok(written.to_owned());
        }
        match &self.organization {
            Some(organization) => Ok(format!("organizations/{organization}/{written}")),
            None => bail!(
                "{written} is no full name: start with organizations/…, or give --organization or TOMBOLO_ORGANIZATION"
            ),
        }
    }

    /// # Errors
    /// When it is not the name of a resource.
    pub(crate) fn name(&self, written: &str) -> anyhow::Result<Fqn> {
        Ok(self.path(written)?.parse()?)
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn organization(&self) -> anyhow::Result<&str> {
        let organization = self.organization.as_deref();
        organization.context("which organization? give --organization or TOMBOLO_ORGANIZATION")
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, Extras::default()).await
    }

    /// `path` is below `/v1/`, with its query.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses; the latter is a [`Problem`]. A connection that is lost is no error
    /// yet: the request is sent again.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        extras: Extras<'_>,
    ) -> anyhow::Result<Answer> {
        let url = format!("{}/v1/{path}", self.server);
        let uri: Uri = url.parse().with_context(|| format!("{url} is not an address"))?;
        let mut request = Request::builder()
            .method(&method)
            .uri(uri)
            .header(ACCEPT, "application/json");
        if let Some(etag) = extras.if_match {
            request = request.header(IF_MATCH, etag);
        }
        for (name, value) in extras.headers {
            request = request.header(name, value);
        }
        if extras.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let is_repeatable = method == Method::GET || !extras.is_secret;
        if method != Method::GET && is_repeatable {
            request = request.header(IDEMPOTENCY_KEY, Uuid::now_v7().to_string());
        }
        let body = extras.body.map_or_else(String::new, |body| body.to_string());
        let mut request = request.body(Full::from(body)).context("make the request")?;
        let timeout = ANSWER_TIMEOUT + extras.patience;
        let late = || {
            format!(
                "{} did not answer {method} {path} within {timeout:?}",
                self.server
            )
        };

        let mut lost: Option<Instant> = None;
        let (head, body) = loop {
            if let Some(proof) = &self.proof {
                request.headers_mut().insert(AUTHORIZATION, proof.bearer()?);
            }
            let exchange = tokio::time::timeout(timeout, self.exchange(request.clone())).await;
            let failure = match exchange.with_context(late)? {
                Ok(answer) if lost.is_some() && is_still_running(&answer) => None,
                Ok(answer) => break answer,
                // Who was never reached has done nothing: there may be nobody to be reached.
                Err(failure) if !is_repeatable || (lost.is_none() && failure.is_unreached()) => {
                    return Err(self.told(failure));
                }
                Err(failure) => Some(failure),
            };
            let since = *lost.get_or_insert_with(Instant::now);
            if since.elapsed() >= REPEAT_TIME {
                let failure = failure.map(|failure| self.told(failure));
                return Err(failure.unwrap_or_else(|| anyhow!("{} is still working on it", self.server)));
            }
            tokio::time::sleep(REPEAT_INTERVAL).await;
        };
        if !head.status.is_success() {
            return Err(Problem::from_answer(head.status, &body).into());
        }
        let etag = head.headers.get(ETAG).and_then(|etag| etag.to_str().ok());
        Ok(Answer {
            etag: etag.map(str::to_owned),
            body: if body.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&body)
                    .with_context(|| format!("{} does not answer in JSON: is it management?", self.server))?
            },
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(Parts, Bytes), Failure> {
        let answer = self.http.request(request).await.map_err(Failure::Request)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok((head, body.map_err(Failure::Body)?.to_bytes()))
    }

    fn told(&self, failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Request(error) => anyhow!(error).context(format!(
                "cannot reach the server {}: is management running there? check --server or TOMBOLO_SERVER",
                self.server
            )),
            Failure::Body(error) => anyhow!(error).context("read the server's answer"),
        }
    }
}

/// How an exchange ended without an answer.
enum Failure {
    Request(hyper_util::client::legacy::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// Whether there was not even a connection.
    fn is_unreached(&self) -> bool {
        matches!(self, Failure::Request(error) if error.is_connect())
    }
}

/// The request of before the connection was lost is not done yet.
fn is_still_running((head, body): &(Parts, Bytes)) -> bool {
    let problem = || Problem::from_answer(head.status, body);
    head.status == StatusCode::CONFLICT && problem().r#type == "urn:tombolo:problem:still-running"
}

impl Client {
    /// Begins to read an answer of any length; `path` is below `/v1/`. There is no deadline but that of its beginning.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub(crate) async fn open(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Response<Incoming>> {
        let url = format!("{}/v1/{path}", self.server);
        let uri: Uri = url.parse().with_context(|| format!("{url} is not an address"))?;
        let mut request = Request::builder().uri(uri);
        if let Some(proof) = &self.proof {
            request = request.header(AUTHORIZATION, proof.bearer()?);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).context("make the request")?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.http.request(request)).await;
        let answer = answer.with_context(|| format!("{} did not answer {path}", self.server))?;
        let answer = answer.with_context(|| {
            format!(
                "cannot reach the server {}: is management running there? check --server or TOMBOLO_SERVER",
                self.server
            )
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!(error))
            .context("read the server's answer")?;
        Err(Problem::from_answer(head.status, &body.to_bytes()).into())
    }
}

impl Client {
    /// Sends a form without any token, as OAuth wants it; what is answered, with whatever status.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(crate) async fn post_form(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<(StatusCode, Value)> {
        let fields: Vec<String> = fields
            .iter()
            .map(|(key, value)| format!("{key}={}", encode(value)))
            .collect();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.server))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, agent())
            .body(Full::from(fields.join("&")))
            .context("make the request")?;
        let exchange = async {
            let answer = self.http.request(request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((head.status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let unreachable = || {
            format!(
                "cannot reach the server {}: is management running there? check --server or TOMBOLO_SERVER",
                self.server
            )
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .with_context(unreachable)?
            .with_context(unreachable)
    }
}

/// What a person is told of who wants to be let in.
fn agent() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    match host.trim() {
        "" => format!("tombolo {version}"),
        host => format!("tombolo {version} on {host}"),
    }
}

/// Appends what is given as a query string; values are percent-encoded.
pub(crate) fn query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
    let given: Vec<String> = given.collect();
    if given.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", given.join("&"))
    }
}

fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    pub(crate) fn args(server: &str, organization: Option<&str>) -> ServerArgs {
        ServerArgs {
            organization: organization.map(str::to_owned),
            ..ServerArgs::new(server, None)
        }
    }

    #[test]
    fn servers_that_cannot_be_used_say_what_to_use() {
        for (server, error) in [
            ("https://tombolo.example.com", "https is not supported yet"),
            ("127.0.0.1:8080", "is not a server: use http://HOST:PORT"),
        ] {
            let found = Client::new(args(server, None)).unwrap_err().to_string();
            assert!(found.contains(error), "{found}");
        }
        let missing = ServerArgs {
            token_file: Some("/nowhere/token".into()),
            ..args("http://h:1", None)
        };
        let found = Client::new(missing).unwrap_err().to_string();
        assert_eq!(found, "read the token in /nowhere/token");
        let missing = ServerArgs {
            key_file: Some("/nowhere/key".into()),
            ..args("http://h:1", None)
        };
        let found = Client::new(missing).unwrap_err().to_string();
        assert_eq!(found, "read the key in /nowhere/key");
    }

    #[test]
    fn names_are_completed_by_the_organization() {
        let with = Client::new(args("http://h:1/", Some("acme"))).unwrap();
        let without = Client::new(args("http://h:1", None)).unwrap();
        for (written, path) in [
            ("tenants/pay", "organizations/acme/tenants/pay"),
            ("organizations/other", "organizations/other"),
            ("/v1/organizations/acme/tenants/", "organizations/acme/tenants"),
            ("organizations", "organizations"),
        ] {
            assert_eq!(with.path(written).unwrap(), path);
        }
        assert!(
            without
                .path("tenants/pay")
                .unwrap_err()
                .to_string()
                .contains("--organization")
        );
        assert!(with.name("tenants").is_err());
    }

    #[test]
    fn queries_are_encoded() {
        let parameters = [("a", Some("x y&z/+1:2".to_owned())), ("b", None)];
        assert_eq!(query("audit", &parameters), "audit?a=x%20y%26z/%2B1%3A2");
        assert_eq!(query("audit", &[]), "audit");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(args(&format!("http://{address}"), None)).unwrap();
        let error = client.get("organizations/acme").await.unwrap_err();
        let expected = format!("cannot reach the server http://{address}: is management running there?");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    /// Answers each connection with what stands there; without it, the connection is lost once the request is read. Gives
    /// the requests.
    pub(crate) async fn server(
        answers: Vec<Option<&'static str>>,
    ) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                requests.push(String::from_utf8(request).unwrap());
                if let Some(answer) = answer {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            requests
        });
        (format!("http://{address}"), serving)
    }

    pub(crate) const DONE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    const RUNNING: &str = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 44\r\n\r\n\
        {\"type\":\"urn:tombolo:problem:still-running\"}";

    /// The key of RFC 8037, appendix A.
    const KEY_FILE: &str = r#"{
        "subject": "organizations/acme/serviceaccounts/ci",
        "audience": "organizations/acme",
        "publicKey": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "privateKey": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n"
    }"#;

    #[tokio::test]
    async fn what_is_sent_again_is_signed_again() {
        let (server, serving) = server(vec![None, Some(DONE)]).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ci.json");
        fs::write(&file, KEY_FILE).unwrap();
        let with_key = ServerArgs {
            key_file: Some(file),
            ..args(&server, None)
        };
        let client = Client::new(with_key).unwrap();
        client.get("organizations/acme").await.unwrap();
        let requests = serving.await.unwrap();
        let signed = |request: &String| {
            let bearer = request
                .lines()
                .find(|line| line.starts_with("authorization: Bearer ey"));
            bearer.unwrap_or_else(|| panic!("{request}")).to_owned()
        };
        assert_ne!(signed(&requests[0]), signed(&requests[1]));
    }

    #[tokio::test]
    async fn a_write_whose_connection_is_lost_is_sent_again_with_its_key() {
        let (server, serving) = server(vec![None, Some(RUNNING), Some(DONE)]).await;
        let client = Client::new(args(&server, None)).unwrap();
        let answer = client
            .send(Method::DELETE, "organizations/acme", Extras::default())
            .await;
        assert_eq!(answer.unwrap().body, serde_json::json!({}));
        let requests = serving.await.unwrap();
        assert_eq!(requests.len(), 3);
        assert!(
            requests.iter().all(|request| *request == requests[0]),
            "{requests:?}"
        );
        assert!(requests[0].contains("idempotency-key: "), "{requests:?}");
    }

    #[tokio::test]
    async fn what_is_told_once_is_asked_once() {
        let (server, serving) = server(vec![None]).await;
        let client = Client::new(args(&server, None)).unwrap();
        let extras = Extras {
            is_secret: true,
            ..Extras::default()
        };
        let answer = client
            .send(Method::POST, "organizations/acme/users/ann/tokens", extras)
            .await;
        assert!(
            answer
                .unwrap_err()
                .to_string()
                .starts_with("cannot reach the server")
        );
        let requests = serving.await.unwrap();
        assert!(!requests[0].contains("idempotency-key"), "{requests:?}");
    }
}
