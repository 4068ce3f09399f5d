//! Sending events when their time has come.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use ruma::{OwnedUserId, api::error::ErrorKind};
use tracing::{error, info};

use super::{
    finish, send,
    tables::{DelayedDue, DelayedEvents, Outcome},
};
use crate::{
    Server,
    error::{Error, Result},
    store::{Scan, Snapshot},
};

/// How long the timer sleeps at most: the clock may be set meanwhile. After a failure it waits as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many events are read at once, and of how many users they are sent at a time: an invite waits for another server.
const BATCH: usize = 100;
const USERS_AT_ONCE: usize = 16;

/// Sends events when they are due, those of the time when the server was off first, until the server ends.
pub async fn run(server: Arc<Server>) {
    loop {
        let sleep = match send_due(&server).await {
            Ok(next_ms) => {
                let until = |next_ms: u64| Duration::from_millis(next_ms.saturating_sub(server.clock.now_ms()));
                next_ms.map_or(PATIENCE, until).min(PATIENCE)
            }
            Err(error) => {
                error!("delayed events can't be sent, trying again: {error:?}");
                PATIENCE
            }
        };
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = server.delayed.changed.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Sends all events that are due, those of each user in the order of their times; when the next one is, in milliseconds since
/// the Unix epoch. What fails of one user's for a reason of our own keeps none of the others'.
pub async fn send_due(server: &Arc<Server>) -> Result<Option<u64>> {
    loop {
        let now_ms = server.clock.now_ms();
        let (due, next_ms) = server.read(move |snapshot| due(snapshot, now_ms)).await?;
        if due.is_empty() {
            return Ok(next_ms);
        }
        let of_users = stream::iter(due.into_values()).map(|delay_ids| send_in_order(server, delay_ids));
        let done: Vec<Result<()>> = of_users.buffer_unordered(USERS_AT_ONCE).collect().await;
        done.into_iter().collect::<Result<()>>()?;
        if server.shutdown.is_cancelled() {
            return Ok(None);
        }
    }
}

/// The delay ids of each user's events, in the order of their times.
type ByUser = BTreeMap<OwnedUserId, Vec<String>>;

/// The first events that are due, and if there are none the time of the first one that is not.
fn due(snapshot: &Snapshot<'_>, now_ms: u64) -> Result<(ByUser, Option<u64>)> {
    let mut due = ByUser::new();
    for row in snapshot.scan::<DelayedDue>(Scan::prefix::<DelayedDue>(&())).take(BATCH) {
        let row = row?;
        let (at_ms, delay_id) = row.key()?;
        if at_ms > now_ms {
            return Ok((due, Some(at_ms)));
        }
        let event = snapshot.get::<DelayedEvents>(&delay_id)?;
        let event = event.ok_or_else(|| Error::internal(format!("{delay_id} is due and not there")))?;
        due.entry(event.user_id).or_default().push(delay_id.to_owned());
    }
    Ok((due, None))
}

async fn send_in_order(server: &Arc<Server>, delay_ids: Vec<String>) -> Result<()> {
    for delay_id in delay_ids {
        if server.shutdown.is_cancelled() {
            break;
        }
        send_one(server, delay_id).await?;
    }
    Ok(())
}

async fn send_one(server: &Arc<Server>, delay_id: String) -> Result<()> {
    let _lock = server.delayed.lock(&delay_id).await;
    let event = server.store.snapshot().get::<DelayedEvents>(&delay_id.as_str())?;
    // Somebody may have cancelled it or begun its delay anew meanwhile.
    let is_due = |due_ms| due_ms <= server.clock.now_ms();
    let Some(event) = event.filter(|event| event.end.is_none() && is_due(event.due_ms())) else { return Ok(()) };
    let outcome = match send(server, &delay_id, event).await {
        Ok(event_id) => Outcome::Sent(event_id),
        Err(Error::Refused { kind, message, .. }) => {
            info!(%delay_id, %message, "a delayed event is not allowed any more");
            Outcome::Failed(kind.errcode().to_string(), message.into_owned())
        }
        // Such as that of somebody who is to be invited, or the policy server: nobody else waits for it.
        Err(Error::Remote { server, source }) => {
            info!(%delay_id, %server, %source, "a delayed event can't be sent without another server");
            Outcome::Failed(ErrorKind::Unknown.errcode().to_string(), format!("The server {server} failed: {source}"))
        }
        Err(other) => return Err(other),
    };
    finish(server, delay_id, outcome).await
}
