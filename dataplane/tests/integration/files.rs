//! A proxy that runs what a file says, and nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_dataplane::{FileError, ProxyError};

use crate::restart::{Load, Process};
use crate::support::certs::Authority;
use crate::support::proxy::{DEADLINE, Proxy, client, eventually, free_address, get};
use crate::support::upstream::Upstream;

/// What it says when it runs what a file says now.
const READ_AGAIN: &str = "the configuration was read again";

pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) listener: SocketAddr,
    host: Upstream,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            listener: free_address(),
            host: Upstream::start("host").await,
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("proxy.yaml")
    }

    /// One listener whose `/word` is answered with a word; all else goes to the host.
    pub(crate) fn saying(&self, word: &str) -> Value {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                { "match": { "path": "/word" }, "direct_response": { "status": 200, "body": { "inline_string": word } } },
                { "match": { "prefix": "/" }, "route": { "cluster": "a" } },
            ] }] },
            "http_filters": [{ "name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            } }],
        });
        let host = address(self.host.address);
        json!({ "static_resources": {
            "listeners": [{
                "name": "in",
                "address": address(self.listener),
                "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
            }],
            "clusters": [{ "name": "a", "load_assignment": { "endpoints": [
                { "lb_endpoints": [{ "endpoint": { "address": host } }] },
            ] } }],
        } })
    }

    /// As editors and platforms do it: by another file in its place.
    pub(crate) fn replace(&self, text: &str) {
        let next = self.dir.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    async fn says(&self, word: &str) {
        eventually(&format!("the answer is {word}"), || async {
            let answer = get(&client(), &format!("http://{}/word", self.listener)).await;
            answer.is_some_and(|answer| answer.body == word)
        })
        .await;
    }
}

fn address(of: SocketAddr) -> Value {
    json!({ "socket_address": { "address": of.ip().to_string(), "port_value": of.port() } })
}

async fn loads(proxy: &Proxy, result: &str) -> u64 {
    let series = format!("tombolo_config_file_loads_total{{result=\"{result}\"}}");
    proxy.metric(&series).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_replaced_under_load_and_no_request_is_lost() {
    let stage = Stage::new().await;
    stage.replace(&stage.saying("first").to_string());
    let proxy = Proxy::start_of_file(&stage.file(), stage.dir.path());
    eventually("it is ready", || proxy.is_ready()).await;
    stage.says("first").await;
    let load = Load::start(stage.listener);
    for word in ["second", "third", "fourth"] {
        load.answers(200).await;
        stage.replace(&stage.saying(word).to_string());
        stage.says(word).await;
    }
    load.answers(200).await;
    // One that cannot be run changes nothing, and says so.
    let accepted = loads(&proxy, "accepted").await;
    let mut broken = stage.saying("broken");
    broken["static_resources"]["clusters"][0]["connect_timeout"] = json!("0s");
    broken["static_resources"]["listeners"][0]["nome"] = json!("in");
    stage.replace(&broken.to_string());
    eventually("it is refused", || async { loads(&proxy, "rejected").await == 1 }).await;
    let dump = proxy.admin("/config_dump").await.unwrap().body;
    for told in [
        "static_resources.clusters[0].connect_timeout: must be more than 0",
        "static_resources.listeners[0].nome: Listener has no such field",
    ] {
        assert!(dump.contains(told), "{dump}");
    }
    assert!(proxy.is_ready().await);
    load.answers(200).await;
    stage.says("fourth").await;
    // Neither does one that is gone.
    std::fs::remove_file(stage.file()).unwrap();
    eventually("it is missed", || async { loads(&proxy, "rejected").await == 2 }).await;
    stage.says("fourth").await;
    assert_eq!(loads(&proxy, "accepted").await, accepted);
    stage.replace(&stage.saying("fifth").to_string());
    stage.says("fifth").await;
    let dump = proxy.admin("/config_dump").await.unwrap().body;
    assert!(dump.contains("\"rejected\":{}"), "{dump}");
    assert_eq!(load.stop().await, Vec::<String>::new());
    proxy.stop().await;
    assert!(
        !stage.dir.path().join("last-good.xds").exists(),
        "the file is what the next process begins with"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_does_not_begin_with_a_file_that_it_cannot_run() {
    let stage = Stage::new().await;
    let mut broken = stage.saying("never");
    broken["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]
        ["virtual_hosts"][0]["routes"][1]["route"]["cluster"] = json!("b");
    broken["static_resources"]["clusters"][0]["lb_policy"] = json!("SUBSET");
    stage.replace(&broken.to_string());
    let proxy = Proxy::start_of_file(&stage.file(), stage.dir.path());
    let admin = proxy.admin;
    let ended = tokio::time::timeout(DEADLINE, proxy.task).await.unwrap().unwrap();
    let Err(ProxyError::File(FileError::Refused { problems, .. })) = ended else {
        panic!("{ended:?}");
    };
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("static_resources.clusters[0].lb_policy: must be one of"),
        "{told:?}"
    );
    assert!(
        told[1].ends_with("routes[1].route.cluster: \"b\" is none of static_resources.clusters"),
        "{told:?}"
    );
    for address in [admin, stage.listener] {
        assert!(
            std::net::TcpStream::connect(address).is_err(),
            "nothing listens at {address}"
        );
    }
    // A port that is taken is found when it is bound, and ends the process as well.
    let _taken = std::net::TcpListener::bind(stage.listener).unwrap();
    stage.replace(&stage.saying("never").to_string());
    let proxy = Proxy::start_of_file(&stage.file(), stage.dir.path());
    let ended = tokio::time::timeout(DEADLINE, proxy.task).await.unwrap().unwrap();
    let told = ended.unwrap_err().to_string();
    assert!(told.contains("listener in: address: cannot listen on"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_read_again_when_they_are_replaced_and_all_at_a_signal() {
    let stage = Stage::new().await;
    let authority = Authority::new();
    let write = |name: &str| {
        let pair = authority.sign(&[name]);
        std::fs::write(stage.dir.path().join("cert.pem"), pair.certificate).unwrap();
        std::fs::write(stage.dir.path().join("key.pem"), pair.key).unwrap();
    };
    write("one.example");
    let mut file = stage.saying("first");
    file["static_resources"]["secrets"] = json!([{ "name": "own", "tls_certificate": {
        "certificate_chain": { "filename": stage.dir.path().join("cert.pem") },
        "private_key": { "filename": stage.dir.path().join("key.pem") },
    } }]);
    file["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "own" }] },
        },
    });
    stage.replace(&file.to_string());
    let told = json!({
        "file": stage.file(),
        "admin": free_address().to_string(),
        "data": stage.dir.path(),
        "workers": 1,
        "take_over": false,
        "grace_ms": 0,
    });
    let mut process = Process::start(&told, stage.dir.path());
    let client = authority.client(&[], None);
    let is_shown = async |name: &str| {
        let Ok(stream) = TcpStream::connect(stage.listener).await else {
            return false;
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::clone(&client));
        connector.connect(name, stream).await.is_ok()
    };
    eventually("the first is shown", || is_shown("one.example")).await;
    write("two.example");
    eventually("the other is shown", || is_shown("two.example")).await;
    assert!(!is_shown("one.example").await);
    let had = process.said(READ_AGAIN);
    process.signal(Signal::HUP);
    process.says_again(READ_AGAIN, had).await;
    process.signal(Signal::TERM);
    process.ended_well().await;
}

/// What a newcomer copies.
#[test]
fn the_examples_of_the_pages_can_be_run() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Authority::new().sign(&["shop.example.com"]);
    std::fs::write(dir.path().join("shop.pem"), &pair.certificate).unwrap();
    std::fs::write(dir.path().join("shop.key"), &pair.key).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for page in ["proxy.md", "static-file.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let (_, rest) = text.split_once("```yaml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let file = dir.path().join(page);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, example.replace("/etc/tombolo", folder)).unwrap();
        let checked = tombolo_dataplane::check(&file).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(
            checked
                .to_string()
                .starts_with("listeners: 1, route tables: 1, clusters: 1,"),
            "{page}: {checked}"
        );
    }
}
