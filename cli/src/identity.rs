//! `tombolo identity issue`: certificates with which planes know each other.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};

use crate::output::{OutputArgs, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    Issue(IssueArgs),
}

/// Writes a certificate, its key and the authority's certificate for one process.
///
/// The authority is created if its folder is empty. Issuing the same identity again renews it; a running process
/// takes the new files by itself.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo identity issue --authority ./authority --organization acme --plane central --name a --out ./identities/central-a")]
pub(crate) struct IssueArgs {
    /// The folder of the organization's authority, with ca.pem and ca-key.pem.
    #[arg(long, env = "TOMBOLO_AUTHORITY")]
    authority: PathBuf,
    #[arg(long, env = "TOMBOLO_ORGANIZATION")]
    organization: String,
    #[arg(long, env = "TOMBOLO_PLANE")]
    plane: PlaneArg,
    /// Of the process; for an edge, its cluster.
    #[arg(long, env = "TOMBOLO_NAME")]
    name: String,
    /// The folder for cert.pem, key.pem and ca.pem.
    #[arg(long, env = "TOMBOLO_OUT")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlaneArg {
    Management,
    Central,
    Edge,
}

pub(crate) fn run(command: IdentityCommand) -> anyhow::Result<()> {
    let IdentityCommand::Issue(args) = command;
    let plane = match args.plane {
        PlaneArg::Management => Plane::Management,
        PlaneArg::Central => Plane::Central,
        PlaneArg::Edge => Plane::Edge,
    };
    let id = PlaneId::new(&args.organization, plane, &args.name)?;
    let issued = issue(&args.authority, &id, &args.out)?;
    print(args.output.output, &issued, told)
}

/// Gives what was issued, and where to.
pub(crate) fn issue(authority: &Path, id: &PlaneId, out: &Path) -> anyhow::Result<Value> {
    let authority = Authority::create_or_open(authority, &id.organization)
        .with_context(|| format!("open the authority in {}", authority.display()))?;
    authority.issue(id, out).with_context(|| format!("issue {id}"))?;
    Ok(json!({"identity": id.to_string(), "folder": out}))
}

pub(crate) fn told(issued: &Value) -> String {
    let [identity, folder] = ["identity", "folder"].map(|field| text(&issued[field]));
    format!("wrote the identity {identity} to {folder}\n")
}
