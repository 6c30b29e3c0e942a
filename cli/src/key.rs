//! `tombolo key`: key pairs with which service accounts show who they are.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Client, Extras, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Makes a key pair for a service account. Its private half is told this once, and the server keeps none.
///
/// Use it with --key-file or TOMBOLO_KEY_FILE.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo key create tenants/payments/serviceaccounts/ci --organization acme --out ci.json")]
pub(crate) struct CreateArgs {
    /// The name of the service account.
    account: String,
    /// The file for the key, which only its owner may read; without one it is printed.
    #[arg(long, env = "TOMBOLO_OUT")]
    out: Option<PathBuf>,
    /// What the key is for.
    #[arg(long, env = "TOMBOLO_DESCRIPTION", default_value = "")]
    description: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// The keys of a service account, also those that were revoked.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo key list tenants/payments/serviceaccounts/ci --organization acme")]
pub(crate) struct ListArgs {
    /// The name of the service account.
    account: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Revokes a key, at once and for good.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo key revoke tenants/payments/serviceaccounts/ci 01942f6e-5a3c-7c61-9a55-0d5a6b8e1f00 --organization acme")]
pub(crate) struct RevokeArgs {
    /// The name of the service account.
    account: String,
    /// The ID of the key, as `tombolo key list` shows it.
    id: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}/keys", client.name(&args.account)?);
    let file = args.out.as_deref().map(KeyFile::create).transpose()?;
    let extras = Extras {
        body: Some(json!({ "description": args.description })),
        is_secret: true,
        ..Extras::default()
    };
    let issued = client.send(Method::POST, &path, extras).await;
    let Some(file) = file else {
        return print(args.output.output, &issued?.body, |issued| {
            format!("{:#}\n", issued["key"])
        });
    };
    let mut issued = match issued {
        Ok(issued) => issued.body,
        Err(error) => return Err(file.discard(error)),
    };
    file.write(&issued["key"].take())?;
    print(args.output.output, &issued, |issued| {
        format!("key {}\n", text(&issued["id"]))
    })
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}/keys", client.name(&args.account)?);
    let answer = whole(&client, &path, &[]).await?;
    print(args.output.output, &answer, listed)
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}/keys/{}", client.name(&args.account)?, args.id);
    let answer = client.send(Method::DELETE, &path, Extras::default()).await?.body;
    print(args.output.output, &answer, |revoked| {
        format!("revoked key {}\n", text(&revoked["id"]))
    })
}

fn listed(answer: &Value) -> String {
    let rows = items(answer).iter().map(|key| {
        [
            text(&key["id"]),
            text(&key["createTime"]),
            text(&key["expireTime"]),
            text(&key["revokeTime"]),
            text(&key["description"]),
        ]
    });
    table(["ID", "CREATED", "EXPIRES", "REVOKED", "DESCRIPTION"], rows)
}

/// Opened before a key is asked for, so that none is made that cannot be kept.
struct KeyFile<'a> {
    path: &'a Path,
    file: std::fs::File,
}

impl KeyFile<'_> {
    fn create(path: &Path) -> anyhow::Result<KeyFile<'_>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        Ok(KeyFile { path, file })
    }

    fn write(mut self, key: &Value) -> anyhow::Result<()> {
        let written = writeln!(self.file, "{key:#}").and_then(|()| self.file.sync_all());
        written.with_context(|| format!("write {}: revoke the key that was made", self.path.display()))
    }

    /// There is no key to be kept.
    fn discard(self, error: anyhow::Error) -> anyhow::Error {
        match std::fs::remove_file(self.path) {
            Ok(()) => error,
            Err(left) => error.context(format!("remove the empty {}: {left}", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_a_table() {
        let answer = json!({"items": [
            {"id": "1", "createTime": "then", "description": "ci", "publicKey": "x"},
            {"id": "2", "createTime": "now", "expireTime": "later", "revokeTime": "soon"},
        ]});
        assert_eq!(
            listed(&answer),
            "ID  CREATED  EXPIRES  REVOKED  DESCRIPTION\n\
             1   then                       ci\n\
             2   now      later    soon\n"
        );
    }
}
