//! Which of our own users are joined to a room, kept in memory for the rooms that had news.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use ruma::OwnedUserId;

use super::{Membership, View, append::Appended, tables::Members};
use crate::{
    Server,
    metrics::CacheUse,
    store::{Group, Result, RoomNid, StreamPos},
};

/// What a room and each of its members take in memory, about.
const ROOM_BYTES: u64 = 200;
const MEMBER_BYTES: u64 = 80;

pub struct LocalMembers {
    rooms: Cache<RoomNid, Arc<RwLock<Joined>>, Bytes>,
}

/// Who was joined to a room at a moment.
struct Joined {
    as_of: StreamPos,
    users: HashSet<OwnedUserId>,
}

/// The members of a room before an event changes them.
pub struct Before(Arc<RwLock<Joined>>);

#[derive(Clone)]
struct Bytes;

impl Weighter<RoomNid, Arc<RwLock<Joined>>> for Bytes {
    fn weight(&self, _: &RoomNid, joined: &Arc<RwLock<Joined>>) -> u64 {
        ROOM_BYTES + joined.read().users.len() as u64 * MEMBER_BYTES
    }
}

impl LocalMembers {
    /// `memory_bytes`: for what is kept.
    pub fn new(memory_bytes: u64) -> Self {
        // One shard: the members of a large room take a good part of the memory.
        let mut options = OptionsBuilder::new();
        options.shards(1).estimated_items_capacity(1_000).weight_capacity(memory_bytes);
        let options = options.build().expect("all that it asks for is set");
        Self { rooms: Cache::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default()) }
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.rooms)
    }

    /// Gives our own users who are joined to a room to `look`, which has to be quick: a join waits for it.
    pub fn look<R>(&self, server: &Server, room: RoomNid, look: impl FnOnce(&HashSet<OwnedUserId>) -> R) -> Result<R> {
        if let Some(kept) = self.rooms.get(&room) {
            let joined = kept.read();
            if joined.is_current(server, room) {
                return Ok(look(&joined.users));
            }
        }
        let snapshot = server.store.snapshot();
        let users = View::of(&server.rooms, &snapshot, room)?.each_local_member().collect::<Result<HashSet<_>>>()?;
        let answer = look(&users);
        self.rooms.insert(room, Arc::new(RwLock::new(Joined { as_of: snapshot.pos()?, users })));
        Ok(answer)
    }

    /// To be called before members change, by who holds the room's lock.
    pub(super) fn before(&self, server: &Server, room: RoomNid) -> Option<Before> {
        let kept = self.rooms.get(&room)?;
        let is_current = kept.read().is_current(server, room);
        is_current.then_some(Before(kept))
    }

    /// Brings up to date what was known before an event, under the same lock: a large room need not be read again at each join.
    pub(super) fn change(&self, server: &Server, before: Before, appended: &Appended) {
        let Before(kept) = before;
        {
            let mut joined = kept.write();
            for (user, membership) in appended.memberships.iter().filter(|(user, _)| server.is_ours(user)) {
                if *membership == Membership::Join {
                    joined.users.insert(user.clone());
                } else {
                    joined.users.remove(user);
                }
            }
            joined.as_of = appended.pos;
        }
        self.rooms.insert(appended.room, kept); // once more, since it weighs more or less now
    }
}

impl Joined {
    fn is_current(&self, server: &Server, room: RoomNid) -> bool {
        !server.store.recent().may_have_changed::<Members>(Group::of(room), self.as_of)
    }
}

/// Calls `found` with what `map` has of `users`. Takes as long as the smaller of the two is large.
pub fn each_of<'m, V>(
    users: &HashSet<OwnedUserId>,
    map: &'m HashMap<OwnedUserId, V>,
    mut found: impl FnMut(&'m OwnedUserId, &'m V),
) {
    if users.len() < map.len() {
        users.iter().filter_map(|user| map.get_key_value(user)).for_each(|(user, value)| found(user, value));
    } else {
        map.iter().filter(|(user, _)| users.contains(*user)).for_each(|(user, value)| found(user, value));
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn a_large_room_has_its_place_in_a_small_budget() {
        let members = LocalMembers::new((256 << 20) / 32); // as by default
        let users = (0..100_000).map(|n| OwnedUserId::try_from(format!("@user{n}:x")).unwrap()).collect();
        let joined = Joined { as_of: StreamPos::default(), users };
        members.rooms.insert(RoomNid(1), Arc::new(RwLock::new(joined)));
        assert!(members.rooms.get(&RoomNid(1)).is_some());
    }

    #[test]
    fn what_both_have_is_found_from_either_side() {
        let users: HashSet<OwnedUserId> = [user_id!("@a:x").to_owned(), user_id!("@b:x").to_owned()].into();
        for larger in [false, true] {
            let mut map = HashMap::from([(user_id!("@b:x").to_owned(), 2), (user_id!("@c:x").to_owned(), 3)]);
            if larger {
                map.insert(user_id!("@d:x").to_owned(), 4);
            } else {
                map.remove(user_id!("@c:x"));
            }
            let mut found = Vec::new();
            each_of(&users, &map, |user, value| found.push((user.as_str(), *value)));
            assert_eq!(found, [("@b:x", 2)]);
        }
    }
}
