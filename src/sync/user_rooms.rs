//! The rooms of the users who sync, kept in memory.

use std::{collections::HashMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};

use crate::{
    metrics::CacheUse,
    room::tables::{UserRoom, UserRooms},
    store::{Group, Result, RoomNid, Snapshot, Store, StreamPos},
};

/// What a row takes, about.
const ROW_BYTES: u64 = 96;

pub struct UserRoomLists(Cache<OwnedUserId, Arc<UserRoomList>, Rows>);

/// The rooms of one user, left ones too.
#[derive(Debug, Default)]
pub struct UserRoomList {
    as_of: StreamPos,
    pub rooms: Vec<(RoomNid, UserRoom)>,
    /// Where in `rooms` the one is whose rows are this group.
    places: HashMap<Group, usize>,
}

impl UserRoomList {
    fn new(as_of: StreamPos, rooms: Vec<(RoomNid, UserRoom)>) -> Self {
        let places = rooms.iter().enumerate().map(|(place, (nid, _))| (Group::of(nid), place)).collect();
        Self { as_of, rooms, places }
    }

    pub fn get(&self, room: RoomNid) -> Option<UserRoom> {
        let (found, row) = self.rooms.get(*self.places.get(&Group::of(room))?)?;
        (*found == room).then_some(*row)
    }

    /// The rooms that are these groups, in their order.
    pub fn of_groups(&self, groups: impl IntoIterator<Item = Group>) -> Vec<(RoomNid, UserRoom)> {
        let mut places: Vec<usize> = groups.into_iter().filter_map(|group| self.places.get(&group).copied()).collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().filter_map(|place| self.rooms.get(place).copied()).collect()
    }
}

#[derive(Clone)]
struct Rows;

impl Weighter<OwnedUserId, Arc<UserRoomList>> for Rows {
    fn weight(&self, _: &OwnedUserId, list: &Arc<UserRoomList>) -> u64 {
        list.rooms.len() as u64 + 2
    }
}

impl UserRoomLists {
    /// `memory_bytes`: for the rows of all users together.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(1_000, memory_bytes / ROW_BYTES, Rows))
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }

    /// The rooms of `user` as `snapshot`, which is of `now`, shows them.
    pub fn get(
        &self,
        store: &Store,
        snapshot: &Snapshot<'_>,
        now: StreamPos,
        user: &UserId,
    ) -> Result<Arc<UserRoomList>> {
        if let Some(kept) = self.0.get(user)
            && !store.recent().may_have_changed::<UserRooms>(Group::of(user), kept.as_of.min(now))
        {
            return Ok(kept);
        }
        let rows = snapshot.list::<UserRooms>(&user).map(|row| row.and_then(|row| Ok((row.key()?.1, row.value))));
        let list = Arc::new(UserRoomList::new(now, rows.collect::<Result<_>>()?));
        self.0.insert(user.to_owned(), Arc::clone(&list));
        Ok(list)
    }
}
