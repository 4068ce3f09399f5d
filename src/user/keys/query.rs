//! The public keys of users, as others may see them.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    remote::RemoteDeviceNames,
    tables::{CrossSigningKey, CrossSigningKeys, DeviceKeys, OwnSignatures, Usage, UserSignatures},
};
use crate::{
    Server,
    error::Result,
    store::{self, Error, Snapshot, Table},
    user::device,
};

/// The keys of one user: objects of the specification with all signatures that the asking user may see.
#[derive(Default)]
pub struct UserKeys {
    pub devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    pub master: Option<Box<RawValue>>,
    pub self_signing: Option<Box<RawValue>>,
    /// Only in answers to the user himself.
    pub user_signing: Option<Box<RawValue>>,
}

/// Who is told somebody's keys.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// One of our users.
    User(&'a UserId),
    /// Another server. Names of devices say where people are and what they use: that is for it only where the
    /// configuration says so.
    Server { sees_names: bool },
}

impl Asker<'_> {
    /// Any other server.
    pub fn server(server: &Server) -> Self {
        Self::Server { sees_names: server.config.allow_device_name_federation }
    }
}

/// The kept keys of a user, as `asker` may see them: of these devices, or of all if none is named.
pub fn query(snapshot: &Snapshot<'_>, asker: Asker<'_>, user: &UserId, devices: &[OwnedDeviceId]) -> Result<UserKeys> {
    let (asker, sees_names) = match asker {
        Asker::User(asker) => (Some(asker), true),
        Asker::Server { sees_names } => (None, sees_names),
    };
    let signatures = Signatures::load(snapshot, asker, user)?;
    let mut found = UserKeys::default();
    for row in snapshot.list::<DeviceKeys>(&user) {
        let row = row?;
        let device = row.key()?.1;
        if devices.is_empty() || devices.iter().any(|wanted| wanted == device) {
            let name = if sees_names { name_of(snapshot, user, device)? } else { None };
            let unsigned = Unsigned { device_display_name: name };
            let keys = signatures.splice::<DeviceKeys>(&row.value, device.as_str(), Some(&unsigned))?;
            found.devices.insert(device.to_owned(), keys);
        }
    }
    let cross_signing = |usage| {
        let key = snapshot.get::<CrossSigningKeys>(&(user, usage))?;
        let splice = |key: CrossSigningKey| signatures.splice::<CrossSigningKeys>(&key.body, &key.public_key, None);
        key.map(splice).transpose()
    };
    found.master = cross_signing(Usage::Master)?;
    found.self_signing = cross_signing(Usage::SelfSigning)?;
    if asker == Some(user) {
        found.user_signing = cross_signing(Usage::UserSigning)?;
    }
    Ok(found)
}

fn name_of(snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> Result<Option<String>> {
    match device::get(snapshot, user, device)? {
        Some(device) => Ok(device.display_name),
        None => Ok(snapshot.get::<RemoteDeviceNames>(&(user, device))?),
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Unsigned {
    #[serde(skip_serializing_if = "Option::is_none")]
    device_display_name: Option<String>,
}

/// The name of a device that is told with its keys.
pub fn name_in(keys: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        unsigned: Unsigned,
    }
    serde_json::from_str::<Named>(keys).ok()?.unsigned.device_display_name
}

/// The signatures about one user's keys that one user may see.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#key-and-signature-security>
struct Signatures<'a> {
    user: &'a UserId,
    /// By what is signed, then by the id of the key that signed it.
    own: BTreeMap<String, BTreeMap<String, String>>,
    /// Who asks, the master key that his user-signing key signed, and the id of that key with the signature.
    by_asker: Option<(&'a UserId, String, BTreeMap<String, String>)>,
}

impl<'a> Signatures<'a> {
    fn load(snapshot: &Snapshot<'_>, asker: Option<&'a UserId>, user: &'a UserId) -> store::Result<Self> {
        let mut own = BTreeMap::<_, BTreeMap<_, _>>::new();
        for row in snapshot.list::<OwnSignatures>(&user) {
            let row = row?;
            let (_, target, key_id) = row.key()?;
            own.entry(target.to_owned()).or_default().insert(key_id.to_owned(), row.value);
        }
        let mut by_asker = None;
        if let Some(asker) = asker
            && let Some(row) = snapshot.get::<UserSignatures>(&(asker, user))?
        {
            by_asker = Some((asker, row.master_key, BTreeMap::from([(row.key_id, row.signature)])));
        }
        Ok(Self { user, own, by_asker })
    }

    fn of(&self, target: &str) -> BTreeMap<&UserId, &BTreeMap<String, String>> {
        let own = self.own.get(target).map(|signatures| (self.user, signatures));
        let by_asker = self.by_asker.as_ref().filter(|(_, master_key, _)| master_key == target);
        own.into_iter().chain(by_asker.map(|(asker, _, signatures)| (*asker, signatures))).collect()
    }

    /// `body`, a JSON object of table `T` with fields, with `signatures` and `unsigned` added to it.
    fn splice<T: Table>(&self, body: &str, target: &str, unsigned: Option<&Unsigned>) -> store::Result<Box<RawValue>> {
        let corrupt = |reason: String| Error::corrupt(T::NAME, target.as_bytes(), reason);
        let json = |value: serde_json::Result<String>| value.map_err(|e| corrupt(e.to_string()));
        let fields = body.strip_suffix('}').ok_or_else(|| corrupt("not an object".to_owned()))?;
        let signatures = json(serde_json::to_string(&self.of(target)))?;
        let unsigned = match unsigned {
            Some(unsigned) => format!(r#","unsigned":{}"#, json(serde_json::to_string(unsigned))?),
            None => String::new(),
        };
        RawValue::from_string(format!(r#"{fields},"signatures":{signatures}{unsigned}}}"#))
            .map_err(|e| corrupt(e.to_string()))
    }
}
