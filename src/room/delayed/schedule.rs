//! Asking for an event to be sent later.

use std::{sync::Arc, time::Duration};

use ruma::{RoomId, api::error::ErrorKind};

use super::{
    PREFIX,
    tables::{DelayedDue, DelayedEvent, DelayedEvents, DelayedOfUser, DelayedTransactions},
    waiting_of,
};
use crate::{
    Server,
    error::{Error, Result},
    plain_json,
    room::{Membership, membership, tables::UserRooms},
    store::Transaction,
    user::session::Caller,
};

/// Longest event type, state key and transaction id, and largest content, in bytes. Source: the limits of events.
const MAX_ID_BYTES: usize = 255;
const MAX_CONTENT_BYTES: usize = 65_536;

/// Letters of a delay id after its prefix: whoever knows it may send or cancel the event.
const ID_LETTERS: usize = 32;

/// What a user asks for.
#[derive(Debug)]
pub struct NewEvent {
    pub event_type: String,
    pub state_key: Option<String>,
    /// Any text; empty for a request that may only repeat an earlier one.
    pub content: String,
    pub delay: Duration,
    pub txn_id: Option<String>,
    /// For how long it is to be sticky once it is sent, in milliseconds.
    pub sticky_ms: Option<u32>,
}

/// Has an event sent later: its delay id. The same transaction again gets the same. Whether the user may send it is looked
/// at then.
///
/// Errors: `M_FORBIDDEN` if he is not in the room or the delay is too long, `M_LIMIT_EXCEEDED`, `M_INVALID_PARAM`,
/// `M_NOT_JSON`, `M_BAD_JSON`, `M_TOO_LARGE`.
pub async fn schedule(server: &Arc<Server>, caller: &Caller, room_id: &RoomId, new: NewEvent) -> Result<String> {
    let limits = &server.config.delayed_events;
    if new.delay > limits.max_delay || limits.max_scheduled == 0 {
        let max = limits.max_delay.as_millis();
        return Err(Error::forbidden(format!("Events may be delayed by {max} milliseconds at most")));
    }
    let ids = [Some(&new.event_type), new.state_key.as_ref(), new.txn_id.as_ref()];
    if new.delay.is_zero() || ids.into_iter().flatten().any(|id| id.len() > MAX_ID_BYTES) {
        return Err(Error::invalid_param(format!("There must be a delay, and ids have {MAX_ID_BYTES} bytes at most")));
    }
    let room = membership::known(server, room_id)?;
    let scope = format!("{room_id}/{}", new.event_type);
    let transaction = new.txn_id.map(|txn_id| (caller.device_id.clone(), scope, txn_id));
    let event = DelayedEvent {
        user_id: caller.user_id.clone(),
        room,
        event_type: new.event_type,
        state_key: new.state_key,
        content: new.content,
        delay_ms: u64::try_from(new.delay.as_millis()).unwrap_or(u64::MAX),
        since_ms: server.clock.now_ms(),
        transaction,
        end: None,
        sticky_ms: new.sticky_ms,
    };
    let (max_scheduled, delay_id) = (limits.max_scheduled, format!("{PREFIX}{}", server.random.text(ID_LETTERS)));
    let server = Arc::clone(server);
    // The timer must hear of it even if the client hangs up.
    Server::detached(async move {
        let delay_id = server.store.commit(move |tx| write(tx, event, delay_id, max_scheduled)).await?;
        server.delayed.changed.notify_one();
        Ok(delay_id)
    })
    .await
}

fn write(tx: &mut Transaction<'_>, event: DelayedEvent, delay_id: String, max_scheduled: usize) -> Result<String> {
    let user = &*event.user_id;
    if let Some((device, scope, txn_id)) = &event.transaction {
        let key = (user, &**device, scope.as_str(), txn_id.as_str());
        if let Some(known) = tx.get::<DelayedTransactions>(&key)? {
            return Ok(known);
        }
        tx.put::<DelayedTransactions>(&key, &delay_id);
    }
    let row = tx.get::<UserRooms>(&(user, event.room))?;
    if row.is_none_or(|row| row.membership != Membership::Join) {
        return Err(membership::not_joined());
    }
    check_content(&event.content)?;
    let due = waiting_of(tx.before(), user).map(|row| row.map(|(_, other)| other.due_ms()));
    let due: Vec<u64> = due.collect::<Result<_>>()?;
    if due.len() >= max_scheduled {
        let next_ms = due.into_iter().min().unwrap_or_default();
        return Err(Error::limit_exceeded(Duration::from_millis(next_ms.saturating_sub(event.since_ms).max(1))));
    }
    tx.put::<DelayedOfUser>(&(user, &delay_id), &());
    tx.put::<DelayedDue>(&(event.due_ms(), &delay_id), &());
    tx.put::<DelayedEvents>(&delay_id.as_str(), &event);
    Ok(delay_id)
}

fn check_content(content: &str) -> Result<()> {
    if content.is_empty() {
        return Err(Error::refused(ErrorKind::NotJson, "The body is empty"));
    }
    if content.len() > MAX_CONTENT_BYTES {
        return Err(Error::too_large(format!("The content has more than {MAX_CONTENT_BYTES} bytes")));
    }
    plain_json::object(content.as_bytes()).map(drop)
}
