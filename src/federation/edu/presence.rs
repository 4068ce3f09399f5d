//! <https://spec.matrix.org/v1.19/server-server-api/#presence>

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId, ServerName, presence::PresenceState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check_owner;
use crate::{
    Server,
    error::{Error, Result},
    room::servers::shared_rooms,
    user::presence,
};

/// Of how many users one EDU may tell. Source: our choice.
const MAX_UPDATES: usize = 500;

#[derive(Deserialize)]
pub struct Content {
    push: Vec<Box<RawValue>>,
}

/// What is told of one user. One that is malformed costs itself only.
#[derive(Deserialize)]
struct Update {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    /// In milliseconds. Synapse leaves it out for users who were never active.
    last_active_ago: Option<u64>,
    #[serde(default)]
    currently_active: bool,
}

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: Content) -> Result<()> {
    if !server.presence.is_enabled() {
        return Ok(());
    }
    let origin: OwnedServerName = origin.to_owned();
    let select = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut known = Vec::new();
        for update in content.push.into_iter().take(MAX_UPDATES) {
            let Ok(update) = serde_json::from_str::<Update>(update.get()) else { continue };
            // Of whoever shares no room with us nobody here may see anything.
            if check_owner(&origin, &update.user_id).is_ok()
                && !shared_rooms(server, &snapshot, &update.user_id)?.is_empty()
            {
                known.push(update);
            }
        }
        Ok::<_, Error>(known)
    };
    for update in server.blocking(select).await? {
        let Update { user_id, presence, status_msg, last_active_ago, currently_active } = update;
        let Ok(state) = presence::State::of(&presence) else { continue };
        presence::set_remote(server, &user_id, state, currently_active, status_msg, last_active_ago);
    }
    Ok(())
}
