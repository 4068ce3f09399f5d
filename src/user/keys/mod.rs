//! End-to-end encryption keys: what devices publish, and how users vouch for each other. The server can read none of
//! the messages; it keeps public keys, hands out each one-time key once, and stores no signature that it did not verify.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#end-to-end-encryption>

mod claim;
mod cross_signing;
pub mod one_time;
mod query;
pub mod remote;
mod signatures;
mod signed;
pub mod tables;
mod upload;

use ruma::{DeviceId, UserId};

pub use self::{
    claim::claim,
    cross_signing::{SigningKeys, Uploaded, delete_user, is_signing_key, upload_signing_keys},
    one_time::LeftKeys,
    query::{Asker, UserKeys, name_in, query},
    signatures::{SignedKeys, upload_signatures, users_signed},
    upload::{Upload, check, store, upload},
};
use crate::{
    Server,
    federation::queue,
    store::{Result, Transaction},
    user::tables::{KeyChanges, LastKeyChange},
};

/// What of a user's keys changed.
#[derive(Clone, Copy, Debug)]
pub enum Changed<'a> {
    /// A device of one of our users, or what is shown of it.
    Device(&'a DeviceId),
    /// The cross-signing keys of one of our users.
    SigningKeys,
    /// Something of a user of another server, whose affair it is to tell others.
    Remote,
}

/// Notes that the devices or cross-signing keys of `user` changed: everybody who shares a room with him is told, by
/// `/sync` or by his own server. Belongs into the transaction that changes them; call [`announce`] after it.
pub fn changed(tx: &mut Transaction<'_>, user: &UserId, what: Changed<'_>) -> Result<()> {
    match what {
        Changed::Device(device) => queue::note_device_update(tx, user, device.as_str()),
        Changed::SigningKeys => queue::note_device_update(tx, user, ""),
        Changed::Remote => {}
    }
    if let Some(last) = tx.get::<LastKeyChange>(&user)? {
        tx.delete::<KeyChanges>(&(last, user));
    }
    let pos = tx.pos();
    tx.put::<KeyChanges>(&(pos, user), &());
    tx.put::<LastKeyChange>(&user, &pos);
    Ok(())
}

/// Wakes everybody whom a change that [`changed`] noted concerns.
pub fn announce(server: &Server, user: &UserId) {
    server.wakers.room_mates(server, user);
}

/// Forgets the keys of a device that is being deleted, and notes the change: if it had none, for other servers only, which
/// were told that it is there.
pub fn delete_device(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    one_time::delete_all(tx, user, device);
    if tx.get::<tables::DeviceKeys>(&(user, device))?.is_some() {
        tx.delete::<tables::DeviceKeys>(&(user, device));
        delete_signatures_of_device(tx, user, device)?;
        changed(tx, user, Changed::Device(device))?;
    } else {
        queue::note_device_update(tx, user, device.as_str());
    }
    Ok(())
}

/// Deletes the signatures about a device's keys, and those that the device made about its user's master key.
fn delete_signatures_of_device(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    tx.delete_all::<tables::OwnSignatures>(&(user, device.as_str()));
    if let Some(master) = tx.get::<tables::CrossSigningKeys>(&(user, tables::Usage::Master))? {
        let key_id = format!("ed25519:{device}");
        tx.delete::<tables::OwnSignatures>(&(user, &master.public_key, &key_id));
    }
    Ok(())
}
