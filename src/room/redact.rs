//! Asking that the content of an event be removed.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    View,
    append::{self, Step},
    membership, power_levels,
    related_redactions::{self, Wish},
    send,
    tables::EventIds,
};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    user::{account, session::Caller},
};

/// Redacts an event of a room. The same transaction of the same device again is answered with the same redaction.
///
/// Errors: `M_NOT_FOUND` if this server knows no such event of the room and the user may not redact those of others,
/// `M_FORBIDDEN`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid>
pub async fn redact(
    server: &Arc<Server>,
    caller: &Caller,
    room_id: &RoomId,
    target: OwnedEventId,
    reason: Option<String>,
    txn_id: &str,
) -> Result<OwnedEventId> {
    let room = membership::known(server, room_id)?;
    let key = send::transaction(caller, format!("redact/{target}"), txn_id)?;
    let sender = caller.user_id.clone();
    append::act(server, room, &caller.user_id, Some(key), move |_, view| {
        check(view, &sender, &target)?;
        Ok(Step::Send(Draft::redaction(target, reason.as_deref())))
    })
    .await
}

/// As [`redact`], with what relates to the event in certain ways: the rest is done when the answer has gone, and goes on
/// for what comes later.
///
/// Errors: those of [`redact`].
pub async fn redact_with_related(
    server: &Arc<Server>,
    caller: &Caller,
    room_id: &RoomId,
    target: OwnedEventId,
    wish: Wish,
    txn_id: &str,
) -> Result<OwnedEventId> {
    let room = membership::known(server, room_id)?;
    let (sender, reason) = (&caller.user_id, wish.reason.clone());
    related_redactions::wish(server, room, &target, sender, wish).await?;
    let redacted = redact(server, caller, room_id, target.clone(), reason, txn_id).await;
    if matches!(redacted, Err(Error::Refused { .. })) {
        related_redactions::forget(server, room, &target, sender).await?;
    }
    redacted
}

/// Whether `sender` may redact `target`: his own events, those of others with the power for it, and those of our users
/// if he administers this server. The rules of the room would let anybody redact events of the same server.
pub(super) fn check(view: &View<'_>, sender: &UserId, target: &EventId) -> Result<()> {
    if view.membership(view.current_state(), sender)? != Some(super::Membership::Join) {
        return Err(Error::forbidden("You are not in this room"));
    }
    let has_power = power_levels(view)?.user_can_redact_event_of_other(sender);
    let event = match view.event_by_id(target)?.filter(|event| !event.flags.rejected) {
        Some(event) => event,
        // Other servers may have it, and this one may get it later.
        None if has_power && !view.snapshot.contains::<EventIds>(&target)? => return Ok(()),
        None => return Err(Error::not_found("There is no such event in this room")),
    };
    // NOTSPEC: without the content of its create event a room of versions 1 to 10 would lose what makes it a room.
    if event.event_type == "m.room.create" {
        return Err(Error::forbidden("The event that created a room can't be redacted"));
    }
    if event.sender == sender || has_power {
        return Ok(());
    }
    if event.sender.server_name() == sender.server_name() && account::is_admin(view.snapshot, sender)? {
        return Ok(());
    }
    Err(Error::forbidden("You may not redact events of others in this room"))
}

/// What the content of a redaction says that it redacts: clients put it there whatever the room version.
pub(crate) fn target_in(content: &RawValue) -> Result<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        redacts: OwnedEventId,
    }
    let content: Result<Content, _> = serde_json::from_str(content.get());
    content.map(|content| content.redacts).map_err(|_| Error::bad_json("`redacts` is missing or no event id"))
}
