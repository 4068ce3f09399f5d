//! What other servers ask of rooms that we are in.
//!
//! A server that is in a room may ask for its history and states; one that is not may ask only for what lets its users
//! in, and out. Whoever may not ask is answered as if there were no such room or event.

pub mod answer;
pub mod handshake;
pub mod history;
pub mod invite;
pub mod relationships;
pub mod state;
pub mod third_party;

use ruma::{RoomId, ServerName, events::StateEventType};

use crate::{
    Server,
    error::{Error, Result},
    event::{Pdu, Refusal, authorize, authorize::Fallible},
    room::{View, acl, partial, visibility_of_server::is_in_room},
    store::Snapshot,
};

/// A room, for a server that has a user in it. `M_FORBIDDEN` for all others, whether there is such a room or not.
pub fn enter<'s>(
    server: &'s Server,
    snapshot: &'s Snapshot<'s>,
    room_id: &RoomId,
    origin: &ServerName,
) -> Result<View<'s>> {
    match View::open(&server.rooms, snapshot, room_id)? {
        Some(view) if may_enter(&view, origin)? => Ok(view),
        _ => Err(Error::forbidden("Your server is not in this room")),
    }
}

/// Whether a server may ask for what happens in a room. What we know of a room that we left is nobody's any more, and as
/// long as its members are not known to us, others know more of it.
pub fn may_enter(view: &View<'_>, origin: &ServerName) -> Result<bool> {
    Ok(view.is_resident()?
        && !partial::is_partial(view.snapshot, view.nid)?
        && is_in_room(view, origin)?
        && acl::allows(view, origin)?)
}

/// A room, for a server of which a user wants to get in or out.
///
/// Errors: `M_NOT_FOUND` if we are not in it, or do not know all of its members yet; `M_FORBIDDEN` if its ACL refuses the
/// server.
fn approach<'s>(
    server: &'s Server,
    snapshot: &'s Snapshot<'s>,
    room_id: &RoomId,
    origin: &ServerName,
) -> Result<View<'s>> {
    match View::open(&server.rooms, snapshot, room_id)? {
        Some(view) if view.is_resident()? && !partial::is_partial(snapshot, view.nid)? => {
            acl::check(&view, origin)?;
            Ok(view)
        }
        _ => Err(Error::not_found("This server is in no such room")),
    }
}

/// `M_FORBIDDEN` if the current state of the room does not allow an event.
fn check_allowed(view: &View<'_>, pdu: &Pdu) -> Result<()> {
    let failed = Fallible::default();
    let fetch =
        |event_type: &StateEventType, key: &str| failed.keep(view.state_pdu(view.current_state(), event_type, key));
    let verdict = authorize::check_against_state(view.rules, pdu, fetch);
    failed
        .check(verdict)?
        .map_err(|Refusal(reason)| Error::forbidden(format!("The rules of the room do not allow this: {reason}")))
}
