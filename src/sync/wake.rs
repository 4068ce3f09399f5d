//! Who waits for news, and whom a change concerns.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;
use tracing::error;

use crate::{
    Server,
    metrics::CacheUse,
    room::{
        Membership, View,
        append::Appended,
        servers::RemoteRooms,
        tables::{Members, UserRooms},
    },
    store::{self, Group, RoomNid, StreamPos},
};

/// What a room and each of its members take in memory, about.
const ROOM_BYTES: u64 = 150;
const MEMBER_BYTES: u64 = 60;

/// The users who wait, and the local members of the rooms that had news.
pub struct Wakers {
    users: Mutex<HashMap<OwnedUserId, watch::Sender<()>>>,
    /// Those who look into a room without being in it.
    onlookers: Mutex<HashMap<RoomNid, watch::Sender<()>>>,
    members: Cache<RoomNid, LocalMembers, Bytes>,
}

/// Our own users who were joined to a room at a moment.
#[derive(Clone)]
struct LocalMembers {
    as_of: StreamPos,
    users: Arc<[OwnedUserId]>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<RoomNid, LocalMembers> for Bytes {
    fn weight(&self, _: &RoomNid, members: &LocalMembers) -> u64 {
        ROOM_BYTES + members.users.len() as u64 * MEMBER_BYTES
    }
}

impl Wakers {
    /// `memory_bytes`: for the local members that are kept.
    pub fn new(memory_bytes: u64) -> Self {
        let members = Cache::with_weighter(1_000, memory_bytes, Bytes);
        Self { users: Mutex::default(), onlookers: Mutex::default(), members }
    }

    /// Hears of everything that concerns `user` from now on. Subscribe first, then look what is there.
    pub fn subscribe(&self, user: &UserId) -> watch::Receiver<()> {
        subscribe(&mut self.users.lock(), user.to_owned())
    }

    /// Hears of everything that happens in a room from now on.
    pub fn subscribe_to_room(&self, room: RoomNid) -> watch::Receiver<()> {
        subscribe(&mut self.onlookers.lock(), room)
    }

    /// How many requests wait for news at present.
    pub fn waiting(&self) -> usize {
        self.users.lock().values().map(watch::Sender::receiver_count).sum()
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.members)
    }

    /// Something of `user` changed.
    pub fn user(&self, user: &UserId) {
        if let Some(sender) = self.users.lock().get(user) {
            sender.send_replace(());
        }
    }

    /// Something changed in a room that its members see.
    pub fn room(&self, server: &Server, room: RoomNid) {
        if let Some(sender) = self.onlookers.lock().get(&room) {
            sender.send_replace(());
        }
        match self.local_members(server, room) {
            Ok(members) => {
                let users = self.users.lock();
                members.iter().filter_map(|user| users.get(user)).for_each(|sender| sender.send_replace(()));
            }
            // They see the change with their next sync, at the latest when this one's time is up.
            Err(error) => error!("the members of a room can't be read, so nobody is woken: {error}"),
        }
    }

    /// Something changed that `user` and everybody in his rooms sees.
    pub fn room_mates(&self, server: &Server, user: &UserId) {
        self.user(user);
        // Who is not woken sees the change with his next sync, at the latest when the present one's time is up.
        if let Err(error) = self.rooms_of(server, user) {
            error!("the rooms of {user} can't be read, so nobody in them is woken: {error}");
        }
    }

    fn rooms_of(&self, server: &Server, user: &UserId) -> store::Result<()> {
        let snapshot = server.store.snapshot();
        for row in snapshot.list::<UserRooms>(&user) {
            let row = row?;
            if row.value.membership == Membership::Join {
                self.room(server, row.key()?.1);
            }
        }
        for row in snapshot.list::<RemoteRooms>(&user) {
            self.room(server, row?.key()?.1);
        }
        Ok(())
    }

    /// A new event: wakes the room's members and those whose membership it changed.
    pub fn event(&self, server: &Server, appended: &Appended) {
        self.room(server, appended.room);
        appended.memberships.iter().for_each(|(user, _)| self.user(user));
    }

    /// Our own users who are joined to a room.
    pub fn local_members(&self, server: &Server, room: RoomNid) -> store::Result<Arc<[OwnedUserId]>> {
        if let Some(kept) = self.members.get(&room)
            && !server.store.recent().may_have_changed::<Members>(Group::of(room), kept.as_of)
        {
            return Ok(kept.users);
        }
        let snapshot = server.store.snapshot();
        let users: Arc<[OwnedUserId]> = View::of(&server.rooms, &snapshot, room)?.local_members()?.into();
        self.members.insert(room, LocalMembers { as_of: snapshot.pos()?, users: Arc::clone(&users) });
        Ok(users)
    }
}

fn subscribe<K: Eq + Hash>(waiting: &mut HashMap<K, watch::Sender<()>>, key: K) -> watch::Receiver<()> {
    if let Some(sender) = waiting.get(&key) {
        return sender.subscribe();
    }
    waiting.retain(|_, sender| sender.receiver_count() > 0);
    let (sender, receiver) = watch::channel(());
    waiting.insert(key, sender);
    receiver
}
