//! Replacing a file so that a crash leaves either the old bytes or the new ones, never a mixture.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes `<path>.tmp`, flushes it to the disk, renames it over `path` and flushes the folder.
/// `mode` is the file's permission bits. One writer per path at a time.
pub(crate) fn replace_file(path: &Path, mode: u32, parts: &[&[u8]]) -> io::Result<()> {
    replace_file_if(path, mode, parts, || true).map(|_| ())
}

/// The same, and whether it was done: `may` is asked last, when all the slow work is done. Where it says no, what was written may be
/// another writer's by now, and is left alone.
pub(crate) fn replace_file_if(
    path: &Path,
    mode: u32,
    parts: &[&[u8]],
    may: impl FnOnce() -> bool,
) -> io::Result<bool> {
    let temporary = with_suffix(path, ".tmp");
    match std::fs::remove_file(&temporary) {
        // A leftover of a crash may have other permissions.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    if !may() {
        return Ok(false);
    }
    std::fs::rename(&temporary, path)?;
    sync_parent(path).map(|()| true)
}

/// Flushes the folder of `path`, which is what makes a rename last.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// `path` with `suffix` after its whole file name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
