//! Waiting for a room's state to be whole.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use ruma::{RoomId, UserId, api::error::ErrorKind};
use tokio::sync::{Semaphore, watch};

use super::is_partial;
use crate::{
    Server,
    error::{Error, Result},
    room::{Membership, View, tables::UserRooms},
    store::{RoomNid, Snapshot},
};

/// In how many rooms states are completed at a time: they are large.
const AT_A_TIME: usize = 4;

/// After how long somebody who waits looks again without being told: his membership may have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Who works on what, and who waits for it.
pub struct Waiting {
    /// The rooms that somebody completes.
    pub at_work: Mutex<HashSet<RoomNid>>,
    pub permits: Semaphore,
    completed: watch::Sender<()>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { at_work: Mutex::default(), permits: Semaphore::new(AT_A_TIME), completed: watch::Sender::new(()) }
    }
}

impl Waiting {
    /// A room is whole, or given up.
    pub fn tell(&self) {
        self.completed.send_replace(());
    }
}

/// Waits until the state of a room is whole that `user` is in. Whoever is not in it is answered from what is known.
///
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/3902>
pub async fn until_whole(server: &Arc<Server>, user: &UserId, room_id: &RoomId) -> Result<()> {
    let (user, room_id) = (user.to_owned(), room_id.to_owned());
    until(server, move |server, snapshot| {
        let Some(view) = View::open(&server.rooms, snapshot, &room_id)? else { return Ok(false) };
        is_waited_for(snapshot, view.nid, &user)
    })
    .await
}

/// As [`until_whole`], of a room that is known by its number.
pub async fn until_whole_for(server: &Arc<Server>, user: &UserId, room: RoomNid) -> Result<()> {
    let user = user.to_owned();
    until(server, move |_, snapshot| is_waited_for(snapshot, room, &user)).await
}

fn is_waited_for(snapshot: &Snapshot<'_>, room: RoomNid, user: &UserId) -> Result<bool> {
    if !is_partial(snapshot, room)? {
        return Ok(false);
    }
    Ok(snapshot.get::<UserRooms>(&(user, room))?.is_some_and(|row| row.membership == Membership::Join))
}

async fn until(
    server: &Arc<Server>,
    is_waited_for: impl Fn(&Server, &Snapshot<'_>) -> Result<bool> + Clone + Send + 'static,
) -> Result<()> {
    let mut completed = server.partial.completed.subscribe();
    loop {
        let look = is_waited_for.clone();
        if !server.blocking(move |server| look(server, &server.store.snapshot())).await? {
            return Ok(());
        }
        tokio::select! {
            () = server.shutdown.cancelled() => {
                let message = "The members of the room are not known yet";
                return Err(Error::refused(ErrorKind::Unknown, message).with_status(StatusCode::SERVICE_UNAVAILABLE));
            }
            _ = completed.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
