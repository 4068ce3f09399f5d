//! Putting things into queues, and keeping the queues short.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName};
use tracing::{debug, warn};

use super::tables::{Backlog, Destinations, Item, Queue, rows_from};
use crate::{
    federation::tables::{Backoffs, Deliveries},
    room::{
        servers::is_in,
        sticky::StickyEvents,
        tables::{Events, Rooms},
    },
    store::{self, EventNid, RoomNid, Row, StreamPos, Transaction},
};

/// With how many rows a queue is shortened for the first time: twenty transactions. Source: our choice,
/// docs/architecture.md.
const LONG: u64 = 1_000;

/// How many to-device messages wait for a server at most; the oldest make room. Source: our choice, docs/security.md.
const MAX_TO_DEVICE: usize = 5_000;

/// With how many queues none begins any more for a server that may be made up. Source: our choice, docs/security.md.
const MAX_QUEUES: usize = 1_000;

/// What one transaction puts into queues. A transaction writes one of these at most.
#[derive(Debug, Default)]
pub struct Additions(BTreeMap<OwnedServerName, Vec<(Option<StreamPos>, Item)>>);

impl Additions {
    pub fn add(&mut self, destination: OwnedServerName, item: Item) {
        self.0.entry(destination).or_default().push((None, item));
    }

    /// An event, in its place: `at` is where it is in the order of all changes.
    pub fn add_event(&mut self, destination: OwnedServerName, at: StreamPos, item: Item) {
        self.0.entry(destination).or_default().push((Some(at), item));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn destinations(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.0.keys()
    }

    /// Leaves out those of `strangers`, servers that may be made up, for which there is no place: each has a queue, a task
    /// and attempts to reach it.
    pub fn limit(&mut self, tx: &Transaction<'_>, strangers: &BTreeSet<OwnedServerName>) -> store::Result<()> {
        let mut new = Vec::new();
        for stranger in strangers {
            if !tx.before().contains::<Destinations>(&&**stranger)? {
                new.push(stranger);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut queues = 0;
        for row in tx.before().list::<Destinations>(&()).take(MAX_QUEUES) {
            row?;
            queues += 1;
        }
        for destination in new.into_iter().skip(MAX_QUEUES - queues) {
            debug!(%destination, "too many servers wait: a stranger is told nothing");
            self.0.remove(destination);
        }
        Ok(())
    }

    /// Gives the servers whose senders must be woken.
    pub fn write(self, tx: &mut Transaction<'_>) -> store::Result<Vec<OwnedServerName>> {
        for (destination, items) in &self.0 {
            let known = tx.get::<Destinations>(&&**destination)?;
            let mut backlog = known.unwrap_or(Backlog { rows: 0, shortened_at: LONG, first: StreamPos::MAX });
            let mut first_new = StreamPos::MAX;
            for (number, (at, item)) in (1..).zip(items) {
                let key = match at {
                    Some(at) => (&**destination, *at, 0),
                    None => (&**destination, tx.pos(), number),
                };
                if !tx.before().contains::<Queue>(&key)? {
                    tx.put::<Queue>(&key, item);
                    backlog.rows += 1;
                    first_new = first_new.min(key.1);
                }
            }
            let mut first_old = backlog.first;
            if backlog.rows > backlog.shortened_at {
                let removed;
                (removed, first_old) = shorten(tx, destination, backlog.first)?;
                backlog.rows = backlog.rows.saturating_sub(removed);
                backlog.shortened_at = LONG.max(backlog.rows.saturating_mul(2));
            }
            backlog.first = first_old.min(first_new);
            tx.put::<Destinations>(&&**destination, &backlog);
        }
        Ok(self.0.into_keys().collect())
    }
}

/// Removes rows that were sent; those that are gone already do not count.
pub fn remove(tx: &mut Transaction<'_>, destination: &ServerName, rows: &[(StreamPos, u32)]) -> store::Result<()> {
    let mut removed = 0;
    for &(pos, number) in rows {
        let key = (destination, pos, number);
        if tx.before().contains::<Queue>(&key)? {
            tx.delete::<Queue>(&key);
            removed += 1;
        }
    }
    let Some(backlog) = tx.get::<Destinations>(&destination)? else { return Ok(()) };
    let left = backlog.rows.saturating_sub(removed);
    match first_but(tx, destination, backlog.first, rows)?.filter(|_| left > 0) {
        None => tx.delete::<Destinations>(&destination),
        Some(first) => tx.put::<Destinations>(&destination, &Backlog { rows: left, first, ..backlog }),
    }
    Ok(())
}

/// Removes the queue of a server that never took anything, if nothing but to-device messages is in it: a server with which
/// somebody has a room is told more. Whether it is gone.
pub fn give_up(tx: &mut Transaction<'_>, destination: &ServerName) -> store::Result<bool> {
    let Some(backlog) = tx.get::<Destinations>(&destination)? else { return Ok(false) };
    if tx.before().contains::<Deliveries>(&destination)? {
        return Ok(false);
    }
    let mut places = Vec::new();
    for row in rows_from(tx.before(), destination, backlog.first) {
        let row = row?;
        if !matches!(row.value, Item::ToDevice { .. }) {
            return Ok(false);
        }
        let (_, pos, number) = row.key()?;
        places.push((pos, number));
    }
    for (pos, number) in places {
        tx.delete::<Queue>(&(destination, pos, number));
    }
    tx.delete::<Destinations>(&destination);
    tx.delete::<Backoffs>(&destination.as_str());
    Ok(true)
}

/// Where the first row from `first` on is that is none of `removed`.
fn first_but(
    tx: &Transaction<'_>,
    destination: &ServerName,
    first: StreamPos,
    removed: &[(StreamPos, u32)],
) -> store::Result<Option<StreamPos>> {
    let removed: HashSet<_> = removed.iter().collect();
    for row in rows_from(tx.before(), destination, first) {
        let row = row?;
        let (_, pos, number) = row.key()?;
        if !removed.contains(&(pos, number)) {
            return Ok(Some(pos));
        }
    }
    Ok(None)
}

/// Removes from a long queue what need not be sent: older events of rooms, whose newest lead the other server to them if
/// it may ask for them; what a newer row tells again. Gives the number of rows that went, which may be those that are
/// being sent at the moment, and where the first is that stays.
fn shorten(tx: &mut Transaction<'_>, destination: &ServerName, first: StreamPos) -> store::Result<(u64, StreamPos)> {
    let rows: Vec<Row<Queue>> = rows_from(tx.before(), destination, first).collect::<store::Result<_>>()?;
    let mut kept = Kept::default();
    let (mut removed, mut first) = (0, StreamPos::MAX);
    for row in rows.iter().rev() {
        if kept.keeps(tx, destination, &row.value)? {
            first = row.key()?.1;
        } else {
            tx.delete::<Queue>(&row.key()?);
            removed += 1;
        }
    }
    warn!(%destination, removed, rows = rows.len(), "a long queue was shortened: the server has not taken anything for a while");
    if kept.dropped_to_device > 0 {
        let dropped = kept.dropped_to_device;
        warn!(%destination, dropped, "to-device messages are lost: too many wait for this server");
    }
    Ok((removed, first))
}

/// What of a queue was kept so far, from its end on.
#[derive(Default)]
struct Kept {
    rooms: BTreeSet<RoomNid>,
    /// Of rooms with several events: whether the destination is there.
    is_in: BTreeMap<RoomNid, bool>,
    members: HashSet<(RoomNid, OwnedUserId)>,
    receipts: HashSet<(RoomNid, OwnedUserId, String)>,
    devices: HashSet<(OwnedUserId, OwnedDeviceId)>,
    signing_keys: HashSet<OwnedUserId>,
    to_device: usize,
    dropped_to_device: usize,
}

/// Whether nothing of the room has come after the event.
fn is_end(tx: &Transaction<'_>, room: RoomNid, event: EventNid) -> store::Result<bool> {
    Ok(tx.before().get::<Rooms>(&room)?.is_some_and(|room| room.forward_extremities.contains(&event)))
}

impl Kept {
    fn keeps(&mut self, tx: &Transaction<'_>, destination: &ServerName, item: &Item) -> store::Result<bool> {
        Ok(match item {
            Item::Event { room, event } => {
                self.rooms.insert(*room)
                    || is_end(tx, *room, *event)?
                    || tx.before().contains::<StickyEvents>(&(*room, *event))?
                    || self.keeps_member(tx, destination, *room, *event)?
            }
            Item::Receipt { room, user, thread } => self.receipts.insert((*room, user.clone(), thread.clone())),
            // The other server notices the gap by `prev_id`, and asks for all devices.
            Item::Device { user, device, .. } => self.devices.insert((user.clone(), device.clone())),
            Item::SigningKeys { user } => self.signing_keys.insert(user.clone()),
            Item::ToDevice { .. } if self.to_device < MAX_TO_DEVICE => {
                self.to_device += 1;
                true
            }
            Item::ToDevice { .. } => {
                self.dropped_to_device += 1;
                false
            }
        })
    }

    /// Whether an event says last what became of a user of the destination in a room where that server is not, such as
    /// that he is no longer invited: it hears so by nothing else.
    fn keeps_member(
        &mut self,
        tx: &Transaction<'_>,
        destination: &ServerName,
        room: RoomNid,
        event: EventNid,
    ) -> store::Result<bool> {
        let is_in = match self.is_in.get(&room) {
            Some(known) => *known,
            None => *self.is_in.entry(room).or_insert(is_in(tx.before(), room, destination)?),
        };
        if is_in {
            return Ok(false);
        }
        let Some(event) = tx.before().get::<Events>(&(room, event))? else { return Ok(false) };
        let user = event.member().filter(|user| user.server_name() == destination);
        Ok(user.is_some_and(|user| self.members.insert((room, user.to_owned()))))
    }
}
