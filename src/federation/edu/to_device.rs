//! <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, ServerName, to_device::DeviceIdOrAllDevices};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check_owner;
use crate::{
    Server,
    error::Result,
    user::to_device::{self, Received},
};

#[derive(Deserialize)]
pub struct Content {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>,
}

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: Content) -> Result<()> {
    let Content { sender, event_type, message_id, messages } = content;
    check_owner(origin, &sender)?;
    to_device::receive(server, Received { sender, event_type, message_id, messages }).await
}
