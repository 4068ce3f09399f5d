//! Who waits for news, and whom a change concerns.

use std::{collections::HashMap, hash::Hash};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;
use tracing::error;

use super::token::Token;
use crate::{
    Server,
    room::{Membership, append::Appended, local_members::each_of, servers::RemoteRooms, tables::UserRooms},
    store::{self, RoomNid, StreamPos},
};

/// The users who wait, and the rooms that somebody looks into.
#[derive(Default)]
pub struct Wakers {
    users: Mutex<Listening<OwnedUserId>>,
    /// Those who look into a room without being in it.
    onlookers: Mutex<Listening<RoomNid>>,
}

/// Who hears of news, each with the moment of the last that it was told of.
struct Listening<K> {
    senders: HashMap<K, watch::Sender<Token>>,
    /// From how many on those are forgotten whom nobody waits for at present.
    swept_from: usize,
}

/// So many are remembered between their requests, at least.
const REMEMBERED: usize = 1_024;

impl<K> Default for Listening<K> {
    fn default() -> Self {
        Self { senders: HashMap::new(), swept_from: REMEMBERED }
    }
}

impl<K: Eq + Hash> Listening<K> {
    fn subscribe(&mut self, server: &Server, key: K) -> News {
        if let Some(sender) = self.senders.get(&key) {
            return News(sender.subscribe());
        }
        if self.senders.len() >= self.swept_from {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            self.swept_from = REMEMBERED.max(2 * self.senders.len());
        }
        // Under the lock: whatever is visible only later wakes us.
        let (sender, receiver) = watch::channel(moment(server));
        self.senders.insert(key, sender);
        News(receiver)
    }

    fn waiting(&self) -> usize {
        self.senders.values().map(watch::Sender::receiver_count).sum()
    }
}

/// The moment of whatever is visible now.
fn moment(server: &Server) -> Token {
    let pos = server.store.snapshot().pos().unwrap_or_else(|error| {
        error!("the newest change can't be read, so everybody who waits looks for news: {error}");
        StreamPos::MAX
    });
    Token::new(pos, server.ephemeral.newest())
}

/// Wakes who waits. Of changes that are told at the same time, the later one counts.
fn tell(sender: &watch::Sender<Token>, moment: Token) {
    sender.send_modify(|last| {
        *last = Token::new(last.pos.max(moment.pos), last.ephemeral.max(moment.ephemeral));
    });
}

/// Hears of news.
pub struct News(watch::Receiver<Token>);

impl News {
    /// Waits until there is something new, at best: it may be nothing that the client wants.
    pub async fn changed(&mut self) {
        // The sender ends with the server.
        let _ = self.0.changed().await;
    }

    /// Whether anything can have happened after `since`. If not, there is nothing to look for before [`Self::changed`].
    pub fn may_be_after(&self, server: &Server, since: Token) -> bool {
        let last = *self.0.borrow();
        let has_all = last.pos <= since.pos && last.ephemeral <= since.ephemeral && since.to_device == since.pos;
        let is_ours = since.ephemeral <= server.ephemeral.newest()
            && !server.store.is_lost(since.pos, server.store.durable_pos());
        !has_all || !is_ours
    }
}

impl Wakers {
    /// Hears of everything that concerns `user` from now on. Subscribe first, then look what is there.
    pub fn subscribe(&self, server: &Server, user: &UserId) -> News {
        self.users.lock().subscribe(server, user.to_owned())
    }

    /// Hears of everything that happens in a room from now on.
    pub fn subscribe_to_room(&self, server: &Server, room: RoomNid) -> News {
        self.onlookers.lock().subscribe(server, room)
    }

    /// How many requests wait for news at present.
    pub fn waiting(&self) -> usize {
        self.users.lock().waiting()
    }

    /// Something of `user` changed, and is visible.
    pub fn user(&self, server: &Server, user: &UserId) {
        if let Some(sender) = self.users.lock().senders.get(user) {
            tell(sender, moment(server));
        }
    }

    /// Something that its members see changed in a room, and is visible.
    pub fn room(&self, server: &Server, room: RoomNid) {
        let moment = moment(server);
        if let Some(sender) = self.onlookers.lock().senders.get(&room) {
            tell(sender, moment);
        }
        let waiting = || self.users.lock().senders.keys().cloned().collect();
        let woken = server.local_members.look(server, room, waiting, |members| {
            each_of(members, &self.users.lock().senders, |_, sender| {
                tell(sender, moment);
            });
        });
        // They see the change with their next sync, at the latest when this one's time is up.
        if let Err(error) = woken {
            error!("the members of a room can't be read, so nobody is woken: {error}");
        }
    }

    /// Something changed that `user` and everybody in his rooms sees.
    pub fn room_mates(&self, server: &Server, user: &UserId) {
        self.user(server, user);
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
        appended.memberships.iter().for_each(|(user, _)| self.user(server, user));
    }
}
