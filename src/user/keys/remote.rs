//! The keys of other servers' users. They are kept in the tables of our own users' keys while we share a room with the
//! user, since his server tells us of every change then; otherwise his server is asked each time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http::Method;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonValue, DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::{device::get_devices, keys::claim_keys},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio::{sync::Semaphore, time::Instant};
use tracing::debug;

use super::{
    Asker, Changed, UserKeys, announce, changed,
    cross_signing::NewKey,
    name_in, query,
    signed::SignedObject,
    tables::{CrossSigningKeys, DeviceKeys, OwnSignatures, Usage, UserSignatures},
};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    federation::{request, request_json, turns::Turns},
    room::{
        partial,
        servers::{RemoteRooms, shared_rooms},
    },
    store::{self, Family, Record, Row, Snapshot, StreamPos, Table, Transaction},
    user::{
        device::{check_display_name, check_id},
        tables::LastKeyChange,
    },
};

/// How many devices of one user are kept. Source: our choice; more than anybody has in use.
const MAX_DEVICES: usize = 2_000;

/// How many servers are asked at a time for one request of a client, and for keys of all that one user asks for, be it that
/// he waits for them or not. Source: our choice; those of a large room are to answer within the time of one request.
const SERVERS_AT_ONCE: usize = 50;

/// How many users' devices are fetched again at a time, because something was missed, and how many more wait for that.
/// Who finds no place is fetched when somebody asks for him.
const RESYNCS_AT_ONCE: usize = 8;
const MAX_RESYNCS: usize = 500;

/// How long a server may take to answer that.
const RESYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// The users of other servers whose keys are kept.
pub struct RemoteUsers;
impl Table for RemoteUsers {
    const NAME: &'static str = "remote_users";
    const FAMILY: Family = Family::User;
    const ID: u8 = 142;
    type Key<'a> = &'a UserId;
    type Value = RemoteList;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteList {
    /// The last update that is in it; `None` if his server did not say.
    pub stream_id: Option<u64>,
    /// It was complete at this moment.
    pub as_of: StreamPos,
    /// Something was missed since.
    pub is_stale: bool,
}

impl Record for RemoteList {}

/// The names of devices of other servers' users, where their servers tell them.
pub struct RemoteDeviceNames;
impl Table for RemoteDeviceNames {
    const NAME: &'static str = "remote_device_names";
    const FAMILY: Family = Family::User;
    const ID: u8 = 190;
    type Key<'a> = (&'a UserId, &'a DeviceId);
    type Value = String;
}

/// For how long a user's devices are not fetched again because of an unknown sender, in milliseconds, and of how many
/// users that is remembered.
const SUSPECTED_FOR_MS: u64 = 10 * 60 * 1_000;
const MAX_SUSPECTED: usize = 1_000;

/// Whose devices are being fetched.
pub struct Resyncs {
    /// Those that somebody of ours asks for, by him.
    asked_for: Turns<OwnedUserId>,
    /// Those that are fetched again.
    users: Mutex<HashSet<OwnedUserId>>,
    places: Semaphore,
    /// Who sent something from a device that was not known, and when.
    suspected: Mutex<HashMap<OwnedUserId, u64>>,
}

impl Default for Resyncs {
    fn default() -> Self {
        Self {
            asked_for: Turns::new(SERVERS_AT_ONCE),
            users: Mutex::default(),
            places: Semaphore::new(RESYNCS_AT_ONCE),
            suspected: Mutex::default(),
        }
    }
}

impl Resyncs {
    /// Whether it is time to doubt what is kept of a user.
    fn may_suspect(&self, user: &UserId, now_ms: u64) -> bool {
        let mut suspected = self.suspected.lock();
        suspected.retain(|_, at_ms| now_ms < at_ms.saturating_add(SUSPECTED_FOR_MS));
        if suspected.len() >= MAX_SUSPECTED || suspected.contains_key(user) {
            return false;
        }
        suspected.insert(user.to_owned(), now_ms);
        true
    }
}

/// A device as another server gave it: its keys are of the right form, and not verified, which clients do.
struct GivenDevice {
    keys: SignedObject,
    name: Option<String>,
}

impl GivenDevice {
    /// `None` if it is malformed, or another device, or its id is longer than ours may be. Its name may be told beside the
    /// keys, or in them.
    fn read(user: &UserId, device: &DeviceId, json: &str, name: Option<&str>) -> Option<Self> {
        let keys = SignedObject::parse(json).ok()?;
        let is_of_device =
            keys.text("user_id") == Some(user.as_str()) && keys.text("device_id") == Some(device.as_str());
        let name = name.map(str::to_owned).or_else(|| name_in(json));
        let name = name.filter(|name| check_display_name(Some(name)).is_ok());
        (is_of_device && check_id(device).is_ok()).then_some(Self { keys, name })
    }

    fn write(&self, tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) {
        tx.delete_all::<OwnSignatures>(&(user, device.as_str()));
        tx.put::<DeviceKeys>(&(user, device), &self.keys.body());
        for (key_id, signature) in self.keys.signatures_of(user) {
            tx.put::<OwnSignatures>(&(user, device.as_str(), key_id), &signature.to_owned());
        }
        match &self.name {
            Some(name) => tx.put::<RemoteDeviceNames>(&(user, device), name),
            None => tx.delete::<RemoteDeviceNames>(&(user, device)),
        }
    }

    fn into_json(mut self) -> Result<Box<RawValue>> {
        if let Some(name) = self.name {
            let unsigned = [("device_display_name".to_owned(), name.into())].into();
            self.keys.fields.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
        }
        RawValue::from_string(self.keys.with_signatures()).map_err(Error::internal)
    }
}

/// What another server gave of a user.
#[derive(Default)]
struct Given {
    devices: BTreeMap<OwnedDeviceId, GivenDevice>,
    signing_keys: Vec<(NewKey, SignedObject)>,
}

impl Given {
    /// What is malformed is left out.
    fn add_device(&mut self, user: &UserId, device: &DeviceId, json: &str, name: Option<&str>) {
        if self.devices.len() < MAX_DEVICES
            && let Some(given) = GivenDevice::read(user, device, json, name)
        {
            self.devices.insert(device.to_owned(), given);
        }
    }

    fn add_signing_key(&mut self, user: &UserId, usage: Usage, json: &str) {
        if let (Ok(key), Ok(object)) = (NewKey::new(user, usage, json), SignedObject::parse(json)) {
            self.signing_keys.push((key, object));
        }
    }

    /// As `asker` may see them: of signatures those of the user himself, and that of the asker, which his own server keeps.
    fn into_keys(mut self, snapshot: &Snapshot<'_>, asker: &UserId, user: &UserId) -> Result<UserKeys> {
        for given in self.devices.values_mut() {
            given.keys.signatures.retain(|signer, _| signer == user);
        }
        let by_asker = snapshot.get::<UserSignatures>(&(asker, user))?;
        for (key, object) in &mut self.signing_keys {
            object.signatures.retain(|signer, _| signer == user);
            if let Some(row) = &by_asker
                && key.usage == Usage::Master
                && key.key.public_key == row.master_key
            {
                let signature = BTreeMap::from([(row.key_id.clone(), row.signature.clone())]);
                object.signatures.insert(asker.to_owned(), signature);
            }
        }
        let json = |object: &SignedObject| RawValue::from_string(object.with_signatures()).map_err(Error::internal);
        let mut keys = UserKeys::default();
        for (device, given) in self.devices {
            keys.devices.insert(device, given.into_json()?);
        }
        for (key, object) in &self.signing_keys {
            match key.usage {
                Usage::Master => keys.master = Some(json(object)?),
                Usage::SelfSigning => keys.self_signing = Some(json(object)?),
                Usage::UserSigning => {}
            }
        }
        Ok(keys)
    }

    /// In the place of all that is kept of the user.
    fn write(&self, tx: &mut Transaction<'_>, user: &UserId) {
        forget(tx, user);
        for (device, given) in &self.devices {
            given.write(tx, user, device);
        }
        for (key, object) in &self.signing_keys {
            put_signing_key(tx, user, key, object);
        }
    }
}

fn put_signing_key(tx: &mut Transaction<'_>, user: &UserId, key: &NewKey, object: &SignedObject) {
    tx.put::<CrossSigningKeys>(&(user, key.usage), &key.key);
    for (key_id, signature) in object.signatures_of(user) {
        tx.put::<OwnSignatures>(&(user, &key.key.public_key, key_id), &signature.to_owned());
    }
}

fn forget(tx: &mut Transaction<'_>, user: &UserId) {
    tx.delete_all::<DeviceKeys>(&user);
    tx.delete_all::<CrossSigningKeys>(&user);
    tx.delete_all::<OwnSignatures>(&user);
    tx.delete_all::<RemoteDeviceNames>(&user);
}

/// Whether what is kept of a user's keys is all there is: his server has told us of every change since it was fetched,
/// because we have shared a room all the time.
fn is_current(server: &Server, snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<bool> {
    let Some(list) = snapshot.get::<RemoteUsers>(&user)?.filter(|list| !list.is_stale) else { return Ok(false) };
    let shared = shared_rooms(server, snapshot, user)?;
    Ok(shared.iter().any(|(_, since)| *since <= list.as_of))
}

/// The keys that other servers gave, and why servers gave none.
#[derive(Default)]
pub struct Answers<T> {
    pub found: BTreeMap<OwnedUserId, T>,
    pub failures: BTreeMap<OwnedServerName, Error>,
}

/// The keys of other servers' users as `asker` may see them, of these devices, or of all if none is named. Servers that
/// must be asked and do not answer within `timeout`, or whose turn does not come, are among the failures.
pub async fn query_remote(
    server: &Arc<Server>,
    asker: &UserId,
    wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    timeout: Duration,
) -> Result<Answers<UserKeys>> {
    let asker = asker.to_owned();
    let (reader, sought) = (asker.clone(), wanted.clone());
    let look = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut answers = Answers::<UserKeys>::default();
        let mut unknown = BTreeMap::<OwnedServerName, Vec<OwnedUserId>>::new();
        for (user, devices) in sought {
            if is_current(server, &snapshot, &user)? {
                let keys = query(&snapshot, Asker::User(&reader), &user, &devices)?;
                answers.found.insert(user, keys);
            } else {
                unknown.entry(user.server_name().to_owned()).or_default().push(user);
            }
        }
        Ok((answers, unknown))
    };
    let (mut answers, unknown) = server.blocking(look).await?;
    let deadline = Instant::now() + timeout;
    let asked = unknown.into_iter().map(|(name, users)| {
        let (server, asker) = (Arc::clone(server), asker.clone());
        async move {
            let asked = name.clone();
            let fetching = async move {
                let turn = server.resyncs.asked_for.take(asker.clone()).await;
                // Who does not wait for it finds it the next time, or that the server can't be reached.
                let work = async move {
                    let fetched = fetch(&server, &asked, users, asker).await;
                    drop(turn);
                    fetched
                };
                Server::detached(work).await
            };
            let fetched = tokio::time::timeout_at(deadline, fetching).await;
            (fetched.unwrap_or_else(|_| Err(too_late(&name))), name)
        }
    });
    let mut asked = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    while let Some((fetched, name)) = asked.next().await {
        match fetched {
            Ok(found) => answers.found.extend(found),
            Err(error) => {
                answers.failures.insert(name, error);
            }
        }
    }
    for (user, keys) in &mut answers.found {
        let devices = wanted.get(user).map(Vec::as_slice).unwrap_or_default();
        keys.devices.retain(|device, _| devices.is_empty() || devices.contains(device));
    }
    Ok(answers)
}

fn too_late(name: &ServerName) -> Error {
    Error::remote(name, RemoteError::Unreachable("it did not answer in time".to_owned()))
}

/// The answer to a query for keys. Some servers say `null` where they have nothing, which ruma's type does not read.
#[derive(Deserialize)]
struct QueryAnswer {
    device_keys: Option<BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>>,
    master_keys: Option<BTreeMap<OwnedUserId, Box<RawValue>>>,
    self_signing_keys: Option<BTreeMap<OwnedUserId, Box<RawValue>>>,
}

/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery>
const QUERY: &str = "/_matrix/federation/v1/user/keys/query";

/// Asks a server for all keys of its `users`, and keeps those of users whom we share a room with.
async fn fetch(
    server: &Arc<Server>,
    name: &ServerName,
    users: Vec<OwnedUserId>,
    asker: OwnedUserId,
) -> Result<BTreeMap<OwnedUserId, UserKeys>> {
    let as_of = server.store.durable_pos();
    let wanted: BTreeMap<_, [&str; 0]> = users.iter().map(|user| (user, [])).collect();
    let answer = request_json(server, name, Method::POST, QUERY, &json!({ "device_keys": wanted })).await?;
    let QueryAnswer { device_keys, master_keys, self_signing_keys } = answer;
    let device_keys = device_keys.unwrap_or_default();
    let mut given = BTreeMap::<OwnedUserId, Given>::new();
    for user in users {
        let Some(devices) = device_keys.get(&user) else { continue };
        let of_user = given.entry(user.clone()).or_default();
        for (device, keys) in devices {
            of_user.add_device(&user, device, keys.get(), None);
        }
        for (usage, keys) in [(Usage::Master, &master_keys), (Usage::SelfSigning, &self_signing_keys)] {
            if let Some(key) = keys.as_ref().and_then(|keys| keys.get(&user)) {
                of_user.add_signing_key(&user, usage, key.get());
            }
        }
    }
    let for_write = Arc::clone(server);
    let write = move |tx: &mut Transaction<'_>| {
        let mut kept = Vec::new();
        let mut rest = Vec::new();
        for (user, given) in given {
            if keep(&for_write, tx, &user, &given, None, as_of)? { kept.push(user) } else { rest.push((user, given)) }
        }
        Ok::<_, Error>((kept, rest))
    };
    let (kept, rest) = server.store.write(write).await?.value;
    let read = move |snapshot: &Snapshot<'_>| {
        let mut found = BTreeMap::new();
        for user in kept {
            let keys = query(snapshot, Asker::User(&asker), &user, &[])?;
            found.insert(user, keys);
        }
        for (user, given) in rest {
            let keys = given.into_keys(snapshot, &asker, &user)?;
            found.insert(user, keys);
        }
        Ok(found)
    };
    server.read(read).await
}

/// Keeps what was given, unless we share no room with the user or heard of a change since we asked. What a query gave does
/// not replace a whole list that came meanwhile: only that tells which update follows it.
fn keep(
    server: &Server,
    tx: &mut Transaction<'_>,
    user: &UserId,
    given: &Given,
    stream_id: Option<u64>,
    as_of: StreamPos,
) -> Result<bool> {
    let has_changed = tx.get::<LastKeyChange>(&user)?.is_some_and(|changed| changed > as_of);
    if has_changed || shared_rooms(server, tx.before(), user)?.is_empty() {
        return Ok(false);
    }
    if stream_id.is_none() && is_current(server, tx.before(), user)? {
        return Ok(true);
    }
    given.write(tx, user);
    tx.put::<RemoteUsers>(&user, &RemoteList { stream_id, as_of, is_stale: false });
    Ok(true)
}

/// What a server says of a device of its user.
pub struct Change {
    pub device: OwnedDeviceId,
    pub stream_id: u64,
    /// The updates before this one.
    pub prev_id: Vec<u64>,
    pub told: Told,
}

/// What a device is now.
pub enum Told {
    Deleted,
    NoKeys,
    /// The keys, and the device's name if that stands beside them.
    Keys(Box<RawValue>, Option<String>),
}

impl Change {
    /// Whether nothing is missing between what is kept and this change.
    fn follows(&self, list: &RemoteList) -> bool {
        !self.prev_id.is_empty() && self.prev_id.iter().all(|before| Some(*before) == list.stream_id)
    }

    /// `false` if it can't be read. A device beyond `MAX_DEVICES` is passed over, as in a list.
    fn write(&self, tx: &mut Transaction<'_>, user: &UserId) -> store::Result<bool> {
        match &self.told {
            Told::Keys(json, name) => {
                let given = GivenDevice::read(user, &self.device, json.get(), name.as_deref());
                let Some(given) = given else { return Ok(false) };
                let is_known = tx.before().contains::<DeviceKeys>(&(user, &self.device))?;
                if is_known || tx.before().list::<DeviceKeys>(&user).nth(MAX_DEVICES - 1).transpose()?.is_none() {
                    given.write(tx, user, &self.device);
                }
            }
            Told::Deleted | Told::NoKeys => {
                tx.delete::<DeviceKeys>(&(user, &self.device));
                tx.delete::<RemoteDeviceNames>(&(user, &self.device));
                tx.delete_all::<OwnSignatures>(&(user, self.device.as_str()));
            }
        }
        Ok(true)
    }
}

/// A device of a user of another server changed. Durable when this returns. `M_FORBIDDEN` if we share no room with him.
pub async fn change(server: &Arc<Server>, user: OwnedUserId, change: Change) -> Result<()> {
    let owner = user.clone();
    let write = move |tx: &mut Transaction<'_>, list: Option<RemoteList>| {
        // What names no update before it may be the first that we hear of, or come from a server that tells of each
        // change with the same `stream_id` and without keys, as Conduit does.
        let is_first = change.prev_id.is_empty();
        // A device that has no keys, and had none, is shown to nobody.
        let is_news = is_first
            || !matches!(change.told, Told::NoKeys)
            || tx.before().contains::<DeviceKeys>(&(&owner, &change.device))?;
        let Some(list) = list else { return Ok(Noted { list: None, is_news }) };
        if !is_first && list.stream_id == Some(change.stream_id) {
            return Ok(Noted { list: None, is_news }); // told twice
        }
        let is_whole = !list.is_stale && change.follows(&list) && change.write(tx, &owner)?;
        let stream_id = if is_whole { Some(change.stream_id) } else { list.stream_id };
        Ok(Noted { list: Some(RemoteList { stream_id, is_stale: !is_whole, ..list }), is_news })
    };
    note(server, user, write).await
}

/// Cross-signing keys of a user of another server changed.
pub async fn change_signing_keys(
    server: &Arc<Server>,
    user: OwnedUserId,
    master: Option<Box<RawValue>>,
    self_signing: Option<Box<RawValue>>,
) -> Result<()> {
    let owner = user.clone();
    let write = move |tx: &mut Transaction<'_>, list: Option<RemoteList>| {
        let mut given = Given::default();
        for (usage, key) in [(Usage::Master, master), (Usage::SelfSigning, self_signing)] {
            if let Some(key) = key {
                given.add_signing_key(&owner, usage, key.get());
            }
        }
        if list.is_some() {
            for (key, object) in &given.signing_keys {
                if let Some(old) = tx.get::<CrossSigningKeys>(&(&owner, key.usage))? {
                    tx.delete_all::<OwnSignatures>(&(&*owner, old.public_key.as_str()));
                }
                put_signing_key(tx, &owner, key, object);
            }
        }
        Ok(Noted { list, is_news: true })
    };
    note(server, user, write).await
}

/// What comes of hearing of a change.
struct Noted {
    /// What is kept from now on, if that is something else.
    list: Option<RemoteList>,
    /// Whether anybody sees a difference. Of a list that is stale clients are told in any case: the devices may be
    /// fetched in vain, and then are when somebody asks for them.
    is_news: bool,
}

/// Notes that keys of a user of another server changed, with what `write` makes of what is kept of them.
async fn note(
    server: &Arc<Server>,
    user: OwnedUserId,
    write: impl FnOnce(&mut Transaction<'_>, Option<RemoteList>) -> Result<Noted> + Send + 'static,
) -> Result<()> {
    let (for_write, owner) = (Arc::clone(server), user.clone());
    let work = move |tx: &mut Transaction<'_>| {
        let may_be_met = partial::note_devices(tx, &owner)?;
        if shared_rooms(&for_write, tx.before(), &owner)?.is_empty() {
            if may_be_met {
                return Ok((false, false));
            }
            return Err(Error::forbidden("nobody here shares a room with the user"));
        }
        let Noted { list, is_news } = write(tx, tx.get::<RemoteUsers>(&&*owner)?)?;
        if let Some(list) = &list {
            tx.put::<RemoteUsers>(&&*owner, list);
        }
        let is_stale = list.is_some_and(|list| list.is_stale);
        let is_news = is_news || is_stale;
        if is_news {
            changed(tx, &owner, Changed::Remote)?;
        }
        Ok((is_news, is_stale))
    };
    let (is_news, is_stale) = server.store.commit(work).await?;
    if is_news {
        announce(server, &user);
    }
    if is_stale {
        resync(server, user);
    }
    Ok(())
}

/// Whether a device with this Curve25519 key, from which an encrypted message came, is among those that are kept of a
/// user; if not, they are fetched again, because an update of them did not reach us. At most once in a while for one
/// user: the message may as well be a lie.
pub async fn check_sender(server: &Arc<Server>, user: OwnedUserId, key: &str) -> Result<()> {
    let quoted = serde_json::to_string(key).map_err(Error::internal)?;
    let owner = user.clone();
    let is_unknown = move |snapshot: &Snapshot<'_>| {
        if !snapshot.contains::<RemoteUsers>(&&*owner)? {
            return Ok(false);
        }
        let mut devices = snapshot.list::<DeviceKeys>(&&*owner);
        let is_known = devices.find_map(|row| row.map(|row| row.value.contains(&quoted).then_some(())).transpose());
        Ok(is_known.transpose()?.is_none())
    };
    if !server.read(is_unknown).await? || !server.resyncs.may_suspect(&user, server.clock.now_ms()) {
        return Ok(());
    }
    let write = |_: &mut Transaction<'_>, list: Option<RemoteList>| {
        let list = list.map(|list| RemoteList { is_stale: true, ..list });
        Ok(Noted { list, is_news: false })
    };
    note(server, user, write).await
}

/// Fetches all devices of a user again, in the background: some change of them did not reach us.
fn resync(server: &Arc<Server>, user: OwnedUserId) {
    {
        let mut users = server.resyncs.users.lock();
        if users.len() >= MAX_RESYNCS || !users.insert(user.clone()) {
            return;
        }
    }
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let fetched = async {
            let _place = server.resyncs.places.acquire().await.expect("it is never closed");
            server.resyncs.users.lock().remove(&user); // what changes from now on needs another one
            tokio::time::timeout(RESYNC_TIMEOUT, fetch_devices(&server, &user)).await
        };
        let outcome = tokio::select! {
            () = server.shutdown.cancelled() => return,
            outcome = fetched => outcome,
        };
        match outcome.unwrap_or_else(|_| Err(too_late(user.server_name()))) {
            Ok(()) => announce(&server, &user),
            Err(error) => debug!(%user, "devices can't be fetched again, until somebody asks for them: {error:?}"),
        }
    });
}

async fn fetch_devices(server: &Arc<Server>, user: &UserId) -> Result<()> {
    let as_of = server.store.durable_pos();
    let answer = request(server, user.server_name(), get_devices::v1::Request::new(user.to_owned())).await?;
    let mut given = Given::default();
    for device in &answer.devices {
        let name = device.device_display_name.as_deref();
        given.add_device(user, &device.device_id, device.keys.json().get(), name);
    }
    for (usage, key) in [(Usage::Master, &answer.master_key), (Usage::SelfSigning, &answer.self_signing_key)] {
        if let Some(key) = key {
            given.add_signing_key(user, usage, key.json().get());
        }
    }
    let (for_write, owner, stream_id) = (Arc::clone(server), user.to_owned(), u64::from(answer.stream_id));
    let write = move |tx: &mut Transaction<'_>| {
        if keep(&for_write, tx, &owner, &given, Some(stream_id), as_of)? {
            changed(tx, &owner, Changed::Remote)?;
        }
        Ok::<_, Error>(())
    };
    server.store.commit(write).await
}

/// Forgets the keys of users whom we share no room with any more; how many users that were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let select = |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut gone = Vec::new();
        for row in snapshot.list::<RemoteUsers>(&()) {
            let row: Row<RemoteUsers> = row?;
            if shared_rooms(server, &snapshot, row.key()?)?.is_empty() {
                gone.push(row.key()?.to_owned());
            }
        }
        Ok(gone)
    };
    let gone = server.blocking(select).await?;
    let removed = gone.len();
    for users in gone.chunks(100) {
        let users = users.to_vec();
        let delete = move |tx: &mut Transaction<'_>| {
            for user in &users {
                tx.delete::<RemoteUsers>(&&**user);
                forget(tx, user);
            }
            Ok::<_, Error>(())
        };
        server.store.commit_when_full(delete).await?;
    }
    Ok(removed)
}

/// Takes nothing for certain any more that is kept of other servers' users: what their servers told us in a future that was
/// lost they do not tell again. Clients ask anew for all with whom they share a room, kept or not, and then we do.
pub fn doubt_all(tx: &mut Transaction<'_>) -> store::Result<()> {
    let rows: Vec<Row<RemoteUsers>> = tx.before().list::<RemoteUsers>(&()).collect::<store::Result<_>>()?;
    for row in rows {
        let user = row.key()?;
        tx.put::<RemoteUsers>(&user, &RemoteList { is_stale: true, ..row.value });
    }
    let known = tx.before().list::<RemoteRooms>(&()).map(|row| row.and_then(|row| Ok(row.key()?.0.to_owned())));
    let mut known: Vec<OwnedUserId> = known.collect::<store::Result<_>>()?;
    known.dedup();
    for user in known {
        changed(tx, &user, Changed::Remote)?;
    }
    Ok(())
}

type OneTimeKeys =
    BTreeMap<OwnedDeviceId, BTreeMap<ruma::OwnedOneTimeKeyId, ruma::serde::Raw<ruma::encryption::OneTimeKey>>>;

/// Claims one-time keys of other servers' users. Of each device that was asked for its server gives one key at most.
pub async fn claim_remote(
    server: &Arc<Server>,
    wanted: claim_keys::v1::OneTimeKeyClaims,
    timeout: Duration,
) -> Answers<OneTimeKeys> {
    let mut by_server = BTreeMap::<OwnedServerName, claim_keys::v1::OneTimeKeyClaims>::new();
    for (user, devices) in wanted {
        by_server.entry(user.server_name().to_owned()).or_default().insert(user, devices);
    }
    let deadline = Instant::now() + timeout;
    let asked = by_server.into_iter().map(|(name, wanted)| {
        let server = Arc::clone(server);
        async move {
            let ask = request(&server, &name, claim_keys::v1::Request::new(wanted.clone()));
            let answer = tokio::time::timeout_at(deadline, ask).await.unwrap_or_else(|_| Err(too_late(&name)));
            (answer.map(|answer| asked_for(&wanted, answer.one_time_keys)), name)
        }
    });
    let mut answers = Answers { found: BTreeMap::new(), failures: BTreeMap::new() };
    let mut asked = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    while let Some((answer, name)) = asked.next().await {
        match answer {
            Ok(keys) => answers.found.extend(keys),
            Err(error) => {
                answers.failures.insert(name, error);
            }
        }
    }
    answers
}

/// Of the keys that a server gave, those that it was asked for.
fn asked_for(
    wanted: &claim_keys::v1::OneTimeKeyClaims,
    given: claim_keys::v1::OneTimeKeys,
) -> BTreeMap<OwnedUserId, OneTimeKeys> {
    let mut kept = BTreeMap::<OwnedUserId, OneTimeKeys>::new();
    for (user, devices) in given {
        let Some(of_user) = wanted.get(&user) else { continue };
        for (device, keys) in devices {
            let Some(algorithm) = of_user.get(&device) else { continue };
            let prefix = format!("{algorithm}:");
            let key = keys.into_iter().find(|(id, key)| {
                id.as_str().starts_with(&prefix) && key.json().get().len() <= super::signed::MAX_BYTES
            });
            if let Some((id, key)) = key {
                kept.entry(user.clone()).or_default().insert(device, BTreeMap::from([(id, key)]));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn updates_bring_no_more_devices_than_a_list_may_have() {
        let room = TestRoom::new();
        let user = user_id!("@alice:b.test");
        room.change(move |tx| {
            for number in 0..MAX_DEVICES {
                let device = OwnedDeviceId::from(format!("D{number}"));
                tx.put::<DeviceKeys>(&(user, &device), &"{}".to_owned());
            }
        });
        let kept_after = |device: &str| {
            let keys = json!({ "user_id": user, "device_id": device, "keys": {} }).to_string();
            let told = Told::Keys(RawValue::from_string(keys).unwrap(), None);
            let device = OwnedDeviceId::from(device);
            let change = Change { device: device.clone(), stream_id: 2, prev_id: vec![1], told };
            assert!(room.server.store.commit_blocking(move |tx| change.write(tx, user)).unwrap());
            let snapshot = room.server.store.snapshot();
            let keys = snapshot.get::<DeviceKeys>(&(user, &device)).unwrap();
            (snapshot.list::<DeviceKeys>(&user).count(), keys.map(|keys| keys.contains("alice")))
        };
        assert_eq!(kept_after("ANOTHER"), (MAX_DEVICES, None));
        assert_eq!(kept_after("D0"), (MAX_DEVICES, Some(true)), "one that is known");
    }
}
