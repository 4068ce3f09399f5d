//! Dehydrated devices: a device of a user that receives messages while he is logged in nowhere. What it decrypts with is
//! kept here in a form that only he can read; a new log-in of his takes it, and with it the messages.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use std::sync::Arc;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{
    device::{self, Selection},
    keys::{self, Upload},
    session::{self, Caller},
    tables::{Device, Devices, ToDevice},
};
use crate::{
    Server,
    error::{Error, Result},
    plain_json,
    store::{self, Family, Json, Record, Scan, Snapshot, StreamPos, Table, Transaction},
};

/// How large a device's secrets may be, in bytes of JSON. Source: our choice; those of clients have some 50 KiB.
const MAX_DATA_BYTES: usize = 256 << 10;

/// How many messages one page has at most.
const MAX_MESSAGES: usize = 100;

/// The dehydrated device of each user that has one. It is one of `Devices`, too.
pub struct DehydratedDevices;
impl Table for DehydratedDevices {
    const NAME: &'static str = "dehydrated_devices";
    const FAMILY: Family = Family::User;
    const ID: u8 = 204;
    type Key<'a> = &'a UserId;
    type Value = Dehydrated;
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Dehydrated {
    pub device_id: OwnedDeviceId,
    /// JSON: the algorithm, and secrets that only the user can read.
    pub data: String,
}

impl Record for Dehydrated {}

/// Without the secrets: `chappe inspect` and logs print this.
impl std::fmt::Debug for Dehydrated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dehydrated").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

/// What a client says of a new dehydrated device.
pub struct New {
    pub device_id: OwnedDeviceId,
    pub display_name: Option<String>,
    /// JSON.
    pub data: String,
    pub keys: Upload,
}

/// The dehydrated device of `user`; `M_NOT_FOUND` if he has none.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Dehydrated> {
    let found = snapshot.get::<DehydratedDevices>(&user)?;
    found.ok_or_else(|| Error::not_found("You have no dehydrated device"))
}

/// Makes a dehydrated device in place of the one that the caller may have.
///
/// Errors: `M_INVALID_PARAM` if the user is logged in on a device of that name, and where keys or data are not as they
/// have to be.
pub async fn put(server: &Arc<Server>, caller: Caller, new: New) -> Result<()> {
    let New { device_id, display_name, data, keys } = new;
    device::check_id(&device_id)?;
    device::check_display_name(display_name.as_deref())?;
    check_data(&data)?;
    let device = Caller::on_device(caller.user_id.clone(), device_id.clone());
    let keys = keys::check(server, &device, keys).await?;
    let server = Arc::clone(server);
    // Two transactions: the keys belong to a device that is there. A device without keys, which a crash may leave, gets no
    // messages.
    Server::detached(async move {
        let row = Dehydrated { device_id, data };
        server.store.commit(move |tx| write(tx, &caller, display_name, &row)).await?;
        keys::store(&server, device, keys).await?;
        Ok(())
    })
    .await
}

fn write(tx: &mut Transaction<'_>, caller: &Caller, display_name: Option<String>, new: &Dehydrated) -> Result<()> {
    let user = &*caller.user_id;
    // Logged out meanwhile, or the account was given up: a device that came now would outlive that.
    session::check_in_use(tx.before(), user)?;
    session::check_device_in(tx.before(), user, &caller.device_id)?;
    let old = tx.get::<DehydratedDevices>(&user)?.map(|old| old.device_id);
    let is_logged_in = device::get(tx.before(), user, &new.device_id)?.is_some();
    if is_logged_in && old.as_ref() != Some(&new.device_id) {
        return Err(Error::invalid_param("You are logged in on a device of that name"));
    }
    if keys::is_signing_key(tx.before(), user, &new.device_id)? {
        return Err(Error::invalid_param("A cross-signing key has the name of this device"));
    }
    device::delete(tx, user, &Selection::These(old.into_iter().collect()))?;
    tx.put::<Devices>(&(user, &new.device_id), &Device { display_name, last_seen: None });
    tx.put::<DehydratedDevices>(&user, new);
    Ok(())
}

fn check_data(data: &str) -> Result<()> {
    if data.len() > MAX_DATA_BYTES {
        return Err(Error::too_large(format!("`device_data` has more than {MAX_DATA_BYTES} bytes")));
    }
    match plain_json::object(data.as_bytes())?.get("algorithm") {
        Some(algorithm) if algorithm.is_string() => Ok(()),
        _ => Err(Error::bad_json("`device_data` has no `algorithm`")),
    }
}

/// Deletes the dehydrated device of `user`: its id. `M_NOT_FOUND` if he has none.
pub async fn delete(server: &Arc<Server>, user: OwnedUserId) -> Result<OwnedDeviceId> {
    let device_id = get(&server.store.snapshot(), &user)?.device_id;
    device::log_out(Arc::clone(server), user, Selection::These([device_id.clone()].into())).await?;
    Ok(device_id)
}

/// Notes that a device is a dehydrated one no longer: it is being deleted, or somebody logs in on it.
pub fn forget(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> store::Result<()> {
    if tx.get::<DehydratedDevices>(&user)?.is_some_and(|row| row.device_id == device) {
        tx.delete::<DehydratedDevices>(&user);
    }
    Ok(())
}

/// A page of what a device was sent.
pub struct Page {
    pub events: Vec<Json>,
    /// The last of them; `after` if there is none.
    pub last: StreamPos,
    pub is_last: bool,
}

/// The messages of the dehydrated device after a place, oldest first. They stay until the device goes: who takes it over may
/// have to begin again.
///
/// Errors: `M_NOT_FOUND` if the user has no dehydrated device, `M_FORBIDDEN` if it is another.
pub async fn events(
    server: &Arc<Server>,
    user: OwnedUserId,
    device: OwnedDeviceId,
    after: StreamPos,
    limit: usize,
) -> Result<Page> {
    let limit = limit.clamp(1, MAX_MESSAGES);
    let durable = server.store.durable_pos(); // before the snapshot, which then holds all of that
    server
        .read(move |snapshot| {
            if get(snapshot, &user)?.device_id != device {
                return Err(Error::forbidden("That is not your dehydrated device"));
            }
            let mut page = Page { events: Vec::new(), last: after, is_last: true };
            let scan = Scan::from::<ToDevice>(&(&*user, &*device, after.next()), &(&*user, &*device));
            for row in snapshot.scan::<ToDevice>(scan) {
                let row = row?;
                let pos = row.key()?.2;
                if pos > durable {
                    break;
                }
                if page.events.len() == limit {
                    page.is_last = false;
                    break;
                }
                page.last = pos;
                page.events.push(row.value);
            }
            Ok(page)
        })
        .await
}
