//! The proxies that are configured by a file: each the way its manual says for the same work, with one worker, and with
//! connections to the upstream that are used again.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use http::Version;
use tombolo_tests::process::Process;

use super::http::Work;
use crate::load::{Asks, Wire};

/// A certificate with its key.
const IDENTITY: &str = "identity.pem";
/// Where Debian puts daemons; not on every user's PATH.
const SYSTEM_BINARIES: &str = "/usr/sbin";

#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    HaProxy,
    Nginx,
}

impl Peer {
    pub(super) const ALL: [Peer; 2] = [Peer::HaProxy, Peer::Nginx];

    /// As Debian's package and its binary are called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::HaProxy => "haproxy",
            Peer::Nginx => "nginx",
        }
    }

    pub(super) fn find(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain([PathBuf::from(SYSTEM_BINARIES)])
            .map(|dir| dir.join(self.name()))
            .find(|binary| binary.is_file())
    }

    /// Starts it for this work; `None` if it cannot do it.
    pub(super) fn start(
        self,
        binary: &Path,
        work: &Work,
        listener: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Option<Process>> {
        let dir = dir.join(self.name());
        let text = match self {
            Peer::HaProxy => Some(haproxy(work, listener, upstream, &dir)),
            Peer::Nginx => nginx(work, listener, upstream, &dir),
        };
        let Some(text) = text else {
            return Ok(None);
        };
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        if let Some(identity) = work.wire.identity() {
            let pem = format!("{}{}", identity.chain, identity.key);
            fs::write(dir.join(IDENTITY), pem).context("cannot write the certificate")?;
        }
        let config = dir.join("config");
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(binary);
        match self {
            // In the foreground, and without a master process.
            Peer::HaProxy => command.arg("-db").arg("-f").arg(&config),
            Peer::Nginx => command
                .arg("-e")
                .arg("stderr")
                .arg("-p")
                .arg(&dir)
                .arg("-c")
                .arg(&config),
        };
        Process::start(self.name(), &mut command, &dir).map(Some)
    }
}

impl Peer {
    /// HAProxy that passes connections on.
    pub(super) fn passes_on(
        binary: &Path,
        listener: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Process> {
        let config = dir.join("haproxy.tcp");
        let text = format!(
            "global
  nbthread 1
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen shop
  bind {listener}
  server one {upstream}
"
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Process::start(
            "haproxy-tcp",
            Command::new(binary).arg("-db").arg("-f").arg(&config),
            dir,
        )
    }
}

fn haproxy(work: &Work, listener: SocketAddr, upstream: SocketAddr, dir: &Path) -> String {
    let front = match work.wire {
        Wire::Http1 => String::new(),
        Wire::Http2 => "proto h2".to_owned(),
        Wire::Tls(_) => format!(
            "ssl crt {} alpn http/1.1 ssl-min-ver TLSv1.3",
            dir.join(IDENTITY).display()
        ),
    };
    let back = if work.upstream == Version::HTTP_2 {
        "proto h2"
    } else {
        ""
    };
    let log = if work.logged {
        r#"  log stdout format raw local0
  log-format '{"time":"%t","method":"%HM","path":"%HP","status":%ST,"duration_ms":%Ta,"bytes_sent":%B,"upstream_host":"%si:%sp","cluster":"%b"}'
"#
    } else {
        ""
    };
    format!(
        "global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend shop
  bind {listener} {front}
{log}  use_backend shop if {{ path_beg / }}
backend shop
  balance leastconn
  server one {upstream} {back}
"
    )
}

fn nginx(work: &Work, listener: SocketAddr, upstream: SocketAddr, dir: &Path) -> Option<String> {
    let front = match work.wire {
        Wire::Http1 => "",
        Wire::Http2 => " http2",
        Wire::Tls(_) => " ssl",
    };
    let tls = match work.wire {
        Wire::Http1 | Wire::Http2 => String::new(),
        Wire::Tls(_) => {
            let identity = dir.join(IDENTITY);
            let identity = identity.display();
            format!("ssl_certificate {identity}; ssl_certificate_key {identity}; ssl_protocols TLSv1.3;")
        }
    };
    let pass = match (work.upstream == Version::HTTP_2, work.asks) {
        (true, Asks::Grpc) => "grpc_pass grpc://shop;",
        // It speaks HTTP/2 to hosts for gRPC only.
        (true, _) => return None,
        (false, _) => {
            "proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;"
        }
    };
    let dir = dir.display();
    let log = if work.logged {
        format!(
            r#"log_format json escape=json '{{"time":"$time_iso8601","method":"$request_method","path":"$request_uri","authority":"$host","status":$status,"duration_s":$request_time,"bytes_sent":$body_bytes_sent,"upstream_host":"$upstream_addr"}}';
  access_log {dir}/access.log json buffer=64k flush=1s;"#
        )
    } else {
        "access_log off;".to_owned()
    };
    Some(format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {dir}/pid;
events {{ worker_connections 1024; }}
http {{
  {log}
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000;
  upstream shop {{
    least_conn;
    server {upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {listener}{front};
    server_name _;
    {tls}
    location / {{ {pass} }}
  }}
}}
"
    ))
}
