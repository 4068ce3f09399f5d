//! What a client knows of the rooms of its connection: read for an answer, changed by it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use quick_cache::{Weighter, sync::Cache};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    pos::{self, Pos},
    request::Asked,
    required_state::RequiredState,
    tables::{Connection, Connections, Extended, Position, Sent, SentRoom, SentRooms},
};
use crate::{
    Server,
    error::Result,
    metrics::CacheUse,
    store::{RoomNid, Snapshot, StateKeyNid, StreamPos, Transaction},
    sweep,
    user::session,
};

/// How many connections a device may have: the one that was not used for longest makes room. Source: our choice; clients
/// have two or three.
const MAX_CONNECTIONS: usize = 16;

/// How many kinds of required state are remembered of a connection. Rooms that were told with older ones are told theirs
/// again when it changes.
const MAX_REQUIRED: usize = 16;

/// How exactly it is kept when a connection was last used, and when one is forgotten.
const USED_EVERY_MS: u64 = 24 * 60 * 60 * 1000;
const KEPT_MS: u64 = 30 * USED_EVERY_MS;

/// A connection at the position that a request names.
#[derive(Debug, Default)]
pub struct Known {
    /// `None` for one that begins now.
    base: Option<(StreamPos, Connection)>,
    rows: Arc<Rows>,
}

type Rows = HashMap<RoomNid, SentRoom>;
type Key = (OwnedUserId, OwnedDeviceId, String);

/// The rows of connections that are in use, as their newest position left them: a client with a thousand rooms asks again
/// and again, and few of these change.
pub struct Remembered(Cache<Key, (StreamPos, Arc<Rows>), Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, (StreamPos, Arc<Rows>)> for Bytes {
    fn weight(&self, _: &Key, (_, rows): &(StreamPos, Arc<Rows>)) -> u64 {
        let sent = rows.values().flat_map(|row| &row.0);
        let members: usize = sent.map(|(_, sent)| sent.members.len() * size_of::<StateKeyNid>()).sum();
        (200 + rows.len() * 200 + members) as u64
    }
}

impl Remembered {
    /// `memory_bytes`: about as much is kept of rows.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(1_000, memory_bytes, Bytes))
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }
}

impl Known {
    /// `M_UNKNOWN_POS` if the position is not one of the last two of this connection.
    pub fn load(server: &Server, snapshot: &Snapshot<'_>, asked: &Asked) -> Result<Self> {
        let Some(Pos { at, .. }) = asked.pos else { return Ok(Self::default()) };
        let key = (&*asked.base.user_id, &*asked.base.device_id, asked.conn_id.as_str());
        let connection = snapshot.get::<Connections>(&key)?.filter(|connection| connection.has(at));
        let connection = connection.ok_or_else(pos::unknown)?;
        let newest = connection.positions.last().map(|position| position.at);
        let kept = server.sliding_told.0.get(&asked.connection_key()).filter(|(as_of, _)| Some(*as_of) == newest);
        if let Some((_, rows)) = kept {
            return Ok(Self { base: Some((at, connection)), rows });
        }
        let mut rows = Rows::new();
        for row in snapshot.list::<SentRooms>(&key) {
            let row = row?;
            rows.insert(row.key()?.3, row.value);
        }
        let rows = Arc::new(rows);
        if let Some(newest) = newest {
            server.sliding_told.0.insert(asked.connection_key(), (newest, Arc::clone(&rows)));
        }
        Ok(Self { base: Some((at, connection)), rows })
    }

    pub fn sent(&self, room: RoomNid) -> Option<&Sent> {
        let (at, _) = self.base.as_ref()?;
        self.rows.get(&room)?.at(*at)
    }

    /// All rooms that the client was told of.
    pub fn rooms(&self) -> impl Iterator<Item = (RoomNid, &Sent)> {
        let at = self.base.as_ref().map(|(at, _)| *at);
        self.rows.iter().filter_map(move |(room, row)| Some((*room, row.at(at?)?)))
    }

    pub fn extensions(&self) -> Extended {
        self.position().map(|position| position.extensions).unwrap_or_default()
    }

    /// The required state that a room was told with; nothing, if that is forgotten.
    pub fn required(&self, fingerprint: u64) -> RequiredState {
        let kept = self.base.iter().flat_map(|(_, connection)| &connection.required);
        kept.into_iter()
            .find(|(kept, _)| *kept == fingerprint)
            .map(|(_, required)| required.clone())
            .unwrap_or_default()
    }

    fn position(&self) -> Option<&Position> {
        let (at, connection) = self.base.as_ref()?;
        connection.positions.iter().find(|position| position.at == *at)
    }
}

impl Connection {
    fn has(&self, at: StreamPos) -> bool {
        self.positions.iter().any(|position| position.at == at)
    }
}

/// What an answer changes about its connection.
#[derive(Debug, Default)]
pub struct Change {
    pub rooms: BTreeMap<RoomNid, Sent>,
    pub required: HashMap<u64, RequiredState>,
    pub extensions: Extended,
}

/// Writes the change, if there is any: the position of the connection from now on. It need not survive a power cut: the
/// client would begin anew. `M_UNKNOWN_POS` if another request has the turn by now.
///
/// Also below `free_space_floor`: a client that was told something new, and nothing was written of it, could not go on.
pub async fn write(
    server: &Arc<Server>,
    asked: &Arc<Asked>,
    known: Known,
    change: Change,
    ended: tokio_util::sync::CancellationToken,
) -> Result<StreamPos> {
    let now_ms = server.clock.now_ms();
    if let Some((at, connection)) = &known.base {
        let is_used = connection.used_ms.saturating_add(USED_EVERY_MS) <= now_ms;
        if change.rooms.is_empty() && change.extensions == known.extensions() && !is_used {
            return Ok(*at);
        }
    }
    let key = asked.connection_key();
    let asked = Arc::clone(asked);
    let write = move |tx: &mut Transaction<'_>| {
        if ended.is_cancelled() {
            return Err(pos::unknown());
        }
        let (user_id, device_id) = (&*asked.base.user_id, &*asked.base.device_id);
        session::check_device_in(tx.before(), user_id, device_id)?;
        change.write(tx, &asked, known, now_ms)
    };
    let (at, rows) = server.store.write_when_full(write).await?.value;
    server.sliding_told.0.insert(key, (at, Arc::new(rows)));
    Ok(at)
}

impl Change {
    /// The position from now on, and all rows as it leaves them.
    fn write(self, tx: &mut Transaction<'_>, asked: &Asked, known: Known, now_ms: u64) -> Result<(StreamPos, Rows)> {
        let (user, device, conn_id) = (&*asked.base.user_id, &*asked.base.device_id, asked.conn_id.as_str());
        let key = (user, device, conn_id);
        let now = Position { at: tx.pos(), extensions: self.extensions };
        let Known { base, rows } = known;
        if base.is_none()
            && let Some((at, mut connection)) = self.kept(tx, &key)?
        {
            connection.used_ms = now_ms;
            tx.put::<Connections>(&key, &connection);
            return Ok((at, Rows::new()));
        }
        let mut rows = Arc::unwrap_or_clone(rows);
        let (mut connection, base) = match base {
            None => {
                tx.delete_all::<SentRooms>(&key);
                make_room(tx, user, device, conn_id)?;
                (Connection { positions: vec![now], ..Connection::default() }, StreamPos::default())
            }
            Some((at, mut connection)) => {
                if !tx.get::<Connections>(&key)?.is_some_and(|kept| kept.has(at)) {
                    return Err(pos::unknown());
                }
                connection.positions.retain(|position| position.at == at);
                connection.positions.push(now);
                (connection, at)
            }
        };
        // What answers that got lost have told was not told.
        for (room, row) in rows.iter_mut().filter(|(_, row)| row.0.iter().any(|(at, _)| *at > base)) {
            row.0.retain(|(at, _)| *at <= base);
            if !self.rooms.contains_key(room) {
                put_row(tx, asked, *room, row);
            }
        }
        for (room, sent) in self.rooms {
            let before = rows.get(&room).and_then(|row| row.at(base).cloned()).map(|sent| (base, sent));
            let row = SentRoom(before.into_iter().chain([(now.at, sent)]).collect());
            put_row(tx, asked, room, &row);
            rows.insert(room, row);
        }
        rows.retain(|_, row| !row.0.is_empty());
        for (fingerprint, required) in self.required {
            connection.required.retain(|(kept, _)| *kept != fingerprint);
            connection.required.push((fingerprint, required));
        }
        let excess = connection.required.len().saturating_sub(MAX_REQUIRED);
        connection.required.drain(..excess);
        connection.used_ms = now_ms;
        tx.put::<Connections>(&key, &connection);
        Ok((now.at, rows))
    }

    /// The connection and its last position, if neither it nor this answer tells of anything that is kept. Nothing has
    /// to begin anew then, and a client may ask from two processes that do not know each other's position, as where
    /// one of them is for notifications.
    fn kept(&self, tx: &Transaction<'_>, key: &(&UserId, &DeviceId, &str)) -> Result<Option<(StreamPos, Connection)>> {
        let nothing = Extended::default();
        if !self.rooms.is_empty() || self.extensions != nothing {
            return Ok(None);
        }
        let Some(connection) = tx.get::<Connections>(key)? else { return Ok(None) };
        let Some(last) = connection.positions.last().filter(|last| last.extensions == nothing) else { return Ok(None) };
        let tells_rooms = tx.before().list::<SentRooms>(key).next().transpose()?.is_some();
        Ok((!tells_rooms).then_some((last.at, connection)))
    }
}

fn put_row(tx: &mut Transaction<'_>, asked: &Asked, room: RoomNid, row: &SentRoom) {
    let key = (&*asked.base.user_id, &*asked.base.device_id, asked.conn_id.as_str(), room);
    if row.0.is_empty() { tx.delete::<SentRooms>(&key) } else { tx.put::<SentRooms>(&key, row) }
}

/// Removes the connection that was not used for longest, if a new one would be one too many.
fn make_room(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, conn_id: &str) -> Result<()> {
    let mut others = Vec::new();
    for row in tx.before().list::<Connections>(&(user, device)) {
        let row = row?;
        let (_, _, other) = row.key()?;
        if other != conn_id {
            let newest = row.value.positions.last().map(|position| position.at);
            others.push((row.value.used_ms, newest, other.to_owned()));
        }
    }
    others.sort_unstable();
    let excess = (others.len() + 1).saturating_sub(MAX_CONNECTIONS);
    for (_, _, other) in others.into_iter().take(excess) {
        delete(tx, user, device, &other);
    }
    Ok(())
}

fn delete(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, conn_id: &str) {
    tx.delete_all::<SentRooms>(&(user, device, conn_id));
    tx.delete::<Connections>(&(user, device, conn_id));
}

/// Forgets the connections of a device that is being deleted.
pub fn delete_device(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) {
    tx.delete_all::<SentRooms>(&(user, device));
    tx.delete_all::<Connections>(&(user, device));
}

/// Removes the connections that were not used for long; how many they were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let oldest_ms = server.clock.now_ms().saturating_sub(KEPT_MS);
    let is_old = move |connection: &Connection| connection.used_ms < oldest_ms;
    sweep::rows::<Connections>(server, is_old, move |tx, row| {
        let (user, device, conn_id) = row.key()?;
        // It may have come to use again meanwhile.
        if tx.get::<Connections>(&(user, device, conn_id))?.is_some_and(|kept| is_old(&kept)) {
            delete(tx, user, device, conn_id);
        }
        Ok(())
    })
    .await
}
