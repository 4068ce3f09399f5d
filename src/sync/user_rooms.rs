//! The rooms of the users who sync, kept in memory.

use std::{collections::HashMap, sync::Arc};

use ruma::UserId;

use crate::{
    metrics::CacheUse,
    room::tables::{UserRoom, UserRooms},
    store::{Group, Memos, Result, RoomNid, Snapshot, Store},
};

/// What a row takes, about.
const ROW_BYTES: usize = 96;

pub struct UserRoomLists(Memos<UserRooms, Arc<UserRoomList>>);

/// The rooms of one user, left ones too.
#[derive(Debug, Default)]
pub struct UserRoomList {
    pub rooms: Vec<(RoomNid, UserRoom)>,
    /// Where in `rooms` the one is whose rows are this group.
    places: HashMap<Group, usize>,
}

impl UserRoomList {
    fn new(rooms: Vec<(RoomNid, UserRoom)>) -> Self {
        let places = rooms.iter().enumerate().map(|(place, (nid, _))| (Group::of(nid), place)).collect();
        Self { rooms, places }
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

impl UserRoomLists {
    /// `memory_bytes`: for the rows of all users together.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Memos::new(memory_bytes, |list| ROW_BYTES * list.rooms.len()))
    }

    pub fn cache_use(&self) -> CacheUse {
        self.0.cache_use()
    }

    /// The rooms of `user` as `snapshot` shows them.
    pub fn get(&self, store: &Store, snapshot: &Snapshot<'_>, user: &UserId) -> Result<Arc<UserRoomList>> {
        self.0.get(store, snapshot, &user, Group::of(user), || {
            let rows = snapshot.list::<UserRooms>(&user).map(|row| row.and_then(|row| Ok((row.key()?.1, row.value))));
            Ok(Arc::new(UserRoomList::new(rows.collect::<Result<_>>()?)))
        })
    }
}
