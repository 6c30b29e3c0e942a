//! The thin drive of a [`Session`] over a gRPC stream, the same for every plane and for both sides: it moves
//! frames, publications and ticks, and decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::frame::{FRAME_BYTES_MAX, Frame, FrameError};
use crate::generated::feed::Frame as PbFrame;
use crate::generated::feed::feed_client::FeedClient;
use crate::generated::feed::feed_server::{Feed, FeedServer};
use crate::session::{Action, Event, ProtocolError, Publication, SILENT_TICKS_MAX, Session};

/// What the session counts in ticks.
const TICK: Duration = Duration::from_secs(1);
/// Frames handed to gRPC ahead of the connection.
const QUEUED_MAX: usize = 8;
/// Frames that wait for a peer that sends but does not read. While any waits, no publication is taken, so
/// that only answers and heartbeats add to them.
const WAITING_MAX: usize = 1024;
/// Nobody waits for an acknowledgement: one speaks for all that came before it, and leaves the machine to what came.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// A connection to a peer, not yet in use.
#[derive(Debug)]
pub struct Link {
    incoming: Streaming<PbFrame>,
    outgoing: mpsc::Sender<PbFrame>,
}

/// What a drive takes from its plane.
#[derive(Debug)]
pub struct Inputs {
    /// The latest of what the plane publishes; `None` until it has something.
    pub publications: watch::Receiver<Option<Publication>>,
    /// What the plane has to say outside of its answers to actions: late rejections, an operator's word.
    pub events: mpsc::Receiver<Event>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open the feed")]
    Open(#[source] Box<Status>),
    #[error("the feed was cut off")]
    Broken(#[source] Box<Status>),
    #[error("the peer closed the feed")]
    Closed,
    #[error("the peer has been silent for {SILENT_TICKS_MAX} s")]
    Silent,
    #[error("the peer sends but does not read")]
    Stalled,
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    #[error("the peer breaks the feed's protocol")]
    Protocol(#[from] ProtocolError),
}

/// The server's side of the feed. `accept` is given each new link with the request's extensions (where the
/// peer's identity is); it hands the link to a task of the plane, or refuses it.
pub fn server<A>(accept: A) -> FeedServer<impl Feed>
where
    A: Fn(Link, &Extensions) -> Result<(), Status> + Send + Sync + 'static,
{
    FeedServer::from_arc(Arc::new(Accepting { accept }))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX)
}

/// The lower plane's side: opens the feed on a channel.
pub async fn dial(channel: Channel) -> Result<Link, LinkError> {
    let (outgoing, queued) = mpsc::channel(QUEUED_MAX);
    let mut client = FeedClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let answer = client
        .session(ReceiverStream::new(queued))
        .await
        .map_err(|status| LinkError::Open(Box::new(status)))?;
    Ok(Link {
        incoming: answer.into_inner(),
        outgoing,
    })
}

impl Link {
    /// Drives `session` until the connection ends, which is always an error, or the future is dropped.
    ///
    /// `on_action` is given every action but `Send`, `PeerSilent` and `Close`, in order, must not block, and
    /// returns what it has to say at once, for example rejections; these reach the peer with the acknowledgement
    /// of the same frame. `inputs` and the session outlive the connection: use them again for the next one.
    pub async fn drive(
        mut self,
        session: &mut Session,
        inputs: &mut Inputs,
        mut on_action: impl FnMut(Action) -> Vec<Event>,
    ) -> LinkError {
        let mut waiting = VecDeque::new();
        let latest = inputs.publications.borrow_and_update().clone();
        let mut first = latest.map(Event::Publish).into_iter().chain([Event::Connected]);
        let ended = first
            .try_for_each(|event| step(session, event, &mut waiting, &mut on_action))
            .err();
        let error = match ended {
            Some(error) => error,
            None => self.run(session, inputs, &mut waiting, &mut on_action).await,
        };
        session.on(Event::Disconnected);
        error
    }

    async fn run(
        &mut self,
        session: &mut Session,
        inputs: &mut Inputs,
        waiting: &mut VecDeque<Frame>,
        on_action: &mut impl FnMut(Action) -> Vec<Event>,
    ) -> LinkError {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settle_at = None;
        loop {
            let event = tokio::select! {
                // Reading never waits for writing: two sides that both did could block each other for ever.
                permit = self.outgoing.reserve(), if !waiting.is_empty() => {
                    let Ok(permit) = permit else { return LinkError::Closed };
                    if let Some(frame) = waiting.pop_front() {
                        permit.send(frame.into());
                    }
                    continue;
                }
                frame = self.incoming.message() => match frame {
                    Ok(Some(frame)) => match Frame::try_from(frame) {
                        Ok(frame) => Event::Frame(frame),
                        Err(error) => return error.into(),
                    },
                    Ok(None) => return LinkError::Closed,
                    Err(status) => return LinkError::Broken(Box::new(status)),
                },
                // A publisher that is gone publishes nothing new; the last publication stays.
                Ok(()) = inputs.publications.changed(), if waiting.is_empty() => {
                    match inputs.publications.borrow_and_update().clone() {
                        Some(publication) => Event::Publish(publication),
                        None => continue,
                    }
                }
                Some(event) = inputs.events.recv() => event,
                _ = ticks.tick() => Event::Tick,
                () = sleep_until(settle_at.unwrap_or_else(Instant::now)), if settle_at.is_some() => Event::Settled,
            };
            match event {
                Event::Frame(_) | Event::Rejected(_) => {
                    settle_at.get_or_insert_with(|| Instant::now() + ACK_DELAY);
                }
                Event::Settled => settle_at = None,
                _ => {}
            }
            if let Err(error) = step(session, event, waiting, on_action) {
                return error;
            }
            if waiting.len() > WAITING_MAX {
                return LinkError::Stalled;
            }
        }
    }
}

/// Gives `event` to the session and its actions to the plane, until neither has more to say.
fn step(
    session: &mut Session,
    event: Event,
    waiting: &mut VecDeque<Frame>,
    on_action: &mut impl FnMut(Action) -> Vec<Event>,
) -> Result<(), LinkError> {
    let mut events = VecDeque::from([event]);
    while let Some(event) = events.pop_front() {
        for action in session.on(event) {
            match action {
                Action::Send(frame) => waiting.push_back(frame),
                Action::PeerSilent => return Err(LinkError::Silent),
                Action::Close(error) => return Err(error.into()),
                action => events.extend(on_action(action)),
            }
        }
    }
    Ok(())
}

struct Accepting<A> {
    accept: A,
}

type Outgoing = tokio_stream::adapters::Map<ReceiverStream<PbFrame>, fn(PbFrame) -> Result<PbFrame, Status>>;

#[tonic::async_trait]
impl<A> Feed for Accepting<A>
where
    A: Fn(Link, &Extensions) -> Result<(), Status> + Send + Sync + 'static,
{
    type SessionStream = Outgoing;

    async fn session(&self, request: Request<Streaming<PbFrame>>) -> Result<Response<Outgoing>, Status> {
        let (_, extensions, incoming) = request.into_parts();
        let (outgoing, queued) = mpsc::channel(QUEUED_MAX);
        (self.accept)(Link { incoming, outgoing }, &extensions)?;
        Ok(Response::new(
            ReceiverStream::new(queued).map(Ok as fn(PbFrame) -> _),
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
