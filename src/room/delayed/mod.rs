//! Events that the server sends later for a user: MSC4140.
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>
//!
//! A waiting event is a row with its time. Sending uses the delay id as a transaction id, so that a crash between the
//! sending and the note of it sends nothing twice.

mod schedule;
pub mod tables;
mod timer;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use ruma::{UserId, api::error::ErrorKind};
use tokio::sync::{Mutex, MutexGuard, Notify};

use self::tables::{DelayedDue, DelayedEvent, DelayedEvents, DelayedOfUser, DelayedTransactions, End, Outcome};
pub use self::{
    schedule::{NewEvent, schedule},
    timer::{run, send_due},
};
use super::{append::TransactionKey, send, tables::EventTransaction};
use crate::{
    Server,
    error::{Error, Result},
    store::{Snapshot, Transaction},
    sweep,
};

/// For how long, and how many of a user, what became of events is kept. Source: the proposal.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const MAX_KEPT: usize = 1_000;

/// What delay ids begin with.
const PREFIX: &str = "delay_";

/// What requests and the timer share: whoever works on an event has its lock, so that one that was cancelled is not sent.
#[derive(Default)]
pub struct Delayed {
    locks: [Mutex<()>; 32],
    /// The time of the next event may be another.
    changed: Notify,
}

impl Delayed {
    async fn lock(&self, delay_id: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        delay_id.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % 32).unwrap_or_default();
        self.locks[place].lock().await
    }
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
    let mut events = all_of(snapshot, user)?;
    events.retain(|(_, event)| event.end.is_none());
    events.sort_by_key(|(_, event)| event.due_ms());
    Ok(events)
}

fn all_of(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<(String, DelayedEvent)>> {
    let mut events = Vec::new();
    for row in snapshot.list::<DelayedOfUser>(&user) {
        let row = row?;
        let delay_id = row.key()?.1;
        let event = snapshot.get::<DelayedEvents>(&delay_id)?;
        let absent = || Error::internal(format!("the delayed event {delay_id} is listed and not there"));
        events.push((delay_id.to_owned(), event.ok_or_else(absent)?));
    }
    Ok(events)
}

/// Does what whoever knows the delay id asks for. What has come to that end already is a success.
///
/// Errors: `M_NOT_FOUND`; `M_UNKNOWN` with status 409 if it came to another end; what sending says, and then it waits on.
pub async fn act(server: Arc<Server>, delay_id: String, action: Action) -> Result<()> {
    Server::detached(async move {
        let _lock = server.delayed.lock(&delay_id).await;
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
    server.limits.message(&event.user_id)?;
    let content = serde_json::value::RawValue::from_string(event.content).map_err(Error::internal)?;
    let key = TransactionKey { device_id: "".into(), scope: "delayed".to_owned(), txn_id: delay_id.to_owned() };
    let asked = send::Asked {
        event_type: event.event_type.into(),
        state_key: event.state_key,
        content,
        options: send::Options { at: None, sticky_ms: event.sticky_ms },
    };
    send::later(server, &event.user_id, event.room, asked, key).await
}

/// Notes what became of an event, and forgets the oldest such of the user if they are too many.
async fn finish(server: &Server, delay_id: String, outcome: Outcome) -> Result<()> {
    let end = End { at_ms: server.clock.now_ms(), outcome };
    let write = move |tx: &mut Transaction<'_>| {
        let Some(event) = tx.get::<DelayedEvents>(&delay_id.as_str())?.filter(|event| event.end.is_none()) else {
            return Ok(()); // its user gave up his account meanwhile
        };
        tx.delete::<DelayedDue>(&(event.due_ms(), &delay_id));
        let mut ended = all_of(tx.before(), &event.user_id)?;
        ended.retain(|(_, other)| other.end.is_some());
        ended.sort_by_key(|(_, other)| other.end.as_ref().map(|end| end.at_ms));
        let excess = (ended.len() + 1).saturating_sub(MAX_KEPT);
        for (old_id, old) in ended.into_iter().take(excess) {
            delete(tx, &old_id, &old);
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
    for (delay_id, event) in all_of(tx.before(), user)? {
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
