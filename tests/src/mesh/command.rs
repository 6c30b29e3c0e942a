//! How each part is started, and how a proxy introduces itself.

use std::process::Command;

use super::{CENTRALS, Mesh, Part};
use crate::feed::ORGANIZATION;
use crate::proxy::{self, Node, Role};

impl Mesh {
    pub(super) fn command(&self, part: Part) -> Command {
        let admin = self.admin(part).to_string();
        let mut command = Command::new(&self.blueprint.binary);
        match part {
            Part::Management => {
                command
                    .args(["management", "--organization", ORGANIZATION])
                    .args(["--listen", &admin])
                    .args(["--feed-listen", &self.management_feed().to_string()]);
                if let Some(postgres) = &self.postgres {
                    command.env("TOMBOLO_DATABASE_URL", postgres.url());
                }
            }
            Part::Central(name) => {
                command
                    .args(["central", "--name", name, "--admin", &admin])
                    .args(["--management", &format!("https://{}", self.management_feed())])
                    .args(["--listen", &self.central_feed(part).to_string()]);
            }
            Part::Edge(cluster) => {
                let centrals = CENTRALS.map(|central| format!("https://{}", self.central_feed(central)));
                command
                    .args([
                        "edge",
                        "--cluster",
                        self.blueprint.clusters[cluster],
                        "--admin",
                        &admin,
                    ])
                    .args(["--central", &centrals.join(",")])
                    .args(["--xds-listen", &self.xds(cluster).to_string()])
                    .arg("--static-dir")
                    .arg(self.platform_dir(cluster));
            }
            Part::Gateway(cluster) | Part::Sidecar(cluster) => {
                let node = self.node(part);
                return proxy::tombolo_command(
                    &node,
                    self.xds(cluster),
                    self.admin(part),
                    &self.blueprint.binary,
                    &self.path("data"),
                );
            }
        }
        command
            .arg("--identity")
            .arg(self.identity(part))
            .arg("--data-dir")
            .arg(self.data_dir(part));
        command
    }

    /// How a proxy introduces itself.
    ///
    /// # Panics
    /// For a part that is no proxy.
    pub fn node(&self, part: Part) -> Node {
        let (cluster, namespace, role) = match part {
            Part::Gateway(cluster) => {
                let workload = "gateway".to_owned();
                (cluster, "mesh", Role::Gateway { workload })
            }
            Part::Sidecar(cluster) => {
                let outbound = self.outbound(cluster);
                (cluster, "shop", Role::Sidecar { outbound })
            }
            _ => panic!("{part} is no proxy"),
        };
        Node {
            id: part.to_string(),
            cluster: self.blueprint.clusters[cluster].to_owned(),
            namespace: namespace.to_owned(),
            role,
        }
    }
}
