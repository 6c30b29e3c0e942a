//! Hot restart: a new process takes the listening sockets, the admin port and the configuration over from the one that runs, so
//! that no connection is refused and no request lost. Who runs offers them in its data folder to processes of its own user,
//! and goes on as if nothing had happened until another one says that it serves; from then on it only finishes what it has.
//!
//! What is said, each in a message of its own: `tombolo take-over 1` by the new one, which every version understands; `state N`
//! with the configuration, the places of the keys that it has, the admin port and the lock of the folder, and `sockets` with some of
//! the N sockets each, or `no` and the reason; `ready` by the new one, or `no`; `yours`; and `mine`. Before it has heard that, who runs
//! is not relieved: the new one may have ended since it said that it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::pending;
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::activation::Activation;
use crate::decode::{Resources, describe};
use crate::jwks::{self, Place};
use crate::last_good;
use crate::last_good::{Keeper, Rest};
use crate::orders::{Command, Remote};
use crate::status::Status;
use link::{DESCRIPTORS_MAX, Door, Link, Message};
use word::Word;

mod link;
mod lock;
mod word;

pub(crate) use lock::Lock;

/// Name of the socket in the proxy's data folder.
const FILE_NAME: &str = "restart.sock";
const VERSION: u32 = 1;
/// For an answer that needs no more than a look at what is there.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long who runs waits for the new one to serve, with its configuration standing still: longer than the new one takes for the
/// first checks of its hosts.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long each waits for the last word of the other, which may have to write its configuration.
const RELIEVED_MAX: Duration = Duration::from_secs(10);
/// Between two tries to hear somebody.
const PAUSE: Duration = Duration::from_millis(100);

/// Listening sockets by their address, in the order of the workers that had them.
pub(crate) type Sockets = BTreeMap<SocketAddr, Vec<TcpListener>>;

#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    #[error("the proxy that runs does not give way: {reason}")]
    Refused { reason: String },
    #[error("the new process gave up: {reason}")]
    GivenUp { reason: String },
    #[error("what the other runs cannot be run here: {message}")]
    Unfit { message: String },
    #[error("the other process runs as user {uid}: only one's own is dealt with")]
    Stranger { uid: u32 },
    #[error("the other process says {text:?}, which this version does not understand")]
    Garbled { text: String },
    #[error("the other process has not answered within {waited:?}")]
    Silent { waited: Duration },
    #[error("a worker does not give its sockets")]
    Worker,
    #[error(
        "no socket can be at {path}, whose path has more than 107 bytes: give the proxies a data folder with a shorter path"
    )]
    PathTooLong { path: PathBuf },
    #[error("cannot speak with the other process")]
    Link(#[source] io::Error),
}

/// What the new process has of the one that runs, before it has taken its place.
pub(crate) struct Predecessor {
    link: Link,
    pid: i32,
    /// As it is kept on disk.
    pub(crate) state: Vec<u8>,
    pub(crate) sockets: Sockets,
    /// Where the keys are from that it has.
    keys: BTreeSet<Place>,
    admin: Option<TcpListener>,
}

/// Where a running proxy is asked to give way; nowhere if the folder does not allow for it.
pub(crate) struct Offer(Option<Door>);

/// A process that wants to take over.
pub(crate) struct Successor {
    link: Link,
    pid: i32,
}

/// What is handed over.
pub(crate) struct Estate<'a> {
    pub(crate) workers: &'a [Remote],
    pub(crate) admin: BorrowedFd<'a>,
    pub(crate) lock: BorrowedFd<'a>,
    pub(crate) status: &'a Status,
    pub(crate) keeper: &'a Keeper,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

impl Predecessor {
    /// What runs with this data folder, which is this process's too from then on; `None` when nothing does, or has ended
    /// before it had handed all over.
    pub(crate) async fn ask(data_dir: &Path) -> Result<Option<(Self, Lock)>, RestartError> {
        match Self::try_ask(data_dir).await {
            Err(RestartError::Link(error)) if is_end(&error) => Ok(None),
            asked => asked,
        }
    }

    async fn try_ask(data_dir: &Path) -> Result<Option<(Self, Lock)>, RestartError> {
        let path = path(data_dir);
        let link = match Link::connect(&path) {
            Ok(link) => link,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(RestartError::at(path, error)),
        };
        let pid = link.of_own_user()?;
        link.say(&Word::TakeOver { version: VERSION }, &[]).await?;
        let (word, descriptors) = link.hear(ANSWER_MAX).await?;
        let count = match word {
            Word::State { sockets } => sockets,
            Word::No { reason } => return Err(RestartError::Refused { reason }),
            other => return Err(RestartError::garbled(&other)),
        };
        let given: Result<[OwnedFd; 4], _> = descriptors.try_into();
        let [state, keys, admin, lock] = given.map_err(|_| RestartError::garbled(&word))?;
        let state = read(state).map_err(RestartError::Link)?;
        let keys = read(keys).map_err(RestartError::Link)?;
        let keys = serde_json::from_slice(&keys).map_err(|_| RestartError::garbled(&word))?;
        let (admin, lock) = (Some(admin.into()), Lock::from(lock));
        let mut sockets = Sockets::new();
        let mut come = 0;
        while come < count {
            let (word, descriptors) = link.hear(ANSWER_MAX).await?;
            if word != Word::Sockets || descriptors.is_empty() {
                return Err(RestartError::garbled(&word));
            }
            come += descriptors.len();
            for socket in descriptors.into_iter().map(TcpListener::from) {
                let address = socket.local_addr().map_err(RestartError::Link)?;
                sockets.entry(address).or_default().push(socket);
            }
        }
        let predecessor = Self {
            link,
            pid,
            state,
            sockets,
            keys,
            admin,
        };
        Ok(Some((predecessor, lock)))
    }

    /// Its admin port, if it is at this address.
    pub(crate) fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        self.admin
            .take()
            .filter(|admin| admin.local_addr().is_ok_and(|held| held == address))
    }

    /// Runs what it runs, on its sockets, and relieves it. What cannot be taken over whole is left to it; to nobody, as `None` says,
    /// if it has ended.
    pub(crate) async fn relieve(
        mut self,
        activation: &mut Activation,
    ) -> Result<Option<Resources>, RestartError> {
        tracing::info!(
            pid = self.pid,
            "has what another process runs, and gets ready to serve it"
        );
        let resources = match self.succeed(activation).await {
            Ok(resources) => resources,
            Err(error) if timeout(Duration::ZERO, self.link.ended()).await.is_ok() => {
                tracing::error!(
                    pid = self.pid,
                    error = &error as &dyn std::error::Error,
                    "starting as after a crash: what runs could not be taken over before it ended"
                );
                return Ok(None);
            }
            Err(error) => {
                let reason = error.to_string();
                // If it does not hear it, it sees that nobody is there any more.
                let _ = self.link.say(&Word::No { reason }, &[]).await;
                return Err(error);
            }
        };
        // It may have given up waiting, which is to be heard all the same.
        let _ = self.link.say(&Word::Ready, &[]).await;
        tracing::info!(
            pid = self.pid,
            "serves, and waits for the other process to give way"
        );
        self.take_its_place().await?;
        Ok(Some(resources))
    }

    /// The last words, from which on one of both serves and the other does not. That is settled by whether `mine` can be said: who has
    /// given up waiting for it hears nothing more, and goes on.
    async fn take_its_place(&self) -> Result<(), RestartError> {
        let silent = match self.link.hear(RELIEVED_MAX).await {
            Ok((Word::Yours, _)) => None,
            Ok((Word::No { reason }, _)) => return Err(RestartError::Refused { reason }),
            Ok((other, _)) => return Err(RestartError::garbled(&other)),
            Err(error @ RestartError::Silent { .. }) => Some(error),
            Err(error) => {
                self.has_ended(&error);
                return Ok(());
            }
        };
        if self.link.say(&Word::Mine, &[]).await.is_err() {
            return self.why_deaf().await;
        }
        match silent {
            None => tracing::info!(pid = self.pid, "took over"),
            Some(error) => tracing::error!(
                pid = self.pid,
                error = &error as &dyn std::error::Error,
                "took over from a process that may not have noticed: stop it"
            ),
        }
        Ok(())
    }

    /// It goes on, as it says then, or it has ended.
    async fn why_deaf(&self) -> Result<(), RestartError> {
        loop {
            match self.link.hear(ANSWER_MAX).await {
                Ok((Word::No { reason }, _)) => return Err(RestartError::Refused { reason }),
                // What it had said before.
                Ok(_) => {}
                Err(RestartError::Link(error)) => {
                    self.has_ended(&error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn has_ended(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(
            pid = self.pid,
            error,
            "took over from a process that has ended meanwhile"
        );
    }

    async fn succeed(&mut self, activation: &mut Activation) -> Result<Resources, RestartError> {
        let loaded = last_good::read(&self.state).map_err(|source| RestartError::Unfit {
            message: source.to_string(),
        })?;
        let unfit = |rejections: &[_]| RestartError::Unfit {
            message: describe(rejections),
        };
        if !loaded.rejections.is_empty() {
            return Err(unfit(&loaded.rejections));
        }
        let sockets = std::mem::take(&mut self.sockets);
        let link = &self.link;
        let taken = activation
            .take_over(loaded.resources.config(), sockets, &self.keys, || link.ended())
            .await;
        taken.map_err(|rejections| unfit(&rejections))?;
        Ok(loaded.resources)
    }
}

impl Offer {
    /// A folder that cannot hold a socket, or whose path is too long for one, costs the hot restart and nothing else. (Who is to take
    /// over cannot know then whether somebody runs, and does not start.)
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = path(data_dir);
        let door = Door::open(&path).map_err(|error| {
            let error = RestartError::at(path, error);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no other process can take over from this one"
            );
        });
        Self(door.ok())
    }

    /// The next process that asks.
    pub(crate) async fn next(&self) -> Successor {
        let Some(door) = &self.0 else {
            return pending().await;
        };
        loop {
            let heard = match door.accept().await {
                Ok(link) => Successor::hear(link).await,
                Err(error) => Err(RestartError::Link(error)),
            };
            match heard {
                Ok(successor) => return successor,
                // One that only looks whether somebody is here says nothing.
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "nobody to give way to");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the other serves now, in which case nothing of what it was given is touched any more. Whoever asks meanwhile is sent
    /// away, and so is everybody when this process stops anyway.
    pub(crate) async fn hand_over(&self, successor: &Successor, estate: &Estate<'_>) -> Option<Rest> {
        let pid = successor.pid;
        if !estate.status.is_ready() {
            successor.refuse("it is not ready, or stops").await;
            return None;
        }
        if let Some(listener) = estate.status.unrepeatable() {
            let reason = format!(
                "listener {listener} goes on as it was before it was changed: wait until its routes and secrets have come"
            );
            tracing::warn!(pid, %listener, "nobody takes over while a listener waits for its routes or secrets");
            successor.refuse(&reason).await;
            return None;
        }
        tracing::info!(pid, "handing the ports over");
        let handed_over = tokio::select! {
            handed_over = successor.hand_over(estate) => handed_over,
            () = self.refuse_all("another process is taking over") => return None,
        };
        match handed_over {
            Ok(rest) => {
                tracing::info!(pid, "another process has taken over: ending what is under way");
                Some(rest)
            }
            Err(error) => {
                tracing::warn!(
                    pid,
                    error = &error as &dyn std::error::Error,
                    "nobody has taken over; this process goes on"
                );
                None
            }
        }
    }

    async fn refuse_all(&self, reason: &str) {
        loop {
            self.next().await.refuse(reason).await;
        }
    }
}

impl Successor {
    async fn hear(link: Link) -> Result<Self, RestartError> {
        let pid = link.of_own_user()?;
        let (word, _) = link.hear(ANSWER_MAX).await?;
        let successor = Self { link, pid };
        match word {
            Word::TakeOver { version: VERSION } => Ok(successor),
            Word::TakeOver { version } => {
                let reason = format!("it speaks version {VERSION}, not {version}, of the take-over");
                successor.refuse(&reason).await;
                Err(RestartError::Refused { reason })
            }
            other => Err(RestartError::garbled(&other)),
        }
    }

    async fn refuse(&self, reason: &str) {
        let reason = reason.to_owned();
        // Who has gone need not know.
        let _ = self.link.say(&Word::No { reason }, &[]).await;
    }

    /// Gives it all, and waits until it serves and knows that it alone does. Nothing has changed here when it does not.
    async fn hand_over(&self, estate: &Estate<'_>) -> Result<Rest, RestartError> {
        let error = match self.try_hand_over(estate).await {
            Ok(rest) => return Ok(rest),
            Err(error) => error,
        };
        if !matches!(error, RestartError::GivenUp { .. }) {
            // It may have said in this moment that it has all, which it cannot any more from now on.
            if self.link.close_ear().is_ok() && self.has_said(&Word::Mine).await {
                return Ok(estate.keeper.rest().await);
            }
            // It must not think that there is nobody.
            self.refuse(&error.to_string()).await;
        }
        Err(error)
    }

    async fn has_said(&self, wanted: &Word) -> bool {
        while let Ok((word, _)) = self.link.hear(ANSWER_MAX).await {
            if word == *wanted {
                return true;
            }
        }
        false
    }

    async fn try_hand_over(&self, estate: &Estate<'_>) -> Result<Rest, RestartError> {
        let sockets = sockets(estate.workers).await?;
        let resources = estate.status.resources();
        let state = memory(&last_good::encode(&resources)).map_err(RestartError::Link)?;
        let keys = serde_json::to_vec(&jwks::known(resources.config()));
        let keys = keys.expect("invariant: texts are written as JSON");
        let keys = memory(&keys).map_err(RestartError::Link)?;
        let word = Word::State {
            sockets: sockets.len(),
        };
        let given = [state.as_fd(), keys.as_fd(), estate.admin, estate.lock];
        self.link.say(&word, &given).await?;
        for some in sockets.chunks(DESCRIPTORS_MAX) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            self.link.say(&Word::Sockets, &some).await?;
        }
        drop(sockets);
        self.expect(&Word::Ready, READY_MAX).await?;
        let rest = estate.keeper.rest().await;
        // One that has not waited for it has said the next word by itself.
        let _ = self.link.say(&Word::Yours, &[]).await;
        self.expect(&Word::Mine, RELIEVED_MAX).await?;
        Ok(rest)
    }

    async fn expect(&self, wanted: &Word, waited: Duration) -> Result<(), RestartError> {
        match self.link.hear(waited).await {
            Ok((word, _)) if word == *wanted => Ok(()),
            Ok((Word::No { reason }, _)) => Err(RestartError::GivenUp { reason }),
            Ok((other, _)) => Err(RestartError::garbled(&other)),
            Err(RestartError::Link(error)) if is_end(&error) => Err(RestartError::GivenUp {
                reason: "it ended".to_owned(),
            }),
            Err(error) => Err(error),
        }
    }
}

/// Those that the workers listen on, of one worker after the other.
async fn sockets(workers: &[Remote]) -> Result<Vec<OwnedFd>, RestartError> {
    let mut all = Vec::new();
    for worker in workers {
        let (give, given) = oneshot::channel();
        if !worker.send(Command::Share { give }).await {
            return Err(RestartError::Worker);
        }
        let given = timeout(ANSWER_MAX, given).await;
        let given = given.map_err(|_| RestartError::Worker)?;
        let given = given.map_err(|_| RestartError::Worker)?;
        all.extend(given.map_err(RestartError::Link)?);
    }
    Ok(all)
}

impl Link {
    /// The other's process, which may be none that can be named here.
    fn of_own_user(&self) -> Result<i32, RestartError> {
        let peer = self.peer().map_err(RestartError::Link)?;
        if peer.uid() == rustix::process::geteuid().as_raw() {
            Ok(peer.pid().unwrap_or_default())
        } else {
            Err(RestartError::Stranger { uid: peer.uid() })
        }
    }

    async fn say(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> Result<(), RestartError> {
        let text = word.to_string();
        let sent = timeout(ANSWER_MAX, self.send(&text, descriptors)).await;
        let sent = sent.map_err(|_| RestartError::Silent { waited: ANSWER_MAX })?;
        sent.map_err(RestartError::Link)
    }

    async fn hear(&self, waited: Duration) -> Result<(Word, Vec<OwnedFd>), RestartError> {
        let received = timeout(waited, self.receive()).await;
        let received = received.map_err(|_| RestartError::Silent { waited })?;
        let Message { text, descriptors } = received.map_err(RestartError::Link)?;
        match Word::parse(&text) {
            Some(word) => Ok((word, descriptors)),
            None => Err(RestartError::Garbled { text }),
        }
    }
}

impl RestartError {
    fn at(path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            // A path is wrong in no other way.
            io::ErrorKind::InvalidInput => Self::PathTooLong { path },
            _ => Self::Link(error),
        }
    }

    fn garbled(word: &Word) -> Self {
        Self::Garbled {
            text: word.to_string(),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// A process that crashed leaves its socket behind.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// A file that is on no disk.
fn memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("tombolo-restart", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

fn read(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
