use std::any::TypeId;

use rocksdb::{DB, WriteBatch};

use super::{Group, Key, Result, Scan, Snapshot, StreamPos, Table, Value, snapshot::family, table::key_bytes};

/// A change that is made whole or not at all, while no other transaction runs.
pub struct Transaction<'db> {
    db: &'db DB,
    before: Snapshot<'db>,
    batch: WriteBatch,
    pos: StreamPos,
    /// What was touched of what is kept in memory.
    groups: Vec<(TypeId, Group)>,
}

impl<'db> Transaction<'db> {
    pub(super) fn new(db: &'db DB, pos: StreamPos) -> Self {
        Self { db, before: Snapshot::new(db), batch: WriteBatch::default(), pos, groups: Vec::new() }
    }

    /// The place of this change in the order of all changes.
    pub fn pos(&self) -> StreamPos {
        self.pos
    }

    /// Leaves `count` positions before this change to nobody. Belongs before everything else that asks for the position.
    pub fn skip(&mut self, count: u64) {
        self.pos.0 += count;
    }

    /// The database before this transaction: with all earlier ones, and without what this one has put.
    pub fn before(&self) -> &Snapshot<'db> {
        &self.before
    }

    pub fn get<T: Table>(&self, key: &T::Key<'_>) -> Result<Option<T::Value>> {
        self.before.get::<T>(key)
    }

    pub fn put<T: Table>(&mut self, key: &T::Key<'_>, value: &T::Value) {
        let mut bytes = vec![T::Value::VERSION];
        value.write(&mut bytes);
        self.touch::<T>(key);
        self.batch.put_cf(family(self.db, T::FAMILY), key_bytes::<T>(key), bytes);
    }

    pub fn delete<T: Table>(&mut self, key: &T::Key<'_>) {
        self.touch::<T>(key);
        self.batch.delete_cf(family(self.db, T::FAMILY), key_bytes::<T>(key));
    }

    /// Deletes the rows whose keys begin with `prefix` by one record, however many they are. What this transaction
    /// puts there later stays. [`super::Recent`] does not learn of it.
    pub fn delete_all<'a, T: Table>(&mut self, prefix: &impl Key<'a>) {
        self.delete_range::<T>(Scan::prefix::<T>(prefix));
    }

    /// As [`Self::delete_all`], of the rows of a group.
    pub fn delete_group<'a, T: Table>(&mut self, prefix: &impl Key<'a>, group: Group) {
        self.groups.push((TypeId::of::<T>(), group));
        self.delete_all::<T>(prefix);
    }

    pub fn delete_range<T: Table>(&mut self, scan: Scan) {
        let (lower, upper) = scan.bounds();
        self.batch.delete_range_cf(family(self.db, T::FAMILY), lower, upper);
    }

    fn touch<T: Table>(&mut self, key: &T::Key<'_>) {
        self.groups.extend(T::group(key).map(|group| (TypeId::of::<T>(), group)));
    }

    pub(super) fn groups(&self) -> &[(TypeId, Group)] {
        &self.groups
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    pub(super) fn into_batch(self) -> WriteBatch {
        self.batch
    }
}
