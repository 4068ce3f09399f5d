//! Events that are told to the room's servers by another server than the sender's: members that came in, or went, by its
//! hand. Who sends events on asks here which of those that are not ours are to be sent, and which of ours are not.

use ruma::{EventId, OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use crate::{
    Server,
    error::{Error, Result},
    room::tables::{EventIds, EventPlace, Events},
    store::{self, Family, Record, Snapshot, Table, Transaction},
};

/// The events of others that we let in, and those of ours that others let in. A row is written before its event becomes
/// part of the room, and removed when it was put into the queues, or was not.
pub struct Relayed;
impl Table for Relayed {
    const NAME: &'static str = "relayed";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 130;
    type Key<'a> = &'a EventId;
    type Value = From;
}

/// The server that gave us an event, or that let ours in: it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct From(pub OwnedServerName);

impl Record for From {}

/// The other server that has an event of this kind; `None` if it is none of these.
pub fn source(snapshot: &Snapshot<'_>, event_id: &EventId) -> store::Result<Option<OwnedServerName>> {
    Ok(snapshot.get::<Relayed>(&event_id)?.map(|From(server)| server))
}

/// Forgets an event, in the transaction that puts it into the queues.
pub fn done(tx: &mut Transaction<'_>, event_id: &EventId) {
    tx.delete::<Relayed>(&event_id);
}

/// Makes an event part of its room by `append`, marked as one that `origin` has. Who gets the verdict takes the mark off an
/// event that was refused.
pub(super) async fn marked<T>(
    server: &Server,
    event_id: &EventId,
    origin: &ServerName,
    append: impl Future<Output = Result<T>>,
) -> Result<T> {
    mark(server, event_id, origin).await?;
    match append.await {
        Ok(appended) => Ok(appended),
        Err(error) => {
            unmark_unless_there(server, event_id).await?;
            Err(error)
        }
    }
}

/// Marks an event that is about to become part of its room. One that is part of it by now, since it came twice at once, may
/// be in the queues already: nobody would remove its row any more.
async fn mark(server: &Server, event_id: &EventId, origin: &ServerName) -> Result<()> {
    let (event_id, from) = (event_id.to_owned(), From(origin.to_owned()));
    let mark = move |tx: &mut Transaction<'_>| {
        if !is_in_its_room(tx.before(), &event_id)? {
            tx.put::<Relayed>(&&*event_id, &from);
        }
        Ok::<_, Error>(())
    };
    server.store.write(mark).await?; // durable with the event, which is written after it
    Ok(())
}

fn is_in_its_room(snapshot: &Snapshot<'_>, event_id: &EventId) -> store::Result<bool> {
    let Some(EventPlace { room, event }) = snapshot.get::<EventIds>(&event_id)? else { return Ok(false) };
    Ok(snapshot.get::<Events>(&(room, event))?.is_some_and(|event| !event.flags.outlier))
}

/// Forgets an event that did not become part of its room.
pub(super) async fn unmark(server: &Server, event_id: &EventId) -> Result<()> {
    let event_id = event_id.to_owned();
    server
        .store
        .write(move |tx| {
            done(tx, &event_id);
            Ok::<_, Error>(())
        })
        .await?;
    Ok(())
}

/// As [`unmark`], of an event of which nobody knows what became. If it is part of its room, it is still to be told.
async fn unmark_unless_there(server: &Server, event_id: &EventId) -> Result<()> {
    let event_id = event_id.to_owned();
    let unmark = move |tx: &mut Transaction<'_>| {
        if !is_in_its_room(tx.before(), &event_id)? {
            done(tx, &event_id);
        }
        Ok::<_, Error>(())
    };
    server.store.write(unmark).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, server_name, user_id};

    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn an_event_that_is_part_of_its_room_already_is_not_marked() {
        let room = TestRoom::new();
        let there = room.receive_member(user_id!("@bob:b.test"), "join");
        for (id, is_marked) in [(&*there, false), (event_id!("$not_there"), true)] {
            room.block_on(mark(&room.server, id, server_name!("b.test"))).unwrap();
            assert_eq!(source(&room.server.store.snapshot(), id).unwrap().is_some(), is_marked, "{id}");
        }
    }

    #[test]
    fn an_event_that_came_to_nothing_is_forgotten() {
        let room = TestRoom::new();
        let there = room.receive_member(user_id!("@bob:b.test"), "join");
        for (id, is_kept) in [(&*there, true), (event_id!("$not_there"), false)] {
            let (event_id, from) = (id.to_owned(), From(server_name!("b.test").to_owned()));
            room.change(move |tx| {
                tx.put::<Relayed>(&&*event_id, &from);
            });
            room.block_on(unmark_unless_there(&room.server, id)).unwrap();
            assert_eq!(source(&room.server.store.snapshot(), id).unwrap().is_some(), is_kept, "{id}");
        }
    }
}
