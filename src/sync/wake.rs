//! Who waits for news, and whom a change concerns.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;
use tracing::error;

use crate::{
    Server,
    room::{View, append::Appended, tables::Members},
    store::{self, Group, RoomNid, StreamPos},
};

/// Of how many rooms the local members are kept in memory.
const CACHED_ROOMS: usize = 10_000;

/// The users who wait, and the local members of the rooms that had news.
pub struct Wakers {
    users: Mutex<HashMap<OwnedUserId, watch::Sender<()>>>,
    members: Cache<RoomNid, LocalMembers>,
}

/// Our own users who were joined to a room at a moment.
#[derive(Clone)]
struct LocalMembers {
    as_of: StreamPos,
    users: Arc<[OwnedUserId]>,
}

impl Default for Wakers {
    fn default() -> Self {
        Self { users: Mutex::default(), members: Cache::new(CACHED_ROOMS) }
    }
}

impl Wakers {
    /// Hears of everything that concerns `user` from now on. Subscribe first, then look what is there.
    pub fn subscribe(&self, user: &UserId) -> watch::Receiver<()> {
        let mut users = self.users.lock();
        if let Some(sender) = users.get(user) {
            return sender.subscribe();
        }
        users.retain(|_, sender| sender.receiver_count() > 0);
        let (sender, receiver) = watch::channel(());
        users.insert(user.to_owned(), sender);
        receiver
    }

    /// How many requests wait for news at present.
    pub fn waiting(&self) -> usize {
        self.users.lock().values().map(watch::Sender::receiver_count).sum()
    }

    /// Something of `user` changed.
    pub fn user(&self, user: &UserId) {
        if let Some(sender) = self.users.lock().get(user) {
            sender.send_replace(());
        }
    }

    /// Something changed in a room that its members see.
    pub fn room(&self, server: &Server, room: RoomNid) {
        match self.local_members(server, room) {
            Ok(members) => {
                let users = self.users.lock();
                members.iter().filter_map(|user| users.get(user)).for_each(|sender| sender.send_replace(()));
            }
            // They see the change with their next sync, at the latest when this one's time is up.
            Err(error) => error!("the members of a room can't be read, so nobody is woken: {error}"),
        }
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
