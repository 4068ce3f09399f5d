use std::{marker::PhantomData, sync::OnceLock};

use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::{
    Family, Key, Result, StreamPos, Table,
    open::LastPos,
    place,
    table::{key_bytes, read_key, read_value},
};

/// The database as it was at one moment. A request reads from one of these.
pub struct Snapshot<'db> {
    db: &'db DB,
    inner: SnapshotWithThreadMode<'db, DB>,
    pos: OnceLock<StreamPos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Which rows of a table to read, and in which order.
pub struct Scan {
    /// Key bytes, the table's first byte included: from here on.
    lower: Vec<u8>,
    /// Up to, but without.
    upper: Vec<u8>,
    direction: Direction,
}

impl Scan {
    /// All rows whose keys begin with `prefix`; `&()` is every row.
    pub fn prefix<'a, T: Table>(prefix: &impl Key<'a>) -> Self {
        let lower = key_bytes::<T>(prefix);
        Self { upper: after(&lower), lower, direction: Direction::Forward }
    }

    /// The rows from the key (or first parts of a key) `from` on, up to and without `to`.
    pub fn range<'a, 'b, T: Table>(from: &impl Key<'a>, to: &impl Key<'b>) -> Self {
        Self { lower: key_bytes::<T>(from), upper: key_bytes::<T>(to), direction: Direction::Forward }
    }

    /// The rows from the key `from` on that begin with `prefix`.
    pub fn from<'a, 'b, T: Table>(from: &impl Key<'a>, prefix: &impl Key<'b>) -> Self {
        Self { lower: key_bytes::<T>(from), upper: after(&key_bytes::<T>(prefix)), direction: Direction::Forward }
    }

    /// The rows that begin with `prefix`, before the key `to`.
    pub fn before<'a, 'b, T: Table>(to: &impl Key<'a>, prefix: &impl Key<'b>) -> Self {
        Self { lower: key_bytes::<T>(prefix), upper: key_bytes::<T>(to), direction: Direction::Forward }
    }

    /// The rows that begin with `prefix` and come after all those that begin with `without`.
    pub fn after<'a, 'b, T: Table>(without: &impl Key<'a>, prefix: &impl Key<'b>) -> Self {
        let lower = after(&key_bytes::<T>(without));
        Self { lower, upper: after(&key_bytes::<T>(prefix)), direction: Direction::Forward }
    }

    /// Every row of a family.
    pub(super) fn everything() -> Self {
        Self { lower: Vec::new(), upper: vec![u8::MAX; 2], direction: Direction::Forward }
    }

    pub(super) fn table(id: u8) -> Self {
        Self { lower: vec![id], upper: after(&[id]), direction: Direction::Forward }
    }

    #[must_use]
    pub fn backward(self) -> Self {
        Self { direction: Direction::Backward, ..self }
    }

    pub(super) fn bounds(self) -> (Vec<u8>, Vec<u8>) {
        (self.lower, self.upper)
    }
}

/// The least bytes that are greater than all that begin with `prefix`.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// One row of a scan.
#[derive(Debug)]
pub struct Row<T: Table> {
    key: Box<[u8]>,
    pub value: T::Value,
}

impl<T: Table> Row<T> {
    pub fn key(&self) -> Result<T::Key<'_>> {
        read_key::<T>(&self.key)
    }
}

impl<'db> Snapshot<'db> {
    pub(super) fn new(db: &'db DB) -> Self {
        Self { db, inner: db.snapshot(), pos: OnceLock::new() }
    }

    /// The newest change that this snapshot shows. It may not be durable yet, see [`super::Store::until_durable`].
    pub fn pos(&self) -> Result<StreamPos> {
        if let Some(known) = self.pos.get() {
            return Ok(*known);
        }
        let pos = self.get::<LastPos>(&())?.unwrap_or_default();
        Ok(*self.pos.get_or_init(|| pos))
    }

    /// When the database was last found to have been put back to an earlier state, in milliseconds since the Unix epoch; 0
    /// if it never was. Numbers of before that may have been given out again since.
    pub fn restored_ms(&self) -> Result<u64> {
        place::restored_ms(self)
    }

    pub fn get<T: Table>(&self, key: &T::Key<'_>) -> Result<Option<T::Value>> {
        let key = key_bytes::<T>(key);
        match self.inner.get_pinned_cf(family(self.db, T::FAMILY), &key)? {
            Some(bytes) => read_value::<T>(&key, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Self::get`] for many keys; the answers are in their order.
    pub fn get_many<'a, T: Table>(&self, keys: impl IntoIterator<Item = T::Key<'a>>) -> Result<Vec<Option<T::Value>>> {
        let keys: Vec<_> = keys.into_iter().map(|key| key_bytes::<T>(&key)).collect();
        let cf = family(self.db, T::FAMILY);
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.inner);
        let rows = self.db.batched_multi_get_cf_opt(cf, &keys, false, &options);
        std::iter::zip(&keys, rows)
            .map(|(key, row)| row?.map(|bytes| read_value::<T>(key, &bytes)).transpose())
            .collect()
    }

    pub fn contains<T: Table>(&self, key: &T::Key<'_>) -> Result<bool> {
        Ok(self.inner.get_pinned_cf(family(self.db, T::FAMILY), key_bytes::<T>(key))?.is_some())
    }

    /// The rows that `scan` (made for the same table) names, in the order of their keys.
    pub fn scan<T: Table>(&self, scan: Scan) -> Rows<'_, T> {
        Rows { raw: self.raw_rows(T::FAMILY, scan), table: PhantomData }
    }

    /// All rows whose keys begin with `prefix`.
    pub fn list<'a, T: Table>(&self, prefix: &impl Key<'a>) -> Rows<'_, T> {
        self.scan(Scan::prefix::<T>(prefix))
    }

    pub(super) fn raw_rows(&self, in_family: Family, scan: Scan) -> RawRows<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(scan.lower);
        options.set_iterate_upper_bound(scan.upper);
        let inner = self.inner.raw_iterator_cf_opt(family(self.db, in_family), options);
        RawRows { inner, direction: scan.direction, is_started: false, is_over: false }
    }
}

pub(super) fn family(db: &DB, family: Family) -> &rocksdb::ColumnFamily {
    db.cf_handle(family.name()).expect("every family is opened with the database")
}

/// The rows of a scan as bytes.
pub(super) struct RawRows<'s> {
    inner: DBRawIteratorWithThreadMode<'s, DB>,
    direction: Direction,
    is_started: bool,
    is_over: bool,
}

impl RawRows<'_> {
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if self.is_over {
            return Ok(None);
        }
        match (self.is_started, self.direction) {
            (false, Direction::Forward) => self.inner.seek_to_first(),
            (false, Direction::Backward) => self.inner.seek_to_last(),
            (true, Direction::Forward) => self.inner.next(),
            (true, Direction::Backward) => self.inner.prev(),
        }
        self.is_started = true;
        if !self.inner.valid() {
            self.is_over = true; // who goes on after an error is not to meet the same one for ever
            self.inner.status()?; // an iterator that met a disk error looks like one that is at its end
        }
        Ok(self.inner.item())
    }
}

pub struct Rows<'s, T> {
    raw: RawRows<'s>,
    table: PhantomData<T>,
}

impl<T: Table> Iterator for Rows<'_, T> {
    type Item = Result<Row<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = match self.raw.next() {
            Ok(item) => item?,
            Err(error) => return Some(Err(error)),
        };
        Some(read_value::<T>(key, value).map(|value| Row { key: key.into(), value }))
    }
}
