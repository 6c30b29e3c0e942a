//! That a data folder is one proxy's: a lock on a file in it, which the kernel opens when the last process that has it ends. It is
//! handed over with the sockets, so that the folder is somebody's all the time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Name of the file in the proxy's data folder. It stays there: who removed it would let a second proxy in.
const FILE_NAME: &str = "proxy.lock";

/// The data folder is this process's until it drops this.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Nothing where another process has it.
    pub(crate) fn take(data_dir: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(data_dir.join(FILE_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Lock {
    /// Where nothing can be locked: keeps nobody out.
    pub(crate) fn of_nothing() -> io::Result<Self> {
        File::open("/dev/null").map(Self)
    }
}

/// As another process has it, and with that one until it drops its own.
impl From<OwnedFd> for Lock {
    fn from(shared: OwnedFd) -> Self {
        Self(shared.into())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
