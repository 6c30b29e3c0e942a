//! `GET /v1/audit:tail`: new records as server-sent events (text/event-stream). It ends with what the caller came with, and
//! after a minute: the client resumes with `Last-Event-ID` and misses nothing.

use std::fmt::Write;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use tokio::time::{Instant, sleep};

use super::super::{App, Params};
use super::{Reader, Wanted, item};
use crate::audit::{Chain, now};
use crate::caller::Caller;
use crate::iam::Principal;
use crate::problem::Problem;
use crate::standing::Stay;
use crate::store::StoreError;
use crate::store::audit::{Filter, Listed, Stretch};

/// How late a record of another replica may be told.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Nothing to tell is told too, so that a connection that broke is noticed.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Records read at a time.
const STRETCH_MAX: u64 = 500;
const LAST_EVENT_ID: &str = "last-event-id";

/// The last record of each chain that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    writes: u64,
    denials: u64,
}

struct Follower {
    app: App,
    caller: Caller,
    filter: Filter,
    reached: Reached,
    stay: Stay,
    /// When the client last heard anything; `None` before the first event.
    told: Option<Instant>,
}

pub(crate) async fn tail(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    wanted.has_none_of(&[
        ("pageSize", wanted.page_size.is_some()),
        ("pageToken", wanted.page_token.is_some()),
        ("format", wanted.format.is_some()),
        ("after", wanted.after.is_some()),
    ])?;
    let filter = wanted.filter(&Reader::of(&app, &caller))?;
    let reached = match headers.get(LAST_EVENT_ID) {
        Some(id) => id.to_str().ok().and_then(Reached::parse).ok_or_else(|| {
            Problem::bad_request("Last-Event-ID: it is not the id of an event of this stream")
        })?,
        None => heads(&app).await?,
    };
    let follower = Follower {
        stay: app.standing.stay(&caller),
        app,
        caller,
        filter,
        reached,
        told: None,
    };
    let mut response = Body::from_stream(follower.events()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn heads(app: &App) -> Result<Reached, StoreError> {
    let mut tx = app.store.read_as(&Principal::System).await?;
    Ok(Reached {
        writes: app.store.head(&mut tx).await?.audit.sequence,
        denials: app.store.denial_head(&mut tx).await?.sequence,
    })
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
        stream::unfold(self, |mut follower| async {
            let next = follower.next().await.transpose()?;
            follower.told = Some(Instant::now());
            Some((next, follower))
        })
    }

    /// What to send next; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut shutdown = self.app.shutdown.clone();
        let Some(told) = self.told else {
            // Whoever loses the stream before its first record can resume too.
            return Ok(Some(self.reached.event().into()));
        };
        while !self.stay.is_over() {
            let events = self.look().await?;
            if !events.is_empty() {
                return Ok(Some(events.into()));
            }
            if told.elapsed() >= SILENCE_MAX {
                return Ok(Some(self.reached.event().into()));
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = self.stay.wait() => return Ok(None),
                () = shutdown.wait() => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The next records of both chains, as events.
    async fn look(&mut self) -> Result<String, StoreError> {
        let heads = heads(&self.app).await?;
        let mut events = String::new();
        // A binding that was taken away counts from now on, and so does a condition that holds no longer.
        self.caller.time = now();
        let reader = Reader::of(&self.app, &self.caller);
        self.filter.nodes.clone_from(&reader.nodes);
        for (chain, until) in [(Chain::Writes, heads.writes), (Chain::Denials, heads.denials)] {
            let after = self.reached.of(chain);
            let until = until.min(after.saturating_add(STRETCH_MAX));
            if until <= after {
                continue;
            }
            let stretch = Stretch { chain, after, until };
            let mut tx = self.app.store.read_as(&self.caller.principal).await?;
            let listed = self
                .app
                .store
                .audit_stretch(&mut tx, &self.filter, stretch)
                .await?;
            for listed in listed.iter().filter(|listed| reader.may_read(listed)) {
                self.reached.set(chain, listed.place.sequence);
                push_event(&mut events, self.reached, listed);
            }
            self.reached.set(chain, until);
        }
        Ok(events)
    }
}

fn push_event(events: &mut String, reached: Reached, listed: &Listed) {
    // JSON of one line, as an event's data must be.
    let written = write!(events, "id: {}\ndata: {}\n\n", reached.id(), item(listed));
    debug_assert!(
        written.is_ok(),
        "invariant: a string takes all that is written to it"
    );
}

impl Reached {
    fn of(self, chain: Chain) -> u64 {
        match chain {
            Chain::Writes => self.writes,
            Chain::Denials => self.denials,
        }
    }

    fn set(&mut self, chain: Chain, sequence: u64) {
        match chain {
            Chain::Writes => self.writes = sequence,
            Chain::Denials => self.denials = sequence,
        }
    }

    fn id(self) -> String {
        format!("{}.{}", self.writes, self.denials)
    }

    fn parse(text: &str) -> Option<Reached> {
        let (writes, denials) = text.split_once('.')?;
        Some(Reached {
            writes: writes.parse().ok()?,
            denials: denials.parse().ok()?,
        })
    }

    /// An event without data moves the client's last id and is not shown.
    fn event(self) -> String {
        format!("id: {}\n\n", self.id())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        let reached = Reached {
            writes: 12,
            denials: 3,
        };
        assert_eq!(Reached::parse(&reached.id()), Some(reached));
        for text in ["", "12", "12.", "a.b", "1.2.3", "-1.2"] {
            assert_eq!(Reached::parse(text), None, "{text}");
        }
        assert_eq!(reached.event(), "id: 12.3\n\n");
    }
}
