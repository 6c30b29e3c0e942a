//! Tokens: who is let in by them, what hosts see of them, and where their keys come from.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HttpUri, data_source};
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, SourcedMetadata,
};
use envoy_types::pb::envoy::config::route::v3::RouteMatch;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwksAsyncFetch, JwtAuthentication, JwtClaimToHeader, JwtProvider, JwtRequirement, RemoteJwks,
    RequirementRule,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, StringMatcher, ValueMatcher, list_matcher, string_matcher, value_matcher,
};
use envoy_types::pb::google::protobuf::{Any, Duration as PbDuration};
use envoy_types::util::pack_any;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::mesh;
use crate::support::proxy::{Answer, client, eventually, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::Upstream;

/// Who signs, with one key at a time.
pub(crate) struct Issuer {
    pair: Mutex<(u32, Ed25519KeyPair)>,
    pub(crate) address: SocketAddr,
    is_down: Mutex<bool>,
    /// It has taken its keys back.
    has_none: AtomicBool,
    fetches: AtomicU64,
}

impl Issuer {
    pub(crate) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Arc::new(Self {
            pair: Mutex::new((1, Ed25519KeyPair::generate().unwrap())),
            address: listener.local_addr().unwrap(),
            is_down: Mutex::new(false),
            has_none: AtomicBool::new(false),
            fetches: AtomicU64::new(0),
        });
        let serving = Arc::clone(&issuer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&serving).answer(stream));
            }
        });
        issuer
    }

    async fn answer(self: Arc<Self>, mut stream: TcpStream) -> Option<()> {
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            input.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&input).to_lowercase();
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let is_down = *self.is_down.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = head.starts_with("get /keys?v=1 ") && head.contains("host: issuer.example:8443\r\n");
        let answer = if is_down || !is_asked {
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
        } else {
            let keys = if self.has_none.load(Ordering::Relaxed) {
                json!({"keys": []}).to_string()
            } else {
                self.keys()
            };
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}",
                keys.len()
            )
        };
        stream.write_all(answer.as_bytes()).await.ok()
    }

    fn keys(&self) -> String {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let x = URL_SAFE_NO_PAD.encode(pair.1.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": pair.0.to_string(), "x": x}]}).to_string()
    }

    fn rotate(&self) {
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        *pair = (pair.0 + 1, Ed25519KeyPair::generate().unwrap());
    }

    pub(crate) fn goes_down(&self, is_down: bool) {
        *self.is_down.lock().unwrap_or_else(PoisonError::into_inner) = is_down;
    }

    pub(crate) fn token(&self, more: &Value) -> String {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let header = json!({"alg": "EdDSA", "kid": pair.0.to_string()});
        let mut claims = json!({"iss": "https://issuer.example", "sub": "anna"});
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.1.sign(message.as_bytes()));
        format!("Bearer {message}.{signature}")
    }

    pub(crate) fn local(&self) -> JwksSourceSpecifier {
        JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(self.keys())),
            ..Default::default()
        })
    }
}

/// Of a cluster of the proxy.
pub(crate) fn remote(cached_s: i64) -> JwksSourceSpecifier {
    let seconds = |seconds| Some(PbDuration { seconds, nanos: 0 });
    JwksSourceSpecifier::RemoteJwks(RemoteJwks {
        http_uri: Some(HttpUri {
            uri: "https://issuer.example:8443/keys?v=1".to_owned(),
            timeout: seconds(2),
            http_upstream_type: Some(HttpUpstreamType::Cluster("issuer".to_owned())),
        }),
        cache_duration: seconds(cached_s),
        async_fetch: Some(JwksAsyncFetch::default()),
        ..Default::default()
    })
}

/// Everything but `/open` needs a token.
pub(crate) fn authentication(keys: JwksSourceSpecifier) -> Any {
    telling("x-user", keys)
}

/// The same, and who it is stands in that header.
fn telling(header: &str, keys: JwksSourceSpecifier) -> Any {
    let provider = JwtProvider {
        issuer: "https://issuer.example".to_owned(),
        claim_to_headers: vec![JwtClaimToHeader {
            header_name: header.to_owned(),
            claim_name: "sub".to_owned(),
            ..Default::default()
        }],
        payload_in_metadata: "claims".to_owned(),
        jwks_source_specifier: Some(keys),
        ..Default::default()
    };
    let rule = |prefix: &str, requires_type| RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..Default::default()
        }),
        requirement_type: Some(RequirementType::Requires(JwtRequirement { requires_type })),
    };
    let required = Some(RequiresType::ProviderName("p".to_owned()));
    pack_any(JwtAuthentication {
        providers: [("p".to_owned(), provider)].into(),
        rules: vec![rule("/open", None), rule("/", required)],
        ..Default::default()
    })
}

/// Only who has that group.
pub(crate) fn only_group(group: &str) -> Any {
    let key = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    };
    let text = value_matcher::MatchPattern::StringMatch(StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(group.to_owned())),
        ..Default::default()
    });
    let item = ValueMatcher {
        match_pattern: Some(text),
    };
    let list = value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(item))),
    }));
    let matcher = MetadataMatcher {
        filter: "envoy.filters.http.jwt_authn".to_owned(),
        path: vec![key("claims"), key("groups")],
        value: Some(ValueMatcher {
            match_pattern: Some(list),
        }),
        invert: false,
    };
    only(Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(matcher),
        ..Default::default()
    }))
}

/// Rules that let through whom it is of.
pub(crate) fn only(identifier: Identifier) -> Any {
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(Rule::Any(true)),
        }],
        principals: vec![Principal {
            identifier: Some(identifier),
        }],
        ..Default::default()
    };
    pack_any(Rbac {
        rules: Some(Rules {
            policies: [("p".to_owned(), policy)].into(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

struct Stage {
    site: Site,
    url: String,
    issuer: Arc<Issuer>,
    host: Upstream,
}

impl Stage {
    async fn start(filters: impl FnOnce(&Issuer) -> Vec<(&'static str, Any)>) -> Self {
        let (host, issuer) = (Upstream::start("host").await, Issuer::start().await);
        let clusters = vec![
            at(mesh::cluster("host"), host.address),
            at(mesh::cluster("issuer"), issuer.address),
        ];
        let made = |plain| mesh::with_filters(plain, filters(&issuer));
        let routes = vec![mesh::to_cluster("/", "host")];
        let site = Site::start_listening(clusters, made, routes).await;
        Self {
            url: site.url(""),
            site,
            issuer,
            host,
        }
    }

    /// One that has fetched the issuer's keys, to be kept for so long, and a token that is let in.
    async fn with_keys(cached_s: i64) -> (Self, String) {
        let stage = Self::start(|_| vec![("jwt", authentication(remote(cached_s)))]).await;
        let token = stage.issuer.token(&json!({}));
        eventually("the keys have come", || stage.lets_in(&token)).await;
        (stage, token)
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = Request::get(format!("{}{path}", self.url));
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::default()).unwrap();
        send(&client(), request).await.unwrap()
    }

    async fn lets_in(&self, token: &str) -> bool {
        self.ask("/", &[("authorization", token)]).await.status == 200
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_token_reaches_a_host_that_sees_what_it_says() {
    let stage = Stage::start(|issuer| vec![("jwt", authentication(issuer.local()))]).await;
    let refused = stage.ask("/a?b", &[("x-user", "root")]).await;
    assert_eq!((refused.status.as_u16(), &*refused.body), (401, "Jwt is missing"));
    let realm = format!("Bearer realm=\"{}/a?b\"", stage.url);
    assert_eq!(refused.headers["www-authenticate"], realm);
    let old = stage.issuer.token(&json!({"exp": 1}));
    let refused = stage.ask("/", &[("authorization", &old)]).await;
    assert_eq!((refused.status.as_u16(), &*refused.body), (401, "Jwt is expired"));
    assert_eq!(stage.host.requests(), 0);

    let token = stage.issuer.token(&json!({}));
    let lines = [("authorization", &*token), ("x-user", "root"), ("x-other", "1")];
    assert_eq!(stage.ask("/", &lines).await.status, 200);
    let seen = stage.host.last_headers();
    assert_eq!(
        (&seen["x-user"], &seen["x-other"]),
        (&"anna".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(
        (seen.get("authorization"), seen.get_all("x-user").iter().count()),
        (None, 1)
    );
    assert_eq!(stage.ask("/open", &lines).await.status, 200);
    let seen = stage.host.last_headers();
    assert_eq!(seen.get("x-user"), None, "nobody asked for a token");

    // A call of gRPC, over HTTP/2.
    let call = Request::post(&stage.url).header("content-type", "application/grpc");
    let told = send(&http2_client(), call.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (told.status.as_u16(), &told.headers["grpc-status"]),
        (200, &"16".parse().unwrap())
    );
    assert_eq!(told.headers["grpc-message"], "Jwt is missing");
}

/// Somebody who is not let in by a head might be by what is behind a body.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_say_nothing_of_who_it_is() {
    let stage = Stage::start(|issuer| vec![("jwt", authentication(issuer.local()))]).await;
    let request = "POST /open HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntrailer: x-user, x_user, x-other\r\n\
        X_User: root\r\ntransfer-encoding: chunked\r\n\r\n\
        1\r\na\r\n0\r\nx-user: root\r\nx_user: root\r\nx-other: 1\r\n\r\n";
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = host.local_addr().unwrap();
    stage
        .site
        .edge
        .put("host", &mesh::endpoints("host", &[(address, 0)]));
    let seen = tokio::spawn(async move {
        let (mut stream, _) = host.accept().await.unwrap();
        let mut input = Vec::new();
        while !(input.ends_with(b"\r\n\r\n") && String::from_utf8_lossy(&input).contains("\r\n0\r\n")) {
            input.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        String::from_utf8_lossy(&input).to_lowercase()
    });
    eventually("the request reaches the other host", || async {
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        seen.is_finished()
    })
    .await;
    let seen = seen.await.unwrap();
    assert!(seen.contains("x-other: 1") && !seen.contains("root"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_is_said_by_claims_to_those_behind() {
    for (order, expected) in [(["jwt", "rbac"], [200, 403]), (["rbac", "jwt"], [403, 403])] {
        let stage = Stage::start(|issuer| {
            let filter = |name| match name {
                "jwt" => (name, authentication(issuer.local())),
                _ => (name, only_group("dev")),
            };
            order.map(filter).into()
        })
        .await;
        for (claims, expected) in [json!({"groups": ["x", "dev"]}), json!({"groups": ["ops"]})]
            .iter()
            .zip(expected)
        {
            let token = stage.issuer.token(claims);
            let answer = stage.ask("/", &[("authorization", &token)]).await;
            assert_eq!(answer.status.as_u16(), expected, "{order:?} {claims}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_kept_and_followed() {
    let (stage, token) = Stage::with_keys(1).await;
    let (issuer, stage) = (&stage.issuer, &stage);
    // The issuer is down, and is asked again and again.
    issuer.goes_down(true);
    let before = issuer.fetches.load(Ordering::Relaxed);
    eventually("it was asked", || async {
        issuer.fetches.load(Ordering::Relaxed) >= before + 3
    })
    .await;
    assert!(stage.lets_in(&token).await);
    // It comes back with another key.
    issuer.rotate();
    issuer.goes_down(false);
    let new = issuer.token(&json!({}));
    eventually("the new key has come", || stage.lets_in(&new)).await;
    let refused = stage.ask("/", &[("authorization", &token)]).await;
    assert_eq!(refused.body, "Jwks doesn't have key to match kid or alg from Jwt");

    // With the listener goes the fetching; another listener fetches for itself.
    stage.site.edge.put(
        "in",
        &mesh::with_filters(
            mesh::listener("in", stage.site.listener, "in"),
            vec![("jwt", authentication(remote(600)))],
        ),
    );
    eventually("it is asked no more", || async {
        let before = issuer.fetches.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        issuer.fetches.load(Ordering::Relaxed) == before
    })
    .await;
    assert!(stage.lets_in(&new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_asked_for_at_most_so_often() {
    let (stage, _) = Stage::with_keys(600).await;
    let (issuer, stage) = (&stage.issuer, &stage);
    let began = Instant::now();
    issuer.rotate();
    let new = issuer.token(&json!({}));
    let before = issuer.fetches.load(Ordering::Relaxed);
    eventually("the new key has come", || stage.lets_in(&new)).await;
    let fetches = issuer.fetches.load(Ordering::Relaxed) - before;
    assert_eq!(fetches, 1, "for many that have asked");
    assert!(began.elapsed() < Duration::from_secs(15));
}

/// Whatever else is said of it: the keys are the issuer's, not a listener's.
#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_changes_of_who_wants_them() {
    let (stage, token) = Stage::with_keys(600).await;
    let (issuer, stage) = (&stage.issuer, &stage);
    issuer.goes_down(true);
    for (header, cached_s) in [("x-who", 600), ("x-whose", 700)] {
        let listener = mesh::listener("in", stage.site.listener, "in");
        let filters = vec![("jwt", telling(header, remote(cached_s)))];
        stage.site.edge.put("in", &mesh::with_filters(listener, filters));
        eventually("the listener is another one", || async {
            assert!(stage.lets_in(&token).await, "{header}");
            stage.host.last_headers().contains_key(header)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_taken_back_are_believed_no_more() {
    let (stage, token) = Stage::with_keys(1).await;
    let (issuer, stage) = (&stage.issuer, &stage);
    issuer.has_none.store(true, Ordering::Relaxed);
    eventually("nobody is let in", || async { !stage.lets_in(&token).await }).await;
    issuer.has_none.store(false, Ordering::Relaxed);
    eventually("there are keys again", || stage.lets_in(&token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_asked_less_and_less() {
    let (stage, _) = Stage::with_keys(1).await;
    let issuer = &stage.issuer;
    issuer.goes_down(true);
    let before = issuer.fetches.load(Ordering::Relaxed);
    // At once, and 1, 3, 7 and 15 s after that, and up to a quarter later.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let asked = issuer.fetches.load(Ordering::Relaxed) - before;
    assert!((3..=5).contains(&asked), "{asked} times in 9 s");
}
