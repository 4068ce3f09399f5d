//! Telling the servers in a room of the devices of our users, where these came in before the room's state was whole: only
//! then is it known which servers are there. And our user directory of who is there.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::{sync::Arc, time::Duration};

use tracing::error;

use super::queue::{self, Arrival};
use crate::{
    Server,
    error::Result,
    room::{
        View,
        partial::{self, tables::Introductions},
    },
    store::{RoomNid, Transaction},
    user::directory,
};

/// How long after a room's state became whole that is done: whoever looks into a room and leaves it again need not be
/// announced to all of its servers, of which there may be thousands. Source: our choice, docs/architecture.md.
const DELAY: Duration = Duration::from_secs(10);

/// Goes on with what was not done before a restart.
pub async fn resume(server: Arc<Server>) {
    let rooms = server.read(|snapshot| {
        let rows = snapshot.list::<Introductions>(&());
        Ok(rows.map(|row| row?.key()).collect::<crate::store::Result<Vec<_>>>()?)
    });
    match rooms.await {
        Ok(rooms) => rooms.into_iter().for_each(|room| start(&server, room)),
        Err(error) => error!("the rooms whose servers are to be told of devices can't be read: {error:?}"),
    }
}

/// Sees to it that all members of `room` can be found, and that its servers are told in a while.
pub fn start(server: &Arc<Server>, room: RoomNid) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        // Before the room's row goes: that is all that leads here after a restart.
        if let Err(error) = directory::remote::add_members(&server, room).await {
            error!(room = room.0, "the members of a room can't be put into the user directory: {error:?}");
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(DELAY) => {}
        }
        if let Err(error) = introduce(&server, room).await {
            error!(room = room.0, "the servers in a room can't be told of our users' devices: {error:?}");
        }
    });
}

/// Tells the servers in a room now what they are to be told.
pub async fn introduce(server: &Arc<Server>, room: RoomNid) -> Result<()> {
    let look = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let Some(completed) = snapshot.get::<Introductions>(&room)? else { return Ok(None) };
        // If it was left meanwhile and entered anew, its next completion leads here again.
        if partial::is_partial(&snapshot, room)? {
            return Ok(Some((completed, Vec::new())));
        }
        let view = View::of(&server.rooms, &snapshot, room)?;
        Ok(Some((completed, Arrival::list(server, &view, completed)?)))
    };
    let Some((completed, arrivals)) = server.blocking(look).await? else { return Ok(()) };
    let now_ms = server.clock.now_ms();
    let greetings = arrivals.clone();
    let write = move |tx: &mut Transaction<'_>| {
        if tx.get::<Introductions>(&room)? != Some(completed) {
            return Ok(Vec::new());
        }
        tx.delete::<Introductions>(&room);
        queue::introduce_arrivals(tx, &arrivals, now_ms)
    };
    for destination in server.store.commit(write).await? {
        queue::wake(server, destination);
    }
    queue::greet(server, greetings);
    Ok(())
}
