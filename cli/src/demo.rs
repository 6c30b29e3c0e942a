//! `tombolo demo`: the whole mesh on one machine, and a story that shows what it is worth.

mod acts;
mod measure;
mod mesh;
mod probe;
mod process;
mod review;
mod sample;
mod table;
mod topology;
mod traffic;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tombolo_runtime::shutdown::Shutdown;

use acts::{Act, BANK, PLATFORM, SHOP, Story};
use measure::{Tally, check_failures, check_resends};
use mesh::Mesh;
pub(crate) use sample::{SampleArgs, run as run_sample};
use table::LiveTable;
use topology::{CLUSTERS, ORGANIZATION, Topology};
use traffic::Traffic;

/// Runs the whole mesh on this machine: Postgres, management, two centrals and three clusters with proxies and
/// services, then plays eleven acts with steady traffic.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  tombolo demo                 play the story, then leave the mesh running until Ctrl-C
  tombolo demo --once          play the story and exit; non-zero if an act fails
  tombolo demo --keep          leave logs and data behind, to look at")]
pub(crate) struct DemoArgs {
    /// Exit after the last act instead of leaving the mesh up.
    #[arg(long, env = "TOMBOLO_DEMO_ONCE")]
    once: bool,
    /// Keep the folder with logs and data.
    #[arg(long, env = "TOMBOLO_DEMO_KEEP")]
    keep: bool,
    /// Where logs and data go, a new or an empty folder; a new temporary one by default. Everyone must be able to enter
    /// its parents, because Postgres does not run as root.
    #[arg(long, env = "TOMBOLO_DEMO_DIR")]
    dir: Option<PathBuf>,
    /// Serves the web admin from this folder; `cargo xtask demo` builds it and says where it is.
    #[arg(long, env = "TOMBOLO_WEB_DIR", value_name = "DIR")]
    web_dir: Option<PathBuf>,
}

/// # Errors
/// When the mesh does not come up, or an act does not keep its promise.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::from_signals().context("listen for Ctrl-C")?;
    // With the terminal goes who could stop the mesh.
    let mut hangup = signal(SignalKind::hangup()).context("listen for the terminal's end")?;
    let root = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("tombolo-demo-{}", std::process::id())));
    let made = make_root(&root)?;
    let mut mesh = Mesh::new(Topology::new(root.clone(), args.web_dir.clone())?);
    let mut ended = pin!(async {
        tokio::select! {
            () = shutdown.wait() => {}
            _ = hangup.recv() => {}
        }
    });
    let (played, failed_here) = tokio::select! {
        played = play(&mut mesh) => {
            let failed = played.is_err();
            (played, failed)
        }
        () = &mut ended => (Err(anyhow!("interrupted")), false),
    };
    if played.is_ok() && !args.once {
        invite(&mesh);
        ended.await;
    }
    mesh.stop().await?;
    if args.keep || failed_here {
        println!("logs and data are in {}", root.display());
    } else {
        remove_root(&root, made)?;
    }
    println!("{}", played?);
    Ok(())
}

/// Whether the folder for logs and data is the demo's own making: then it goes with what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    New,
    Found,
}

fn make_root(root: &Path) -> anyhow::Result<Made> {
    let made = match fs::read_dir(root) {
        Ok(entries) => {
            ensure!(
                entries.count() == 0,
                "{} is not empty; --dir takes a new or an empty folder, because the demo clears it at its end",
                root.display()
            );
            Made::Found
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
            Made::New
        }
        Err(error) => return Err(error).with_context(|| format!("look into {}", root.display())),
    };
    fs::set_permissions(root, Permissions::from_mode(0o711))
        .with_context(|| format!("open {}", root.display()))?;
    Ok(made)
}

fn remove_root(root: &Path, made: Made) -> anyhow::Result<()> {
    let removed = match made {
        Made::New => fs::remove_dir_all(root),
        Made::Found => fs::read_dir(root).and_then(|entries| {
            entries.into_iter().try_for_each(|entry| {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                }
            })
        }),
    };
    removed.with_context(|| format!("clear {}", root.display()))
}

/// Starts everything and plays; the text is the last line.
async fn play(mesh: &mut Mesh) -> anyhow::Result<String> {
    let started = Instant::now();
    println!("starting Postgres, management, two centrals and three clusters …");
    mesh.start_planes().await?;
    for cluster in CLUSTERS {
        mesh.add_cluster(cluster).await?;
    }
    mesh.apply(&mesh.tokens.admin, PLATFORM).await?;
    mesh.tokens.ann = mesh.new_token("ann").await?;
    mesh.tokens.bob = mesh.new_token("bob").await?;
    mesh.all_ready().await?;
    mesh.apply(&mesh.tokens.ann, SHOP).await?;
    mesh.apply(&mesh.tokens.bob, BANK).await?;
    println!(
        "up after {:.1?}; the platform team, Ann (retail) and Bob (banking) have written what they want\n",
        started.elapsed()
    );

    let paths: Vec<_> = CLUSTERS.into_iter().flat_map(|cluster| cluster.paths()).collect();
    mesh.traffic = Some(Traffic::start(&paths));
    let serving = |samples: &[traffic::Sample]| {
        CLUSTERS.iter().all(|cluster| {
            samples
                .iter()
                .any(|sample| sample.cluster == cluster.name && sample.outcome.is_ok())
        })
    };
    mesh.until("traffic in every cluster", Instant::now(), serving)
        .await?;

    let mut story = Story::default();
    let mut total = Tally::default();
    let mut kept = 0;
    let mut from = Instant::now();
    for (number, act) in (1..).zip(Act::ALL) {
        println!("act {number}: {}", act.title());
        let (tally, passed) = play_act(mesh, act, &mut story, &mut from).await?;
        total.add(tally);
        kept += usize::from(passed);
    }
    let line = format!(
        "demo: {kept} of {} acts, {} requests, {} failed",
        Act::ALL.len(),
        total.requests,
        total.failed
    );
    if kept == Act::ALL.len() {
        Ok(line)
    } else {
        bail!(line)
    }
}

/// Judges all requests sent from `from` on, and moves it to where the next act's begin.
async fn play_act(
    mesh: &mut Mesh,
    act: Act,
    story: &mut Story,
    from: &mut Instant,
) -> anyhow::Result<(Tally, bool)> {
    let table = LiveTable::start(mesh.traffic()?.ledger.clone());
    let outcome = act.play(mesh, story).await;
    drop(table);
    // What was sent during the act counts for it, also if it ends later.
    let until = Instant::now();
    let samples = mesh.traffic()?.settled(*from, until).await;
    *from = until;
    let tally = Tally::of(&samples);
    let verdict = outcome.and_then(|outcome| {
        check_failures(&samples, &outcome.incidents).map_err(anyhow::Error::msg)?;
        check_resends(&samples, &outcome.incidents).map_err(anyhow::Error::msg)?;
        Ok(outcome)
    });
    match &verdict {
        Ok(outcome) => println!(
            "    kept: {} requests, {} failed, {} sent again, new state held after {:.3} s; {}\n",
            tally.requests,
            tally.failed,
            tally.resent,
            outcome.held_after.as_secs_f64(),
            outcome.note
        ),
        Err(error) => println!(
            "    BROKEN: {} requests, {} failed; {error:#}\n",
            tally.requests, tally.failed
        ),
    }
    Ok((tally, verdict.is_ok()))
}

fn invite(mesh: &Mesh) {
    let api = mesh.topology.api;
    println!("The mesh stays up until Ctrl-C.\n");
    let program =
        std::env::current_exe().map_or_else(|_| "tombolo".to_owned(), |path| path.display().to_string());
    if mesh.topology.web_dir.is_some() {
        println!("  http://{api}/    # the web admin; sign in with TOMBOLO_TOKEN below");
    }
    println!("  alias tombolo={program}");
    println!("  export TOMBOLO_SERVER=http://{api} TOMBOLO_ORGANIZATION={ORGANIZATION}");
    println!("  export TOMBOLO_TOKEN={}", mesh.tokens.admin);
    println!("  tombolo status                                    # the clusters and their proxies");
    println!("  tombolo get organizations/acme -o yaml            # what was written");
    println!("  tombolo audit list                                # who did what");
    for cluster in CLUSTERS {
        println!(
            "  curl -H 'host: shop.example.com' http://{}/    # in through {}'s gateway",
            cluster.ingress(),
            cluster.name
        );
    }
    println!("\n  logs and data: {}\n", mesh.topology.root.display());
}
