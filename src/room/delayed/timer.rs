//! Sending events when their time has come.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
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

/// Of how many users events are sent at a time: one may wait long for another server. Source: our choice.
const USERS_AT_ONCE: usize = 256;

/// Sends events when they are due, those of the time when the server was off first, until the server ends.
pub async fn run(server: Arc<Server>) {
    let mut senders = Senders::default();
    loop {
        let sleep = match senders.start(&server).await {
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
            Some(()) = senders.one_done() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Sends all events that are due, and waits until that is done.
pub async fn send_due(server: &Arc<Server>) -> Result<()> {
    let mut senders = Senders::default();
    while !server.shutdown.is_cancelled() {
        senders.start(server).await?;
        if senders.one_done().await.is_none() {
            break;
        }
    }
    Ok(())
}

/// The users whose events are being sent, those of each in the order of their times. No user waits for another's.
#[derive(Default)]
struct Senders {
    users: HashSet<OwnedUserId>,
    at_work: FuturesUnordered<BoxFuture<'static, OwnedUserId>>,
}

impl Senders {
    /// Begins to send what is due of users who are not at work; when the next event is due, in milliseconds since the Unix
    /// epoch, if that is known.
    async fn start(&mut self, server: &Arc<Server>) -> Result<Option<u64>> {
        let (now_ms, at_work) = (server.clock.now_ms(), self.users.clone());
        let (due, next_ms) = server.read(move |snapshot| due(snapshot, now_ms, &at_work)).await?;
        for (user, delay_ids) in due {
            self.users.insert(user.clone());
            let work = Server::detached(send_in_order(Arc::clone(server), delay_ids));
            self.at_work.push(Box::pin(async move {
                if let Err(error) = work.await {
                    error!(%user, "delayed events can't be sent, trying again: {error:?}");
                    tokio::time::sleep(PATIENCE).await;
                }
                user
            }));
        }
        Ok(next_ms)
    }

    /// Waits until a user's are done; `None` if nobody is at work.
    async fn one_done(&mut self) -> Option<()> {
        let user = self.at_work.next().await?;
        self.users.remove(&user);
        Some(())
    }
}

/// The delay ids of each user's events, in the order of their times.
type ByUser = BTreeMap<OwnedUserId, Vec<String>>;

/// The events that are due of users who are not at work, and the time of the first one that is not due. That is not known if
/// there are too many users.
fn due(snapshot: &Snapshot<'_>, now_ms: u64, at_work: &HashSet<OwnedUserId>) -> Result<(ByUser, Option<u64>)> {
    let mut due = ByUser::new();
    for row in snapshot.scan::<DelayedDue>(Scan::prefix::<DelayedDue>(&())) {
        let row = row?;
        let (at_ms, delay_id) = row.key()?;
        if at_ms > now_ms {
            return Ok((due, Some(at_ms)));
        }
        let event = snapshot.get::<DelayedEvents>(&delay_id)?;
        let event = event.ok_or_else(|| Error::internal(format!("{delay_id} is due and not there")))?;
        if at_work.contains(&event.user_id) {
            continue;
        }
        if at_work.len() + due.len() >= USERS_AT_ONCE && !due.contains_key(&event.user_id) {
            break;
        }
        due.entry(event.user_id).or_default().push(delay_id.to_owned());
    }
    Ok((due, None))
}

async fn send_in_order(server: Arc<Server>, delay_ids: Vec<String>) -> Result<()> {
    for delay_id in delay_ids {
        if server.shutdown.is_cancelled() {
            break;
        }
        send_one(&server, delay_id).await?;
    }
    Ok(())
}

async fn send_one(server: &Arc<Server>, delay_id: String) -> Result<()> {
    let _lock = server.delayed.locks.lock(&delay_id).await;
    let event = server.store.snapshot().get::<DelayedEvents>(&delay_id.as_str())?;
    // Somebody may have cancelled it or begun its delay anew meanwhile.
    let is_due = |due_ms| due_ms <= server.clock.now_ms();
    let Some(event) = event.filter(|event| event.end.is_none() && is_due(event.due_ms())) else { return Ok(()) };
    let outcome = match send(server, &delay_id, event).await {
        Ok(event_id) => Outcome::Sent(event_id),
        // The end of the server may be why: it is sent when the server is on again.
        Err(_) if server.shutdown.is_cancelled() => return Ok(()),
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
