//! What we tell other servers. Each destination has a queue of rows that point to what is to be sent, and, while there is
//! anything in it, a task that sends transactions one after the other.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#transactions>

mod additions;
mod arrivals;
mod device_lists;
mod events;
mod sender;
pub mod tables;
mod transaction;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedServerName, OwnedUserId, UserId};

pub use self::{
    additions::Additions,
    arrivals::Arrival,
    device_lists::{note as note_device_update, tell_again as tell_devices_again},
    sender::{Senders, is_alive, is_sending, retry, turned_away, wake},
};
use crate::{
    Server,
    error::Result,
    federation::tables::Deliveries,
    room::{
        Membership,
        servers::{outside, servers_in},
        tables::UserRooms,
    },
    store::{self, RoomNid, Snapshot, Transaction},
    user::presence::State,
};

/// How often it is looked whether something was sent that somebody waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A server passes over what it is told of users with whom it has no room, so it must know the room first.
const GREETED_AFTER: Duration = Duration::from_secs(1);

/// Starts the readers, and the senders of what was left by the last run.
pub fn start(server: &Arc<Server>) {
    tokio::spawn(events::follow(Arc::clone(server)));
    tokio::spawn(device_lists::follow(Arc::clone(server)));
    tokio::spawn(sender::resume(Arc::clone(server)));
}

/// Waits until everything that has happened up to now is sent to these servers, as far as it concerns them.
pub async fn until_sent(server: &Arc<Server>, destinations: &[OwnedServerName]) -> Result<()> {
    let until = server.store.durable_pos();
    while !events::have_passed(server, until).await? {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    for destination in destinations {
        // Between its rows and the sender that is woken for them there is a moment.
        while is_sending(server, destination)
            || server.store.snapshot().contains::<tables::Destinations>(&&**destination)?
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Queues all devices of these users of ours for servers that may not have heard of all; whose senders must be woken. The
/// transaction puts nothing else into queues.
pub fn introduce(
    tx: &mut Transaction<'_>,
    users: &[OwnedUserId],
    servers: &[OwnedServerName],
    now_ms: u64,
) -> Result<Vec<OwnedServerName>> {
    let mut additions = Additions::default();
    if !servers.is_empty() {
        for user in users {
            device_lists::introduce(tx, &mut additions, user, servers, now_ms)?;
        }
    }
    Ok(additions.write(tx)?)
}

/// Queues all devices of users of ours for the servers that they came to have rooms with; whose senders must be woken. The
/// transaction puts nothing else into queues.
pub fn introduce_arrivals(tx: &mut Transaction<'_>, arrivals: &[Arrival], now_ms: u64) -> Result<Vec<OwnedServerName>> {
    let mut additions = Additions::default();
    for Arrival { user, servers } in arrivals {
        device_lists::introduce(tx, &mut additions, user, servers, now_ms)?;
    }
    Ok(additions.write(tx)?)
}

/// The other servers in a room that we may talk to.
pub fn others_in(server: &Server, snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<OwnedServerName>> {
    let mut servers = servers_in(snapshot, room)?;
    servers.retain(|name| may_tell(server, name));
    Ok(servers)
}

/// The other servers of all rooms that one of our users is joined to.
pub fn others_of(server: &Server, snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<BTreeSet<OwnedServerName>> {
    let mut servers = BTreeSet::new();
    for row in snapshot.list::<UserRooms>(&user) {
        let row = row?;
        if row.value.membership == Membership::Join {
            servers.extend(servers_in(snapshot, row.key()?.1)?);
        }
    }
    servers.retain(|name| may_tell(server, name));
    Ok(servers)
}

/// Those of `servers` that `user`, who wants to send them something, may have made up: none of them ever took
/// anything from us, and nobody of theirs is in a room that he is joined to, or invited to one.
pub fn strangers<'a>(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    servers: impl Iterator<Item = &'a OwnedServerName>,
) -> store::Result<BTreeSet<OwnedServerName>> {
    let mut strangers = BTreeSet::new();
    for name in servers {
        if !snapshot.contains::<Deliveries>(&&**name)? {
            strangers.insert(name.clone());
        }
    }
    for row in snapshot.list::<UserRooms>(&user) {
        if strangers.is_empty() {
            break;
        }
        let row = row?;
        if row.value.membership == Membership::Join {
            strangers = outside(snapshot, row.key()?.1, strangers)?;
        }
    }
    Ok(strangers)
}

/// Whether a server is another one, which our configuration lets us talk to.
pub fn may_tell(server: &Server, name: &ruma::ServerName) -> bool {
    name != server.name() && super::allows(server, name)
}

/// Tells the other servers of a room, while they can be reached, that a user of ours types or stopped.
pub fn typing(server: &Arc<Server>, room: RoomNid, user: &UserId, is_typing: bool) -> store::Result<()> {
    if !server.is_ours(user) {
        return Ok(());
    }
    let destinations = others_in(server, &server.store.snapshot(), room)?;
    sender::add_ephemeral(server, destinations, |ephemeral| ephemeral.typing(room, user.to_owned(), is_typing));
    Ok(())
}

/// Tells the servers that came to have rooms with users of ours of those who are here: of all others they hear when that
/// changes.
pub fn greet(server: &Arc<Server>, arrivals: Vec<Arrival>) {
    let greetings: Vec<_> =
        arrivals.into_iter().filter(|arrival| server.presence.get(&arrival.user).state > State::Offline).collect();
    if greetings.is_empty() {
        return;
    }
    let server = Arc::clone(server);
    tokio::spawn(async move {
        tokio::time::sleep(GREETED_AFTER).await;
        for Arrival { user, servers } in greetings {
            sender::add_ephemeral(&server, servers, |ephemeral| ephemeral.presence(user.clone()));
        }
    });
}

/// Tells the servers of a user's rooms, while they can be reached, what he is now.
pub fn presence(server: &Arc<Server>, user: &OwnedUserId) -> store::Result<()> {
    if !server.is_ours(user) {
        return Ok(());
    }
    let destinations = others_of(server, &server.store.snapshot(), user)?;
    sender::add_ephemeral(server, destinations, |ephemeral| ephemeral.presence(user.clone()));
    Ok(())
}
