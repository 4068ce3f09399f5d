//! How it goes with each server that we send to, for those who run this one.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, ServerName};

use super::{
    backoff, queue,
    queue::tables::Destinations,
    tables::{Backoff, Backoffs, Deliveries, Delivery},
};
use crate::{
    Server,
    error::Result,
    room::{
        servers::RoomServers,
        tables::{Rooms, Timeline},
    },
    store::{self, RoomPos, Scan, Snapshot},
};

/// How sending to one server goes.
#[derive(Clone, Debug)]
pub struct Status {
    pub server: OwnedServerName,
    /// How much waits for it, in rows of its queue.
    pub waiting: u64,
    /// What it took last; `None` if nothing ever.
    pub delivered: Option<Delivery>,
    /// How it fails; `None` if it does not.
    pub failing: Option<Failures>,
}

impl Status {
    /// With what only the running server knows: that the other one is there and takes nothing.
    #[must_use]
    pub fn known_to(mut self, server: &Server) -> Self {
        self.failing = self.failing.or_else(|| queue::turned_away(server, &self.server));
        self
    }
}

/// How a server failed each time lately. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Failures {
    pub since_ms: u64,
    /// The last time.
    pub tried_ms: u64,
    /// Before this it is left alone.
    pub retry_at_ms: u64,
    pub count: u32,
    /// What went wrong the last time.
    pub reason: String,
}

impl From<Backoff> for Failures {
    fn from(backoff: Backoff) -> Self {
        let Backoff { since_ms, retry_at_ms, failures: count, reason } = backoff;
        let tried_ms = retry_at_ms.saturating_sub(backoff::pause_ms(count));
        Self { since_ms, tried_ms, retry_at_ms, count, reason }
    }
}

/// All servers that we ever sent something to, or wanted to, by their names.
pub fn list(snapshot: &Snapshot<'_>) -> store::Result<Vec<Status>> {
    let mut names = BTreeSet::new();
    for row in snapshot.list::<Deliveries>(&()) {
        names.insert(row?.key()?.to_owned());
    }
    for row in snapshot.list::<Destinations>(&()) {
        names.insert(row?.key()?.to_owned());
    }
    for row in snapshot.list::<Backoffs>(&()) {
        // What is no server's name was never one that could be reached.
        names.extend(OwnedServerName::try_from(row?.key()?).ok());
    }
    let statuses = names.into_iter().map(|name| get(snapshot, &name));
    statuses.filter_map(Result::transpose).collect()
}

/// `None` if nothing was ever to be sent to that server.
pub fn get(snapshot: &Snapshot<'_>, server: &ServerName) -> store::Result<Option<Status>> {
    let backlog = snapshot.get::<Destinations>(&server)?;
    let delivered = snapshot.get::<Deliveries>(&server)?;
    let failing = backoff::get(snapshot, server)?;
    if backlog.is_none() && delivered.is_none() && failing.is_none() {
        return Ok(None);
    }
    let waiting = backlog.map_or(0, |backlog| backlog.rows);
    Ok(Some(Status { server: server.to_owned(), waiting, delivered, failing: failing.map(Failures::from) }))
}

/// The rooms in which that server is now, and the place of the newest event in each.
pub fn rooms(snapshot: &Snapshot<'_>, server: &ServerName) -> store::Result<Vec<(OwnedRoomId, RoomPos)>> {
    let mut rooms = Vec::new();
    for row in snapshot.list::<RoomServers>(&()) {
        let row = row?;
        let (nid, name) = row.key()?;
        if name != server || row.value.joined == 0 {
            continue;
        }
        let Some(room) = snapshot.get::<Rooms>(&nid)? else { continue };
        let newest = snapshot.scan::<Timeline>(Scan::prefix::<Timeline>(&nid).backward()).next().transpose()?;
        let newest = newest.map(|row| row.key().map(|(_, pos)| pos)).transpose()?;
        rooms.push((room.room_id, newest.unwrap_or_default()));
    }
    Ok(rooms)
}

/// Forgets that a server failed, and tries it at once.
pub async fn retry(server: &Arc<Server>, other: &ServerName) -> Result<()> {
    backoff::succeeded(server, other).await?;
    queue::retry(server, other);
    Ok(())
}
