//! That a data folder is one proxy's: a lock on a file in it, which the kernel opens when the last process that has it ends. It is
//! handed over with the sockets, so that the folder is somebody's all the time; and the file says whose, for who has handed it over may
//! have been about to write there, and a disk may take its time.

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

/// Name of the file in the proxy's data folder. It stays there: who removed it would let a second proxy in.
const FILE_NAME: &str = "proxy.lock";

/// Of what the file says: a process and a number that no other one has drawn, in as many letters each time.
const MARK_BYTES: usize = 28;

/// The data folder is this process's until it drops this.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// What the file says since the folder is this process's; nothing where it could not be written.
    mark: OnceLock<[u8; MARK_BYTES]>,
}

impl Lock {
    /// Nothing where another process has it.
    pub(crate) fn take(data_dir: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let lock = Self::of(options.open(data_dir.join(FILE_NAME))?);
        match lock.file.try_lock() {
            Ok(()) => {
                lock.claim();
                Ok(Some(lock))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where nothing can be locked: keeps nobody out.
    pub(crate) fn of_nothing() -> io::Result<Self> {
        File::open("/dev/null").map(Self::of)
    }

    fn of(file: File) -> Self {
        Self {
            file,
            mark: OnceLock::new(),
        }
    }

    /// From now on the folder is this process's, whoever had it before.
    pub(crate) fn claim(&self) {
        let mark = mark();
        // Where that cannot be written, nothing is known of others, as before.
        if self.mark.get().is_none() && self.file.write_all_at(&mark, 0).is_ok() {
            let _ = self.mark.set(mark);
        }
    }

    /// Whether nobody has claimed it since.
    pub(crate) fn is_own(&self) -> bool {
        let mut said = [0; MARK_BYTES];
        match (self.mark.get(), self.file.read_exact_at(&mut said, 0)) {
            (Some(mark), Ok(())) => said == *mark,
            // What cannot be read says nothing of others either.
            (None, _) | (_, Err(_)) => true,
        }
    }
}

/// As another process has it, and with that one until it drops its own.
impl From<OwnedFd> for Lock {
    fn from(shared: OwnedFd) -> Self {
        Self::of(shared.into())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Processes of different containers may have the same number.
fn mark() -> [u8; MARK_BYTES] {
    let drawn = RandomState::new().hash_one(0u8);
    let text = format!("{:010} {drawn:016x}\n", std::process::id());
    text.into_bytes()
        .try_into()
        .expect("invariant: numbers are written in as many letters each time")
}
