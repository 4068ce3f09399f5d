//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::sync::Arc;

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::SigningKeyUpdateContent,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::check_owner;
use crate::{
    Server,
    error::{Error, Result},
    store::Snapshot,
    user::{
        device,
        keys::{self, Asker, remote},
    },
};

/// The content of an `m.device_list_update`, as the device is now.
pub fn update(
    server: &Server,
    snapshot: &Snapshot<'_>,
    user: &UserId,
    device: &DeviceId,
    stream_id: u64,
    prev_id: Option<u64>,
) -> Result<Value> {
    let mut content = json!({
        "user_id": user,
        "device_id": device,
        "stream_id": stream_id,
        "prev_id": prev_id.into_iter().collect::<Vec<_>>(),
    });
    let row = device::get(snapshot, user, device)?;
    let keys = keys::query(snapshot, Asker::server(server), user, &[device.to_owned()])?;
    match keys.devices.into_values().next() {
        Some(keys) if row.is_some() => {
            if let Some(name) = keys::name_in(keys.get()) {
                content["device_display_name"] = name.into();
            }
            content["keys"] = serde_json::to_value(keys).map_err(Error::internal)?;
        }
        _ => {
            content["deleted"] = json!(row.is_none());
            let name = row.and_then(|row| row.display_name);
            if let Some(name) = name.filter(|_| server.config.allow_device_name_federation) {
                content["device_display_name"] = name.into();
            }
        }
    }
    Ok(content)
}

/// The content of an `m.signing_key_update`; `None` if the user has no such keys.
pub fn signing_keys(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Option<Value>> {
    let keys = keys::query(snapshot, Asker::Server { sees_names: false }, user, &[])?;
    let mut content = json!({ "user_id": user });
    let given = [("master_key", keys.master), ("self_signing_key", keys.self_signing)];
    let mut has_keys = false;
    for (name, key) in given {
        if let Some(key) = key {
            content[name] = serde_json::to_value(key).map_err(Error::internal)?;
            has_keys = true;
        }
    }
    Ok(has_keys.then_some(content))
}

#[derive(Deserialize)]
pub struct Update {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    stream_id: u64,
    #[serde(default)]
    prev_id: Vec<u64>,
    #[serde(default)]
    deleted: bool,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: Update) -> Result<()> {
    let Update { user_id, device_id, stream_id, prev_id, deleted, keys, device_display_name } = content;
    check_owner(origin, &user_id)?;
    let told = match keys {
        _ if deleted => remote::Told::Deleted,
        Some(keys) => remote::Told::Keys(keys, device_display_name),
        None => remote::Told::NoKeys,
    };
    let change = remote::Change { device: device_id, stream_id, prev_id, told };
    remote::change(server, user_id, change).await
}

pub async fn receive_signing_keys(
    server: &Arc<Server>,
    origin: &ServerName,
    content: SigningKeyUpdateContent,
) -> Result<()> {
    let SigningKeyUpdateContent { user_id, master_key, self_signing_key, .. } = content;
    check_owner(origin, &user_id)?;
    let json = |key: Option<ruma::serde::Raw<ruma::encryption::CrossSigningKey>>| key.map(ruma::serde::Raw::into_json);
    remote::change_signing_keys(server, user_id, json(master_key), json(self_signing_key)).await
}
