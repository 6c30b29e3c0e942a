//! One attempt at a request: it is put to a host, over HTTP/1.1 or HTTP/2, on another connection if the first one had been closed.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderMap, Request, Response};

use crate::attempt::Failure;
use crate::body::HostBody;
use crate::config::{Cluster, Protocol};
use crate::forward::Head;
use crate::h1::{self, Answered, Buffers, Outgoing, Unanswered};
use crate::pool::{Freshness, HostPool, Lease, SendFailure};
use crate::retry::Outcome;
use crate::upload::{RequestBody, Upload};

/// How a host is asked once.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) config: &'a Cluster,
    pub(crate) buffers: &'a Rc<Buffers>,
    pub(crate) upload: Option<&'a Upload>,
    /// Set once there is a connection.
    pub(crate) connected: &'a Cell<bool>,
}

/// Ready once there is a connection. That is looked at whenever the attempt beside it has got on, so that nobody needs to be woken.
pub(crate) fn once_connected(connected: &Cell<bool>) -> impl Future<Output = ()> {
    poll_fn(|_| {
        if connected.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
}

impl Attempt<'_> {
    /// Sends a request with those lines.
    pub(crate) async fn send(
        self,
        pool: &Rc<HostPool>,
        head: &Head,
        headers: Cow<'_, HeaderMap>,
        body: RequestBody,
    ) -> Result<(Response<HostBody>, Lease), Failure> {
        match self.config.protocol {
            Protocol::Http1 => self.over_http1(pool, head.over_http1(&headers, body)).await,
            Protocol::Http2 => {
                self.over_http2(pool, head.over_http2(headers.into_owned(), body))
                    .await
            }
        }
    }

    async fn over_http1(
        self,
        pool: &Rc<HostPool>,
        mut outgoing: Outgoing,
    ) -> Result<(Response<HostBody>, Lease), Failure> {
        let lease = pool.lease();
        let mut wanted = Freshness::Reused;
        loop {
            let idle = match wanted {
                Freshness::Reused => pool.idle_h1(),
                Freshness::New => None,
            };
            let (io, freshness) = match idle {
                Some(io) => (io, Freshness::Reused),
                // Boxed, since most requests need no new connection.
                None => Box::pin(pool.connect_h1(self.config, wanted))
                    .await
                    .map_err(|error| Failure::unconnected(&error))?,
            };
            self.connected.set(true);
            match h1::ask(io, outgoing, self.buffers).await {
                Ok(Answered { head, body, .. }) => {
                    let body = HostBody::Http1(Box::new(body));
                    return Ok((Response::from_parts(head, body), lease));
                }
                // The host had closed the connection while it waited; that is no news about the host.
                Err(Unanswered::Unsent(unsent, _)) if freshness == Freshness::Reused => {
                    outgoing = unsent.again();
                    self.connected.set(false);
                }
                // Once only: a request that ends the host's process must not end all of its processes.
                Err(Unanswered::Unheard(sent, _))
                    if freshness == Freshness::Reused && sent.is_repeatable() =>
                {
                    outgoing = sent.again();
                    wanted = Freshness::New;
                    self.connected.set(false);
                }
                Err(unanswered) => return Err(self.failure(Outcome::Reset, &unanswered.detail())),
            }
        }
    }

    pub(crate) async fn over_http2(
        self,
        pool: &Rc<HostPool>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<HostBody>, Lease), Failure> {
        let mut lease = pool.lease();
        loop {
            let (mut sender, freshness) = pool
                .sender(self.config)
                .await
                .map_err(|error| Failure::unconnected(&error))?;
            self.connected.set(true);
            let SendFailure { error, unsent } = match sender.send(request).await {
                Ok(response) => {
                    lease.hold(sender);
                    return Ok((response, lease));
                }
                Err(failure) => failure,
            };
            match unsent {
                Some(unsent) if freshness == Freshness::Reused => {
                    request = unsent;
                    self.connected.set(false);
                }
                unsent => {
                    let outcome = if unsent.is_some() || was_refused(&error) {
                        Outcome::RefusedStream
                    } else {
                        Outcome::Reset
                    };
                    return Err(self.failure(outcome, &error.to_string()));
                }
            }
        }
    }

    /// Unless it was the client that broke the request off.
    fn failure(self, outcome: Outcome, detail: &str) -> Failure {
        match self.upload.and_then(Upload::refusal) {
            Some(refusal) => Failure::Client(refusal),
            None => Failure::terminated(outcome, detail),
        }
    }
}

/// Whether an HTTP/2 host said that it had not looked at the request: by refusing it, or by a GOAWAY that names an earlier one as
/// the last.
fn was_refused(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote())
}
