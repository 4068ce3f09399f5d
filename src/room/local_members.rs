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

use super::{
    Membership, View,
    append::Appended,
    tables::{Members, Origin},
};
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
    memory_bytes: u64,
}

#[derive(Clone)]
struct Kept {
    /// `None` if they would take all the memory there is.
    joined: Option<Arc<RwLock<Joined>>>,
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
        let rooms = Cache::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { rooms, memory_bytes }
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.rooms)
    }

    /// Gives those of `among` who are joined to a room to `look`, which has to be quick: a join waits for it. It is given others of our
    /// own users as well; of a room whose members are too many to be kept, `among` are looked up one by one.
    pub fn look<R>(
        &self,
        server: &Server,
        room: RoomNid,
        among: impl FnOnce() -> Vec<OwnedUserId>,
        look: impl FnOnce(&HashSet<OwnedUserId>) -> R,
    ) -> Result<R> {
        let kept = self.rooms.get(&room);
        if let Some(joined) = kept.as_ref().and_then(|kept| kept.joined.as_ref()) {
            let joined = joined.read();
            if joined.is_current(server, room) {
                return Ok(look(&joined.users));
            }
        }
        let snapshot = server.store.snapshot();
        if kept.is_some_and(|kept| kept.joined.is_none()) {
            let mut joined = HashSet::new();
            for user in among() {
                if snapshot.contains::<Members>(&(room, Membership::Join, Origin::Local, &user))? {
                    joined.insert(user);
                }
            }
            return Ok(look(&joined));
        }
        let users = View::of(&server.rooms, &snapshot, room)?.each_local_member().collect::<Result<HashSet<_>>>()?;
        let answer = look(&users);
        self.keep(room, Arc::new(RwLock::new(Joined { as_of: snapshot.pos()?, users })));
        Ok(answer)
    }

    /// To be called before members change, by who holds the room's lock.
    pub(super) fn before(&self, server: &Server, room: RoomNid) -> Option<Before> {
        let joined = self.rooms.get(&room)?.joined?;
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
        let kept = if bytes > self.memory_bytes / 10 * 9 {
            Kept { joined: None, bytes: ROOM_BYTES }
        } else {
            Kept { joined: Some(joined), bytes }
        };
        self.rooms.insert(room, kept);
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
    use crate::room::testing::{TestRoom, user};

    #[test]
    fn a_large_room_is_known_while_it_grows_also_in_a_small_budget() {
        let members = LocalMembers::new((256 << 20) / 32); // as by default
        let is_kept = || members.rooms.get(&RoomNid(1)).map(|kept| kept.joined.is_some());
        let joined = Arc::new(RwLock::new(Joined { as_of: StreamPos::default(), users: HashSet::new() }));
        for n in 0..90_000 {
            joined.write().users.insert(OwnedUserId::try_from(format!("@user{n}:x")).unwrap());
            members.keep(RoomNid(1), Arc::clone(&joined));
            assert_eq!(is_kept(), Some(true), "{n}");
        }
        for n in 90_000..100_000 {
            joined.write().users.insert(OwnedUserId::try_from(format!("@user{n}:x")).unwrap());
        }
        members.keep(RoomNid(1), joined);
        assert_eq!(is_kept(), Some(false), "they are too many, and that is remembered");
    }

    #[test]
    fn members_who_are_too_many_to_be_kept_are_looked_up_one_by_one() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        let members = LocalMembers::new(ROOM_BYTES + MEMBER_BYTES);
        let joined = |among: &[&str]| {
            let among = || among.iter().map(|name| user(name)).collect();
            let mut joined =
                members.look(&room.server, room.nid, among, |users| Vec::from_iter(users.clone())).unwrap();
            joined.sort();
            joined
        };
        assert_eq!(joined(&[]), [user("alice"), user("bob")], "they are read once");
        assert_eq!(joined(&["alice", "charlie"]), [user("alice")]);
        room.member("alice", "alice", "leave");
        assert_eq!(joined(&["alice", "bob"]), [user("bob")]);
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
