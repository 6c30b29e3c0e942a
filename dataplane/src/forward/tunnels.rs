//! A request that becomes a connection: to whom, and for how long it may take until it is one.

use http::{Response, Version};

use super::attempts::{Sent, aimed};
use crate::attempt::Refusal;
use crate::body::HostBody;
use crate::config::{Forward, HeaderEdits};
use crate::deadline::{Deadline, RequestEnd};
use crate::exchange::Exchange;
use crate::pool::Lease;
use crate::retry::Outcome;
use crate::tunnel::{self, Becoming, Opening};

/// Makes the request a connection with a host.
pub(super) async fn connect(
    exchange: &mut Exchange,
    forward: &Forward,
    edits: &HeaderEdits,
    mut sent: Sent,
    (asked, version): (Becoming, Version),
) -> Result<(Response<HostBody>, Lease, Deadline), Refusal> {
    let (target, cluster) = aimed(exchange, forward, edits, &mut sent.head)?;
    if let Some(trace) = &sent.trace {
        trace.apply(&mut sent.head.headers);
    }
    let opening = Opening {
        asked,
        head: sent.head,
        key: sent.key,
        session: sent.session,
        deadline: Deadline {
            timeout: forward.timeout,
            until: sent.time.until,
            idle: forward.retry.as_ref().and_then(|policy| policy.per_try_idle),
            stream_idle: forward.idle(exchange.connection().listener.live().config.limits.stream_idle),
            request: RequestEnd::At(sent.time.began),
        },
    };
    let (response, lease) = tunnel::open(exchange, &cluster, (forward, target), &opening).await?;
    let is_switched = matches!(response.body(), HostBody::Switched(_));
    if version == Version::HTTP_2 && !is_switched && response.status().is_success() {
        // Its client would take it for the connection (RFC 8441, section 4). The host has not failed.
        return Err(Refusal::failed(
            Outcome::Reset,
            "the host answers an upgrade and does not switch",
        ));
    }
    Ok((response, lease, opening.deadline))
}
