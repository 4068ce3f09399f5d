//! The rooms of the users who sync, kept in memory.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};

use crate::{
    metrics::CacheUse,
    room::tables::{UserRoom, UserRooms},
    store::{Group, Result, RoomNid, Snapshot, Store, StreamPos},
};

/// What a row takes, about.
const ROW_BYTES: u64 = 64;

pub struct UserRoomLists(Cache<OwnedUserId, Arc<UserRoomList>, Rows>);

/// The rooms of one user, left ones too.
#[derive(Debug, Default)]
pub struct UserRoomList {
    as_of: StreamPos,
    pub rooms: Vec<(RoomNid, UserRoom)>,
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
        let list = Arc::new(UserRoomList { as_of: now, rooms: rows.collect::<Result<_>>()? });
        self.0.insert(user.to_owned(), Arc::clone(&list));
        Ok(list)
    }
}
