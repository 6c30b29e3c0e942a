//! One message at a time between two processes: a few words, and descriptors with them.

use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recv, recvmsg, sendmsg, shutdown,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

/// Descriptors of one message; the kernel takes 253 at most.
pub(super) const DESCRIPTORS_MAX: usize = 64;
/// Of the words of one message; the longest is why something was refused.
pub(super) const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Who waits beyond these finds the place busy.
const BACKLOG: i32 = 8;

/// Both ends of it are sockets that keep messages apart (SOCK_SEQPACKET).
pub(super) struct Link(UnixStream);

/// Where others of the same user connect, until it is dropped.
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

pub(super) struct Message {
    pub(super) text: String,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Link {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::new(socket.into())
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(StdUnixStream::from(socket)).map(Self)
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> io::Result<UCred> {
        self.0.peer_cred()
    }

    /// `descriptors` are at most [`DESCRIPTORS_MAX`].
    pub(super) async fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let text = [IoSlice::new(text.as_bytes())];
            sendmsg(self.0.as_fd(), &text, &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Returns when the other end is gone and has left no message.
    pub(super) async fn ended(&self) {
        let peek = || Ok(recv(self.0.as_fd(), &mut [0; 1], RecvFlags::PEEK)?);
        if let Ok((1.., _)) = self.0.async_io(Interest::READABLE, peek).await {
            pending::<()>().await;
        }
    }

    /// What the other end says from now on fails there; what it has said can still be heard.
    pub(super) fn close_ear(&self) -> io::Result<()> {
        Ok(shutdown(self.0.as_fd(), Shutdown::Read)?)
    }

    /// `UnexpectedEof` when the other end is gone.
    pub(super) async fn receive(&self) -> io::Result<Message> {
        match self.try_receive().await {
            // It has gone without having heard all; what it has said itself is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.try_receive().await,
            received => received,
        }
    }

    async fn try_receive(&self) -> io::Result<Message> {
        let receive = || {
            let mut bytes = vec![0; TEXT_BYTES_MAX];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(self.0.as_fd(), into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    descriptors.extend(more);
                }
            }
            if received.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // As when this process may not have so many descriptors.
            if received
                .flags
                .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
            {
                return Err(io::Error::other(
                    "a message did not come whole: check the limit on file descriptors",
                ));
            }
            bytes.truncate(received.bytes);
            let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(Message { text, descriptors })
        };
        self.0.async_io(Interest::READABLE, receive).await
    }
}

impl Door {
    /// Takes the place of what was at `path`, of which nothing is left. It is put there when only its owner may use it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Nobody could connect to a path that is too long for that.
        SockAddr::unix(path)?;
        let beside = path.with_file_name(format!("new.{}", std::process::id()));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket()?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        let inode = inode(&beside)?;
        std::fs::rename(&beside, path)?;
        Ok(Self {
            listener: UnixListener::from_std(StdUnixListener::from(OwnedFd::from(socket)))?,
            path: path.to_owned(),
            inode,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Link> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Link(stream))
    }
}

impl Drop for Door {
    /// Unless it is another process's by now.
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // What is left costs whoever comes next one attempt.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
