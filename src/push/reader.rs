//! Follows the log of events and notes for each pusher what it has to tell.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tracing::error;

use super::{
    deliver,
    pushers::{PusherKey, Pushers},
    queue::{self, Push, PushQueue},
    unread::{self, Told},
};
use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    log::{self, Entry},
    room::{
        Membership, View, ends,
        local_members::each_of,
        tables::{Rooms, UserRooms},
    },
    store::{Group, RoomNid, Snapshot, StreamPos, Table, Transaction},
    user::invite_permission::{self, Permission},
};

/// The name of this reader in the log.
const READER: &str = "push";

/// Entries that are looked at, and whose pushes are written, at a time.
const BATCH: usize = 50;

/// The users who have pushers, and which, as they were at a moment.
#[derive(Default)]
pub struct Known(Mutex<Option<(StreamPos, Arc<ByUser>)>>);

type ByUser = HashMap<OwnedUserId, Vec<PusherKey>>;

impl Known {
    fn get(&self, server: &Server, snapshot: &Snapshot<'_>) -> Result<Arc<ByUser>> {
        let mut known = self.0.lock();
        if let Some((as_of, by_user)) = &*known
            && !server.store.recent().may_have_changed::<Pushers>(Group::of(Pushers::NAME), *as_of)
        {
            return Ok(Arc::clone(by_user));
        }
        let mut by_user = ByUser::new();
        for row in snapshot.list::<Pushers>(&()) {
            let row = row?;
            let (user, app_id, pushkey) = row.key()?;
            if row.value.is_enabled {
                let key = PusherKey { user: user.to_owned(), app_id: app_id.to_owned(), pushkey: pushkey.to_owned() };
                by_user.entry(user.to_owned()).or_default().push(key);
            }
        }
        let by_user = Arc::new(by_user);
        *known = Some((snapshot.pos()?, Arc::clone(&by_user)));
        Ok(by_user)
    }
}

/// What the entries of the log make pushers do.
#[derive(Default)]
struct Plan {
    pushes: Vec<(PusherKey, Entry, Push)>,
    /// Who wrote something, and by that has read.
    readers: Vec<OwnedUserId>,
}

/// Runs until the server ends. First goes on with what the last run left.
pub async fn run(server: Arc<Server>) {
    match server.read(queue::pushers_with_work).await {
        Ok(keys) => keys.into_iter().for_each(|key| deliver::wake(&server, key)),
        Err(error) => error!(?error, "what pushers have still to tell can't be read"),
    }
    log::follow(server, READER, BATCH, work).await;
}

async fn work(server: Arc<Server>, entries: Vec<Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let plan = server.blocking(move |server| work_out(server, &entries)).await?;
    let mut to_wake: Vec<PusherKey> = plan.pushes.iter().map(|(key, ..)| key.clone()).collect();
    if plan.pushes.is_empty() && plan.readers.is_empty() {
        // Nobody waits for this, so no fsync need be made for it.
        let pass = move |tx: &mut Transaction<'_>| {
            log::done(tx, READER, last);
            Ok::<_, Error>(())
        };
        server.store.write(pass).await?;
        return Ok(());
    }
    let readers = plan.readers.clone();
    let write = move |tx: &mut Transaction<'_>| {
        for (key, entry, push) in &plan.pushes {
            put(tx, key, entry, push)?;
        }
        for user in &plan.readers {
            queue::has_read(tx, user)?;
        }
        log::done(tx, READER, last);
        Ok::<_, Error>(())
    };
    server.store.commit(write).await?;
    to_wake.dedup();
    to_wake.into_iter().for_each(|key| deliver::wake(&server, key));
    for user in readers {
        deliver::wake_user(&server, &user);
    }
    Ok(())
}

/// Notes for the pushers of `user` that he was invited to a room that we are not in: such an event is not in the log.
pub async fn invited(server: &Arc<Server>, user: &UserId, room: RoomNid) -> Result<()> {
    let owner = user.to_owned();
    let pushes = server.blocking(move |server| invitation(server, &owner, room)).await?;
    let to_wake: Vec<PusherKey> = pushes.iter().map(|(key, ..)| key.clone()).collect();
    if to_wake.is_empty() {
        return Ok(());
    }
    let write = move |tx: &mut Transaction<'_>| {
        for (key, entry, push) in &pushes {
            put(tx, key, entry, push)?;
        }
        Ok::<_, Error>(())
    };
    server.store.commit(write).await?;
    to_wake.into_iter().for_each(|key| deliver::wake(server, key));
    Ok(())
}

fn invitation(server: &Server, user: &UserId, room: RoomNid) -> Result<Vec<(PusherKey, Entry, Push)>> {
    let snapshot = server.store.snapshot();
    let keys = server.pushes.known.get(server, &snapshot)?.get(user).cloned().unwrap_or_default();
    let Some(row) = snapshot.get::<UserRooms>(&(user, room))?.filter(|_| !keys.is_empty()) else {
        return Ok(Vec::new());
    };
    let view = View::of(&server.rooms, &snapshot, room)?;
    let entry = Entry { pos: row.since, room, event: row.event };
    let Some(told) = tell(server, &view, user, &entry, &view.event(row.event)?)? else { return Ok(Vec::new()) };
    let actions = serde_json::to_string(&told.actions).map_err(Error::internal)?;
    let push = Push { event: row.event, actions, at_ms: server.clock.now_ms() };
    Ok(keys.into_iter().map(|key| (key, entry, push.clone())).collect())
}

/// Puts what a pusher has to tell into its queue, unless it was removed meanwhile.
fn put(tx: &mut Transaction<'_>, key: &PusherKey, entry: &Entry, push: &Push) -> Result<()> {
    if tx.before().contains::<Pushers>(&key.parts())? {
        let (user, app_id, pushkey) = key.parts();
        tx.put::<PushQueue>(&(user, app_id, pushkey, entry.pos, entry.room), push);
    }
    Ok(())
}

fn work_out(server: &Server, entries: &[Entry]) -> Result<Plan> {
    let snapshot = server.store.snapshot();
    let pushers = server.pushes.known.get(server, &snapshot)?;
    let mut plan = Plan::default();
    if pushers.is_empty() {
        return Ok(plan);
    }
    for entry in entries.iter().filter(|entry| snapshot.contains::<Rooms>(&entry.room).unwrap_or(true)) {
        let view = View::of(&server.rooms, &snapshot, entry.room)?;
        let event = view.event(entry.event)?;
        // What the server sends as him to join the ends of the room is not his.
        let is_his = event.state_key.is_none() && event.event_type != ends::DUMMY;
        if is_his && pushers.contains_key(&event.sender) && !plan.readers.contains(&event.sender) {
            plan.readers.push(event.sender.clone());
        }
        let mut concerned = Vec::new();
        let those = || pushers.keys().cloned().collect();
        server.local_members.look(server, entry.room, those, |members| {
            each_of(members, &pushers, |user, keys| concerned.push((user, keys)));
        })?;
        let invited = invited_by(server, &event);
        concerned.extend(invited.as_ref().and_then(|user| pushers.get_key_value(user)));
        for (user, keys) in concerned {
            let Some(told) = tell(server, &view, user, entry, &event)? else { continue };
            let actions = serde_json::to_string(&told.actions).map_err(Error::internal)?;
            for key in keys {
                let push = Push { event: entry.event, actions: actions.clone(), at_ms: server.clock.now_ms() };
                plan.pushes.push((key.clone(), *entry, push));
            }
        }
    }
    Ok(plan)
}

/// Our own user whom an event invites.
fn invited_by(server: &Server, event: &StoredEvent) -> Option<OwnedUserId> {
    if event.event_type != "m.room.member" {
        return None;
    }
    event.state_key.as_deref().and_then(|key| OwnedUserId::try_from(key).ok()).filter(|user| server.is_ours(user))
}

/// What `user` is to be told of an event that came in live.
pub(super) fn tell(
    server: &Server,
    view: &View<'_>,
    user: &UserId,
    entry: &Entry,
    event: &StoredEvent,
) -> Result<Option<Told>> {
    let Some(row) = view.snapshot.get::<UserRooms>(&(user, view.nid))? else { return Ok(None) };
    let concerns_him = match row.membership {
        // Not of what was said before he came.
        Membership::Join => row.joined_at.is_some_and(|joined| joined < entry.pos),
        Membership::Invite => {
            row.event == entry.event
                && invite_permission::of(view.snapshot, user, &event.sender)? == Permission::Allowed
        }
        _ => false,
    };
    if !concerns_him || server.unread.ignores(server, view.snapshot, user, &event.sender)? {
        return Ok(None);
    }
    unread::told(server, view, user, entry.pos.into(), entry.event)
}
