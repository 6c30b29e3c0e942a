//! Last-good files: what a plane knew when it last knew something, kept so that it starts without the plane
//! above it. A file is checksummed and replaced in one step; a damaged one is set aside and reported, never
//! half-read.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::replace::{replace_file_if, sync_parent, with_suffix};

/// File layout: magic, payload length (u64, big endian), SHA-256 of the payload, payload.
const MAGIC: &[u8; 8] = b"tmblo-g1";
const HEADER_BYTES: usize = MAGIC.len() + 8 + 32;

#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    #[error("cannot write the last-good file {path}: check the folder's permissions and free space")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the last-good file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the last-good file {path} is corrupt ({fault}); it was moved to {moved_to}")]
    Corrupt {
        path: PathBuf,
        fault: Fault,
        moved_to: PathBuf,
    },
    #[error("the last-good file {path} is corrupt ({fault}) and cannot be moved to {moved_to}")]
    SetAside {
        path: PathBuf,
        fault: Fault,
        moved_to: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it does not start as a last-good file")]
    Magic,
    #[error("{given} bytes instead of {expected}")]
    Length { expected: u64, given: u64 },
    #[error("its checksum does not match")]
    Checksum,
    /// The caller's verdict: the bytes are those that were saved, and mean nothing to this version.
    #[error("its content is not what this version reads")]
    Content,
}

/// Replaces the file at `path` and returns when the bytes are on the disk. Blocking: from async code call it
/// in `spawn_blocking`.
pub fn save(path: &Path, bytes: &[u8]) -> Result<(), LastGoodError> {
    save_if(path, bytes, || true).map(|_| ())
}

/// The same, and whether it was done: `may` is asked when the bytes are on the disk and before they replace what is there, for a disk
/// may take so long that the file is another process's by then.
pub fn save_if(path: &Path, bytes: &[u8], may: impl FnOnce() -> bool) -> Result<bool, LastGoodError> {
    replace_file_if(path, 0o600, &[&header(bytes), bytes], may).map_err(|source| LastGoodError::Write {
        path: path.to_owned(),
        source,
    })
}

/// What was saved at `path`, or `None` when nothing was. A corrupt file is renamed to `<name>.corrupt`, so
/// that the next start does not stumble over it and a person can look at it.
pub fn load(path: &Path) -> Result<Option<Vec<u8>>, LastGoodError> {
    let mut file = match std::fs::read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LastGoodError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    match check(&file) {
        Ok(()) => Ok(Some(file.split_off(HEADER_BYTES))),
        Err(fault) => Err(set_aside(path, fault)),
    }
}

/// Sets aside a file whose checksum is right and whose content the caller cannot read at all, so that what is saved
/// next does not overwrite it: another version may understand it.
pub fn set_aside_unreadable(path: &Path) -> LastGoodError {
    set_aside(path, Fault::Content)
}

fn header(payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&(payload.len() as u64).to_be_bytes());
    header[16..].copy_from_slice(&Sha256::digest(payload));
    header
}

fn check(file: &[u8]) -> Result<(), Fault> {
    let given = file.len() as u64;
    let Some((stored, payload)) = file.split_at_checked(HEADER_BYTES) else {
        return Err(Fault::Length {
            expected: HEADER_BYTES as u64,
            given,
        });
    };
    let expected = header(payload);
    if stored[..8] != expected[..8] {
        return Err(Fault::Magic);
    }
    if stored[8..16] != expected[8..16] {
        let length = stored[8..16]
            .iter()
            .fold(0u64, |length, byte| (length << 8) | u64::from(*byte));
        return Err(Fault::Length {
            expected: length.saturating_add(HEADER_BYTES as u64),
            given,
        });
    }
    if stored[16..] != expected[16..] {
        return Err(Fault::Checksum);
    }
    Ok(())
}

fn set_aside(path: &Path, fault: Fault) -> LastGoodError {
    let path = path.to_owned();
    let moved_to = with_suffix(&path, ".corrupt");
    match std::fs::rename(&path, &moved_to).and_then(|()| sync_parent(&path)) {
        Ok(()) => LastGoodError::Corrupt {
            path,
            fault,
            moved_to,
        },
        Err(source) => LastGoodError::SetAside {
            path,
            fault,
            moved_to,
            source,
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{
        Fault, HEADER_BYTES, LastGoodError, check, header, load, save, save_if, set_aside_unreadable,
    };

    fn file_of(payload: &[u8]) -> Vec<u8> {
        [&header(payload), payload].concat()
    }

    #[test]
    fn what_is_saved_is_loaded_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("intent");
        assert_eq!(load(&path).unwrap(), None);
        for payload in [b"first".as_slice(), b"", b"third"] {
            save(&path, payload).unwrap();
            assert_eq!(load(&path).unwrap().unwrap(), payload);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn who_may_no_more_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("intent");
        save(&path, b"first").unwrap();
        assert!(!save_if(&path, b"late", || false).unwrap());
        assert_eq!(load(&path).unwrap().unwrap(), b"first");
        // While it took its time, the other one has written.
        let overtaken = save_if(&path, b"late", || save(&path, b"second").is_err());
        assert!(!overtaken.unwrap());
        assert_eq!(load(&path).unwrap().unwrap(), b"second");
        assert!(save_if(&path, b"third", || true).unwrap());
        assert_eq!(load(&path).unwrap().unwrap(), b"third");
    }

    #[test]
    fn truncation_at_every_byte_is_found() {
        let file = file_of(b"routes of us-east");
        for length in 0..file.len() {
            assert!(
                matches!(check(&file[..length]), Err(Fault::Length { .. })),
                "cut to {length} bytes: {:?}",
                check(&file[..length])
            );
        }
        assert_eq!(check(&file), Ok(()));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let file = file_of(b"routes of us-east");
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut altered = file.clone();
                altered[at] ^= 1 << bit;
                let expected = match at {
                    0..8 => "magic",
                    8..16 => "length",
                    _ => "checksum",
                };
                let found = match check(&altered) {
                    Err(Fault::Magic) => "magic",
                    Err(Fault::Length { .. }) => "length",
                    Err(Fault::Checksum) => "checksum",
                    Err(Fault::Content) => "content",
                    Ok(()) => "nothing",
                };
                assert_eq!(found, expected, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("intent");
        save(&path, b"routes").unwrap();
        let file = fs::read(&path).unwrap();
        fs::write(&path, &file[..HEADER_BYTES + 2]).unwrap();

        let error = load(&path).unwrap_err();
        let expected = format!(
            "the last-good file {0} is corrupt (50 bytes instead of 54); it was moved to {0}.corrupt",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(load(&path).unwrap(), None);
        assert!(folder.path().join("intent.corrupt").exists());
    }

    #[test]
    fn what_the_caller_cannot_read_is_kept_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("intent");
        save(&path, b"of a later version").unwrap();
        let error = set_aside_unreadable(&path);
        assert!(
            matches!(
                error,
                LastGoodError::Corrupt {
                    fault: Fault::Content,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(load(&path).unwrap(), None);
        let aside = folder.path().join("intent.corrupt");
        assert_eq!(load(&aside).unwrap().unwrap(), b"of a later version");
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = save(&folder.path().join("gone/intent"), b"").unwrap_err();
        assert!(matches!(&error, LastGoodError::Write { path, .. } if path.ends_with("gone/intent")));
    }
}
