//! What other servers say of spaces, remembered for a while.

use std::sync::Arc;

use quick_cache::sync::Cache as QuickCache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, api::federation::space::get_hierarchy};

use crate::Server;

type Answer = Arc<get_hierarchy::v1::Response>;

/// Of how many rooms answers are remembered.
const CAPACITY: usize = 500;
/// How long an answer is taken for true, in milliseconds. Source: our choice.
const LIFETIME_MS: u64 = 5 * 60 * 1_000;
/// How many servers are asked for one room.
const MAX_SERVERS: usize = 3;

/// The answers of other servers, and when they were given. The same to all users: who may see them is asked later.
pub struct Cache(QuickCache<(OwnedRoomId, bool), (u64, Answer)>);

impl Default for Cache {
    fn default() -> Self {
        Self(QuickCache::new(CAPACITY))
    }
}

/// What one of the servers `via` says of a room and its children; `None` if none answers.
pub async fn ask(
    server: &Arc<Server>,
    room_id: &RoomId,
    via: &[OwnedServerName],
    suggested_only: bool,
) -> Option<Answer> {
    let key = (room_id.to_owned(), suggested_only);
    let now_ms = server.clock.now_ms();
    if let Some((at_ms, answer)) = server.remote_spaces.0.get(&key)
        && now_ms < at_ms.saturating_add(LIFETIME_MS)
    {
        return Some(answer);
    }
    for other in via.iter().filter(|name| **name != server.name()).take(MAX_SERVERS) {
        let mut request = get_hierarchy::v1::Request::new(room_id.to_owned());
        request.suggested_only = suggested_only;
        match crate::federation::request(server, other, request).await {
            Ok(answer) if answer.room.summary.room_id == room_id => {
                let answer = Arc::new(answer);
                server.remote_spaces.0.insert(key, (now_ms, Arc::clone(&answer)));
                return Some(answer);
            }
            Ok(_) => tracing::debug!(%other, %room_id, "a server was asked about a room and spoke of another"),
            Err(error) => tracing::debug!(%other, %room_id, ?error, "a server did not tell about a space"),
        }
    }
    None
}
