//! `tombolo audit export`: the record as a file, which goes on where an earlier attempt ended.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::FilterArgs;
use crate::Verdict;
use crate::client::{Client, ServerArgs, query};

/// The server reads a stretch of the record in less.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Writes the record into a file, in the order of its chains.
///
/// A file that an earlier attempt has begun is completed. Only an export as jsonl and without filters can be verified.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo audit export --out audit.jsonl
  tombolo audit export --format csv --since 2026-11-01T00:00:00Z --out november.csv")]
pub(crate) struct ExportArgs {
    #[arg(long, env = "TOMBOLO_AUDIT_FORMAT", default_value = "jsonl")]
    format: Format,
    /// The file.
    #[arg(long, env = "TOMBOLO_AUDIT_OUT", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

/// What a file holds of an earlier attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begun {
    Nothing,
    /// Up to the record at that place, which ends at that byte.
    Part {
        after: String,
        bytes: u64,
        records: u64,
    },
    Whole,
}

/// Tells on standard error how far it has come, on a terminal in one line.
struct Progress {
    done: u64,
    of: Option<u64>,
    told: Instant,
}

pub(super) async fn run(args: ExportArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let path = &args.out;
    let (after, bytes, done) = match begun(path, args.format)? {
        Begun::Nothing => (None, 0, 0),
        Begun::Part {
            after,
            bytes,
            records,
        } => (Some(after), bytes, records),
        Begun::Whole => bail!("{} is a whole export already; give another --out", path.display()),
    };
    let mut parameters = args.filter.parameters(&client)?;
    let format = match args.format {
        Format::Jsonl => "jsonl",
        Format::Csv => "csv",
    };
    parameters.push(("format", Some(format.to_owned())));
    parameters.push(("after", after));
    let answer = client.open(&query("audit:export", &parameters), &[]).await?;
    let of = answer.headers().get("x-tombolo-records");
    let mut progress = Progress {
        done,
        of: of.and_then(|of| of.to_str().ok()?.parse().ok()),
        told: Instant::now(),
    };
    let mut file = open_at(path, bytes).with_context(|| format!("open {}", path.display()))?;
    let mut body = answer.into_body();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame())
            .await
            .context("the server says nothing")?;
        let Some(frame) = frame else { break };
        let frame = frame.context("the export broke off; run it again, it resumes")?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        file.write_all(data)
            .with_context(|| format!("write {}", path.display()))?;
        progress.add(data.iter().filter(|&&byte| byte == b'\n').count() as u64);
    }
    file.sync_all()
        .with_context(|| format!("write {}", path.display()))?;
    progress.end(path);
    Ok(Verdict::Good)
}

/// What is there already; a line that was cut off, or is no record, is written again.
fn begun(path: &Path, format: Format) -> anyhow::Result<Begun> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Begun::Nothing),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let mut reader = BufReader::new(file);
    let mut begun = Begun::Nothing;
    let (mut at, mut records) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("read {}", path.display()))?;
        if length == 0 {
            return Ok(begun);
        }
        at += length as u64;
        let is_whole = line.ends_with(b"\n");
        match (format, place(&line, format)) {
            (_, Some(after)) if is_whole => {
                records += 1;
                begun = Begun::Part {
                    after,
                    bytes: at,
                    records,
                };
            }
            (Format::Jsonl, _) if is_whole && line.starts_with(b"{\"end\":") => begun = Begun::Whole,
            _ => {}
        }
    }
}

/// `writes.12` of a record's line.
fn place(line: &[u8], format: Format) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?;
    let (chain, sequence) = match format {
        Format::Jsonl => {
            let rest = text.strip_prefix("{\"chain\":\"")?;
            let (chain, rest) = rest.split_once("\",\"sequence\":")?;
            (chain, rest.split_once(',')?.0)
        }
        Format::Csv => {
            let mut cells = text.split(',');
            (cells.next()?, cells.next()?)
        }
    };
    let sequence: u64 = sequence.parse().ok()?;
    matches!(chain, "writes" | "denials").then(|| format!("{chain}.{sequence}"))
}

fn open_at(path: &Path, bytes: u64) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

impl Progress {
    fn add(&mut self, lines: u64) {
        self.done += lines;
        if self.told.elapsed() < PROGRESS_INTERVAL || !io::stderr().is_terminal() {
            return;
        }
        self.told = Instant::now();
        let of = self.of.map(|of| format!(" of {of}")).unwrap_or_default();
        eprint!("\r{}{of} records", self.done);
    }

    fn end(&self, path: &Path) {
        if io::stderr().is_terminal() {
            eprint!("\r");
        }
        eprintln!("exported {} lines to {}", self.done, path.display());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_export_goes_on_behind_its_last_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let first = "{\"export\":{}}\n{\"chain\":\"writes\",\"sequence\":1,\"hash\":\"\",\"record\":{}}\n";
        let part = |bytes: usize, after: &str, records| Begun::Part {
            after: after.to_owned(),
            bytes: bytes as u64,
            records,
        };
        let csv = "chain,sequence,time\r\nwrites,7,x\r\n";
        let cases = [
            (Format::Jsonl, String::new(), Begun::Nothing),
            (
                Format::Jsonl,
                "{\"export\":{}}\n{\"cha".to_owned(),
                Begun::Nothing,
            ),
            (Format::Jsonl, first.to_owned(), part(first.len(), "writes.1", 1)),
            (
                Format::Jsonl,
                format!("{first}{{\"chain\":\"writes\",\"sequence\":2,\"ha"),
                part(first.len(), "writes.1", 1),
            ),
            (
                Format::Jsonl,
                format!("{first}{{\"checkpoint\":{{}}}}\n"),
                part(first.len(), "writes.1", 1),
            ),
            (Format::Jsonl, format!("{first}{{\"end\":{{}}}}\n"), Begun::Whole),
            (Format::Csv, format!("{csv}deni"), part(csv.len(), "writes.7", 1)),
        ];
        for (format, text, expected) in cases {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(begun(&path, format).unwrap(), expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(begun(&path, Format::Jsonl).unwrap(), Begun::Nothing);
    }
}
