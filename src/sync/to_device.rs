//! Messages to the device that asks.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use std::{convert::Infallible, sync::Arc};

use ruma::{DeviceId, UserId};
use tracing::warn;

use super::{answer::Context, json};
use crate::{
    Server,
    error::{Error, Result},
    metrics::CacheUse,
    store::{self, Group, Json, Memos, Row, Scan, Snapshot, StreamPos},
    user::{tables::ToDevice, to_device},
};

/// The most messages in one answer; only those of one change are never told apart.
pub const MAX_MESSAGES: usize = 100;

#[derive(Debug)]
pub struct Messages {
    pub events: Vec<Json>,
    /// Up to where, and with what, all messages are told.
    pub next: StreamPos,
}

impl Messages {
    /// Writes the messages; `false` if there are none.
    pub fn write(&self, out: &mut Vec<u8>) -> bool {
        let Ok(()) = json::events(out, &self.events, write_event);
        !self.events.is_empty()
    }
}

pub fn write_event(out: &mut Vec<u8>, event: &Json) -> Result<(), Infallible> {
    out.extend_from_slice(event.0.get().as_bytes());
    Ok(())
}

/// The first messages after `after`, or from the oldest on if `None`: about `limit` of them.
pub fn read(context: &Context<'_>, after: Option<StreamPos>, limit: usize) -> Result<Messages> {
    let (user, device) = (context.user_id(), &*context.request.device_id);
    let after = after.unwrap_or_default();
    let mut messages = Messages { events: Vec::new(), next: context.now };
    if !context.may_have_changed::<ToDevice>(Group::of((user, device)), after) {
        return Ok(messages);
    }
    let mut last = after;
    let scan = Scan::from::<ToDevice>(&(user, device, after.next()), &(user, device));
    for row in context.snapshot.scan::<ToDevice>(scan) {
        let row = row?;
        let pos = row.key()?.2;
        if pos != last && messages.events.len() >= limit {
            messages.next = last;
            break;
        }
        last = pos;
        messages.events.push(row.value);
    }
    Ok(messages)
}

/// The devices for which no message waits.
pub struct EmptyInboxes(Memos<ToDevice, bool>);

impl EmptyInboxes {
    /// `memory_bytes`: for all that is kept.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Memos::new(memory_bytes, |_| 1))
    }

    pub fn cache_use(&self) -> CacheUse {
        self.0.cache_use()
    }
}

fn oldest(snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> store::Result<Option<Row<ToDevice>>> {
    snapshot.list::<ToDevice>(&(user, device)).next().transpose()
}

/// Deletes the messages up to and with `until`: whoever asks with a token has got all that came before it.
pub async fn acknowledge(server: &Arc<Server>, user: &UserId, device: &DeviceId, until: StreamPos) -> Result<()> {
    let place = (user, device);
    let is_empty = |snapshot: &Snapshot<'_>| Ok::<_, Error>(oldest(snapshot, user, device)?.is_none());
    if server.empty_inboxes.0.now(&server.store, &place, Group::of(place), is_empty)? {
        return Ok(());
    }
    let snapshot = server.store.snapshot();
    let Some(first) = oldest(&snapshot, user, device)? else { return Ok(()) };
    // A token of a future that was lost, with a restored backup, says nothing of the messages that came since.
    if first.key()?.2 > until || server.store.is_lost(until, snapshot.pos()?) {
        return Ok(());
    }
    drop(snapshot);
    let (of_user, on_device) = (user.to_owned(), device.to_owned());
    let deleted = server.store.write(move |tx| to_device::acknowledge(tx, &of_user, &on_device, until));
    // A disk that is full must not keep anybody from reading; the messages are deleted another time.
    if let Err(error) = deleted.await {
        warn!("acknowledged to-device messages could not be deleted: {error}");
    }
    server.empty_inboxes.0.forget(&place);
    Ok(())
}
