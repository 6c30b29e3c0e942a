//! The proxies that are configured by a file: each the way its manual says for the same work, with one worker, without an
//! access log, and with connections to the upstream that are used again.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tombolo_tests::process::Process;

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

    pub(super) fn start(
        self,
        binary: &Path,
        listener: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Process> {
        let dir = dir.join(self.name());
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let config = dir.join("config");
        let text = match self {
            Peer::HaProxy => haproxy(listener, upstream),
            Peer::Nginx => nginx(listener, upstream, &dir),
        };
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
        Process::start(self.name(), &mut command, &dir)
    }
}

fn haproxy(listener: SocketAddr, upstream: SocketAddr) -> String {
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
  bind {listener}
  use_backend shop if {{ path_beg / }}
backend shop
  balance leastconn
  server one {upstream}
"
    )
}

fn nginx(listener: SocketAddr, upstream: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {dir}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
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
    listen {listener};
    server_name _;
    location / {{
      proxy_pass http://shop;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
    }}
  }}
}}
"
    )
}
