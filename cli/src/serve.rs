//! `tombolo management|central|edge|proxy`: serves one plane until SIGTERM or SIGINT.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rustix::thread::disable_transparent_huge_pages;
use tombolo_compiler::name::{ClusterName, Label};
use tombolo_dataplane::{AccessLog, Edge, ProxyConfig, Role, Source};
use tombolo_local_cp::Plaintext;
use tombolo_management::delivery::{S3, S3Credentials, Target};
use tombolo_management::{AuditConfig, LoginConfig, OidcConfig};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::{self, LogFormat};

use crate::config;
use crate::output::parse_duration;

/// Two looks of a balancer that looks every two seconds, and the time in which a platform tells all of its nodes.
const GATEWAY_DRAIN_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub(crate) enum Serve {
    Management(Box<ManagementArgs>),
    Central(CentralArgs),
    Edge(EdgeArgs),
    Proxy(ProxyArgs),
}

/// Serves the management plane: the REST API, and the feed for centrals.
///
/// The first start prints the token of a bootstrap administrator, once.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo management --organization acme --identity /etc/tombolo/identity --data-dir /var/lib/tombolo
  tombolo management --organization acme --identity /etc/tombolo/identity --data-dir /var/lib/tombolo --database-url postgres://tombolo@db/tombolo
  tombolo management --config /etc/tombolo/management.yaml --print-config")]
pub(crate) struct ManagementArgs {
    /// REST, /healthz, /readyz and /metrics.
    #[arg(long, env = "TOMBOLO_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where centrals dial, over mTLS.
    #[arg(long, env = "TOMBOLO_FEED_LISTEN", default_value = "127.0.0.1:8081")]
    feed_listen: SocketAddr,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Created at the first start.
    #[arg(long, env = "TOMBOLO_ORGANIZATION")]
    organization: Label,
    #[command(flatten)]
    data: DataArgs,
    /// A Postgres, 14 or newer. Without it a private one is started in the data folder.
    #[arg(long, env = "TOMBOLO_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// A file with the database's URL, so that it stands in no process list and no environment.
    #[arg(long, env = "TOMBOLO_DATABASE_URL_FILE", conflicts_with = "database_url")]
    database_url_file: Option<PathBuf>,
    /// Threads that answer requests; by default one less than there are cores, which leaves one to Postgres.
    #[arg(long, env = "TOMBOLO_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How many requests one user may send per second; more are answered with 429.
    #[arg(long, env = "TOMBOLO_REQUESTS_MAX", default_value = "10000")]
    requests_max: NonZeroU32,
    /// Serves the web admin from this folder, as `npm run build` in web/ leaves it in web/dist.
    #[arg(long, env = "TOMBOLO_WEB_DIR", value_name = "DIR")]
    web_dir: Option<PathBuf>,
    /// Seals a credential of an administrator in this file, for the day on which nobody can log in.
    ///
    /// It is made when the file is missing, ends after 90 days, and ends the one that was sealed before. Each use is
    /// recorded. An empty file says that people keep it elsewhere.
    #[arg(long, env = "TOMBOLO_BREAK_GLASS_FILE", value_name = "FILE")]
    break_glass: Option<PathBuf>,
    /// A file of YAML whose keys are these flags; the environment comes before it, and flags before both.
    #[arg(long, env = "TOMBOLO_CONFIG")]
    config: Option<PathBuf>,
    /// Print every value and where it came from, and exit. Secrets are hidden.
    #[arg(long, env = "TOMBOLO_PRINT_CONFIG")]
    print_config: bool,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// How people log in.
#[derive(Args, Debug)]
struct LoginArgs {
    /// Where browsers reach management, such as https://mesh.example.com; what they ask for, by default.
    #[arg(long, env = "TOMBOLO_PUBLIC_URL", value_name = "URL", value_parser = parse_public_url)]
    public_url: Option<hyper::Uri>,
    /// How long a login lasts.
    #[arg(long, env = "TOMBOLO_SESSION_LIFETIME", default_value = "12h", value_parser = parse_duration)]
    session_lifetime: Duration,
    /// The OpenID provider that people log in at, as it stands in its tokens. It sends them back to
    /// PUBLIC-URL/auth/callback.
    #[arg(
        long,
        env = "TOMBOLO_OIDC_ISSUER",
        value_name = "URL",
        requires = "oidc_client_id"
    )]
    oidc_issuer: Option<String>,
    /// What management is called at the provider.
    #[arg(long, env = "TOMBOLO_OIDC_CLIENT_ID", value_name = "ID")]
    oidc_client_id: Option<String>,
    /// A file with the secret that management has at the provider; a public client has none.
    #[arg(long, env = "TOMBOLO_OIDC_CLIENT_SECRET_FILE", value_name = "FILE")]
    oidc_client_secret_file: Option<PathBuf>,
    /// What is asked for besides `openid`.
    #[arg(
        long,
        env = "TOMBOLO_OIDC_SCOPES",
        value_delimiter = ',',
        default_value = "profile,email"
    )]
    oidc_scopes: Vec<String>,
    /// The claim of the ID token that names a person's groups.
    #[arg(long, env = "TOMBOLO_OIDC_GROUPS_CLAIM", default_value = "groups")]
    oidc_groups_claim: String,
    /// The authorities that the provider is believed by, PEM; the public ones by default.
    #[arg(long, env = "TOMBOLO_OIDC_CA", value_name = "FILE")]
    oidc_ca: Option<PathBuf>,
}

/// How the audit record is kept, and where its signed checkpoints go.
#[derive(Args, Debug)]
struct AuditArgs {
    /// The private key that signs checkpoints, PEM; created when it is missing. In the data folder by default.
    #[arg(long, env = "TOMBOLO_AUDIT_KEY", value_name = "FILE")]
    audit_key: Option<PathBuf>,
    /// Months that are kept besides the present one; everything by default.
    #[arg(long, env = "TOMBOLO_AUDIT_RETENTION_MONTHS", value_name = "N")]
    audit_retention_months: Option<u32>,
    /// Appends checkpoints to this file, as lines of JSON.
    #[arg(long, env = "TOMBOLO_AUDIT_FILE", value_name = "FILE")]
    audit_file: Option<PathBuf>,
    /// Posts checkpoints to this address.
    #[arg(
        long,
        env = "TOMBOLO_AUDIT_WEBHOOK",
        value_name = "URL",
        hide_env_values = true
    )]
    audit_webhook: Option<hyper::Uri>,
    /// Puts checkpoints into a bucket of an S3-compatible store, https://HOST/BUCKET/PREFIX.
    #[arg(long, env = "TOMBOLO_AUDIT_S3", value_name = "URL")]
    audit_s3: Option<String>,
    /// A file with ACCESS_KEY:SECRET_KEY, which the store needs.
    #[arg(long, env = "TOMBOLO_AUDIT_S3_CREDENTIALS", value_name = "FILE")]
    audit_s3_credentials: Option<PathBuf>,
    /// The region that requests to the store are signed for.
    #[arg(long, env = "TOMBOLO_AUDIT_S3_REGION", default_value = "us-east-1")]
    audit_s3_region: String,
    /// The authorities that the webhook and the store are believed by, PEM; the public ones by default.
    #[arg(long, env = "TOMBOLO_AUDIT_CA", value_name = "FILE")]
    audit_ca: Option<PathBuf>,
}

/// Serves the global control plane: joins intent with the reports of clusters into routes.
///
/// It starts from its last good state and needs neither management nor another central to serve.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo central --name a --management https://127.0.0.1:8081 --identity /etc/tombolo/identity --data-dir /var/lib/tombolo

On the admin port: /healthz /readyz /metrics, GET /links, POST /brake/confirm?link=management|CLUSTER")]
pub(crate) struct CentralArgs {
    /// The name in its certificate.
    #[arg(long, env = "TOMBOLO_NAME")]
    name: String,
    /// Management's feed, https://HOST:PORT.
    #[arg(long, env = "TOMBOLO_MANAGEMENT")]
    management: String,
    /// Where edges dial, over mTLS.
    #[arg(long, env = "TOMBOLO_LISTEN", default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
    /// Health, metrics and the state of its links. It has no authentication: keep it private.
    #[arg(long, env = "TOMBOLO_ADMIN", default_value = "127.0.0.1:8083")]
    admin: SocketAddr,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Serves the local control plane of one cluster: tells the centrals what the cluster has, and its proxies what to run.
///
/// It starts from its last good state and needs no central to serve.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo edge --cluster us-east --central https://10.0.0.1:8082,https://10.0.0.2:8082 \\
    --identity /etc/tombolo/identity --static-dir /etc/tombolo/platform --data-dir /var/lib/tombolo")]
pub(crate) struct EdgeArgs {
    /// The cluster; its name is also in the certificate.
    #[arg(long, env = "TOMBOLO_CLUSTER")]
    cluster: ClusterName,
    /// Every central, https://HOST:PORT. It reports to all and follows one.
    #[arg(
        long,
        env = "TOMBOLO_CENTRAL",
        required = true,
        value_delimiter = ',',
        value_name = "URL,…"
    )]
    central: Vec<String>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// A folder of YAML with the services, instances and gateways of the cluster; watched.
    #[arg(long, env = "TOMBOLO_STATIC_DIR")]
    static_dir: PathBuf,
    /// Where proxies connect, in plain text: on loopback, or with --allow-plaintext anywhere.
    #[arg(long, env = "TOMBOLO_XDS_LISTEN", default_value = "127.0.0.1:15010")]
    xds_listen: SocketAddr,
    /// Serve proxies, and let gateways listen for other clusters, also on addresses that others can reach. None of that
    /// is encrypted or authenticated yet, so the network must be trusted.
    #[arg(long, env = "TOMBOLO_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
    /// Health, metrics and what each proxy runs. It has no authentication: keep it private.
    #[arg(long, env = "TOMBOLO_ADMIN", default_value = "127.0.0.1:15014")]
    admin: SocketAddr,
    /// The authorities that gateways believe the hosts of issuers' keys by (`jwksUri`), PEM; those of the system by default.
    #[arg(long, env = "TOMBOLO_ISSUER_CA", value_name = "FILE")]
    issuer_ca: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Serves the data plane: a proxy that takes its configuration from its cluster's edge, or from a file.
///
/// With an edge it starts from its last good configuration and needs no edge to serve.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo proxy --id gw-1 --cluster us-east --role gateway --namespace mesh --workload gateway --data-dir /var/lib/tombolo
  tombolo proxy --id web-1 --cluster us-east --role sidecar --namespace shop --outbound 127.0.0.1:15001 --data-dir /var/lib/tombolo --statsd 127.0.0.1:8125

A new version, or other flags, without a lost request: start it beside the one that runs, as
  tombolo proxy --id gw-1 --cluster us-east --role gateway --namespace mesh --workload gateway --data-dir /var/lib/tombolo --take-over

Without an edge, what a file says; it is read again when it is replaced, and at SIGHUP:
  tombolo proxy --config /etc/tombolo/proxy.yaml --validate
  tombolo proxy --config /etc/tombolo/proxy.yaml --data-dir /var/lib/tombolo")]
pub(crate) struct ProxyArgs {
    /// Serves what the static_resources of this file say (listeners, clusters, secrets, as an Envoy's; YAML or JSON), and no
    /// edge. A file that cannot be run is refused: at the start the proxy ends, later it runs on what it had.
    #[arg(long, env = "TOMBOLO_CONFIG", value_name = "FILE",
        conflicts_with_all = ["id", "cluster", "role", "namespace", "workload", "outbound", "xds"])]
    config: Option<PathBuf>,
    /// Only tells what is wrong with the file of --config, if anything is.
    #[arg(long, env = "TOMBOLO_VALIDATE", requires = "config")]
    validate: bool,
    /// Unique within the cluster.
    #[arg(long, env = "TOMBOLO_ID", required_unless_present = "config")]
    id: Option<String>,
    #[arg(long, env = "TOMBOLO_CLUSTER", required_unless_present = "config")]
    cluster: Option<String>,
    #[arg(long, env = "TOMBOLO_ROLE", required_unless_present = "config")]
    role: Option<RoleArg>,
    /// The namespace of its workload.
    #[arg(long, env = "TOMBOLO_NAMESPACE", required_unless_present = "config")]
    namespace: Option<String>,
    /// The gateway that it belongs to, as the platform names it.
    #[arg(long, env = "TOMBOLO_WORKLOAD", required_if_eq("role", "gateway"))]
    workload: Option<String>,
    /// Where its application sends requests to the mesh.
    #[arg(long, env = "TOMBOLO_OUTBOUND", required_if_eq("role", "sidecar"))]
    outbound: Option<SocketAddr>,
    /// The edge's xDS server.
    #[arg(long, env = "TOMBOLO_XDS", default_value = "http://127.0.0.1:15010")]
    xds: String,
    /// Readiness, metrics, configuration dump and drain. It has no authentication: keep it private.
    #[arg(long, env = "TOMBOLO_ADMIN", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Where the last good state is kept, and where another process finds this one.
    #[arg(long, env = "TOMBOLO_DATA_DIR", required_unless_present = "validate")]
    data_dir: Option<PathBuf>,
    /// Threads that forward requests; one per core by default.
    #[arg(long, env = "TOMBOLO_WORKERS")]
    workers: Option<usize>,
    /// `off`, `stdout` or a file that is appended to.
    #[arg(long, env = "TOMBOLO_ACCESS_LOG", default_value = "off", value_parser = parse_access_log)]
    access_log: AccessLog,
    /// HOST:PORT of an agent of statsd that takes DogStatsD's tags; it gets all metrics every 10 s over UDP.
    #[arg(long, env = "TOMBOLO_STATSD", value_parser = parse_host_port)]
    statsd: Option<String>,
    /// How long it serves on after SIGTERM or POST /drain while /ready says 503, so that balancers in front notice before
    /// the ports are closed. 5s for a gateway by default, and 0s for a sidecar, which nobody balances.
    #[arg(long, env = "TOMBOLO_DRAIN_GRACE", value_name = "DURATION", value_parser = parse_duration)]
    drain_grace: Option<Duration>,
    /// How long requests in flight may take to end at shutdown.
    #[arg(long, env = "TOMBOLO_DRAIN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// Memory at which requests are refused (90 % of it) and no connection is accepted (95 %), such as 512Mi; its cgroup's
    /// limit counts too.
    #[arg(long, env = "TOMBOLO_MEMORY_LIMIT", value_name = "BYTES", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    /// Takes the ports over from the proxy that runs with the same data folder, if one does: no connection is refused and
    /// no request lost. That one goes on until this one serves, then finishes what it has under way, and ends.
    #[arg(long, env = "TOMBOLO_TAKE_OVER")]
    take_over: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Gateway,
    Sidecar,
}

#[derive(Args, Debug)]
struct IdentityArgs {
    /// The folder with cert.pem, key.pem and ca.pem; read again when they change.
    #[arg(long, env = "TOMBOLO_IDENTITY")]
    identity: PathBuf,
}

#[derive(Args, Debug)]
struct DataArgs {
    /// Where the last good state is kept.
    #[arg(long, env = "TOMBOLO_DATA_DIR")]
    data_dir: PathBuf,
}

#[derive(Args, Debug)]
struct LogArgs {
    /// `json` for machines or `text` for people, on standard error.
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// What to log, such as `info` or `warn,tombolo_proto=debug`.
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info")]
    log: String,
}

pub(crate) async fn run(serve: Serve) -> anyhow::Result<()> {
    if let Serve::Proxy(args) = &serve
        && let (true, Some(file)) = (args.validate, &args.config)
    {
        let checked = tombolo_dataplane::check(file)?;
        println!("{} can be run: {checked}", file.display());
        return Ok(());
    }
    let log = match &serve {
        Serve::Management(args) => &args.log,
        Serve::Edge(args) => &args.log,
        Serve::Central(args) => &args.log,
        Serve::Proxy(args) => &args.log,
    };
    telemetry::init(log.log_format, &log.log)?;
    let shutdown = Shutdown::from_signals().context("listen for signals")?;
    match serve {
        Serve::Management(args) => Ok(tombolo_management::run((*args).try_into()?, shutdown).await?),
        Serve::Edge(args) => Ok(tombolo_local_cp::run(args.into(), shutdown).await?),
        Serve::Central(args) => Ok(tombolo_global_cp::run(args.into(), shutdown).await?),
        Serve::Proxy(args) => {
            use_small_pages();
            let mut shutdown = shutdown;
            let stopped = async move { shutdown.wait().await };
            Ok(tombolo_dataplane::run(args.try_into()?, stopped).await?)
        }
    }
}

/// A proxy runs beside every workload, and with huge pages a third of its memory would be pages that it hardly uses.
fn use_small_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "cannot turn huge pages off: this proxy needs some 10 MiB more than it would");
    }
}

impl Serve {
    /// How many threads run its tasks; one for each core when it does not say.
    pub(crate) fn workers(&self) -> Option<usize> {
        match self {
            Serve::Management(args) => {
                let given = args.workers.map(NonZeroUsize::get);
                Some(given.unwrap_or_else(|| beside_postgres(cores())))
            }
            _ => None,
        }
    }

    /// Whether it is only to tell its configuration.
    pub(crate) fn only_prints(&self) -> bool {
        matches!(self, Serve::Management(args) if args.print_config)
    }
}

impl TryFrom<ManagementArgs> for tombolo_management::Config {
    type Error = anyhow::Error;

    fn try_from(args: ManagementArgs) -> anyhow::Result<Self> {
        let from_file = args
            .database_url_file
            .as_deref()
            .map(config::secret)
            .transpose()?;
        Ok(Self {
            listen: args.listen,
            feed_listen: args.feed_listen,
            identity: args.identity.identity,
            organization: args.organization,
            data_dir: args.data.data_dir,
            database_url: args.database_url.or(from_file),
            audit: args.audit.try_into()?,
            requests_max: args.requests_max,
            web_dir: args.web_dir,
            break_glass: args.break_glass,
            login: args.login.try_into()?,
        })
    }
}

impl TryFrom<LoginArgs> for LoginConfig {
    type Error = anyhow::Error;

    fn try_from(args: LoginArgs) -> anyhow::Result<Self> {
        let client_secret = args.oidc_client_secret_file.as_deref().map(config::secret);
        let client_secret = client_secret.transpose()?;
        let oidc = match (args.oidc_issuer, args.oidc_client_id) {
            (Some(issuer), Some(client_id)) => Some(OidcConfig {
                issuer,
                client_id,
                client_secret,
                scopes: args.oidc_scopes,
                groups_claim: args.oidc_groups_claim,
                authorities: args.oidc_ca,
            }),
            _ => None,
        };
        Ok(Self {
            public_url: args.public_url,
            session_lifetime: args.session_lifetime,
            oidc,
        })
    }
}

impl TryFrom<AuditArgs> for AuditConfig {
    type Error = anyhow::Error;

    fn try_from(args: AuditArgs) -> anyhow::Result<Self> {
        let mut targets = Vec::new();
        targets.extend(args.audit_file.map(Target::File));
        targets.extend(args.audit_webhook.map(Target::Webhook));
        if let Some(url) = args.audit_s3 {
            let file = args.audit_s3_credentials;
            let file = file.context("--audit-s3 needs --audit-s3-credentials")?;
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read the credentials in {}", file.display()))?;
            let credentials = S3Credentials::parse(&text)
                .with_context(|| format!("read the credentials in {}", file.display()))?;
            targets.push(Target::S3(S3::new(&url, &args.audit_s3_region, credentials)?));
        }
        Ok(Self {
            key: args.audit_key,
            retention_months: args.audit_retention_months,
            targets,
            authorities: args.audit_ca,
        })
    }
}

impl From<EdgeArgs> for tombolo_local_cp::Config {
    fn from(args: EdgeArgs) -> Self {
        Self {
            cluster: args.cluster,
            centrals: args.central,
            identity: args.identity.identity,
            static_dir: args.static_dir,
            xds_listen: args.xds_listen,
            plaintext: if args.allow_plaintext {
                Plaintext::Anywhere
            } else {
                Plaintext::LoopbackOnly
            },
            admin: args.admin,
            data_dir: args.data.data_dir,
            issuer_ca: args.issuer_ca,
        }
    }
}

impl From<CentralArgs> for tombolo_global_cp::Config {
    fn from(args: CentralArgs) -> Self {
        Self {
            name: args.name,
            management: args.management,
            listen: args.listen,
            admin: args.admin,
            identity: args.identity.identity,
            data_dir: args.data.data_dir,
        }
    }
}

impl TryFrom<ProxyArgs> for ProxyConfig {
    type Error = anyhow::Error;

    fn try_from(mut args: ProxyArgs) -> anyhow::Result<Self> {
        let (source, grace) = match args.config.take() {
            Some(file) => (Source::File(file), GATEWAY_DRAIN_GRACE),
            None => edge(&mut args)?,
        };
        Ok(Self {
            source,
            admin: args.admin,
            data_dir: args.data_dir.context("--data-dir is required")?,
            workers: args.workers.unwrap_or_else(cores),
            access_log: args.access_log,
            statsd: args.statsd,
            drain_grace: args.drain_grace.unwrap_or(grace),
            drain_timeout: args.drain_timeout,
            memory_limit: args.memory_limit,
            take_over: args.take_over,
        })
    }
}

/// The edge of a proxy that follows one, and how long balancers in front of it take to notice that it goes.
fn edge(args: &mut ProxyArgs) -> anyhow::Result<(Source, Duration)> {
    let (role, grace) = match args.role.context("--role is required")? {
        RoleArg::Gateway => {
            let workload = args.workload.take().context("--role gateway needs --workload")?;
            (Role::Gateway { workload }, GATEWAY_DRAIN_GRACE)
        }
        RoleArg::Sidecar => {
            let outbound = args.outbound.context("--role sidecar needs --outbound")?;
            (Role::Sidecar { outbound }, Duration::ZERO)
        }
    };
    let edge = Edge {
        xds: std::mem::take(&mut args.xds),
        node_id: args.id.take().context("--id is required")?,
        cluster: args.cluster.take().context("--cluster is required")?,
        role,
        namespace: args.namespace.take().context("--namespace is required")?,
    };
    Ok((Source::Edge(edge), grace))
}

/// Without a path: what it is joined with are paths of its own.
fn parse_public_url(text: &str) -> anyhow::Result<hyper::Uri> {
    let url: hyper::Uri = text.parse()?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    ensure!(
        is_http && url.authority().is_some() && matches!(url.path(), "" | "/"),
        "use https://HOST or https://HOST:PORT"
    );
    Ok(url)
}

fn parse_host_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("use HOST:PORT, e.g. 127.0.0.1:8125".to_owned()),
    }
}

/// As Kubernetes writes them, in powers of two.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.split_at_checked(text.len().saturating_sub(2)) {
        Some((number, "Ki")) => (number, 10),
        Some((number, "Mi")) => (number, 20),
        Some((number, "Gi")) => (number, 30),
        _ => (text, 0),
    };
    let number: Option<u64> = number.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "use a number of bytes, or of Ki, Mi or Gi, such as 512Mi".to_owned())
}

fn parse_access_log(text: &str) -> Result<AccessLog, String> {
    match text {
        "" => Err("use `off`, `stdout` or a file".to_owned()),
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        file => Ok(AccessLog::File(file.into())),
    }
}

/// One core is for what works beside management's threads: Postgres, which does half of each read, and what is computed over
/// the whole organization. With a thread more, on two cores, each read cost management almost twice the CPU time: the
/// threads woke each other for every batch.
fn beside_postgres(cores: usize) -> usize {
    cores.saturating_sub(1).max(1)
}

/// Of this machine, or as many as this process may use.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        serve: Serve,
    }

    fn proxy(line: &str) -> Result<ProxyConfig, String> {
        let words = std::iter::once("tombolo").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        match parsed.serve {
            Serve::Proxy(args) => args.try_into().map_err(|error: anyhow::Error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn management_leaves_a_core_to_postgres_where_there_are_two() {
        for (cores, workers) in [(1, 1), (2, 1), (3, 2), (64, 63)] {
            assert_eq!(beside_postgres(cores), workers, "{cores} cores");
        }
    }

    #[test]
    fn a_proxy_is_a_gateway_or_a_sidecar_and_says_what_it_lacks() {
        let common = "proxy --id gw-1 --cluster us-east --namespace mesh --data-dir /d";
        let gateway = proxy(&format!("{common} --role gateway --workload gateway --workers 2")).unwrap();
        let role = |config: &ProxyConfig| match &config.source {
            Source::Edge(edge) => Some(edge.role.clone()),
            Source::File(_) => None,
        };
        let workload = "gateway".to_owned();
        assert_eq!(role(&gateway), Some(Role::Gateway { workload }));
        assert_eq!(gateway.workers, 2);
        assert_eq!(gateway.access_log, AccessLog::Off);
        assert_eq!(gateway.statsd, None);
        assert_eq!(gateway.drain_grace, Duration::from_secs(5));
        assert!(!gateway.take_over);
        let sidecar = proxy(&format!(
            "{common} --role sidecar --outbound 127.0.0.1:15001 --access-log /log --drain-timeout 500ms --take-over"
        ))
        .unwrap();
        assert!(matches!(role(&sidecar), Some(Role::Sidecar { .. })));
        assert_eq!(sidecar.access_log, AccessLog::File("/log".into()));
        assert_eq!(sidecar.drain_timeout, Duration::from_millis(500));
        assert_eq!(sidecar.drain_grace, Duration::ZERO);
        assert!(sidecar.take_over);
        for (line, error) in [
            ("--role gateway", "--workload"),
            ("--role sidecar", "--outbound"),
            ("--role waypoint", "possible values: gateway, sidecar"),
            ("--role sidecar --outbound here", "invalid socket address"),
            ("--role gateway --workload g --statsd 8125", "use HOST:PORT"),
            ("--role gateway --workload g --statsd here:0", "use HOST:PORT"),
            (
                "--role gateway --workload g --drain-timeout soon",
                "is not a duration",
            ),
        ] {
            let found = proxy(&format!("{common} {line}")).unwrap_err();
            assert!(found.contains(error), "{line}: {found}");
        }
    }

    #[test]
    fn bytes() {
        for (text, expected) in [
            ("1", Some(1)),
            ("536870912", Some(512 << 20)),
            ("512Mi", Some(512 << 20)),
            ("64Ki", Some(64 << 10)),
            ("2Gi", Some(2 << 30)),
            ("0Mi", None),
            ("Mi", None),
            ("", None),
            ("1.5Gi", None),
            ("512MB", None),
            ("99999999999999Gi", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_proxy_of_a_file_follows_no_edge() {
        let config = proxy("proxy --config /etc/proxy.yaml --data-dir /d").unwrap();
        assert_eq!(config.source, Source::File("/etc/proxy.yaml".into()));
        for (line, error) in [
            ("proxy --data-dir /d", "--id <ID>"),
            ("proxy --config /f", "--data-dir <DATA_DIR>"),
            (
                "proxy --config /f --data-dir /d --xds http://e:1",
                "cannot be used with",
            ),
            ("proxy --config /f --data-dir /d --id a", "cannot be used with"),
            ("proxy --validate --data-dir /d", "--config <FILE>"),
        ] {
            let found = proxy(line).unwrap_err();
            assert!(found.contains(error), "{line}: {found}");
        }
    }
}
