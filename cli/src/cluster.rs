//! `tombolo cluster add`: registers a cluster and writes the identity of its edge.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tombolo_compiler::name::{ClusterName, Kind, Label};
use tombolo_runtime::plane_id::{Plane, PlaneId};

use crate::client::{Client, Extras, ServerArgs};
use crate::identity::{self, issue};
use crate::output::{OutputArgs, print, text};
use crate::problem::Problem;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    Add(AddArgs),
}

/// Registers a cluster, and writes the identity with which its edge joins.
///
/// Doing it again changes nothing but renews the identity.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo cluster add us-east --region us-east --organization acme --authority ./authority --out ./identities/us-east")]
pub(crate) struct AddArgs {
    /// The cluster's own name.
    cluster: ClusterName,
    #[arg(long, env = "TOMBOLO_REGION")]
    region: Label,
    #[arg(long, env = "TOMBOLO_ZONE")]
    zone: Option<Label>,
    /// The folder of the organization's authority, with ca.pem and ca-key.pem.
    #[arg(long, env = "TOMBOLO_AUTHORITY")]
    authority: PathBuf,
    /// The folder for cert.pem, key.pem and ca.pem of the edge.
    #[arg(long, env = "TOMBOLO_OUT")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: ClusterCommand) -> anyhow::Result<()> {
    let ClusterCommand::Add(args) = command;
    let client = Client::new(args.server.clone())?;
    let organization = client.organization()?.to_owned();
    let id = PlaneId::new(&organization, Plane::Edge, args.cluster.as_str())?;
    let mut added = register(&client, &args).await?;
    added["identity"] = issue(&args.authority, &id, &args.out)?;
    print(args.output.output, &added, |added| {
        let [action, name] = ["action", "name"].map(|field| text(&added[field]));
        format!("{action} {name}\n{}", identity::told(&added["identity"]))
    })
}

/// Gives what was done to which resource.
async fn register(client: &Client, args: &AddArgs) -> anyhow::Result<Value> {
    let name = client.name(&format!("{}/{}", Kind::Cluster.collection(), args.cluster))?;
    let mut spec = json!({"region": args.region});
    if let Some(zone) = &args.zone {
        spec["zone"] = json!(zone);
    }
    let existing = match client.get(name.as_str()).await {
        Ok(answer) => Some(answer.body),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(error),
    };
    let action = match existing {
        Some(document) if document["spec"] == spec => "unchanged",
        Some(mut document) => {
            document["spec"] = spec;
            apply(client, document).await?;
            "update"
        }
        None => {
            let document = json!({"kind": Kind::Cluster.to_string(), "name": name, "spec": spec});
            apply(client, document).await?;
            "create"
        }
    };
    Ok(json!({"action": action, "name": name}))
}

/// Creates it, or updates what its own `etag` says.
async fn apply(client: &Client, document: Value) -> anyhow::Result<()> {
    let extras = Extras {
        body: Some(document),
        ..Extras::default()
    };
    client.send(Method::POST, "changes", extras).await.map(drop)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|problem| problem.status == StatusCode::NOT_FOUND)
}
