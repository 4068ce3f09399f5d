//! Who waits for news, and whom a change concerns.

use std::{collections::HashMap, hash::Hash};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;
use tracing::error;

use crate::{
    Server,
    room::{Membership, append::Appended, local_members::each_of, servers::RemoteRooms, tables::UserRooms},
    store::{self, RoomNid},
};

/// The users who wait, and the rooms that somebody looks into.
#[derive(Default)]
pub struct Wakers {
    users: Mutex<HashMap<OwnedUserId, watch::Sender<()>>>,
    /// Those who look into a room without being in it.
    onlookers: Mutex<HashMap<RoomNid, watch::Sender<()>>>,
}

impl Wakers {
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
        let waiting = || self.users.lock().keys().cloned().collect();
        let woken = server.local_members.look(server, room, waiting, |members| {
            each_of(members, &self.users.lock(), |_, sender| {
                sender.send_replace(());
            });
        });
        // They see the change with their next sync, at the latest when this one's time is up.
        if let Err(error) = woken {
            error!("the members of a room can't be read, so nobody is woken: {error}");
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
