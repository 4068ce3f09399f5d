//! What pushers have still to tell: events, one row each, and whether the number of unread messages changed.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::pushers::{PusherKey, Pushers};
use crate::{
    error::Result,
    store::{EventNid, Family, Record, RoomNid, Row, Snapshot, StreamPos, Table, Transaction},
};

/// How long an event waits for a gateway that fails; nobody wants to be woken by it later.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How many events wait for a gateway that fails: the oldest are dropped.
const KEPT: usize = 100;

/// Events that a pusher is to tell of, in the order of the log.
pub struct PushQueue;
impl Table for PushQueue {
    const NAME: &'static str = "push_queue";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 180;
    /// The pusher's key, and the event's place.
    type Key<'a> = (&'a UserId, &'a str, &'a str, StreamPos, RoomNid);
    type Value = Push;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Push {
    pub event: EventNid,
    /// A JSON list: the actions of the rule that applied.
    pub actions: String,
    /// When it was to be told, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Record for Push {}

/// What each pusher told last of the number of unread messages.
pub struct Badges;
impl Table for Badges {
    const NAME: &'static str = "push_badges";
    const FAMILY: Family = Family::User;
    const ID: u8 = 181;
    type Key<'a> = (&'a UserId, &'a str, &'a str);
    type Value = Badge;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    /// The number that was told; nobody knows what the app showed before the first time.
    pub told: Option<u64>,
    /// The change after which the number has to be looked at again.
    pub due: Option<StreamPos>,
}

impl Record for Badge {}

/// An event that waits, and where.
pub struct Waiting {
    pub pos: StreamPos,
    pub room: RoomNid,
    pub push: Push,
}

/// Notes that the unread messages of `user` may have become fewer, in the transaction that makes it so. Call
/// [`super::deliver::wake_user`] after it.
pub fn has_read(tx: &mut Transaction<'_>, user: &UserId) -> Result<()> {
    let pushers: Vec<Row<Pushers>> = tx.before().list::<Pushers>(&user).collect::<Result<_, _>>()?;
    for pusher in pushers {
        let key = pusher.key()?;
        let badge = tx.get::<Badges>(&key)?.unwrap_or_default();
        tx.put::<Badges>(&key, &Badge { due: Some(tx.pos()), ..badge });
    }
    Ok(())
}

/// The oldest event that waits.
pub fn first(snapshot: &Snapshot<'_>, key: &PusherKey) -> Result<Option<Waiting>> {
    let Some(row) = snapshot.list::<PushQueue>(&key.parts()).next().transpose()? else { return Ok(None) };
    let (.., pos, room) = row.key()?;
    Ok(Some(Waiting { pos, room, push: row.value }))
}

/// The users and apps for whom anything waits.
pub fn pushers_with_work(snapshot: &Snapshot<'_>) -> Result<Vec<PusherKey>> {
    let mut found = Vec::new();
    for row in snapshot.list::<Pushers>(&()) {
        let row = row?;
        let (user, app_id, pushkey) = row.key()?;
        let key = PusherKey { user: OwnedUserId::from(user), app_id: app_id.to_owned(), pushkey: pushkey.to_owned() };
        let is_due = snapshot.get::<Badges>(&key.parts())?.is_some_and(|badge| badge.due.is_some());
        if is_due || first(snapshot, &key)?.is_some() {
            found.push(key);
        }
    }
    Ok(found)
}

/// Drops what has waited too long for a gateway that fails, or is too much.
pub fn trim(tx: &mut Transaction<'_>, key: &PusherKey, now_ms: u64) -> Result<()> {
    let rows: Vec<Row<PushQueue>> = tx.before().list::<PushQueue>(&key.parts()).collect::<Result<_, _>>()?;
    let excess = rows.len().saturating_sub(KEPT);
    for (index, row) in rows.iter().enumerate() {
        if index < excess || row.value.at_ms.saturating_add(KEPT_MS) < now_ms {
            tx.delete::<PushQueue>(&row.key()?);
        }
    }
    Ok(())
}

pub fn delete(tx: &mut Transaction<'_>, key: &PusherKey) {
    tx.delete_all::<PushQueue>(&key.parts());
    tx.delete::<Badges>(&key.parts());
}
