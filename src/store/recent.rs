//! When groups of rows last changed, in memory, so that whoever looks for news does not read where there is none.

use std::{
    any::TypeId,
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
};

use parking_lot::{RwLock, RwLockReadGuard};

use super::{StreamPos, Table};

/// Some rows of a table that are looked at together, such as those of one room. Two groups may by chance have one
/// number: then a change of one looks like a change of the other as well, which does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(u64);

impl Group {
    pub fn of(name: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The last change of each group that changed since the store was opened.
pub(super) struct Changes {
    opened_at: StreamPos,
    last: RwLock<Last>,
}

type Last = HashMap<(TypeId, Group), StreamPos, BuildHasherDefault<Mix>>;

/// A hasher for what is a hash already.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(32) ^ hash;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Changes {
    pub fn new(opened_at: StreamPos) -> Self {
        Self { opened_at, last: RwLock::default() }
    }

    /// Must be called before a change becomes visible: whoever sees it in a snapshot must find it here.
    pub fn note(&self, groups: &[(TypeId, Group)], pos: StreamPos) {
        if !groups.is_empty() {
            self.last.write().extend(groups.iter().map(|group| (*group, pos)));
        }
    }

    pub fn read(&self) -> Recent<'_> {
        Recent { opened_at: self.opened_at, last: self.last.read() }
    }
}

/// What changed lately, for a few look-ups: writers wait while this is held.
pub struct Recent<'s> {
    opened_at: StreamPos,
    last: RwLockReadGuard<'s, Last>,
}

impl Recent<'_> {
    /// Whether rows of a group of `T` changed after `pos`; `None` if that is not known, of times before the store was
    /// opened. `Some(false)` is certain for every snapshot that was taken before this was asked.
    pub fn has_changed<T: Table>(&self, group: Group, pos: StreamPos) -> Option<bool> {
        let last = self.last.get(&(TypeId::of::<T>(), group));
        last.map(|last| *last > pos).or((pos >= self.opened_at).then_some(false))
    }

    /// As [`Self::has_changed`], with `true` where it is not known.
    pub fn may_have_changed<T: Table>(&self, group: Group, pos: StreamPos) -> bool {
        self.has_changed::<T>(group, pos).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Family;

    struct Letters;
    impl Table for Letters {
        const NAME: &'static str = "letters";
        const FAMILY: Family = Family::Lookup;
        const ID: u8 = 1;
        type Key<'a> = u64;
        type Value = ();
    }

    struct Numbers;
    impl Table for Numbers {
        const NAME: &'static str = "numbers";
        const FAMILY: Family = Family::Lookup;
        const ID: u8 = 2;
        type Key<'a> = u64;
        type Value = ();
    }

    #[test]
    fn only_what_changed_later_may_have_changed() {
        let changes = Changes::new(StreamPos(5));
        let group = Group::of(1);
        changes.note(&[(TypeId::of::<Letters>(), group)], StreamPos(7));
        let recent = changes.read();
        assert_eq!(recent.has_changed::<Letters>(group, StreamPos(6)), Some(true));
        assert_eq!(recent.has_changed::<Letters>(group, StreamPos(7)), Some(false));
        assert_eq!(recent.has_changed::<Letters>(Group::of(2), StreamPos(5)), Some(false));
        assert_eq!(recent.has_changed::<Numbers>(group, StreamPos(6)), Some(false));
    }

    #[test]
    fn what_changed_before_the_store_was_opened_is_unknown() {
        let changes = Changes::new(StreamPos(5));
        assert_eq!(changes.read().has_changed::<Letters>(Group::of(1), StreamPos(4)), None);
        assert!(changes.read().may_have_changed::<Letters>(Group::of(1), StreamPos(4)));
    }
}
