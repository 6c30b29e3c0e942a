//! Either proxy in the same place: real Envoy and ours, started with the same node on the same control plane.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::StatusCode;

use crate::client;
use crate::envoy::Envoy;
use crate::process::Process;
use crate::{free_port, within};

/// A proxy is ready when it has its first configuration.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Envoy,
    Tombolo,
}

/// How a proxy introduces itself, as docs/xds.md has it.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: String,
    /// The mesh cluster.
    pub cluster: String,
    pub namespace: String,
    pub role: Role,
}

#[derive(Clone, Debug)]
pub enum Role {
    Gateway { workload: String },
    Sidecar { outbound: SocketAddr },
}

/// A running proxy with one worker and without an access log; gone on drop.
#[derive(Debug)]
pub struct Proxy {
    running: Running,
    admin: SocketAddr,
}

#[derive(Debug)]
enum Running {
    Envoy(Envoy),
    Tombolo(Process),
}

impl Software {
    pub const BOTH: [Software; 2] = [Software::Envoy, Software::Tombolo];

    pub const fn name(self) -> &'static str {
        match self {
            Software::Envoy => "envoy",
            Software::Tombolo => "tombolo",
        }
    }
}

impl Proxy {
    /// Starts a proxy and waits until it is ready. `binary` is `tombolo`; Envoy's is found by itself. Ours keeps its
    /// last good configuration and its log below `dir`.
    ///
    /// # Errors
    /// It cannot be started or does not get ready; then its log is in the text.
    pub async fn start(
        software: Software,
        node: &Node,
        xds: SocketAddr,
        binary: &Path,
        dir: &Path,
    ) -> Result<Proxy> {
        match software {
            Software::Envoy => {
                let envoy = Envoy::start(&bootstrap(node, xds)).await?;
                Ok(Proxy {
                    admin: envoy.admin(),
                    running: Running::Envoy(envoy),
                })
            }
            Software::Tombolo => {
                let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
                let mut process =
                    Process::start(&node.id, &mut tombolo_command(node, xds, admin, binary, dir), dir)?;
                await_ready(&mut process, admin, "/ready").await?;
                Ok(Proxy {
                    admin,
                    running: Running::Tombolo(process),
                })
            }
        }
    }

    pub fn pid(&self) -> u32 {
        match &self.running {
            Running::Envoy(envoy) => envoy.pid(),
            Running::Tombolo(process) => process.pid(),
        }
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn log_tail(&self) -> String {
        match &self.running {
            Running::Envoy(envoy) => envoy.log_tail(),
            Running::Tombolo(process) => process.log_tail(),
        }
    }
}

/// `tombolo proxy` for this node, with one worker and no access log.
pub fn tombolo_command(
    node: &Node,
    xds: SocketAddr,
    admin: SocketAddr,
    binary: &Path,
    dir: &Path,
) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["proxy", "--id", &node.id, "--cluster", &node.cluster])
        .args(["--namespace", &node.namespace])
        .args(["--xds", &format!("http://{xds}")])
        .args(["--admin", &admin.to_string()])
        .args(["--workers", "1", "--access-log", "off"])
        .arg("--data-dir")
        .arg(dir.join(&node.id));
    match &node.role {
        Role::Gateway { workload } => command.args(["--role", "gateway", "--workload", workload]),
        Role::Sidecar { outbound } => {
            command.args(["--role", "sidecar", "--outbound", &outbound.to_string()])
        }
    };
    command
}

/// Waits until an admin port says yes: planes at `/readyz`, our proxy at `/ready` as Envoy does.
///
/// # Errors
/// The process has ended, or it is not ready after half a minute; then its log is in the text.
pub async fn await_ready(process: &mut Process, admin: SocketAddr, path: &str) -> Result<()> {
    let ready = within(READY_TIMEOUT, async || {
        process.check()?;
        let reply = client::get(admin, path).await?;
        ensure!(
            reply.status == StatusCode::OK,
            "{path} answers {}: {}",
            reply.status,
            reply.text()
        );
        Ok(())
    })
    .await;
    ready.map_err(|error| {
        error.context(format!(
            "{} did not get ready; its log ends with:\n{}",
            process.name(),
            process.log_tail()
        ))
    })
}

/// An Envoy that asks the control plane for everything.
fn bootstrap(node: &Node, xds: SocketAddr) -> String {
    let (ip, port) = (xds.ip(), xds.port());
    let Node {
        id,
        cluster,
        namespace,
        role,
    } = node;
    let role = match role {
        Role::Gateway { workload } => format!("tombolo.role: gateway, tombolo.workload: '{workload}'"),
        Role::Sidecar { outbound } => format!("tombolo.role: sidecar, tombolo.outbound: '{outbound}'"),
    };
    format!(
        "
node: {{id: '{id}', cluster: '{cluster}', metadata: {{tombolo.namespace: '{namespace}', {role}}}}}
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]
"
    )
}
