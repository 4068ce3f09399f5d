//! What other servers say of spaces, remembered for a while.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache as QuickCache};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, api::federation::space::get_hierarchy};

use crate::Server;

type Answer = Arc<get_hierarchy::v1::Response>;

/// About how many bytes of answers are remembered. One can have as many as any answer of another server.
const CACHED_BYTES: u64 = 8 << 20;
/// How long an answer is taken for true, in milliseconds. Source: our choice.
const LIFETIME_MS: u64 = 5 * 60 * 1_000;
/// How many servers are asked for one room.
const MAX_SERVERS: usize = 3;

/// The answers of other servers, and when they were given. The same to all users: who may see them is asked later.
pub struct Cache(QuickCache<(OwnedRoomId, bool), Known, Bytes>);

#[derive(Clone)]
struct Known {
    at_ms: u64,
    /// What the answer takes, about.
    bytes: u64,
    answer: Answer,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<(OwnedRoomId, bool), Known> for Bytes {
    fn weight(&self, _: &(OwnedRoomId, bool), known: &Known) -> u64 {
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
        Self(QuickCache::with_weighter(500, CACHED_BYTES, Bytes))
    }
}

/// What another server said of a room and its children lately.
pub fn known(server: &Server, room_id: &RoomId, suggested_only: bool) -> Option<Answer> {
    let known = server.remote_spaces.0.get(&(room_id.to_owned(), suggested_only))?;
    (server.clock.now_ms() < known.at_ms.saturating_add(LIFETIME_MS)).then_some(known.answer)
}

/// What one of the servers `via` says of a room and its children; `None` if none answers.
pub async fn ask(
    server: &Arc<Server>,
    room_id: &RoomId,
    via: &[OwnedServerName],
    suggested_only: bool,
) -> Option<Answer> {
    if let Some(answer) = known(server, room_id, suggested_only) {
        return Some(answer);
    }
    let at_ms = server.clock.now_ms();
    for other in via.iter().filter(|name| **name != server.name()).take(MAX_SERVERS) {
        let mut request = get_hierarchy::v1::Request::new(room_id.to_owned());
        request.suggested_only = suggested_only;
        match crate::federation::request(server, other, request).await {
            Ok(answer) if answer.room.summary.room_id == room_id => {
                let answer = Arc::new(answer);
                let known = Known { at_ms, bytes: bytes_of(&answer), answer: Arc::clone(&answer) };
                server.remote_spaces.0.insert((room_id.to_owned(), suggested_only), known);
                return Some(answer);
            }
            Ok(_) => tracing::debug!(%other, %room_id, "a server was asked about a room and spoke of another"),
            Err(error) => tracing::debug!(%other, %room_id, ?error, "a server did not tell about a space"),
        }
    }
    None
}
