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
    rooms: Cache<RoomNid, Kept, Bytes>,
}

#[derive(Clone)]
struct Kept {
    joined: Arc<RwLock<Joined>>,
    /// What it took when it came into the cache, which wants that to stay the same.
    bytes: u64,
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

impl Weighter<RoomNid, Kept> for Bytes {
    fn weight(&self, _: &RoomNid, kept: &Kept) -> u64 {
        kept.bytes
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
            let joined = kept.joined.read();
            if joined.is_current(server, room) {
                return Ok(look(&joined.users));
            }
        }
        let snapshot = server.store.snapshot();
        let users = View::of(&server.rooms, &snapshot, room)?.each_local_member().collect::<Result<HashSet<_>>>()?;
        let answer = look(&users);
        self.keep(room, Arc::new(RwLock::new(Joined { as_of: snapshot.pos()?, users })));
        Ok(answer)
    }

    /// To be called before members change, by who holds the room's lock.
    pub(super) fn before(&self, server: &Server, room: RoomNid) -> Option<Before> {
        let joined = self.rooms.get(&room)?.joined;
        let is_current = joined.read().is_current(server, room);
        is_current.then_some(Before(joined))
    }

    /// Brings up to date what was known before an event, under the same lock: a large room need not be read again at each join.
    pub(super) fn change(&self, server: &Server, before: Before, appended: &Appended) {
        let mut joined = before.0.write();
        for (user, membership) in appended.memberships.iter().filter(|(user, _)| server.is_ours(user)) {
            if *membership == Membership::Join {
                joined.users.insert(user.clone());
            } else {
                joined.users.remove(user);
            }
        }
        joined.as_of = appended.pos;
        drop(joined);
        self.keep(appended.room, before.0);
    }

    fn keep(&self, room: RoomNid, joined: Arc<RwLock<Joined>>) {
        let bytes = ROOM_BYTES + joined.read().users.len() as u64 * MEMBER_BYTES;
        self.rooms.insert(room, Kept { joined, bytes });
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
    fn a_large_room_is_known_while_it_grows_also_in_a_small_budget() {
        let members = LocalMembers::new((256 << 20) / 32); // as by default
        let joined = Arc::new(RwLock::new(Joined { as_of: StreamPos::default(), users: HashSet::new() }));
        for n in 0..100_000 {
            joined.write().users.insert(OwnedUserId::try_from(format!("@user{n}:x")).unwrap());
            members.keep(RoomNid(1), Arc::clone(&joined));
            assert!(members.rooms.get(&RoomNid(1)).is_some(), "{n}");
        }
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
