use std::path::PathBuf;

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
    #[error("{path}: {reason}")]
    Directory { path: PathBuf, reason: String },
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
}
