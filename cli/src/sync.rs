//! `tombolo sync`: makes a folder of documents the truth for a node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use crate::Verdict;
use crate::apply::{ConfirmArgs, forced};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;
use crate::problem::Problem;

mod drift;
mod folder;

use drift::{Difference, Drift, Held, State, batches, compare};

/// The server's own limit of one transaction.
const CHANGES_MAX: usize = 1000;
/// Below the server's limit of a request, with room for what is around the changes.
const BYTES_MAX: usize = 1000 * 1024;
/// How many differences are looked up in the audit log, to say who caused them.
const LOOKED_UP_MAX: usize = 20;

/// Makes a folder of YAML the truth for a node: creates and changes what the folder holds, and says what differs.
///
/// The fields that its documents set are managed by it from then on: another's write to them is refused unless forced, and then
/// shown here. The other fields of a resource are whoever's.
/// What stands below the node and was never in the folder is left alone. Exits with 1 on an error; with --check, 0 means in
/// sync and 2 means drift.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo sync mesh/pay --node organizations/acme/tenants/payments
  tombolo sync mesh/pay --node organizations/acme/tenants/payments --check     0: in sync, 2: drift
  tombolo sync mesh/pay --node organizations/acme/tenants/payments --prune
  tombolo sync mesh/pay --node organizations/acme/tenants/payments --submit    a plan of it, for others to approve")]
pub(crate) struct SyncArgs {
    /// Every .yaml, .yml and .json file in it and in the folders below.
    folder: PathBuf,
    /// For which node: all documents are at or below it.
    #[arg(long, env = "TOMBOLO_NODE")]
    node: String,
    /// Only say what differs.
    #[arg(long, env = "TOMBOLO_CHECK", conflicts_with_all = ["dry_run", "prune", "force", "confirm"])]
    check: bool,
    /// Have the server decide all of it, and change nothing.
    #[arg(long, env = "TOMBOLO_DRY_RUN")]
    dry_run: bool,
    /// Delete what the folder manages and does not hold any more.
    #[arg(long, env = "TOMBOLO_PRUNE")]
    prune: bool,
    /// Take over what somebody else manages, and fields that somebody else has set otherwise.
    #[arg(long, env = "TOMBOLO_FORCE")]
    force: bool,
    /// Keep security that no plane enforces yet; it protects nothing until one does.
    #[arg(long, env = "TOMBOLO_ALLOW_UNENFORCED")]
    allow_unenforced: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    /// Change nothing, and keep a plan of all of it, for others to approve (`tombolo plan approve`).
    #[arg(long, env = "TOMBOLO_SUBMIT", conflicts_with_all = ["check", "dry_run", "confirm"])]
    submit: bool,
    /// With --submit: what those who approve the plan should know.
    #[arg(long, env = "TOMBOLO_DESCRIPTION")]
    description: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: SyncArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let node = client.name(&args.node)?;
    let manager = format!("sync/{node}");
    let folder = folder::read(&args.folder, &node)?;
    let server = below(&client, &node).await?;
    let mut drift = compare(&folder, &server, &manager);
    name_culprits(&client, &mut drift).await;

    if !args.check && !args.force {
        drift.differences.iter().try_for_each(refuse_to_take)?;
    }
    let end = match (args.check, args.dry_run, args.submit) {
        (true, ..) => End::Say,
        (_, true, _) => End::Try,
        (.., true) => End::Submit(args.description),
        _ => End::Apply(args.confirm.confirm),
    };
    let wanted = |difference: &&Difference| args.prune || !difference.state.is_deletion();
    let wanted: Vec<&Difference> = drift.differences.iter().filter(wanted).collect();
    let hand = Hand {
        manager: &manager,
        force: args.force,
        allow_unenforced: args.allow_unenforced,
    };
    let mut done = hand.work(&client, &end, &wanted).await?;
    if matches!(end, End::Apply(_)) {
        hand.record(&client, &drift.unrecorded, &mut done).await;
    }
    let is_applied = |difference: &Difference| {
        matches!(end, End::Apply(_)) && (args.prune || !difference.state.is_deletion())
    };
    for difference in &mut drift.differences {
        difference.applied = is_applied(difference);
    }
    let answer = json!({
        "node": node,
        "manager": manager,
        "drift": drift.differences,
        "others": drift.others,
        "revisions": done.revisions,
        "submitted": done.submitted,
        "unrecorded": done.unrecorded,
    });
    print(args.output.output, &answer, people)?;
    Ok(if args.check && !drift.differences.is_empty() {
        Verdict::Changes
    } else {
        Verdict::Good
    })
}

/// What becomes of the differences.
enum End {
    /// They are told.
    Say,
    /// The server decides them, and keeps nothing.
    Try,
    /// They are planned, with that description, for others to approve.
    Submit(Option<String>),
    /// They are mended, by the plan that was asked about if one is given.
    Apply(Option<String>),
}

/// As whom changes are sent.
struct Hand<'a> {
    manager: &'a str,
    force: bool,
    allow_unenforced: bool,
}

#[derive(Default)]
struct Done {
    revisions: Vec<u64>,
    /// The plan that waits.
    submitted: Option<Value>,
    /// Why the server did not record which fields the folder sets.
    unrecorded: Option<String>,
}

/// What the folder wants and somebody else has.
fn refuse_to_take(difference: &Difference) -> anyhow::Result<()> {
    let name = &difference.name;
    match difference.state {
        State::Foreign => {
            let by = difference.by.as_deref().unwrap_or_default();
            bail!(
                "{name} is managed by {by}: nothing was changed; remove it from one of the two, or take it over with --force"
            )
        }
        State::Contested => bail!(
            "somebody else has set {} of {name} to something else: nothing was changed; take that out of the folder, or take \
             it over with --force",
            difference.fields
        ),
        _ => Ok(()),
    }
}

/// All that the server has at and below the node. A node that is not there yet has nothing.
async fn below(client: &Client, node: &Fqn) -> anyhow::Result<BTreeMap<Fqn, Held>> {
    let parameters = [("pageSize", Some("500".to_owned()))];
    let tree = match whole(client, &format!("{node}:tree"), &parameters).await {
        Ok(tree) => tree,
        Err(error)
            if error
                .downcast_ref::<Problem>()
                .is_some_and(|problem| problem.status == 404) =>
        {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error),
    };
    let held = items(&tree).iter().map(|item| {
        let one = Held::read(item)?;
        Ok((one.name().clone(), one))
    });
    held.collect()
}

impl Hand<'_> {
    /// Has the server record which fields the folder sets of what is as it says. By itself, so that nothing else waits for it.
    async fn record(&self, client: &Client, unrecorded: &[Difference], done: &mut Done) {
        let unrecorded: Vec<&Difference> = unrecorded.iter().collect();
        match self.work(client, &End::Apply(None), &unrecorded).await {
            Ok(recorded) => done.revisions.extend(recorded.revisions),
            Err(error) => done.unrecorded = Some(format!("{error:#}")),
        }
    }

    /// Each request is a transaction of its own; what fits into one is all or nothing.
    async fn work(&self, client: &Client, end: &End, differences: &[&Difference]) -> anyhow::Result<Done> {
        let batches = batches(differences, CHANGES_MAX, BYTES_MAX);
        let flag = |set: bool| set.then(|| "true".to_owned());
        let unenforced = ("allowUnenforced", flag(self.allow_unenforced));
        let path = match end {
            End::Say => return Ok(Done::default()),
            End::Try => query("changes", &[("dry_run", flag(true)), unenforced]),
            End::Submit(description) => query(
                "plans",
                &[
                    ("submit", flag(true)),
                    ("description", description.clone()),
                    unenforced,
                ],
            ),
            End::Apply(confirm) => query("changes", &[("confirm", confirm.clone()), unenforced]),
        };
        let all = batches.len();
        let is_one_plan = !matches!(end, End::Apply(None));
        if is_one_plan && all > 1 {
            bail!(
                "these are {all} transactions, and a dry run or a plan is of one: sync a node further down, or use --check"
            );
        }
        let mut done = Done::default();
        for (number, batch) in (1..).zip(batches) {
            let mut headers = vec![("tombolo-manager", self.manager)];
            headers.extend(forced(self.force));
            let extras = Extras {
                body: Some(json!({ "changes": batch })),
                headers,
                ..Extras::default()
            };
            let sent = client.send(Method::POST, &path, extras).await;
            let answer = sent.with_context(|| match end {
                End::Say | End::Try | End::Submit(_) => "the server would not accept it".to_owned(),
                End::Apply(_) if all == 1 => "nothing was changed".to_owned(),
                End::Apply(_) => {
                    format!("transaction {number} of {all} was not applied, those before it were")
                }
            })?;
            match end {
                End::Say | End::Try => {}
                End::Submit(_) => done.submitted = Some(answer.body),
                End::Apply(_) => done.revisions.extend(answer.body["revision"].as_u64()),
            }
        }
        Ok(done)
    }
}

/// Says who changed or deleted what the folder manages, as far as the caller may read the audit log.
async fn name_culprits(client: &Client, drift: &mut Drift) {
    let elsewhere = drift
        .differences
        .iter_mut()
        .filter(|difference| matches!(difference.state, State::Missing | State::ChangedElsewhere));
    for difference in elsewhere.take(LOOKED_UP_MAX) {
        // Records of plans name it as well.
        let verb = match difference.state {
            State::Missing => "delete",
            _ => "update",
        };
        let name = difference.name.to_string();
        let path = query("audit", &[("name", Some(name)), ("verb", Some(verb.to_owned()))]);
        let Ok(answer) = client.get(&path).await else {
            return;
        };
        let has_done_it = |record: &&Value| {
            let (before, after) = (&record["before"], &record["after"]);
            let is_it = difference.fields.is_empty()
                || before.is_null()
                || !difference.fields.differing(before, after).is_empty();
            is_it && record["name"] == difference.name.as_str() && record["outcome"] == "done"
        };
        let last = items(&answer.body).iter().find(has_done_it);
        difference.by = last.map(|record| text(&record["actor"]));
    }
}

fn people(answer: &Value) -> String {
    let drift = items(&answer["drift"]);
    let rows = drift.iter().map(|difference| {
        let state: Option<State> = serde_json::from_value(difference["state"].clone()).ok();
        [
            state.map_or_else(String::new, |state| state.as_text().to_owned()),
            text(&difference["name"]),
            text(&difference["by"]),
            items(&difference["fields"])
                .iter()
                .map(text)
                .collect::<Vec<_>>()
                .join(", "),
        ]
    });
    let mut shown = table(["STATE", "RESOURCE", "BY", "FIELDS"], rows);
    let node = text(&answer["node"]);
    let applied = drift
        .iter()
        .filter(|difference| difference["applied"] == true)
        .count();
    let left = drift.len() - applied;
    let surplus = |difference: &&Value| difference["state"] == "surplus" && difference["applied"] == false;
    let lines = [
        (drift.is_empty(), format!("{node} is in sync")),
        (applied > 0, format!("{applied} applied")),
        (left > 0, format!("{left} left as they are")),
        (
            drift.iter().any(|difference| surplus(&difference)),
            "what the folder does not hold any more is deleted with --prune".to_owned(),
        ),
        (
            answer["submitted"].is_object(),
            format!(
                "plan {} waits: see `tombolo plan show`",
                text(&answer["submitted"]["id"])
            ),
        ),
        (
            answer["unrecorded"].is_string(),
            format!(
                "which fields the folder sets was not recorded of all: {}",
                text(&answer["unrecorded"])
            ),
        ),
        (
            answer["others"] != 0,
            format!(
                "{} more below {node} were never in the folder and are left alone",
                answer["others"]
            ),
        ),
    ];
    for (_, line) in lines.into_iter().filter(|(said, _)| *said) {
        shown.push_str(&line);
        shown.push('\n');
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::client::tests::{DONE, server};

    #[test]
    fn people_read_what_differs_what_was_done_and_what_is_left() {
        let node = "organizations/acme/tenants/pay";
        let answer = json!({"node": node, "others": 2, "drift": [
            {"name": "organizations/acme/tenants/pay/workspaces/a", "state": "changedElsewhere", "by": "ann",
                "fields": ["/description", "/spec/namespaces"], "applied": true},
            {"name": "organizations/acme/tenants/pay/workspaces/b", "state": "surplus", "applied": false},
        ]});
        assert_eq!(
            people(&answer),
            "STATE              RESOURCE                                     BY   FIELDS\n\
             changed elsewhere  organizations/acme/tenants/pay/workspaces/a  ann  /description, /spec/namespaces\n\
             surplus            organizations/acme/tenants/pay/workspaces/b\n\
             1 applied\n\
             1 left as they are\n\
             what the folder does not hold any more is deleted with --prune\n\
             2 more below organizations/acme/tenants/pay were never in the folder and are left alone\n"
        );
        let nothing = json!({"node": node, "others": 0, "drift": []});
        assert_eq!(people(&nothing), format!("{node} is in sync\n"));
    }

    #[tokio::test]
    async fn what_was_asked_about_is_confirmed_in_one_transaction() {
        let (server, serving) = server(vec![Some(DONE)]).await;
        let client = Client::new(ServerArgs::new(&server, None)).unwrap();
        let hand = Hand {
            manager: "sync/organizations/acme",
            force: false,
            allow_unenforced: false,
        };
        let end = End::Apply(Some("17-5f2c".to_owned()));
        let folder = [
            ("organizations/acme/tenants/a", 1),
            ("organizations/acme/tenants/b", CHANGES_MAX),
        ];
        let mut differences = Vec::new();
        for (tenant, workspaces) in folder {
            let names = (0..workspaces).map(|number| format!("{tenant}/workspaces/w{number}"));
            let wanted: BTreeMap<Fqn, _> = names
                .map(|name| drift::resource(json!({"name": name, "spec": {"namespaces": ["*/x"]}})).unwrap())
                .map(|resource| (resource.name.clone(), resource))
                .collect();
            differences.extend(compare(&wanted, &BTreeMap::new(), hand.manager).differences);
        }
        let all: Vec<&Difference> = differences.iter().collect();
        let refused = hand.work(&client, &end, &all).await.err().unwrap().to_string();
        assert!(refused.starts_with("these are 2 transactions"), "{refused}");
        hand.work(&client, &end, &all[..1]).await.unwrap();
        let requests = serving.await.unwrap();
        assert!(
            requests[0].starts_with("POST /v1/changes?confirm=17-5f2c HTTP/1.1"),
            "{requests:?}"
        );
    }

    #[tokio::test]
    async fn what_is_not_recorded_is_told_and_nothing_else_waits_for_it() {
        let refused = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 50\r\n\r\n\
            {\"type\":\"urn:tombolo:problem:x\",\"detail\":\"policy\"}";
        let (server, serving) = server(vec![Some(refused)]).await;
        let client = Client::new(ServerArgs::new(&server, None)).unwrap();
        let hand = Hand {
            manager: "sync/organizations/acme",
            force: false,
            allow_unenforced: false,
        };
        let document = json!({"name": "organizations/acme/tenants/a"});
        let mut held = document.clone();
        held["managedBy"] = hand.manager.into();
        let held = BTreeMap::from([(
            "organizations/acme/tenants/a".parse().unwrap(),
            Held::read(&held).unwrap(),
        )]);
        let wanted = drift::resource(document).unwrap();
        let drift = compare(&[(wanted.name.clone(), wanted)].into(), &held, hand.manager);
        assert_eq!((drift.differences.len(), drift.unrecorded.len()), (0, 1));
        let mut done = Done::default();
        hand.record(&client, &drift.unrecorded, &mut done).await;
        assert!(done.unrecorded.unwrap().contains("policy"));
        let requests = serving.await.unwrap();
        assert!(
            requests[0].starts_with("POST /v1/changes HTTP/1.1"),
            "{requests:?}"
        );
    }
}
