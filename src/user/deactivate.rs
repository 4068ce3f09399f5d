//! Giving an account up.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use tracing::warn;

use super::{
    account, backup,
    device::{self, Selection},
    directory, email,
    guests::Guests,
    keys, profile, session,
    tables::{AccountData, AccountDataChanges, Deactivated, Filters},
    thread_subscriptions,
};
use crate::{
    Server,
    error::{Error, Result},
    federation::leaving,
    push::pushers,
    room::{Membership, View, delayed, invited, membership, server_notices::NoticeRooms, tables::UserRooms},
    store::{Group, RoomNid, Snapshot},
};

/// How many rooms of other servers are left at a time, and how long an account stays open for them. Source: our choice.
const ROOMS_AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// Logs all devices out, leaves all rooms, then closes the account for good. Runs to its end even if the client hangs up;
/// should the server stop in the middle, the account is still open and its user can log in and ask again.
///
/// `is_erased`: who joins a room later does not see what this user wrote.
pub async fn deactivate(server: Arc<Server>, user_id: OwnedUserId, is_erased: bool) -> Result<()> {
    Server::detached(async move {
        // First, so that those who wait for news are told nothing more; and in rooms that go on others hear of it.
        device::log_out(Arc::clone(&server), user_id.clone(), Selection::All).await?;
        leave_rooms(&server, &user_id).await?;
        close(&server, user_id.clone(), is_erased).await?;
        session::forget_begun(&server, &user_id);
        keys::announce(&server, &user_id);
        Ok(())
    })
    .await
}

async fn leave_rooms(server: &Arc<Server>, user_id: &UserId) -> Result<()> {
    let user = user_id.to_owned();
    let rooms = server.blocking(move |server| open_rooms(server, &server.store.snapshot(), &user)).await?;
    let mut elsewhere = Vec::new();
    for (room, room_id) in rooms {
        if invited::is_out_of_band(server, user_id, room).await? {
            elsewhere.push(room_id);
            continue;
        }
        match membership::leave(server, user_id, room, None).await {
            Ok(()) => {}
            // A room that does not let him go must not keep the account open.
            Err(error @ (Error::Refused { .. } | Error::Remote { .. })) => {
                warn!(%user_id, %room_id, ?error, "a deactivated user stays in a room")
            }
            Err(other) => return Err(other),
        }
    }
    // What takes longer goes on without being waited for.
    let leaving = Server::detached(leave_elsewhere(Arc::clone(server), user_id.to_owned(), elsewhere));
    tokio::time::timeout(PATIENCE, leaving).await.unwrap_or(Ok(()))
}

/// Rejects invites and takes back knocks of which the rooms' servers have to be told.
async fn leave_elsewhere(server: Arc<Server>, user_id: OwnedUserId, rooms: Vec<OwnedRoomId>) -> Result<()> {
    let (server, user_id) = (&server, &*user_id);
    let leave = |room_id: OwnedRoomId| async move {
        if let Err(error) = leaving::leave(server, user_id, &room_id, None).await {
            warn!(%user_id, %room_id, ?error, "a deactivated user stays in a room");
        }
    };
    stream::iter(rooms).for_each_concurrent(ROOMS_AT_ONCE, leave).await;
    Ok(())
}

/// The rooms that the user is in, is invited to, or knocks at.
fn open_rooms(server: &Server, snapshot: &Snapshot<'_>, user_id: &UserId) -> Result<Vec<(RoomNid, OwnedRoomId)>> {
    let mut rooms = Vec::new();
    for row in snapshot.list::<UserRooms>(&user_id) {
        let row = row?;
        if matches!(row.value.membership, Membership::Join | Membership::Invite | Membership::Knock) {
            let nid = row.key()?.1;
            rooms.push((nid, View::of(&server.rooms, snapshot, nid)?.room_id().to_owned()));
        }
    }
    Ok(rooms)
}

/// Removes what the user had: password, devices, data. The row of the account stays, so that nobody gets the id again.
async fn close(server: &Server, user_id: OwnedUserId, is_erased: bool) -> Result<()> {
    let at_ms = server.clock.now_ms();
    server
        .store
        .commit(move |tx| {
            account::update(tx, &user_id, |account| {
                account.password_hash = None;
                account.deactivated = Some(Deactivated { at_ms, is_erased });
            })?;
            device::delete(tx, &user_id, &Selection::All)?;
            keys::delete_user(tx, &user_id)?;
            backup::delete_user(tx, &user_id);
            pushers::delete_user(tx, &user_id)?;
            email::delete_user(tx, &user_id)?;
            delayed::delete_user(tx, &user_id)?;
            thread_subscriptions::delete_user(tx, &user_id);
            tx.delete_all::<AccountData>(&&*user_id);
            tx.delete_group::<AccountDataChanges>(&&*user_id, Group::of(&*user_id));
            tx.delete_group::<Filters>(&&*user_id, Group::of(&*user_id));
            profile::delete_user(tx, &user_id)?;
            directory::remove(tx, &user_id)?;
            tx.delete::<NoticeRooms>(&&*user_id);
            tx.delete::<Guests>(&&*user_id);
            Ok(())
        })
        .await
}
