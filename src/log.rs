//! The log of events: what became part of rooms, in one order, for those who act on it later, such as the senders of
//! federation and push. An event's entry is written in the event's own batch; a reader keeps how far it has come in the
//! batch of its own work. So a crash makes nobody miss an event, and nothing need be kept in memory.

use std::{sync::Arc, time::Duration};

use tracing::error;

use crate::{
    Server,
    error::Result,
    store::{self, EventNid, Family, Group, RoomNid, Row, Scan, Snapshot, StreamPos, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 2] = [TableInfo::of::<Log>(), TableInfo::of::<LogReaders>()];

/// How long a reader waits after its work failed.
const RETRY: Duration = Duration::from_secs(5);

/// Accepted events, of whatever origin, that came in live. What all readers have passed is removed by the sweep.
pub struct Log;
impl Table for Log {
    const NAME: &'static str = "log";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 8;
    type Key<'a> = (StreamPos, RoomNid);
    type Value = EventNid;

    fn group(_: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(Self::NAME))
    }
}

/// The last entry that each reader has done.
pub struct LogReaders;
impl Table for LogReaders {
    const NAME: &'static str = "log_readers";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 17;
    /// The name of the reader: never changed.
    type Key<'a> = &'a str;
    type Value = StreamPos;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub pos: StreamPos,
    pub room: RoomNid,
    pub event: EventNid,
}

/// Notes an accepted event, in the transaction that writes it.
pub fn note(tx: &mut Transaction<'_>, room: RoomNid, event: EventNid) {
    tx.put::<Log>(&(tx.pos(), room), &event);
}

/// Notes how far `reader` has come, in the transaction that writes what it did.
pub fn done(tx: &mut Transaction<'_>, reader: &str, up_to: StreamPos) {
    tx.put::<LogReaders>(&reader, &up_to);
}

/// The next entries after `after`, at most `limit`, up to what is durable.
pub fn next(server: &Server, snapshot: &Snapshot<'_>, after: StreamPos, limit: usize) -> store::Result<Vec<Entry>> {
    let durable = server.store.durable_pos();
    let rows = snapshot.scan::<Log>(Scan::from::<Log>(&after.next(), &()));
    let entry = |row: Row<Log>| row.key().map(|(pos, room)| Entry { pos, room, event: row.value });
    rows.map(|row| row.and_then(entry))
        .take_while(|entry| entry.as_ref().map_or(true, |entry| entry.pos <= durable))
        .take(limit)
        .collect()
}

/// The first entry that `reader` has not done; `None` if there is none.
pub fn next_of(snapshot: &Snapshot<'_>, reader: &str) -> store::Result<Option<StreamPos>> {
    let done = snapshot.get::<LogReaders>(&reader)?.unwrap_or_default();
    let next = snapshot.scan::<Log>(Scan::from::<Log>(&done.next(), &())).next().transpose()?;
    next.map(|row| row.key().map(|(pos, _)| pos)).transpose()
}

/// How many durable entries each reader has not done; `limit` at most are counted.
pub fn behind(server: &Server, snapshot: &Snapshot<'_>, limit: usize) -> store::Result<Vec<(String, u64)>> {
    let mut readers = Vec::new();
    for row in snapshot.list::<LogReaders>(&()) {
        let row = row?;
        readers.push((row.key()?.to_owned(), row.value, 0));
    }
    let Some(first) = readers.iter().map(|(_, done, _)| *done).min() else { return Ok(Vec::new()) };
    for entry in next(server, snapshot, first, limit)? {
        readers.iter_mut().filter(|(_, done, _)| entry.pos > *done).for_each(|(_, _, count)| *count += 1);
    }
    Ok(readers.into_iter().map(|(reader, _, count)| (reader, count)).collect())
}

/// How far `reader` has come. One that is new begins with what comes from now on.
pub async fn cursor(server: &Server, reader: &'static str) -> Result<StreamPos> {
    let find_or_begin = move |tx: &mut Transaction<'_>| {
        if let Some(pos) = tx.get::<LogReaders>(&reader)? {
            return Ok(pos);
        }
        let now = tx.before().pos()?;
        done(tx, reader, now);
        Ok::<_, crate::error::Error>(now)
    };
    server.store.commit(find_or_begin).await
}

/// Gives `work` the log's entries, at most `limit` at a time, from where `reader` has come to, until the server ends.
/// `work` does what is to be done for them and calls [`done`] in the transaction that writes it. What fails is tried
/// again.
pub async fn follow<F>(
    server: Arc<Server>,
    reader: &'static str,
    limit: usize,
    mut work: impl FnMut(Arc<Server>, Vec<Entry>) -> F + Send,
) where
    F: Future<Output = Result<()>> + Send,
{
    while !server.shutdown.is_cancelled() {
        let failed = tokio::select! {
            () = server.shutdown.cancelled() => return,
            Err(error) = read_on(&server, reader, limit, &mut work) => error,
        };
        error!(reader, error = ?failed, "entries of the log could not be worked on; trying again");
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Works until something fails.
async fn read_on<F>(
    server: &Arc<Server>,
    reader: &'static str,
    limit: usize,
    work: &mut impl FnMut(Arc<Server>, Vec<Entry>) -> F,
) -> Result<std::convert::Infallible>
where
    F: Future<Output = Result<()>>,
{
    let mut after = cursor(server, reader).await?;
    loop {
        let durable = server.store.durable_pos();
        if server.store.recent().may_have_changed::<Log>(Group::of(Log::NAME), after) {
            let read = move |server: &Server| Ok(next(server, &server.store.snapshot(), after, limit)?);
            let entries = server.blocking(read).await?;
            if let Some(last) = entries.last().map(|entry| entry.pos) {
                work(Arc::clone(server), entries).await?;
                after = last;
                continue;
            }
        }
        server.store.until_durable(durable.next()).await?;
    }
}

/// Removes what all readers have passed.
pub async fn sweep(server: &Server) -> Result<()> {
    server
        .store
        .commit_when_full(|tx| {
            let mut passed = tx.before().pos()?;
            for row in tx.before().list::<LogReaders>(&()) {
                passed = passed.min(row?.value);
            }
            tx.delete_range::<Log>(Scan::range::<Log>(&(), &passed.next()));
            Ok(())
        })
        .await
}
