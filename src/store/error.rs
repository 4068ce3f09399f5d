use std::{
    io,
    path::{Path, PathBuf},
};

use rocksdb::ErrorKind;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bytes on disk are not what this table holds: a damaged disk or a bug.
    #[error("table {table}: the row at key {key} can't be read: {reason} (run `chappe check`)")]
    Corrupt { table: &'static str, key: String, reason: String },
    #[error("RocksDB: {0}{advice}", advice = advice(.0, ""))]
    RocksDb(#[from] rocksdb::Error),
    /// It is not what the configuration says, or not for us: so will each attempt find it, until somebody changes that.
    #[error("{path}: {reason}")]
    Directory { path: PathBuf, reason: String },
    /// The system refused something that it may grant at the next attempt.
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: String },
    #[error("{path}: another chappe process is using it: stop that one first")]
    InUse { path: PathBuf },
    /// Writing is refused before the disk is full, so that RocksDB can still compact and the server can still start.
    #[error(
        "only {free} bytes are free on the disk of {path}, {floor} must stay free: make room, or lower `free_space_floor`"
    )]
    NoSpace { path: PathBuf, free: u64, floor: u64 },
    /// An earlier write or fsync failed. What the disk holds is unknown until it is opened again.
    #[error(
        "the store stopped accepting writes: {0}{advice}",
        advice = advice(.0, " (mend the disk, then restart)")
    )]
    Stopped(rocksdb::Error),
    #[error("the store is closed")]
    Closed,
    #[error("the transaction failed by a bug: {0}")]
    Panicked(String),
}

/// What to do where what RocksDB once wrote is damaged, which no restart mends, and `otherwise`.
fn advice(cause: &rocksdb::Error, otherwise: &'static str) -> &'static str {
    match cause.kind() {
        ErrorKind::Corruption => " (run `chappe check`; restore a backup)",
        _ => otherwise,
    }
}

impl Error {
    pub fn corrupt(table: &'static str, key: &[u8], reason: impl ToString) -> Self {
        Self::Corrupt { table, key: key.escape_ascii().to_string(), reason: reason.to_string() }
    }

    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::io_because(path, error, error.to_string())
    }

    /// As [`Self::io`], with more words on what happened.
    pub(super) fn io_because(path: &Path, error: &io::Error, reason: String) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists // a file, where `mkdir` should make a directory
            | io::ErrorKind::ReadOnlyFilesystem => Self::Directory { path, reason },
            _ => Self::Io { path, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::{
        AlreadyExists, NotADirectory, Other, PermissionDenied, ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull,
        WouldBlock,
    };

    use super::*;

    #[test]
    fn only_what_no_other_attempt_mends_is_the_directory_s_fault() {
        let error = |kind: io::ErrorKind| Error::io(Path::new("/data"), &kind.into());
        for kind in [PermissionDenied, NotADirectory, AlreadyExists, ReadOnlyFilesystem] {
            assert!(matches!(error(kind), Error::Directory { .. }), "{kind:?}");
        }
        for kind in [StorageFull, StaleNetworkFileHandle, WouldBlock, Other] {
            assert!(matches!(error(kind), Error::Io { .. }), "{kind:?}");
        }
    }
}
