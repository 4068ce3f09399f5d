//! What clients keep with us for their user: of the whole account, or of one of his rooms.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use std::sync::Arc;

use http::StatusCode;
use ruma::{RoomId, UserId, api::error::ErrorKind};

use super::{
    push_rules,
    tables::{AccountData, AccountDataChanges, AccountDatum},
};
use crate::{
    Server,
    error::{Error, Result},
    plain_json,
    room::tables::{RoomIds, UserRooms},
    store::{self, RoomNid, Snapshot, Transaction},
};

/// In place of a room, for what belongs to the whole account.
pub const GLOBAL: RoomNid = RoomNid(0);

/// What only the server writes, by endpoints of its own.
/// <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-13>
const KEPT_BY_THE_SERVER: [&str; 2] = [FULLY_READ, push_rules::EVENT_TYPE];
pub const FULLY_READ: &str = "m.fully_read";

/// Longest event type, in bytes: as the specification has it for events of rooms.
const MAX_TYPE_BYTES: usize = 255;

/// How much one user may keep in one place. Source: our choice; what clients keep today is far below.
struct Limits {
    types: usize,
    /// Of all contents together.
    bytes: usize,
}

const GLOBAL_LIMITS: Limits = Limits { types: 1_000, bytes: 4 << 20 };
const ROOM_LIMITS: Limits = Limits { types: 100, bytes: 256 << 10 };

/// The content of what was deleted, as clients see it in the next `/sync`; first ones do not see it at all.
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/3391>
const DELETED: &str = "{}";

/// How many deleted events of one place are remembered for the clients that have not heard of it.
const MAX_DELETED: usize = 100;

/// The content of one event: a JSON object. `None` if it was never set, or was deleted.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, room: RoomNid, event_type: &str) -> store::Result<Option<String>> {
    let datum = snapshot.get::<AccountData>(&(user, room, event_type))?;
    Ok(datum.filter(|datum| !datum.is_deleted()).map(|datum| datum.content))
}

impl AccountDatum {
    pub fn is_deleted(&self) -> bool {
        self.content == DELETED
    }
}

/// As [`get`], for clients: the push rules are there even if the user never changed any.
pub fn read(snapshot: &Snapshot<'_>, user: &UserId, room: RoomNid, event_type: &str) -> Result<String> {
    if room == GLOBAL && event_type == push_rules::EVENT_TYPE {
        return push_rules::content(snapshot, user);
    }
    get(snapshot, user, room, event_type)?.ok_or_else(|| Error::not_found("There is no account data of that type"))
}

/// Writes one event and puts it at the end of the user's changes. Whoever calls this wakes the user.
pub fn put(tx: &mut Transaction<'_>, user: &UserId, room: RoomNid, event_type: &str, content: String) -> Result<()> {
    if let Some(before) = tx.get::<AccountData>(&(user, room, event_type))? {
        tx.delete::<AccountDataChanges>(&(user, before.changed, room, event_type));
    }
    let changed = tx.pos();
    tx.put::<AccountDataChanges>(&(user, changed, room, event_type), &());
    tx.put::<AccountData>(&(user, room, event_type), &AccountDatum { changed, content });
    Ok(())
}

/// Deletes one event, of which clients are told once. Does nothing if it is not there. Whoever calls this wakes the user.
pub fn remove(tx: &mut Transaction<'_>, user: &UserId, room: RoomNid, event_type: &str) -> Result<()> {
    match get(tx.before(), user, room, event_type)? {
        Some(_) => put_deleted(tx, user, room, event_type),
        None => Ok(()),
    }
}

/// As [`remove`], but clients are told even if nothing was there: one that sets an event waits for that.
fn put_deleted(tx: &mut Transaction<'_>, user: &UserId, room: RoomNid, event_type: &str) -> Result<()> {
    forget_deleted(tx, user, room, event_type)?;
    put(tx, user, room, event_type, DELETED.to_owned())
}

/// Makes room for `event_type` among the deleted events: the one that was deleted first is forgotten.
fn forget_deleted(tx: &mut Transaction<'_>, user: &UserId, room: RoomNid, event_type: &str) -> Result<()> {
    let mut deleted = Vec::new();
    for row in tx.before().list::<AccountData>(&(user, room)) {
        let row = row?;
        let other = row.key()?.2;
        if row.value.is_deleted() && other != event_type {
            deleted.push((row.value.changed, other.to_owned()));
        }
    }
    if deleted.len() >= MAX_DELETED
        && let Some((changed, event_type)) = deleted.into_iter().min()
    {
        tx.delete::<AccountData>(&(user, room, &event_type));
        tx.delete::<AccountDataChanges>(&(user, changed, room, &event_type));
    }
    Ok(())
}

/// Deletes one event as its user asks. Status 405 for what only the server writes.
pub async fn delete(server: &Arc<Server>, user: &UserId, room: RoomNid, event_type: &str) -> Result<()> {
    check_type(event_type)?;
    let (owner, event_type) = (user.to_owned(), event_type.to_owned());
    server.commit_and_wake(user, move |tx| remove(tx, &owner, room, &event_type)).await
}

/// Sets one event as its user asks; `content` is any JSON.
///
/// NOTSPEC: an empty object deletes it, so that it is not found then: MSC3391 has it so, and Complement asks for it.
///
/// Errors: `M_BAD_JSON` if the content is no object that can be kept, also with status 405 for what only the server writes;
/// `M_INVALID_PARAM`, `M_TOO_LARGE`.
pub async fn set(server: &Arc<Server>, user: &UserId, room: RoomNid, event_type: &str, content: &str) -> Result<()> {
    check_type(event_type)?;
    let is_empty = plain_json::object(content.as_bytes())?.is_empty();
    let (owner, event_type, content) = (user.to_owned(), event_type.to_owned(), content.to_owned());
    let write = move |tx: &mut Transaction<'_>| {
        if is_empty {
            return put_deleted(tx, &owner, room, &event_type);
        }
        check_limits(tx.before(), &owner, room, &event_type, content.len())?;
        put(tx, &owner, room, &event_type, content)
    };
    server.commit_and_wake(user, write).await
}

/// `M_FORBIDDEN` unless `caller` asks for what is his own.
pub fn check_own(caller: &UserId, owner: &UserId) -> Result<()> {
    if caller == owner { Ok(()) } else { Err(Error::forbidden("Account data can be used by its own user only")) }
}

/// The number of a room in which the user is or was. Any other is `M_NOT_FOUND`, whether it exists or not.
pub fn room_of(snapshot: &Snapshot<'_>, user: &UserId, room_id: &RoomId) -> Result<RoomNid> {
    if let Some(room) = snapshot.get::<RoomIds>(&room_id)?
        && snapshot.contains::<UserRooms>(&(user, room))?
    {
        return Ok(room);
    }
    Err(Error::not_found("You are not in such a room"))
}

fn check_type(event_type: &str) -> Result<()> {
    if KEPT_BY_THE_SERVER.contains(&event_type) {
        let message = format!("Cannot set {event_type} through this API");
        return Err(Error::refused(ErrorKind::BadJson, message).with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    if event_type.len() > MAX_TYPE_BYTES {
        return Err(Error::invalid_param(format!("The type is longer than {MAX_TYPE_BYTES} bytes")));
    }
    Ok(())
}

/// `M_TOO_LARGE` if the user would keep too much with `size` bytes as the content of `event_type`.
pub fn check_limits(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    room: RoomNid,
    event_type: &str,
    size: usize,
) -> Result<()> {
    let limits = if room == GLOBAL { GLOBAL_LIMITS } else { ROOM_LIMITS };
    let (mut types, mut bytes) = (1, size);
    for row in snapshot.list::<AccountData>(&(user, room)) {
        let row = row?;
        if row.key()?.2 != event_type && !row.value.is_deleted() {
            types += 1;
            bytes += row.value.content.len();
        }
    }
    if types > limits.types {
        return Err(Error::too_large(format!("At most {} types of account data are kept here", limits.types)));
    }
    if bytes > limits.bytes {
        return Err(Error::too_large(format!("At most {} bytes of account data are kept here", limits.bytes)));
    }
    Ok(())
}
