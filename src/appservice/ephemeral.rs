//! Typing, receipts and presence on their way to a service: in memory, like typing and presence themselves.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Running, interest};
use crate::{
    Server,
    error::Result,
    room::{Membership, View, servers::shared_rooms, tables::UserRooms},
    store::{RoomNid, Snapshot},
    sync::presence::shape as presence_event,
};

/// How much waits for a service that can't be reached: the oldest is dropped.
const KEPT: usize = 1_000;

#[derive(Default)]
pub struct Mailbox {
    waiting: Mutex<VecDeque<Value>>,
    pub has_news: Notify,
}

impl Mailbox {
    fn put(&self, event: Value) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= KEPT {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.has_news.notify_one();
    }

    /// At most `limit` of what waits, oldest first.
    pub fn take(&self, limit: usize) -> Vec<Value> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(limit);
        waiting.drain(..count).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }
}

fn listeners(server: &Server) -> impl Iterator<Item = &Arc<Running>> {
    let listens = |service: &&Arc<Running>| service.registration.wants_ephemeral && service.registration.url.is_some();
    server.appservices.iter().filter(listens)
}

/// Tells services who types in a room now.
pub fn typing(server: &Server, room: RoomNid, users: &[OwnedUserId]) -> Result<()> {
    if listeners(server).next().is_none() {
        return Ok(());
    }
    let snapshot = server.store.snapshot();
    let view = View::of(&server.rooms, &snapshot, room)?;
    let event = json!({ "type": "m.typing", "room_id": view.room_id(), "content": { "user_ids": users } });
    tell_room(server, &view, |_| Some(event.clone()))
}

/// Tells services of a receipt: of a private one only the service of the user himself.
pub fn receipt(server: &Server, room: RoomNid, user: &UserId, content: &Value, is_private: bool) -> Result<()> {
    if listeners(server).next().is_none() {
        return Ok(());
    }
    let snapshot = server.store.snapshot();
    let view = View::of(&server.rooms, &snapshot, room)?;
    let event = json!({ "type": "m.receipt", "room_id": view.room_id(), "content": content });
    tell_room(server, &view, |service| (!is_private || service.registration.has_user(user)).then(|| event.clone()))
}

/// Tells services of the presence of a user who is theirs, or in a room that concerns them.
pub fn presence(server: &Server, user: &UserId) -> Result<()> {
    if listeners(server).next().is_none() {
        return Ok(());
    }
    let snapshot = server.store.snapshot();
    let event = presence_event(&snapshot, user, &server.presence.get(user), server.clock.now_ms())?;
    for service in listeners(server) {
        if service.registration.has_user(user) || meets(server, &snapshot, user, service)? {
            service.mailbox.put(event.clone());
        }
    }
    Ok(())
}

/// Whether a user, of whatever server, is in a room that concerns a service.
pub(super) fn meets(server: &Server, snapshot: &Snapshot<'_>, user: &UserId, service: &Running) -> Result<bool> {
    for row in snapshot.list::<UserRooms>(&user) {
        let row = row?;
        if row.value.membership == Membership::Join {
            let view = View::of(&server.rooms, snapshot, row.key()?.1)?;
            if interest::in_room(server, &view, service)? {
                return Ok(true);
            }
        }
    }
    for (room, _) in shared_rooms(server, snapshot, user)? {
        let view = View::of(&server.rooms, snapshot, room)?;
        if interest::in_room(server, &view, service)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn tell_room(server: &Server, view: &View<'_>, event: impl Fn(&Running) -> Option<Value>) -> Result<()> {
    for service in listeners(server) {
        if interest::in_room(server, view, service)?
            && let Some(event) = event(service)
        {
            service.mailbox.put(event);
        }
    }
    Ok(())
}
