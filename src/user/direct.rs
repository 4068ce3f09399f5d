//! Which rooms a user calls direct chats, and with whom.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#direct-messaging>

use std::sync::Arc;

use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use super::account_data::{self, GLOBAL};
use crate::{Server, error::Result, store::Transaction};

const EVENT_TYPE: &str = "m.direct";

/// Makes a room a direct chat with whom another one is.
pub async fn copy(server: &Arc<Server>, user: &UserId, from: &RoomId, to: &RoomId) -> Result<()> {
    if account_data::get(&server.store.snapshot(), user, GLOBAL, EVENT_TYPE)?.is_none() {
        return Ok(());
    }
    let (owner, from, to) = (user.to_owned(), from.to_owned(), to.to_owned());
    let write = move |tx: &mut Transaction<'_>| {
        let content = account_data::get(tx.before(), &owner, GLOBAL, EVENT_TYPE)?;
        // It is the client's word, of any form.
        let content = content.and_then(|content| serde_json::from_str::<Map<String, Value>>(&content).ok());
        let Some(mut content) = content else { return Ok(()) };
        let mut is_changed = false;
        for rooms in content.values_mut().filter_map(Value::as_array_mut) {
            let has = |room: &RoomId| rooms.iter().any(|known| known == room.as_str());
            if has(&from) && !has(&to) {
                rooms.push(to.as_str().into());
                is_changed = true;
            }
        }
        if !is_changed {
            return Ok(());
        }
        let content = Value::Object(content).to_string();
        account_data::check_limits(tx.before(), &owner, GLOBAL, EVENT_TYPE, content.len())?;
        account_data::put(tx, &owner, GLOBAL, EVENT_TYPE, content)
    };
    server.store.commit(write).await?;
    server.wakers.user(server, user);
    Ok(())
}
