//! Which events go to which servers.

use std::{collections::BTreeSet, sync::Arc};

use ruma::OwnedServerName;

use super::{additions::Additions, arrivals::Arrival, device_lists, may_tell, tables::Item, wake};
use crate::{
    Server,
    error::Result,
    event::StoredEvent,
    federation::relay,
    log,
    room::{
        Membership, partial,
        servers::{forget_gone, servers_at, servers_since},
        sticky,
        tables::Events,
        view::membership_in,
    },
    store::{self, EventNid, RoomNid, Snapshot, StreamPos},
};

/// The name of our cursor in the log.
const READER: &str = "federation";

/// How many entries of the log are worked on at a time.
const ENTRIES: usize = 200;

/// Puts each accepted event of our users into the queues of the servers that it concerns, until the server ends.
pub async fn follow(server: Arc<Server>) {
    log::follow(server, READER, ENTRIES, queue).await;
}

/// Whether all events up to `pos` are in the queues.
pub(super) async fn have_passed(server: &Arc<Server>, pos: StreamPos) -> Result<bool> {
    let read = move |snapshot: &Snapshot<'_>| Ok(log::next_of(snapshot, READER)?.is_none_or(|next| next > pos));
    server.read(read).await
}

async fn queue(server: Arc<Server>, entries: Vec<log::Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut additions = Additions::default();
        let mut rooms = BTreeSet::new();
        let mut relayed = Vec::new();
        let mut arrivals = Vec::new();
        let mut greetings = Vec::new();
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
                let newcomers = servers_since(&snapshot, entry.room, entry.pos)?;
                greetings.extend(Arrival::of_newcomers(server, &snapshot, entry.room, &newcomers)?);
                for newcomer in newcomers {
                    add_sticky(server, &snapshot, entry.room, newcomer, &mut additions)?;
                }
            }
            arrivals.extend(arrival(server, &snapshot, entry, &event)?);
        }
        greetings.extend_from_slice(&arrivals);
        Ok((additions, rooms, relayed, arrivals, greetings))
    };
    let (mut additions, rooms, relayed, arrivals, greetings) = server.blocking(read).await?;
    let now_ms = server.clock.now_ms();
    // Not durable yet: if it is lost, so is the cursor, and the events are queued once more.
    let write = move |tx: &mut store::Transaction<'_>| {
        log::done(tx, READER, last);
        for room in rooms {
            forget_gone(tx, room, last)?;
        }
        for event_id in relayed {
            relay::done(tx, &event_id);
        }
        for Arrival { user, servers } in arrivals {
            device_lists::introduce(tx, &mut additions, &user, &servers, now_ms)?;
        }
        Ok::<_, crate::error::Error>(additions.write(tx)?)
    };
    for destination in server.store.write(write).await?.value {
        wake(&server, destination);
    }
    super::greet(&server, greetings);
    Ok(())
}

/// Whom we must tell of an event that our server made, or that it let in for another one, `from`. What another server
/// let in for us is told by that one.
fn destinations(
    server: &Server,
    snapshot: &Snapshot<'_>,
    entry: log::Entry,
    event: &StoredEvent,
    from: Option<OwnedServerName>,
) -> Result<BTreeSet<OwnedServerName>> {
    if server.is_ours(&event.sender) == from.is_some() {
        return Ok(BTreeSet::new());
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

/// The arrival that an event is.
fn arrival(
    server: &Server,
    snapshot: &Snapshot<'_>,
    entry: log::Entry,
    event: &StoredEvent,
) -> Result<Option<Arrival>> {
    let user = event.member().filter(|user| server.is_ours(user));
    let Some(user) = user.filter(|_| membership_by(event) == Some(Membership::Join)) else { return Ok(None) };
    let before = event.replaces.map(|before| snapshot.get::<Events>(&(entry.room, EventNid(before)))).transpose()?;
    if before.flatten().is_some_and(|before| membership_by(&before) == Some(Membership::Join)) {
        return Ok(None);
    }
    // Who is in a room whose state is not whole is known later; so are those told then who came before that.
    let was_partial = partial::completed_at(snapshot, entry.room)?.is_some_and(|at| at > entry.pos);
    if was_partial || partial::is_partial(snapshot, entry.room)? {
        return Ok(None);
    }
    let servers = servers_at(snapshot, entry.room, entry.pos)?;
    Arrival::find(server, snapshot, user, (entry.room, entry.pos), servers)
}

fn membership_by(event: &StoredEvent) -> Option<Membership> {
    membership_in(event.view().content().ok()?.get())
}

/// The server of somebody whom the event takes out of the room, or whose invite or knock it ends: it need not be in
/// the room to be told.
fn server_of_the_removed(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    event: &StoredEvent,
) -> Result<Option<OwnedServerName>> {
    let ends = |event: &StoredEvent| matches!(membership_by(event), Some(Membership::Leave | Membership::Ban));
    let Some(user) = event.member().filter(|_| ends(event)) else { return Ok(None) };
    let Some(before) = event.replaces else { return Ok(None) };
    let before = snapshot.get::<Events>(&(room, EventNid(before)))?;
    let was_there = before.is_some_and(|before| !ends(&before));
    Ok(was_there.then(|| user.server_name().to_owned()))
}
