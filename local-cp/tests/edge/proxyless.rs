//! A gRPC client without a proxy, of Google's own making, gets what it needs from the edge over state-of-the-world ADS.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::*;

/// The folder with Python's `grpcio`; `cargo xtask assets` fetches it.
const GRPCIO_ENV: &str = "TOMBOLO_GRPCIO";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edge/proxyless.py");

struct Client {
    _process: Child,
    targets: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// With the addresses of two servers.
    async fn start(xds: SocketAddr) -> (Client, [SocketAddr; 2]) {
        let grpcio = std::env::var_os(GRPCIO_ENV).unwrap_or_else(|| {
            panic!(
                "{GRPCIO_ENV} is not set, or could not be fetched: run through `cargo xtask test`, and see what `cargo xtask assets` says"
            )
        });
        let bootstrap = serde_json::json!({
            "xds_servers": [{
                "server_uri": xds.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {
                "id": "app-1",
                "cluster": "us-east",
                "metadata": {"tombolo.role": "proxyless", "tombolo.namespace": "shop"},
            },
        });
        let mut process = Command::new("python3")
            .arg(SCRIPT)
            .arg("2")
            .env("PYTHONPATH", grpcio)
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut client = Client {
            targets: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        };
        let addresses = client.answer().await;
        let addresses: Vec<SocketAddr> = addresses
            .split(' ')
            .map(|address| address.parse().unwrap())
            .collect();
        (client, addresses.try_into().unwrap())
    }

    async fn answer(&mut self) -> String {
        let answer = timeout(DEADLINE, self.answers.next_line()).await;
        answer.expect("no answer in time").unwrap().expect("it has ended")
    }

    /// What a call gives: the address of who has answered, or a status.
    async fn call(&mut self, target: &str) -> String {
        let line = format!("{target}\n");
        self.targets.write_all(line.as_bytes()).await.unwrap();
        self.answer().await
    }
}

fn platform_of_calls(application: SocketAddr) -> String {
    platform("127.0.0.1", application).replace("port: 8080}", "port: 8080, protocol: grpc}")
}

async fn answers_at(client: &Mutex<Client>, address: SocketAddr) {
    eventually(DEADLINE, || async {
        let answer = client.lock().await.call("xds:///web.shop:8080").await;
        ensure!(answer == address.to_string(), "{answer}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_without_a_proxy_finds_a_service_and_follows_it() {
    // Nobody answers where the instance is at first.
    let mut cluster = Cluster::new(&platform_of_calls(SocketAddr::from(([127, 0, 0, 1], 1)))).await;
    cluster.publish(7, slice(8080));
    let edge = cluster.start().await;
    edge.ready().await;
    let (client, [here, there]) = Client::start(edge.running.xds_addr).await;
    let client = Mutex::new(client);
    cluster.platform(&platform_of_calls(here));
    answers_at(&client, here).await;
    // As it is called beside a sidecar, with and without its port.
    for target in ["xds:///web.shop:8080", "xds:///web.shop", "xds:///web"] {
        assert_eq!(
            client.lock().await.call(target).await,
            here.to_string(),
            "{target}"
        );
    }
    let receipt = cluster
        .awaited_receipt(|receipt| receipt.proxies == 1 && receipt.behind.is_empty())
        .await;
    assert_eq!((receipt.version, receipt.accepted_only), ((1, 7), 1));
    assert!(receipt.rejected.is_empty(), "{receipt:?}");
    let unknown = client.lock().await.call("xds:///nobody.shop:8080").await;
    assert!(
        unknown.starts_with("UNAVAILABLE") && unknown.contains("nobody.shop:8080"),
        "{unknown}"
    );

    // The instance moves.
    cluster.platform(&platform_of_calls(there));
    answers_at(&client, there).await;
    edge.stop().await;
    // Who has lost its edge goes on.
    assert_eq!(
        client.lock().await.call("xds:///web.shop:8080").await,
        there.to_string()
    );
}
