//! A write's statements, sent by pgbench: as the same role, for the same principal, in the same order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgConnectOptions;
use tombolo_management::audit::APPEND;

/// What the transaction puts into the rows: as long as what management puts there.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) principal: String,
    pub(crate) document: String,
    pub(crate) record: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    script: PathBuf,
    options: PgConnectOptions,
    sample: Sample,
}

impl Pgbench {
    /// `url` is that of a database of its own; every client writes the resource `{prefix}{client}`.
    pub(crate) fn new(url: &str, prefix: &str, sample: Sample, dir: &Path) -> Result<Pgbench> {
        let binaries =
            env::var_os("TOMBOLO_POSTGRES_BIN").context("run `cargo xtask bench`, which fetches Postgres")?;
        let program = Path::new(&binaries).join("pgbench");
        ensure!(program.is_file(), "{} is missing", program.display());
        let script = dir.join("write.sql");
        fs::write(&script, statements(prefix)).context("cannot write the script")?;
        Ok(Pgbench {
            program,
            script,
            options: url.parse().context("cannot read the address of postgres")?,
            sample,
        })
    }

    /// Transactions per second.
    pub(crate) fn run(&self, clients: usize, during: Duration) -> Result<f64> {
        let socket = self.options.get_socket().context("postgres has no socket")?;
        let mut command = Command::new(&self.program);
        command
            .args(["--no-vacuum", "--protocol", "prepared", "--jobs", "1"])
            .args(["--client", &clients.to_string()])
            .args(["--time", &during.as_secs().to_string()])
            .args(["--define", &format!("principal={}", self.sample.principal)])
            .args(["--define", &format!("document={}", self.sample.document)])
            .args(["--define", &format!("record={}", self.sample.record)])
            .arg("--file")
            .arg(&self.script)
            .arg("--host")
            .arg(socket)
            .args(["--port", &self.options.get_port().to_string()])
            .args(["--username", self.options.get_username()])
            .arg(
                self.options
                    .get_database()
                    .context("the address names no database")?,
            )
            .env("PGOPTIONS", "-c role=tombolo_app -c tombolo.organization=acme");
        let output = command.output().context("cannot run pgbench")?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "pgbench failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let rate = told.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|rate| rate.split(' ').next());
        rate.and_then(|rate| rate.parse().ok())
            .with_context(|| format!("pgbench told no rate: {told}"))
    }
}

/// Keep it beside `Writer::write`; the bench fails when the two touch different rows.
fn statements(prefix: &str) -> String {
    let append = append(prefix);
    format!(
        "BEGIN;
SELECT set_config('tombolo.principal', :principal, true);
SELECT epoch, revision, audit_sequence, audit_hash FROM organizations WHERE name = 'acme' FOR UPDATE \\gset
UPDATE resources SET document = :document::jsonb, etag = md5(:revision::text), revision = :revision + 1, updated_at = now()
    WHERE name = '{prefix}' || :client_id::text AND etag <> '';
INSERT INTO history (organization, name, revision, uid, action, actor, time, document, etag, created_at)
    VALUES ('acme', '{prefix}' || :client_id::text, :revision + 1, :principal::uuid, 'update',
        'organizations/acme/users/writer', now(), :document::jsonb, md5(:revision::text), now());
{append};
COMMIT;
"
    )
}

/// Management's statement, with the values of one record in the places of its parameters.
fn append(prefix: &str) -> String {
    let values = vec![
        "'acme'".to_owned(),
        "ARRAY['writes']".to_owned(),
        "ARRAY[:audit_sequence + 1]".to_owned(),
        "ARRAY[convert_to(:record, 'UTF8')]".to_owned(),
        "ARRAY[:audit_hash::bytea]".to_owned(),
        "ARRAY[:audit_hash::bytea]".to_owned(),
        "ARRAY[now()]".to_owned(),
        "ARRAY['organizations/acme/users/writer']".to_owned(),
        "ARRAY['update']".to_owned(),
        "ARRAY['TrafficGroup']".to_owned(),
        format!("ARRAY['{prefix}' || :client_id::text]"),
        "ARRAY['done']".to_owned(),
        ":audit_sequence + 1".to_owned(),
        ":audit_hash::bytea".to_owned(),
        "now()".to_owned(),
        ":epoch".to_owned(),
        ":revision + 1".to_owned(),
    ];
    // From the last on: `$1` begins `$12`.
    let numbered = values.iter().enumerate().rev();
    numbered.fold(APPEND.to_owned(), |statement, (index, value)| {
        statement.replace(&format!("${}", index + 1), value)
    })
}
