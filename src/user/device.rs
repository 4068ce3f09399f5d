//! The devices of a user: each is one log-in.

use std::{collections::HashSet, sync::Arc};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    account_data::{self, GLOBAL},
    dehydrated,
    keys::{self, Changed, tables::DeviceKeys},
    session,
    tables::{Device, Devices},
    to_device,
};
use crate::{
    Server,
    error::{Error, Result},
    federation::queue,
    oauth,
    push::pushers,
    store::{Snapshot, Transaction},
    sync::sliding,
};

/// Longest device id and display name, in bytes. Source: our choice; ids of other kinds have this limit.
const MAX_BYTES: usize = 255;

pub fn get(snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> Result<Option<Device>> {
    Ok(snapshot.get::<Devices>(&(user, device))?)
}

/// The devices of `user`, in the order of their ids.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<(OwnedDeviceId, Device)>> {
    let rows = snapshot.list::<Devices>(&user);
    rows.map(|row| row.and_then(|row| Ok((row.key()?.1.to_owned(), row.value))).map_err(Error::from)).collect()
}

/// Makes a device without a token, on which an application service acts; does nothing if it is there.
pub async fn create(
    server: &Server,
    user: OwnedUserId,
    device: OwnedDeviceId,
    display_name: Option<String>,
) -> Result<()> {
    check_id(&device)?;
    server
        .store
        .commit(move |tx| {
            if keys::is_signing_key(tx.before(), &user, &device)? {
                return Err(Error::invalid_param("A cross-signing key has the name of this device"));
            }
            if tx.get::<Devices>(&(&user, &device))?.is_none() {
                tx.put::<Devices>(&(&user, &device), &Device { display_name, last_seen: None });
            }
            Ok(())
        })
        .await
}

/// `M_NOT_FOUND` if the user has no such device.
pub async fn rename(server: Arc<Server>, user: OwnedUserId, device: OwnedDeviceId, display_name: String) -> Result<()> {
    Server::detached(async move {
        let owner = user.clone();
        server.store.commit(move |tx| write_name(tx, &owner, &device, display_name)).await?;
        keys::announce(&server, &user);
        Ok(())
    })
    .await
}

fn write_name(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, display_name: String) -> Result<()> {
    let row = tx.get::<Devices>(&(user, device))?.ok_or_else(unknown)?;
    tx.put::<Devices>(&(user, device), &Device { display_name: Some(display_name), ..row });
    // The name is shown with the keys. Other servers may show it of any device.
    if tx.before().contains::<DeviceKeys>(&(user, device))? {
        keys::changed(tx, user, Changed::Device(device))?;
    } else {
        queue::note_device_update(tx, user, device.as_str());
    }
    Ok(())
}

pub fn unknown() -> Error {
    Error::not_found("There is no such device")
}

/// Some of a user's devices.
pub enum Selection {
    All,
    AllBut(OwnedDeviceId),
    /// Ids that are not his are passed over.
    These(HashSet<OwnedDeviceId>),
    None,
}

impl Selection {
    fn contains(&self, device: &DeviceId) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(kept) => device != kept,
            Self::These(devices) => devices.contains(device),
            Self::None => false,
        }
    }
}

/// Logs devices out and removes all that is kept of them. Runs to its end even if the client hangs up: who shares rooms
/// with the user must be told.
pub async fn log_out(server: Arc<Server>, user: OwnedUserId, which: Selection) -> Result<()> {
    Server::detached(async move {
        let owner = user.clone();
        server.store.commit(move |tx| delete(tx, &owner, &which)).await?;
        keys::announce(&server, &user);
        Ok(())
    })
    .await
}

/// Whether a device is silent, which its user's other devices say of it (MSC3890): account data whose types end so.
const LOCAL_NOTIFICATION_SETTINGS: [&str; 2] =
    ["m.local_notification_settings", "org.matrix.msc3890.local_notification_settings"];

/// As [`log_out`], as part of a transaction. Call [`keys::announce`] after it.
pub fn delete(tx: &mut Transaction<'_>, user: &UserId, which: &Selection) -> Result<()> {
    let devices = list(tx.before(), user)?.into_iter().map(|(device, _)| device);
    for device in devices.filter(|device| which.contains(device)) {
        session::revoke(tx, user, &device, |_| true)?;
        oauth::tables::delete(tx, user, &device)?;
        keys::delete_device(tx, user, &device)?;
        to_device::delete_device(tx, user, &device);
        pushers::delete_device(tx, user, &device)?;
        sliding::delete_device(tx, user, &device);
        dehydrated::forget(tx, user, &device)?;
        for settings in LOCAL_NOTIFICATION_SETTINGS {
            account_data::remove(tx, user, GLOBAL, &format!("{settings}.{device}"))?;
        }
        tx.delete::<Devices>(&(user, &device));
    }
    Ok(())
}

/// What a client says of a device: `M_INVALID_PARAM` if it is out of bounds.
pub fn check_display_name(display_name: Option<&str>) -> Result<()> {
    if display_name.is_some_and(|name| name.len() > MAX_BYTES) {
        return Err(Error::invalid_param(format!("The name of a device has at most {MAX_BYTES} bytes")));
    }
    Ok(())
}

pub fn check_id(device_id: &DeviceId) -> Result<()> {
    if device_id.as_str().is_empty() || device_id.as_str().len() > MAX_BYTES {
        return Err(Error::invalid_param(format!("A device id has 1 to {MAX_BYTES} bytes")));
    }
    Ok(())
}
