//! The last event that a user has dealt with, together with everything before it.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers>

use ruma::{EventId, OwnedEventId, UserId};
use serde::{Deserialize, Serialize};

use super::receipts::position;
use crate::{
    error::{Error, Result},
    store::{RoomNid, RoomPos, Transaction},
    user::account_data::{self, FULLY_READ},
};

#[derive(Serialize, Deserialize)]
struct Content {
    event_id: OwnedEventId,
}

/// Moves the marker to an event at `pos`; `false` if it is there or further on already.
pub fn put(tx: &mut Transaction<'_>, room: RoomNid, user: &UserId, event_id: &EventId, pos: RoomPos) -> Result<bool> {
    if let Some(before) = account_data::get(tx.before(), user, room, FULLY_READ)? {
        let before: Content = serde_json::from_str(&before).map_err(Error::internal)?;
        if position(tx.before(), room, &before.event_id)?.is_some_and(|before| before >= pos) {
            return Ok(false);
        }
    }
    let content = serde_json::to_string(&Content { event_id: event_id.to_owned() }).map_err(Error::internal)?;
    account_data::put(tx, user, room, FULLY_READ, content)?;
    Ok(true)
}
