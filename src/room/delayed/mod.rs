//! Events that the server sends later for a user: MSC4140.
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>
//!
//! A waiting event is a row with its time. Sending uses the delay id as a transaction id, so that a crash between the
//! sending and the note of it sends nothing twice.

mod schedule;
pub mod tables;
mod timer;

use std::{cmp::Reverse, mem, sync::Arc, time::Duration};

use ruma::{UserId, api::error::ErrorKind};
use tokio::{sync::Notify, time::timeout};

use self::tables::{DelayedDue, DelayedEvent, DelayedEvents, DelayedOfUser, DelayedTransactions, End, Outcome};
pub use self::{
    schedule::{NewEvent, schedule},
    timer::{run, send_due},
};
use super::{append::TransactionKey, send, tables::EventTransaction};
use crate::{
    Server,
    error::{Error, Result},
    keyed_locks::KeyedLocks,
    store::{Snapshot, Transaction},
    sweep,
};

/// For how long, and how many of a user, what became of events is kept. Source: the proposal.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const MAX_KEPT: usize = 1_000;

/// How many bytes of content are kept of a user's events that have come to an end: all of them are read for each that does.
/// Source: our choice.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// How long a request waits for somebody else who works on the event: an invite waits for other servers. Source: our choice.
const PATIENCE: Duration = Duration::from_secs(30);

/// What delay ids begin with.
const PREFIX: &str = "delay_";

/// What requests and the timer share: whoever works on an event has its lock, so that one that was cancelled is not sent.
#[derive(Default)]
pub struct Delayed {
    locks: KeyedLocks<String>,
    /// The time of the next event may be another.
    changed: Notify,
}

/// What can be done with an event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its delay begins anew.
    Restart,
    Send,
    Cancel,
}

/// Whether a transaction is that of a delayed event, whose transaction id is its delay id.
pub fn is_delay_id(sent: &EventTransaction) -> bool {
    sent.device_id.as_str().is_empty() && sent.txn_id.starts_with(PREFIX)
}

/// One delayed event of a user; `M_NOT_FOUND` for those of others too.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, delay_id: &str) -> Result<DelayedEvent> {
    let found = snapshot.get::<DelayedEvents>(&delay_id)?;
    found.filter(|event| event.user_id == user).ok_or_else(unknown)
}

/// The events of a user that wait, the next one first.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<(String, DelayedEvent)>> {
    let mut events: Vec<_> = waiting_of(snapshot, user).collect::<Result<_>>()?;
    events.sort_by_key(|(_, event)| event.due_ms());
    Ok(events)
}

fn waiting_of<'s>(
    snapshot: &'s Snapshot<'_>,
    user: &UserId,
) -> impl Iterator<Item = Result<(String, DelayedEvent)>> + 's {
    all_of(snapshot, user).filter(|row| row.as_ref().map_or(true, |(_, event)| event.end.is_none()))
}

/// The events of a user, each read when it is its turn: all of them may be large.
fn all_of<'s>(snapshot: &'s Snapshot<'_>, user: &UserId) -> impl Iterator<Item = Result<(String, DelayedEvent)>> + 's {
    snapshot.list::<DelayedOfUser>(&user).map(move |row| {
        let row = row?;
        let delay_id = row.key()?.1;
        let event = snapshot.get::<DelayedEvents>(&delay_id)?;
        let absent = || Error::internal(format!("the delayed event {delay_id} is listed and not there"));
        Ok((delay_id.to_owned(), event.ok_or_else(absent)?))
    })
}

/// Does what whoever knows the delay id asks for. What has come to that end already is a success.
///
/// Errors: `M_NOT_FOUND`; `M_UNKNOWN` with status 409 if it came to another end, with 504 if somebody else works on it for too
/// long; what sending says, and then it waits on.
pub async fn act(server: Arc<Server>, delay_id: String, action: Action) -> Result<()> {
    if server.store.snapshot().get::<DelayedEvents>(&delay_id.as_str())?.is_none() {
        return Err(unknown()); // ids that somebody makes up get no lock
    }
    // Not detached yet: a client that hangs up waits no more.
    let lock = timeout(PATIENCE, server.delayed.locks.lock(&delay_id)).await.map_err(|_| too_late())?;
    Server::detached(async move {
        let _lock = lock;
        let event = server.store.snapshot().get::<DelayedEvents>(&delay_id.as_str())?.ok_or_else(unknown)?;
        match (&event.end, action) {
            (None, Action::Restart) => restart(&server, delay_id).await?,
            (None, Action::Cancel) => finish(&server, delay_id, Outcome::Cancelled).await?,
            (None, Action::Send) => {
                let event_id = send(&server, &delay_id, event).await?;
                finish(&server, delay_id, Outcome::Sent(event_id)).await?;
            }
            (Some(End { outcome: Outcome::Sent(_), .. }), Action::Send)
            | (Some(End { outcome: Outcome::Cancelled | Outcome::Failed(..), .. }), Action::Cancel) => return Ok(()),
            (Some(_), _) => {
                let message = "The delayed event was sent or cancelled already";
                return Err(Error::refused(ErrorKind::Unknown, message).with_status(http::StatusCode::CONFLICT));
            }
        }
        server.delayed.changed.notify_one();
        Ok(())
    })
    .await
}

async fn restart(server: &Server, delay_id: String) -> Result<()> {
    let now_ms = server.clock.now_ms();
    let write = move |tx: &mut Transaction<'_>| {
        let Some(event) = tx.get::<DelayedEvents>(&delay_id.as_str())?.filter(|event| event.end.is_none()) else {
            return Err(unknown()); // its user gave up his account meanwhile
        };
        tx.delete::<DelayedDue>(&(event.due_ms(), &delay_id));
        let event = DelayedEvent { since_ms: now_ms, ..event };
        tx.put::<DelayedDue>(&(event.due_ms(), &delay_id), &());
        tx.put::<DelayedEvents>(&delay_id.as_str(), &event);
        Ok(())
    };
    server.store.commit(write).await
}

/// Sends an event now. Errors: those of sending it without a delay, `M_LIMIT_EXCEEDED` too.
async fn send(server: &Arc<Server>, delay_id: &str, event: DelayedEvent) -> Result<ruma::OwnedEventId> {
    if !server.appservices.is_unlimited(&event.user_id) {
        server.limits.delayed_message(&event.user_id)?;
    }
    let content = serde_json::value::RawValue::from_string(event.content).map_err(Error::internal)?;
    let key = TransactionKey { device_id: "".into(), scope: "delayed".to_owned(), txn_id: delay_id.to_owned() };
    let asked = send::Asked {
        event_type: event.event_type,
        state_key: event.state_key,
        content,
        options: send::Options { at: None, sticky_ms: event.sticky_ms },
    };
    send::later(server, &event.user_id, event.room, asked, key).await
}

/// Notes what became of an event, and forgets the oldest such of the user if they are too many or too large.
async fn finish(server: &Server, delay_id: String, outcome: Outcome) -> Result<()> {
    let end = End { at_ms: server.clock.now_ms(), outcome };
    let write = move |tx: &mut Transaction<'_>| {
        let Some(event) = tx.get::<DelayedEvents>(&delay_id.as_str())?.filter(|event| event.end.is_none()) else {
            return Ok(()); // its user gave up his account meanwhile
        };
        tx.delete::<DelayedDue>(&(event.due_ms(), &delay_id));
        let mut ended = Vec::new();
        for row in all_of(tx.before(), &event.user_id) {
            let (other_id, mut other) = row?;
            if let Some(at_ms) = other.end.as_ref().map(|end| end.at_ms) {
                let bytes = mem::take(&mut other.content).len();
                ended.push((at_ms, bytes, other_id, other));
            }
        }
        ended.sort_by_key(|(at_ms, ..)| Reverse(*at_ms));
        let (mut kept, mut kept_bytes) = (1, event.content.len());
        for (_, bytes, other_id, other) in ended {
            kept += 1;
            kept_bytes += bytes;
            if kept > MAX_KEPT || kept_bytes > MAX_KEPT_BYTES {
                delete(tx, &other_id, &other);
            }
        }
        tx.put::<DelayedEvents>(&delay_id.as_str(), &DelayedEvent { end: Some(end), ..event });
        Ok::<_, Error>(())
    };
    server.store.commit(write).await
}

fn delete(tx: &mut Transaction<'_>, delay_id: &str, event: &DelayedEvent) {
    tx.delete::<DelayedEvents>(&delay_id);
    tx.delete::<DelayedOfUser>(&(&event.user_id, delay_id));
    if event.end.is_none() {
        tx.delete::<DelayedDue>(&(event.due_ms(), delay_id));
    }
    if let Some((device_id, scope, txn_id)) = &event.transaction {
        tx.delete::<DelayedTransactions>(&(&event.user_id, device_id, scope, txn_id));
    }
}

/// Forgets all delayed events of a user who gives up his account: none of them is sent any more.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) -> Result<()> {
    let events: Vec<_> = all_of(tx.before(), user).collect::<Result<_>>()?;
    for (delay_id, event) in events {
        delete(tx, &delay_id, &event);
    }
    Ok(())
}

/// Removes what became of events some days ago; how many they were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let oldest_ms = server.clock.now_ms().saturating_sub(KEPT_MS);
    let is_old = move |event: &DelayedEvent| event.end.as_ref().is_some_and(|end| end.at_ms < oldest_ms);
    sweep::rows::<DelayedEvents>(server, is_old, |tx, row| {
        delete(tx, row.key()?, &row.value);
        Ok(())
    })
    .await
}

fn unknown() -> Error {
    Error::not_found("There is no such delayed event")
}

fn too_late() -> Error {
    let message = "The delayed event could not be sent in time";
    Error::refused(ErrorKind::Unknown, message).with_status(http::StatusCode::GATEWAY_TIMEOUT)
}
