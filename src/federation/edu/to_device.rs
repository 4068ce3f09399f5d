//! <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, ServerName};
use serde::Deserialize;

use super::check_owner;
use crate::{
    Server,
    error::Result,
    user::{
        keys::remote,
        to_device::{self, Contents, Received},
    },
};

const ENCRYPTED: &str = "m.room.encrypted";

/// A Curve25519 key in base64 has 43 or 44.
const MAX_KEY_BYTES: usize = 64;

#[derive(Deserialize)]
pub struct Content {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: Contents,
}

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: Content) -> Result<()> {
    let Content { sender, event_type, message_id, messages } = content;
    check_owner(origin, &sender)?;
    let key = if event_type == ENCRYPTED { sender_key(&messages) } else { None };
    to_device::receive(server, Received { sender: sender.clone(), event_type, message_id, messages }).await?;
    match key {
        Some(key) => remote::check_sender(server, sender, &key).await,
        None => Ok(()),
    }
}

/// The key of the device that encrypted these messages: they are from one device.
fn sender_key(messages: &Contents) -> Option<String> {
    #[derive(Deserialize)]
    struct Encrypted {
        sender_key: String,
    }
    let content = messages.values().flat_map(BTreeMap::values).next()?;
    let encrypted: Encrypted = serde_json::from_str(content.get()).ok()?;
    Some(encrypted.sender_key).filter(|key| key.len() <= MAX_KEY_BYTES)
}
