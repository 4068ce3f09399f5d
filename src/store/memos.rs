//! What was read from rows, kept for as long as these do not change.

use std::{marker::PhantomData, sync::Arc};

use quick_cache::{Weighter, sync::Cache};

use super::{Group, Key, Snapshot, Store, StreamPos, Table};
use crate::metrics::CacheUse;

/// What a memo takes beside its value, about, in bytes.
const MEMO_BYTES: u64 = 200;

/// Values that were read from rows of `T`, each from those of one group; see [`Table::group`].
pub struct Memos<T, V> {
    kept: Cache<Box<[u8]>, Memo<V>, Weight<V>>,
    table: PhantomData<fn() -> T>,
}

#[derive(Clone)]
struct Memo<V> {
    as_of: StreamPos,
    value: V,
}

/// How many bytes a value takes.
struct Weight<V>(fn(&V) -> usize);

impl<V> Clone for Weight<V> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<V> Weighter<Box<[u8]>, Memo<V>> for Weight<V> {
    fn weight(&self, key: &Box<[u8]>, memo: &Memo<V>) -> u64 {
        MEMO_BYTES + (key.len() + self.0(&memo.value)) as u64
    }
}

impl<T: Table, V: Clone> Memos<T, V> {
    /// `memory_bytes`: for all of them. `weight`: how many bytes a value takes, about.
    pub fn new(memory_bytes: u64, weight: fn(&V) -> usize) -> Self {
        let about = usize::try_from(memory_bytes / (2 * MEMO_BYTES)).unwrap_or(usize::MAX);
        Self { kept: Cache::with_weighter(about, memory_bytes, Weight(weight)), table: PhantomData }
    }

    /// What `read` reads in the snapshot, or read before if no row of `group` has changed since. `name` tells the value from
    /// others of the table.
    pub fn get<'k, E: From<super::Error>>(
        &self,
        store: &Store,
        snapshot: &Snapshot<'_>,
        name: &impl Key<'k>,
        group: Group,
        read: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let name = name.to_bytes();
        match self.valid(store, &name, group, snapshot.pos()?) {
            Some(value) => Ok(value),
            None => self.read(snapshot, name, read),
        }
    }

    /// As [`Self::get`], of now: no snapshot is taken unless something must be read.
    pub fn now<'k, E: From<super::Error>>(
        &self,
        store: &Store,
        name: &impl Key<'k>,
        group: Group,
        read: impl FnOnce(&Snapshot<'_>) -> Result<V, E>,
    ) -> Result<V, E> {
        let name = name.to_bytes();
        if let Some(value) = self.valid(store, &name, group, StreamPos::MAX) {
            return Ok(value);
        }
        let snapshot = store.snapshot();
        self.read(&snapshot, name, || read(&snapshot))
    }

    /// What is kept, if it was the same at `pos` as when it was read.
    fn valid(&self, store: &Store, name: &[u8], group: Group, pos: StreamPos) -> Option<V> {
        let kept = self.kept.get(name)?;
        let is_valid = !store.recent().may_have_changed::<T>(group, kept.as_of.min(pos));
        is_valid.then_some(kept.value)
    }

    fn read<E: From<super::Error>>(
        &self,
        snapshot: &Snapshot<'_>,
        name: Vec<u8>,
        read: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let (as_of, value) = (snapshot.pos()?, read()?);
        self.kept.insert(name.into(), Memo { as_of, value: value.clone() });
        Ok(value)
    }

    /// For rows that were deleted by a range, which nobody else needs to know of.
    pub fn forget<'k>(&self, name: &impl Key<'k>) {
        self.kept.remove(&*name.to_bytes());
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.kept)
    }
}

impl<T: Table> Memos<T, Option<Arc<T::Value>>> {
    /// The row under `key` as it is now.
    ///
    /// # Panics
    /// If the table has no groups: then nothing would tell when the row changes.
    pub fn row(&self, store: &Store, key: &T::Key<'_>) -> super::Result<Option<Arc<T::Value>>> {
        let read = |snapshot: &Snapshot<'_>| Ok::<_, super::Error>(snapshot.get::<T>(key)?.map(Arc::new));
        self.now(store, key, group_of::<T>(key), read)
    }

    /// As [`Self::row`], if that is in memory: nothing is read.
    pub fn kept_row(&self, store: &Store, key: &T::Key<'_>) -> Option<Option<Arc<T::Value>>> {
        self.valid(store, &key.to_bytes(), group_of::<T>(key), StreamPos::MAX)
    }
}

fn group_of<T: Table>(key: &T::Key<'_>) -> Group {
    T::group(key).expect("rows that are remembered are of a table with groups")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Error, Family, Options, Result, Transaction};

    struct Words;
    impl Table for Words {
        const NAME: &'static str = "words";
        const FAMILY: Family = Family::Lookup;
        const ID: u8 = 255;
        type Key<'a> = (&'a str, u64);
        type Value = String;

        fn group(&(book, _): &Self::Key<'_>) -> Option<Group> {
            Some(Group::of(book))
        }
    }

    const BOOK: &str = "book";

    fn words_of(snapshot: &Snapshot<'_>) -> Result<Vec<String>> {
        snapshot.list::<Words>(&BOOK).map(|row| Ok(row?.value)).collect()
    }

    #[test]
    fn a_value_is_read_again_only_if_one_of_its_rows_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        let memos = Memos::<Words, Vec<String>>::new(1 << 20, Vec::len);
        let put = |book: &'static str, word: &'static str| {
            let put = move |tx: &mut Transaction<'_>| {
                tx.put::<Words>(&(book, tx.pos().0), &word.to_owned());
                Ok::<_, Error>(())
            };
            store.commit_blocking(put).unwrap();
        };
        let get = |snapshot: &Snapshot<'_>| -> (Vec<String>, bool) {
            let mut is_read = false;
            let read = || {
                is_read = true;
                words_of(snapshot)
            };
            (memos.get(&store, snapshot, &BOOK, Group::of(BOOK), read).unwrap(), is_read)
        };
        put(BOOK, "call");
        let before = store.snapshot();
        assert_eq!(get(&before), (vec!["call".to_owned()], true));
        put("another", "whale");
        assert_eq!(get(&store.snapshot()), (vec!["call".to_owned()], false));
        put(BOOK, "me");
        let both = vec!["call".to_owned(), "me".to_owned()];
        assert_eq!(get(&store.snapshot()), (both.clone(), true));
        assert_eq!(get(&before), (vec!["call".to_owned()], true), "an older snapshot shows what was there then");
        assert_eq!(get(&store.snapshot()).0, both);
        let delete = |tx: &mut Transaction<'_>| {
            tx.delete_group::<Words>(&BOOK, Group::of(BOOK));
            Ok::<_, Error>(())
        };
        store.commit_blocking(delete).unwrap();
        assert_eq!(memos.now(&store, &BOOK, Group::of(BOOK), words_of).unwrap(), Vec::<String>::new());
        assert_eq!(get(&store.snapshot()), (Vec::new(), false));
        put(BOOK, "again");
        assert_eq!(memos.now(&store, &BOOK, Group::of(BOOK), words_of).unwrap(), ["again"]);
    }

    #[test]
    fn a_row_is_as_it_is_now() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        let memos = Memos::<Words, Option<Arc<String>>>::new(1 << 20, |_| 10);
        let word = || memos.row(&store, &(BOOK, 1)).unwrap().map(|word| (*word).clone());
        let change = |change: fn(&mut Transaction<'_>)| {
            let change = move |tx: &mut Transaction<'_>| {
                change(tx);
                Ok::<_, Error>(())
            };
            store.commit_blocking(change).unwrap();
        };
        let kept = || memos.kept_row(&store, &(BOOK, 1));
        assert_eq!(kept(), None);
        assert_eq!(word(), None);
        assert_eq!(kept(), Some(None));
        change(|tx| tx.put::<Words>(&(BOOK, 1), &"call".to_owned()));
        assert_eq!(kept(), None);
        assert_eq!(word().as_deref(), Some("call"));
        assert_eq!(kept(), Some(Some(Arc::new("call".to_owned()))));
        change(|tx| tx.put::<Words>(&(BOOK, 1), &"hail".to_owned()));
        assert_eq!(word().as_deref(), Some("hail"));
        let misses = memos.cache_use().misses;
        assert_eq!(word().as_deref(), Some("hail"));
        assert_eq!(memos.cache_use().misses, misses, "it is kept");
        change(|tx| tx.delete::<Words>(&(BOOK, 1)));
        assert_eq!(word(), None);
    }
}
