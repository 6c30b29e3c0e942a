//! Real handshakes on loopback, with a small tonic service that answers who its caller is.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::ServiceExt;

use super::{Identity, PeerIdentity, TlsError, connect, incoming, server};
use crate::authority::Authority;
use crate::plane_id::{Plane, PlaneId};
use crate::telemetry::chain;

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers with the caller's identity in a header; the simplest thing that tonic will serve.
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl tower::Service<Request<Body>> for WhoAmI {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let PeerIdentity(peer) = request.extensions().get().unwrap();
        let mut response = Response::new(Body::empty());
        response
            .headers_mut()
            .insert("peer", HeaderValue::from_str(&peer.to_string()).unwrap());
        std::future::ready(Ok(response))
    }
}

struct World {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create_or_open(&folder.path().join("authority"), "acme").unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identity(&self, plane: Plane, name: &str) -> Arc<Identity> {
        let dir = self.path(name);
        self.authority
            .issue(&PlaneId::new("acme", plane, name).unwrap(), &dir)
            .unwrap();
        Arc::new(Identity::load(&dir).unwrap())
    }
}

async fn serve(identity: Arc<Identity>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("https://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        server()
            .add_service(WhoAmI)
            .serve_with_incoming(incoming(listener, identity))
            .await
            .unwrap();
    });
    (target, tasks)
}

async fn ask(channel: Channel) -> Result<HeaderMap, tonic::transport::Error> {
    let request = Request::post("/test.WhoAmI/Ask").body(Body::empty()).unwrap();
    Ok(channel.oneshot(request).await?.headers().clone())
}

#[tokio::test]
async fn both_sides_know_each_other_by_their_certificates() {
    let world = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    let edge = world.identity(Plane::Edge, "us-east");
    let channel = connect(&target, Plane::Central, edge).await.unwrap();
    assert_eq!(
        ask(channel).await.unwrap()["peer"],
        "spiffe://acme/plane/edge/us-east"
    );
}

#[tokio::test]
async fn a_server_of_another_plane_is_refused_by_name() {
    let world = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    let central = world.identity(Plane::Central, "central-2");
    let error = connect(&target, Plane::Management, central).await.unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("cannot connect to management at https://127.0.0.1:"),
        "{text}"
    );
    assert!(
        text.contains("the peer is spiffe://acme/plane/central/central-1 and not of the plane management"),
        "{text}"
    );
}

#[tokio::test]
async fn another_organization_is_refused_even_under_the_same_authority() {
    // Two organizations have two authorities; here the roots are shared by mistake.
    let world = World::new();
    let other = Authority::create_or_open(&world.path("other"), "globex").unwrap();
    let (server_dir, client_dir) = (world.path("central-1"), world.path("spy"));
    world.identity(Plane::Central, "central-1");
    other
        .issue(&PlaneId::new("globex", Plane::Edge, "spy").unwrap(), &client_dir)
        .unwrap();
    let both = [
        std::fs::read_to_string(server_dir.join("ca.pem")).unwrap(),
        std::fs::read_to_string(client_dir.join("ca.pem")).unwrap(),
    ]
    .concat();
    for dir in [&server_dir, &client_dir] {
        std::fs::write(dir.join("ca.pem"), &both).unwrap();
    }
    let (target, _tasks) = serve(Arc::new(Identity::load(&server_dir).unwrap())).await;
    let spy = Arc::new(Identity::load(&client_dir).unwrap());
    let error = connect(&target, Plane::Central, spy).await.unwrap_err();
    assert!(
        chain(&error).contains("of another organization than globex"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let world = World::new();
    let stranger = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    // It knows our authority, but its own certificate is from elsewhere.
    let dir = stranger.path("us-east");
    stranger.identity(Plane::Edge, "us-east");
    std::fs::copy(world.path("central-1").join("ca.pem"), dir.join("ca.pem")).unwrap();
    let identity = Arc::new(Identity::load(&dir).unwrap());
    // With TLS 1.3 the client learns of it with its first request.
    let refused = match connect(&target, Plane::Central, identity).await {
        Ok(channel) => ask(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_peer_that_stalls_in_its_handshake_stalls_nobody_else() {
    let world = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    let address = target.strip_prefix("https://").unwrap();
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        stalled.push(stream);
    }
    let edge = world.identity(Plane::Edge, "us-east");
    let answer = timeout(super::HANDSHAKE_TIMEOUT / 2, async {
        ask(connect(&target, Plane::Central, edge).await.unwrap()).await
    });
    answer.await.expect("served while others stall").unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_the_next_connection() {
    let world = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    let edge = world.identity(Plane::Edge, "us-east");
    ask(connect(&target, Plane::Central, edge.clone()).await.unwrap())
        .await
        .unwrap();

    // Everything moves to a new authority, the server first: the old client is a stranger to it.
    let renewed = World::new();
    let move_to_new = |plane, name: &str| {
        renewed.identity(plane, name);
        for file in ["ca.pem", "key.pem", "cert.pem"] {
            std::fs::copy(renewed.path(name).join(file), world.path(name).join(file)).unwrap();
        }
    };
    move_to_new(Plane::Central, "central-1");
    let error = connect(&target, Plane::Central, edge.clone()).await.unwrap_err();
    assert!(matches!(error, TlsError::Connect { .. }), "{error}");
    move_to_new(Plane::Edge, "us-east");
    let answer = timeout(DEADLINE, async {
        ask(connect(&target, Plane::Central, edge).await.unwrap())
            .await
            .unwrap()
    });
    assert_eq!(answer.await.unwrap()["peer"], "spiffe://acme/plane/edge/us-east");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_identity_in_use() {
    let world = World::new();
    let (target, _tasks) = serve(world.identity(Plane::Central, "central-1")).await;
    let edge = world.identity(Plane::Edge, "us-east");
    for (file, text) in [("key.pem", "garbage"), ("cert.pem", ""), ("ca.pem", "-----BEGIN")] {
        std::fs::write(world.path("us-east").join(file), text).unwrap();
        ask(connect(&target, Plane::Central, edge.clone()).await.unwrap())
            .await
            .unwrap();
    }
    assert!(Identity::load(&world.path("us-east")).is_err());

    // Nor does a running process become somebody else.
    std::fs::remove_dir_all(world.path("us-east")).unwrap();
    let other = PlaneId::new("acme", Plane::Edge, "us-west").unwrap();
    world.authority.issue(&other, &world.path("us-east")).unwrap();
    let channel = connect(&target, Plane::Central, edge).await.unwrap();
    assert_eq!(
        ask(channel).await.unwrap()["peer"],
        "spiffe://acme/plane/edge/us-east"
    );
}

#[test]
fn a_folder_that_is_no_identity_says_what_is_wrong() {
    let world = World::new();
    let load = |dir: &Path| chain(&Identity::load(dir).unwrap_err());
    assert!(load(&world.path("none")).contains("none/cert.pem of the TLS identity: No such file"));

    let dir = world.path("us-east");
    world.identity(Plane::Edge, "us-east");
    world.identity(Plane::Edge, "us-west");
    std::fs::copy(world.path("us-west").join("key.pem"), dir.join("key.pem")).unwrap();
    let text = load(&dir);
    assert!(
        text.contains("check that cert.pem, key.pem and ca.pem belong together"),
        "{text}"
    );
    std::fs::write(dir.join("cert.pem"), "").unwrap();
    assert!(load(&dir).ends_with("us-east/cert.pem holds no certificate"));
    // An authority's certificate names no plane.
    std::fs::copy(dir.join("ca.pem"), dir.join("cert.pem")).unwrap();
    let text = load(&dir);
    assert!(text.contains("`spiffe://acme` is not a plane identity"), "{text}");
}

#[tokio::test]
async fn targets_are_checked_before_dialling() {
    let world = World::new();
    let edge = world.identity(Plane::Edge, "us-east");
    for target in [
        "http://localhost:1",
        "localhost:1",
        "https://",
        "https://localhost",
        "https://a:1/x",
    ] {
        let error = connect(target, Plane::Central, edge.clone()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot dial `{target}`: write it as https://HOST:PORT")
        );
    }
}
