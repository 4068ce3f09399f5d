//! Which events go to which servers.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedServerName, UserId};

use super::{additions::Additions, may_tell, tables::Item, wake};
use crate::{
    Server,
    error::Result,
    event::StoredEvent,
    federation::relay,
    log,
    room::{
        Membership,
        servers::{RoomServers, forget_gone, servers_at, servers_since},
        sticky,
        tables::Events,
        view::membership_in,
    },
    store::{self, EventNid, RoomNid, Snapshot},
};

/// The name of our cursor in the log.
const READER: &str = "federation";

/// How many entries of the log are worked on at a time.
const ENTRIES: usize = 200;

/// Puts each accepted event of our users into the queues of the servers that it concerns, until the server ends.
pub async fn follow(server: Arc<Server>) {
    log::follow(server, READER, ENTRIES, queue).await;
}

async fn queue(server: Arc<Server>, entries: Vec<log::Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut additions = Additions::default();
        let mut rooms = BTreeSet::new();
        let mut relayed = Vec::new();
        for entry in entries {
            rooms.insert(entry.room);
            let Some(event) = snapshot.get::<Events>(&(entry.room, entry.event))? else { continue };
            let from = relay::source(&snapshot, &event.event_id)?;
            if from.is_some() {
                relayed.push(event.event_id.clone());
            }
            for destination in destinations(server, &snapshot, entry, &event, from)? {
                let item = Item::Event { room: entry.room, event: entry.event };
                additions.add_event(destination, entry.pos, item);
            }
            if event.event_type == "m.room.member" {
                for newcomer in servers_since(&snapshot, entry.room, entry.pos)? {
                    add_sticky(server, &snapshot, entry.room, newcomer, &mut additions)?;
                }
            }
        }
        Ok((additions, rooms, relayed))
    };
    let (additions, rooms, relayed) = server.blocking(read).await?;
    // Not durable yet: if it is lost, so is the cursor, and the events are queued once more.
    let write = move |tx: &mut store::Transaction<'_>| {
        log::done(tx, READER, last);
        for room in rooms {
            forget_gone(tx, room, last)?;
        }
        for event_id in relayed {
            relay::done(tx, &event_id);
        }
        Ok::<_, crate::error::Error>(additions.write(tx)?)
    };
    for destination in server.store.write(write).await?.value {
        wake(&server, destination);
    }
    Ok(())
}

/// Whom we must tell of an event that our server made, or that it let in for another one, `from`.
fn destinations(
    server: &Server,
    snapshot: &Snapshot<'_>,
    entry: log::Entry,
    event: &StoredEvent,
    from: Option<OwnedServerName>,
) -> Result<BTreeSet<OwnedServerName>> {
    let none = BTreeSet::new();
    let ours = snapshot.get::<RoomServers>(&(entry.room, server.name()))?;
    // With our first join there, another server, which accepted it, tells all others.
    if ours.is_some_and(|ours| ours.joined > 0 && ours.since == entry.pos) {
        return Ok(none);
    }
    if !server.is_ours(&event.sender) && from.is_none() {
        return Ok(none);
    }
    let mut servers: BTreeSet<_> = servers_at(snapshot, entry.room, entry.pos)?.into_iter().collect();
    servers.extend(server_of_the_removed(snapshot, entry.room, event)?);
    servers.retain(|name| may_tell(server, name) && from.as_ref() != Some(name));
    Ok(servers)
}

/// Tells a server that has just come into a room of the sticky events there that are ours (MSC4354).
fn add_sticky(
    server: &Server,
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    newcomer: OwnedServerName,
    additions: &mut Additions,
) -> Result<()> {
    if !may_tell(server, &newcomer) {
        return Ok(());
    }
    for (since, event) in sticky::of_ours(server, snapshot, room)? {
        additions.add_event(newcomer.clone(), since, Item::Event { room, event });
    }
    Ok(())
}

/// The server of somebody whom the event takes out of the room, or whose invite or knock it ends: it need not be in
/// the room to be told.
fn server_of_the_removed(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    event: &StoredEvent,
) -> Result<Option<OwnedServerName>> {
    let membership = |event: &StoredEvent| {
        let content = event.view().content().ok().map(|content| content.get().to_owned());
        content.and_then(|content| membership_in(&content))
    };
    let ends = |membership| matches!(membership, Some(Membership::Leave | Membership::Ban));
    if event.event_type != "m.room.member" || !ends(membership(event)) {
        return Ok(None);
    }
    let Some(before) = event.replaces else { return Ok(None) };
    let before = snapshot.get::<Events>(&(room, EventNid(before)))?;
    let user = event.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let was_there = before.is_some_and(|before| !ends(membership(&before)));
    Ok(user.filter(|_| was_there).map(|user| user.server_name().to_owned()))
}
