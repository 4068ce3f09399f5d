//! RocksDB behind typed tables: bytes and tables, no Matrix rule and no HTTP status.
//!
//! - [`Table`] says what the keys and values of a table are; [`Snapshot`] reads them; [`Transaction`] changes them.
//! - [`Store::commit`] is the only way to write. One thread runs all transactions, one after the other, so each sees
//!   everything before it and may read, decide and write without a lock. A second thread makes them durable: it
//!   fsyncs the log once for all that came in meanwhile.
//! - "Not there" is `Ok(None)`; a row that can't be read is an error that names its table and key.

mod commit;
mod directory;
mod error;
mod figures;
mod key;
mod memos;
mod migrate;
mod open;
mod place;
mod read_only;
mod recent;
mod snapshot;
mod table;
mod transaction;

pub use self::{
    commit::Written,
    error::{Error, Result},
    figures::{Counted, Figures, OfFamily, Syncs},
    key::{Beginning, EventNid, Key, RoomNid, RoomPos, StateKeyNid, StreamPos},
    memos::Memos,
    migrate::{Migration, Step},
    open::{Options, Store},
    read_only::ReadOnly,
    recent::{Group, Recent},
    snapshot::{Direction, Row, Rows, Scan, Snapshot},
    table::{Family, Json, Record, Table, TableInfo, Value, unknown_version},
    transaction::Transaction,
};

#[cfg(test)]
pub use self::figures::{look_ups, steps};
