//! `tombolo`: serves a plane, and is the client of the management plane's API.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tombolo_runtime::shutdown::run_to_end;

mod apply;
mod audit;
mod auth;
mod bisect;
mod client;
mod cluster;
mod config;
mod credentials;
mod delete;
mod demo;
mod difference;
mod documents;
mod effective;
mod explain;
mod get;
mod history;
mod identity;
mod key;
mod login;
mod offers;
mod output;
mod pages;
mod plan;
mod problem;
mod readiness;
mod search;
mod serve;
mod status;
mod sync;
mod token;
mod wait;

/// Every plane passes many small messages between threads, where glibc's allocator took a sixth of the CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A hierarchical multi-cluster mesh.
///
/// Every flag can also be given as an environment variable, shown with it.
#[derive(Debug, Parser)]
#[command(
    name = "tombolo",
    version,
    arg_required_else_help = true,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Serve(serve::Serve),
    Apply(apply::ApplyArgs),
    Plan(plan::PlanArgs),
    Get(get::GetArgs),
    Delete(delete::DeleteArgs),
    Status(status::StatusArgs),
    History(history::HistoryArgs),
    Diff(history::DiffArgs),
    Show(history::ShowArgs),
    Rollback(history::RollbackArgs),
    Effective(effective::EffectiveArgs),
    Explain(explain::ExplainArgs),
    Bisect(bisect::BisectArgs),
    Search(search::SearchArgs),
    Readiness(readiness::ReadinessArgs),
    Offers(offers::OffersArgs),
    Sync(sync::SyncArgs),
    /// The record of who did what.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Who may do what.
    #[command(subcommand)]
    Auth(auth::AuthCommand),
    /// The clusters of the mesh.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// The identities with which planes know each other.
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// The keys of service accounts.
    #[command(subcommand)]
    Key(key::KeyCommand),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Password(login::PasswordArgs),
    /// The tokens of users.
    #[command(subcommand)]
    Token(token::TokenCommand),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    Sample(demo::SampleArgs),
}

/// What a command has found out, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// What was asked for is not so: a broken audit chain, a change that proxies refuse.
    Bad,
    /// Of `plan`: there is something to do.
    Changes,
}

fn main() -> ExitCode {
    tombolo_runtime::tls::install_crypto();
    let started = parse().and_then(|command| command.map_or(Ok(Verdict::Good), start));
    match started {
        Ok(verdict) => verdict.into(),
        Err(error) => {
            eprint!("{}", problem::report(&error));
            ExitCode::FAILURE
        }
    }
}

/// Nothing when its configuration was all that was asked for. What is wrong with the command line itself, clap says,
/// and exits.
fn parse() -> anyhow::Result<Option<Command>> {
    let line: Vec<OsString> = env::args_os().collect();
    let given =
        config::parse(Cli::command(), &line).or_else(|error| match error.downcast::<clap::Error>() {
            Ok(error) => error.exit(),
            Err(error) => Err(error),
        })?;
    let cli = Cli::from_arg_matches(&given.matches).unwrap_or_else(|error| error.exit());
    if matches!(&cli.command, Command::Serve(serve) if serve.only_prints()) {
        print!("{}", given.printed());
        return Ok(None);
    }
    Ok(Some(cli.command))
}

fn start(command: Command) -> anyhow::Result<Verdict> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Serve(serve) = &command
        && let Some(workers) = serve.workers()
    {
        runtime.worker_threads(workers);
    }
    run_to_end(runtime.enable_all().build()?, run(command))
}

async fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Serve(serve) => serve::run(serve).await.map(|()| Verdict::Good),
        Command::Apply(args) => apply::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Get(args) => get::run(args).await.map(|()| Verdict::Good),
        Command::Delete(args) => delete::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::History(args) => history::history(args).await.map(|()| Verdict::Good),
        Command::Diff(args) => history::diff(args).await.map(|()| Verdict::Good),
        Command::Show(args) => history::show(args).await.map(|()| Verdict::Good),
        Command::Rollback(args) => history::rollback(args).await,
        Command::Sync(args) => sync::run(args).await,
        Command::Effective(args) => effective::run(args).await.map(|()| Verdict::Good),
        Command::Search(args) => search::run(args).await.map(|()| Verdict::Good),
        Command::Readiness(args) => readiness::run(args).await,
        Command::Offers(args) => offers::run(args).await.map(|()| Verdict::Good),
        Command::Explain(args) => explain::run(args).await.map(|()| Verdict::Good),
        Command::Bisect(args) => bisect::run(args).await.map(|()| Verdict::Good),
        Command::Audit(command) => audit::run(command).await,
        Command::Auth(command) => auth::run(command).await,
        Command::Cluster(command) => cluster::run(command).await.map(|()| Verdict::Good),
        Command::Identity(command) => identity::run(command).map(|()| Verdict::Good),
        Command::Key(command) => key::run(command).await.map(|()| Verdict::Good),
        Command::Login(args) => login::login(args).await.map(|()| Verdict::Good),
        Command::Logout(args) => login::logout(args).await.map(|()| Verdict::Good),
        Command::Password(args) => login::password(args).await.map(|()| Verdict::Good),
        Command::Token(command) => token::run(command).await.map(|()| Verdict::Good),
        Command::Demo(args) => demo::run(args).await.map(|()| Verdict::Good),
        Command::Sample(args) => demo::run_sample(args).await.map(|()| Verdict::Good),
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        match verdict {
            Verdict::Good => ExitCode::SUCCESS,
            Verdict::Bad => ExitCode::FAILURE,
            Verdict::Changes => ExitCode::from(2),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// A variable of the environment counts as a flag that is given, and may be there for another command.
    #[test]
    fn what_is_given_for_another_command_stops_none() {
        for (line, is_good) in [
            ("tombolo delete x --description y", true),
            ("tombolo rollback x --to 1 --description y", true),
            ("tombolo sync folder --node n --description y", true),
            ("tombolo plan --file a --delete x --force", true),
            ("tombolo delete x --submit --wait", false),
            ("tombolo rollback x --to 1 --submit --wait", false),
        ] {
            let parsed = Cli::command().try_get_matches_from(line.split(' '));
            assert_eq!(parsed.is_ok(), is_good, "{line}");
        }
    }

    fn each_command(command: &clap::Command, path: &str, seen: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                each_command(sub, &path, seen);
            } else {
                seen.push((path, sub.clone()));
            }
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_every_command_an_example() {
        let mut commands = Vec::new();
        each_command(&Cli::command(), "tombolo", &mut commands);
        assert!(commands.len() >= 10);
        for (path, command) in commands {
            for flag in command.get_arguments().filter(|flag| !flag.is_positional()) {
                let name = flag.get_id().as_str();
                if matches!(name, "help" | "version") {
                    continue;
                }
                let variable = flag.get_env().and_then(|env| env.to_str()).unwrap_or_default();
                assert!(
                    variable.starts_with("TOMBOLO_"),
                    "{path}: --{name} has {variable:?}"
                );
            }
            let examples = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(examples.contains(&path), "{path} shows no example of itself");
        }
    }
}
