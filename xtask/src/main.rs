//! The task runner: what a person types and what CI runs are the same verbs.

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod assets;
mod cargo;
mod check;
mod test;
mod web;

use assets::Assets;

const HELP: &str = "\
The task runner of Tombolo.

Usage: cargo xtask <VERB> [ARGS]

Verbs:
  demo [ARGS]        build `tombolo`, and the web admin if Node is there, and play the demo; ARGS go to `tombolo demo`
  test [ARGS]        run every test of the workspace and of the web admin; ARGS go to `cargo test`
  check              formatting, lints, licences and bans, walls between the crates
  bench NAME [ARGS]  build in release mode and run one benchmark
  assets             only fetch what the others need: Postgres, Envoy, gRPC for Python, h2spec, cargo-deny

Examples:
  cargo xtask demo                 play, then keep the mesh up until Ctrl-C
  cargo xtask demo --once          play and exit, non-zero if an act failed
  cargo xtask test -p tombolo-compiler
  cargo xtask bench propagation

Environment:
  TOMBOLO_POSTGRES_BIN   a folder with postgres and initdb (14 or newer), instead of the fetched one
  TOMBOLO_ENVOY          an Envoy binary (1.40), instead of the fetched one
  TOMBOLO_GRPCIO         a folder with Python's grpcio for the python3 that is here, instead of the fetched one
  TOMBOLO_H2SPEC         an h2spec binary (2.2.1), instead of the one that Go builds
  XDG_CACHE_HOME         where fetched parts are kept, in `tombolo/` (default ~/.cache; /var/cache for root)
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((verb, rest)) = args.split_first() else {
        print!("{HELP}");
        bail!("no verb given");
    };
    // `demo` and `bench` have a help of their own.
    let wants_help = |arg: &String| arg == "--help" || arg == "-h";
    match verb.as_str() {
        "demo" => demo(rest),
        "bench" => bench(rest),
        "help" | "--help" | "-h" => help(),
        _ if rest.iter().any(wants_help) => help(),
        "test" => test::run(&Assets::fetch()?, rest),
        "check" if rest.is_empty() => check::run(),
        "assets" if rest.is_empty() => {
            let assets = Assets::fetch()?;
            assets::cargo_deny()?;
            print!("{assets}");
            Ok(())
        }
        "check" | "assets" => bail!("`{verb}` takes no arguments, got {rest:?}"),
        other => bail!("unknown verb `{other}`; see `cargo xtask --help`"),
    }
}

fn help() -> Result<()> {
    print!("{HELP}");
    Ok(())
}

fn demo(args: &[String]) -> Result<()> {
    let postgres = assets::postgres()?;
    let web = web::build();
    if let Err(why) = &web {
        eprintln!("the web admin is left out: {why:#}");
    }
    cargo::run(&["build", "--workspace", "--bin", "tombolo"])?;
    cargo::exec(
        cargo::command_in_target("debug/tombolo")?
            .arg("demo")
            .args(args)
            .env(assets::POSTGRES_ENV, postgres)
            .envs(web.ok().map(|dir| (web::DIR_ENV, dir))),
    )
}

fn bench(args: &[String]) -> Result<()> {
    let name = args.first().context("which one? `cargo xtask bench NAME`")?;
    let assets = Assets::fetch()?;
    eprintln!("bench {name}: building in release mode, which takes minutes the first time");
    cargo::run(&[
        "build",
        "--release",
        "--workspace",
        "--bin",
        "tombolo",
        "--bin",
        "bench",
    ])?;
    cargo::exec(
        assets
            .apply(&mut cargo::command_in_target("release/bench")?)
            .args(args),
    )
}
