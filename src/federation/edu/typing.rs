//! <https://spec.matrix.org/v1.19/server-server-api/#typing-notifications>

use std::sync::Arc;

use ruma::{ServerName, api::federation::transactions::edu::TypingContent};

use super::room_of;
use crate::{Server, error::Result, room::typing};

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: TypingContent) -> Result<()> {
    let TypingContent { room_id, user_id, typing: is_typing, .. } = content;
    let (origin, user) = (origin.to_owned(), user_id.clone());
    let find = move |server: &Server| room_of(server, &server.store.snapshot(), &origin, &user, &room_id);
    let room = server.blocking(find).await?;
    typing::set_remote(server, room, &user_id, is_typing);
    Ok(())
}
