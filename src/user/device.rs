//! The devices of a user: each is one log-in.

use std::collections::HashSet;

use ruma::{DeviceId, OwnedDeviceId, UserId};

use super::{
    keys, session,
    tables::{Device, Devices},
    to_device,
};
use crate::{
    error::{Error, Result},
    store::{Snapshot, Transaction},
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

/// `M_NOT_FOUND` if the user has no such device.
pub fn rename(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, display_name: String) -> Result<()> {
    let mut row = tx.get::<Devices>(&(user, device))?.ok_or_else(unknown)?;
    row.display_name = Some(display_name);
    tx.put::<Devices>(&(user, device), &row);
    Ok(())
}

pub fn unknown() -> Error {
    Error::not_found("There is no such device")
}

/// Logs a device out and removes all that is kept of it. One that is not there is no error. Call [`keys::announce`]
/// after the transaction.
pub fn delete(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    session::revoke(tx, user, device, |_| true)?;
    keys::delete_device(tx, user, device)?;
    to_device::delete_device(tx, user, device);
    tx.delete::<Devices>(&(user, device));
    Ok(())
}

/// As [`delete`], for all devices of `user` but `keep`.
pub fn delete_others(tx: &mut Transaction<'_>, user: &UserId, keep: Option<&DeviceId>) -> Result<()> {
    let devices = list(tx.before(), user)?;
    let others = devices.iter().map(|(device, _)| &**device).filter(|device| Some(*device) != keep);
    for device in others {
        delete(tx, user, device)?;
    }
    Ok(())
}

/// Those of `devices` that the user has: whoever names a million others must not keep the database busy.
pub fn existing(snapshot: &Snapshot<'_>, user: &UserId, devices: &[OwnedDeviceId]) -> Result<Vec<OwnedDeviceId>> {
    let named: HashSet<_> = devices.iter().collect();
    let all = list(snapshot, user)?.into_iter().map(|(device, _)| device);
    Ok(all.filter(|device| named.contains(device)).collect())
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
