//! What other servers say of spaces, remembered for a while.

use std::{sync::Arc, time::Duration};

use quick_cache::{Weighter, sync::Cache as QuickCache};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, api::federation::space::get_hierarchy};

use crate::{
    Server,
    federation::{alternatives, turns::Turns},
    keyed_locks::KeyedLocks,
};

pub type Answer = Arc<get_hierarchy::v1::Response>;

/// About how many bytes of answers are remembered. One can have as many as any answer of another server.
const CACHED_BYTES: u64 = 8 << 20;
/// How long an answer is taken for true, in milliseconds. Source: our choice.
const LIFETIME_MS: u64 = 5 * 60 * 1_000;
/// How many servers are asked for one room.
const MAX_SERVERS: usize = 3;
/// How long one of them is waited for before the next one is asked as well.
const PATIENCE: Duration = Duration::from_secs(4);
/// About how many rooms others are asked at a time for one user.
const AT_ONCE: usize = 4;

/// The answers of other servers, and when they were given. The same to all users: who may see them is asked later.
pub struct Cache {
    answers: QuickCache<Key, Known, Bytes>,
    /// What is being asked of which servers, and for whom.
    under_way: KeyedLocks<(Key, Vec<OwnedServerName>)>,
    pub(super) turns: Turns<OwnedUserId>,
}

/// The room, and whether only its suggested children are told.
type Key = (OwnedRoomId, bool);

#[derive(Clone)]
struct Known {
    at_ms: u64,
    /// What the answer takes, about.
    bytes: u64,
    answer: Answer,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Known> for Bytes {
    fn weight(&self, _: &Key, known: &Known) -> u64 {
        known.bytes
    }
}

/// By its length as JSON, and the names of its fields stand for what else they take.
fn bytes_of(answer: &get_hierarchy::v1::Response) -> u64 {
    let length = |json: serde_json::Result<String>| json.map_or(u64::MAX / 4, |json| json.len() as u64);
    length(serde_json::to_string(&answer.room))
        + length(serde_json::to_string(&answer.children))
        + length(serde_json::to_string(&answer.inaccessible_children))
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            answers: QuickCache::with_weighter(500, CACHED_BYTES, Bytes),
            under_way: KeyedLocks::default(),
            turns: Turns::new(AT_ONCE),
        }
    }
}

/// What another server said of a room and its children lately.
pub fn known(server: &Server, room_id: &RoomId, suggested_only: bool) -> Option<Answer> {
    let known = server.remote_spaces.answers.get(&(room_id.to_owned(), suggested_only))?;
    (server.clock.now_ms() < known.at_ms.saturating_add(LIFETIME_MS)).then_some(known.answer)
}

/// What one of the servers `via` says of a room and its children; `None` if none answers.
pub async fn ask(
    server: &Arc<Server>,
    room_id: &RoomId,
    via: &[OwnedServerName],
    suggested_only: bool,
) -> Option<Answer> {
    let key = (room_id.to_owned(), suggested_only);
    let servers: Vec<_> = via.iter().filter(|name| **name != server.name()).take(MAX_SERVERS).cloned().collect();
    // Whoever names servers that do not answer holds up nobody who names others.
    let _under_way = server.remote_spaces.under_way.lock(&(key.clone(), servers.clone())).await;
    if let Some(answer) = known(server, room_id, suggested_only) {
        return Some(answer);
    }
    let ask = |other| ask_one(server, other, room_id, suggested_only);
    let known = alternatives::first_answer(&servers, PATIENCE, MAX_SERVERS, ask).await?;
    let answer = Arc::clone(&known.answer);
    server.remote_spaces.answers.insert(key, known);
    Some(answer)
}

async fn ask_one(
    server: &Arc<Server>,
    other: &OwnedServerName,
    room_id: &RoomId,
    suggested_only: bool,
) -> Option<Known> {
    let at_ms = server.clock.now_ms();
    let mut request = get_hierarchy::v1::Request::new(room_id.to_owned());
    request.suggested_only = suggested_only;
    match crate::federation::request(server, other, request).await {
        Ok(answer) if answer.room.summary.room_id == room_id => {
            return Some(Known { at_ms, bytes: bytes_of(&answer), answer: Arc::new(answer) });
        }
        Ok(_) => tracing::debug!(%other, %room_id, "a server was asked about a room and spoke of another"),
        Err(error) => tracing::debug!(%other, %room_id, ?error, "a server did not tell about a space"),
    }
    None
}
