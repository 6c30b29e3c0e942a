//! The proxy over real sockets: one program, since each would link all of it.
#![allow(clippy::unwrap_used)]

mod balancers;
mod bodies;
mod breakers;
mod capture;
mod decompressing;
mod ext_authz;
mod files;
mod grpc;
mod hedges;
mod hostile;
mod hostile_h2;
mod idle;
mod jwt;
mod limits;
mod logs;
mod outliers;
mod overload;
mod policies;
mod proxy;
mod proxy_protocol;
mod quotas;
mod rate_limit;
mod recoding;
mod restart;
mod scale;
mod sessions;
mod subsets;
mod support;
mod taps;
mod tcp;
mod tls;
mod tls_hosts;
mod traces;
mod tunnels;
