//! When groups of rows last changed, in memory, so that whoever looks for news does not read where there is none.

use std::{
    any::TypeId,
    collections::{HashMap, VecDeque},
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

    /// One of 16,384 groups, for tables whose keys come and go: the last change of each group stays in memory.
    pub fn shared(name: impl Hash) -> Self {
        Self(Self::of(name).0 & 0x3fff)
    }
}

/// How many of the newest changes are kept in their order: those of some seconds on a busy server.
const KEPT: usize = 4_096;

/// The last change of each group that changed since the store was opened.
pub(super) struct Changes {
    opened_at: StreamPos,
    last: RwLock<Last>,
}

#[derive(Default)]
struct Last {
    by_group: HashMap<(TypeId, Group), StreamPos, BuildHasherDefault<Mix>>,
    /// The newest changes, the newest last.
    newest: VecDeque<(StreamPos, TypeId, Group)>,
    /// The newest change that was dropped from these.
    dropped: StreamPos,
}

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
        if groups.is_empty() {
            return;
        }
        let mut last = self.last.write();
        for &(table, group) in groups {
            last.by_group.insert((table, group), pos);
            if last.newest.len() == KEPT
                && let Some((dropped, ..)) = last.newest.pop_front()
            {
                last.dropped = dropped;
            }
            last.newest.push_back((pos, table, group));
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
        let last = self.last.by_group.get(&(TypeId::of::<T>(), group));
        last.map(|last| *last > pos).or((pos >= self.opened_at).then_some(false))
    }

    /// As [`Self::has_changed`], with `true` where it is not known.
    pub fn may_have_changed<T: Table>(&self, group: Group, pos: StreamPos) -> bool {
        self.has_changed::<T>(group, pos).unwrap_or(true)
    }

    /// The groups of `tables` that changed after `pos`, some of them more than once; `None` if not all are known, or if over `most`
    /// changes had to be looked at.
    pub fn changed_after(&self, tables: &[TypeId], pos: StreamPos, most: usize) -> Option<Vec<Group>> {
        if pos < self.opened_at.max(self.last.dropped) {
            return None;
        }
        let mut groups = Vec::new();
        for (looked_at, (_, table, group)) in self.last.newest.iter().rev().take_while(|(at, ..)| *at > pos).enumerate()
        {
            if looked_at == most {
                return None;
            }
            if tables.contains(table) {
                groups.push(*group);
            }
        }
        Some(groups)
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
    fn the_newest_changes_are_listed_as_long_as_all_are_known() {
        let changes = Changes::new(StreamPos(5));
        let (letters, numbers) = (TypeId::of::<Letters>(), TypeId::of::<Numbers>());
        for n in 6..10 {
            changes.note(&[(letters, Group::of(n)), (numbers, Group::of(0))], StreamPos(n));
        }
        let after = |pos, most| changes.read().changed_after(&[letters], StreamPos(pos), most);
        assert_eq!(after(7, 10), Some(vec![Group::of(9_u64), Group::of(8_u64)]));
        assert_eq!(after(9, 10), Some(Vec::new()));
        assert_eq!(after(7, 4).map(|groups| groups.len()), Some(2));
        assert_eq!(after(7, 3), None, "it would take too long");
        assert_eq!(after(4, 10), None, "the store was not open then");
        for n in 10..10 + KEPT as u64 {
            changes.note(&[(letters, Group::of(n))], StreamPos(n));
        }
        assert_eq!(after(9, KEPT).map(|groups| groups.len()), Some(KEPT));
        assert_eq!(after(8, KEPT * 2), None, "some are forgotten");
    }

    #[test]
    fn what_changed_before_the_store_was_opened_is_unknown() {
        let changes = Changes::new(StreamPos(5));
        assert_eq!(changes.read().has_changed::<Letters>(Group::of(1), StreamPos(4)), None);
        assert!(changes.read().may_have_changed::<Letters>(Group::of(1), StreamPos(4)));
    }
}
