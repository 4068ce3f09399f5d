//! <https://spec.matrix.org/v1.19/server-server-api/#presence>

use std::sync::Arc;

use ruma::{
    OwnedServerName, ServerName,
    api::federation::transactions::edu::{PresenceContent, PresenceUpdate},
};

use super::check_owner;
use crate::{
    Server,
    error::{Error, Result},
    room::servers::shared_rooms,
    user::presence,
};

/// Of how many users one EDU may tell. Source: our choice.
const MAX_UPDATES: usize = 500;

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: PresenceContent) -> Result<()> {
    if !server.presence.is_enabled() {
        return Ok(());
    }
    let origin: OwnedServerName = origin.to_owned();
    let select = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut known = Vec::new();
        for update in content.push.into_iter().take(MAX_UPDATES) {
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
        let PresenceUpdate { user_id, presence, status_msg, last_active_ago, .. } = update;
        let Ok(state) = presence::State::of(&presence) else { continue };
        presence::set_remote(server, &user_id, state, status_msg, last_active_ago.into());
    }
    Ok(())
}
