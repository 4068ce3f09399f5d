//! The rooms that two users share.

use ruma::{OwnedRoomId, UInt, UserId};

use super::{
    Membership, View,
    tables::{Members, Origin, UserRooms},
};
use crate::{
    Server,
    error::{Error, Result},
    store::RoomNid,
};

/// How many rooms a page has. Source: our choice.
const PAGE: usize = 100;

pub struct Page {
    pub rooms: Vec<OwnedRoomId>,
    /// On all pages.
    pub count: UInt,
    pub next_batch: Option<String>,
}

/// A page of the rooms that both are joined to; none if there is no such user. `from` is the number of the first room.
///
/// Error: `M_INVALID_PARAM` for oneself, and for a token that is none.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms>
pub fn page(server: &Server, user: &UserId, other: &UserId, from: Option<&str>) -> Result<Page> {
    if user == other {
        return Err(Error::invalid_param("You share all of your rooms with yourself"));
    }
    let from: u64 = match from {
        Some(token) => token.parse().map_err(|_| Error::invalid_param("`from` is no token of this server"))?,
        None => 0,
    };
    let snapshot = server.store.snapshot();
    let origin = if server.is_ours(other) { Origin::Local } else { Origin::Remote };
    let mut shared: Vec<RoomNid> = Vec::new();
    for row in snapshot.list::<UserRooms>(&user) {
        let row = row?;
        let (_, room) = row.key()?;
        if row.value.membership == Membership::Join
            && snapshot.contains::<Members>(&(room, Membership::Join, origin, other))?
        {
            shared.push(room);
        }
    }
    let count = UInt::new_saturating(shared.len() as u64);
    let mut rest = shared.into_iter().filter(|room| room.0 >= from);
    let mut rooms = Vec::new();
    for room in rest.by_ref().take(PAGE) {
        rooms.push(View::of(&server.rooms, &snapshot, room)?.room.room_id);
    }
    Ok(Page { rooms, count, next_batch: rest.next().map(|room| room.0.to_string()) })
}
