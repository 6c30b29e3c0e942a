//! The configuration of `tombolo management`: a file of YAML below the environment, the environment below flags. A
//! file's keys are the flags, and its values go the way of a flag's default, so that there is one parser for all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

/// The subcommand that takes a file.
const PLANE: &str = "management";
/// Flags that say where values come from, and are none.
const ABOUT: [&str; 3] = ["config", "print_config", "help"];
const HIDDEN: &str = "(hidden)";
/// Either of them gives the other's value: the one that is given nearer to the command line counts.
const ALTERNATIVES: [&str; 2] = ["database_url", "database_url_file"];

/// What was given, by flags, environment and file together.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) matches: ArgMatches,
    command: Command,
    file: Option<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// By the argument's id.
    values: BTreeMap<String, Vec<String>>,
}

/// Reads the command line, and the file that it or the environment names.
///
/// # Errors
/// The file cannot be read, or says something that is no flag. What is wrong with the command line is a `clap::Error`.
pub(crate) fn parse(command: Command, line: &[OsString]) -> anyhow::Result<Given> {
    let file = match named_file(&command, line) {
        Some((path, given)) => Some(File::read(path, &command, &given)?),
        None => None,
    };
    let command = match &file {
        Some(file) => file.below(command),
        None => command,
    };
    let matches = command.clone().try_get_matches_from(line)?;
    Ok(Given {
        matches,
        command,
        file,
    })
}

/// The file, and what is given beside it. A line that is wrong in itself names none: it is refused later.
fn named_file(command: &Command, line: &[OsString]) -> Option<(PathBuf, ArgMatches)> {
    let matches = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(line)
        .ok()?;
    let (name, given) = matches.subcommand()?;
    let path = (name == PLANE).then(|| given.get_one::<PathBuf>("config"))??;
    Some((path.clone(), given.clone()))
}

impl File {
    fn read(path: PathBuf, command: &Command, given: &ArgMatches) -> anyhow::Result<File> {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("read the configuration {}", path.display()))?;
        let in_file = || format!("the configuration {}", path.display());
        let fields: BTreeMap<String, Value> = match text.trim() {
            "" => BTreeMap::new(),
            text => serde_saphyr::from_str(text).with_context(in_file)?,
        };
        let mut values = BTreeMap::new();
        for (key, value) in fields {
            let flag = flags(command).find(|flag| flag.get_long() == Some(key.as_str()));
            let Some(flag) = flag else {
                let known: Vec<&str> = flags(command).filter_map(Arg::get_long).collect();
                bail!("{}: {key} is none of {}", in_file(), known.join(", "));
            };
            let texts = texts(&value).with_context(|| format!("{}: {key}", in_file()))?;
            values.insert(flag.get_id().to_string(), texts);
        }
        if ALTERNATIVES.iter().all(|id| values.contains_key(*id)) {
            bail!("{}: give database-url or database-url-file, not both", in_file());
        }
        if ALTERNATIVES.iter().any(|id| given.value_source(id).is_some()) {
            values.retain(|id, _| !ALTERNATIVES.contains(&id.as_str()));
        }
        Ok(File { path, values })
    }

    /// The command with the file's values in the place of its defaults.
    fn below(&self, command: Command) -> Command {
        let values = self.values.clone();
        command.mut_subcommand(PLANE, |plane| {
            values.into_iter().fold(plane, |plane, (id, values)| {
                plane.mut_arg(id, |flag| flag.required(false).default_values(values))
            })
        })
    }
}

impl Given {
    /// Each value with where it came from, as a file that `--config` reads; what is secret is hidden.
    pub(crate) fn printed(&self) -> String {
        let mut text = String::new();
        let Some(given) = self.matches.subcommand_matches(PLANE) else {
            return text;
        };
        for flag in flags(&self.command) {
            let (id, key) = (flag.get_id().as_str(), flag.get_long().unwrap_or_default());
            let Some(source) = given.value_source(id) else {
                let _ = writeln!(text, "# {key}: not given");
                continue;
            };
            let raw = given.get_raw(id).into_iter().flatten();
            let raw: Vec<String> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
            let value = match flag.is_hide_env_values_set() {
                true => HIDDEN.to_owned(),
                false => shown(&raw),
            };
            let _ = writeln!(text, "{key}: {value} # {}", self.origin(flag, source));
        }
        text
    }

    fn origin(&self, flag: &Arg, source: ValueSource) -> String {
        match (source, &self.file) {
            (ValueSource::CommandLine, _) => format!("flag --{}", flag.get_long().unwrap_or_default()),
            (ValueSource::EnvVariable, _) => {
                let name = flag.get_env().unwrap_or_default();
                format!("environment {}", name.to_string_lossy())
            }
            (_, Some(file)) if file.values.contains_key(flag.get_id().as_str()) => {
                format!("file {}", file.path.display())
            }
            _ => "default".to_owned(),
        }
    }
}

/// The secret that a file holds, without the end of its last line.
///
/// # Errors
/// It cannot be read, or is empty.
pub(crate) fn secret(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read the secret {}", path.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => bail!("the secret {} is empty", path.display()),
        secret => Ok(secret.to_owned()),
    }
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let plane = command.find_subcommand(PLANE);
    plane
        .into_iter()
        .flat_map(Command::get_arguments)
        .filter(|flag| flag.get_long().is_some() && !ABOUT.contains(&flag.get_id().as_str()))
}

fn texts(value: &Value) -> anyhow::Result<Vec<String>> {
    match value {
        Value::Array(items) => Ok(items.iter().map(texts).collect::<Result<Vec<_>, _>>()?.concat()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Number(_) | Value::Bool(_) => Ok(vec![value.to_string()]),
        Value::Null | Value::Object(_) => bail!("expected a value or a list of values"),
    }
}

/// As YAML reads it; JSON strings are.
fn shown(values: &[String]) -> String {
    match values {
        [one] => Value::from(one.as_str()).to_string(),
        many => Value::from(many).to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    const NEEDED: &str = "organization: acme\nidentity: /identity\ndata-dir: /data\n";

    fn given(file: &str, line: &str) -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("tombolo.yaml");
        fs::write(&path, file)?;
        let line = format!("tombolo management --config {} {line}", path.display());
        let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let printed = parse(Cli::command(), &line)?.printed();
        Ok(printed.replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        let file = format!("{NEEDED}listen: 127.0.0.1:1\nfeed-listen: 127.0.0.1:2\n");
        let printed = given(&file, "--listen 127.0.0.1:3").unwrap();
        for line in [
            "listen: \"127.0.0.1:3\" # flag --listen",
            "feed-listen: \"127.0.0.1:2\" # file FILE",
            "organization: \"acme\" # file FILE",
            "log: \"info\" # default",
            "# database-url: not given",
        ] {
            assert!(printed.lines().any(|found| found == line), "{line}:\n{printed}");
        }
    }

    #[test]
    fn what_is_printed_is_a_file_and_holds_no_secret() {
        let secret = format!("{NEEDED}database-url: postgres://u:hush@db/x\n");
        let printed = given(&secret, "").unwrap();
        assert!(
            printed.contains("database-url: (hidden) # file FILE"),
            "{printed}"
        );
        assert!(!printed.contains("hush"), "{printed}");
        let again = given(&given(NEEDED, "").unwrap(), "").unwrap();
        assert!(
            again.contains("listen: \"127.0.0.1:8080\" # file FILE"),
            "{again}"
        );
    }

    #[test]
    fn the_nearer_of_two_ways_to_give_the_database_counts() {
        let file = format!("{NEEDED}database-url: postgres://file\n");
        let printed = given(&file, "--database-url-file /secret").unwrap();
        assert!(printed.contains("# database-url: not given"), "{printed}");
        assert!(
            printed.contains("database-url-file: \"/secret\" # flag"),
            "{printed}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_by_name() {
        for (file, line, error) in [
            ("lisen: 127.0.0.1:1", "", "lisen is none of listen, feed-listen"),
            ("listen: {a: 1}", "", "listen: expected a value or a list"),
            ("listen: [", "", "the configuration FILE"),
            ("listen: nowhere", "", "invalid value 'nowhere' for '--listen"),
            ("listen: 127.0.0.1:1", "", "--identity"),
            ("config: other.yaml", "", "config is none of"),
            ("database-url: x\ndatabase-url-file: y", "", "not both"),
            (
                NEEDED,
                "--database-url x --database-url-file y",
                "cannot be used with",
            ),
        ] {
            let found = given(file, line).unwrap_err();
            let found = format!("{found:#}");
            let error = error.replace("FILE", "");
            assert!(found.contains(&error), "{file}: {found}");
        }
    }

    #[test]
    fn a_secret_is_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        fs::write(&path, "postgres://db\n").unwrap();
        assert_eq!(secret(&path).unwrap(), "postgres://db");
        fs::write(&path, "\n").unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("is empty"));
    }
}
