//! Messages from device to device. Each waits in the queue of its device until the device has acknowledged it.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId, to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    device,
    session::Caller,
    tables::{ReceivedToDevice, ToDevice, ToDeviceCounts, ToDeviceTransactions},
};
use crate::{
    Server,
    appservice::{
        Appservice,
        tables::{Receiver, ToDeviceRows},
    },
    error::{Error, Result},
    federation::queue::{self, Additions, tables::Item},
    plain_json,
    store::{self, Group, Json, Scan, Snapshot, StreamPos, Transaction},
};

/// The largest content of a message, in bytes. Source: our choice, the limit of events in rooms.
const MAX_CONTENT_BYTES: usize = 65_536;

/// How many messages one request may send, `*` counted as that many devices, and their size together. Source: our
/// choice; clients send some hundreds at a time.
const MAX_MESSAGES: usize = 10_000;
const MAX_REQUEST_BYTES: usize = 32 << 20;

/// The longest event type, transaction id and id of a receiver, in bytes. Source: our choice, the limit of other
/// identifiers.
const MAX_ID_BYTES: usize = 255;

/// How many messages wait for a device at most. One that is over it loses its oldest, `DROPPED_AT_ONCE` of them: it has
/// been away for very long, or somebody floods it. Source: our choice, docs/security.md.
const MAX_QUEUED: u64 = 20_000;
const DROPPED_AT_ONCE: usize = 1_000;

/// How large a part of a request goes to another server at once, in bytes; one message may be larger. Source: our choice,
/// less than what any server refuses.
const MAX_PART_BYTES: usize = 40_000;

/// Contents by receiver, as a client wrote them.
pub type Contents = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>;

/// The body of one `/sendToDevice`.
pub struct Sending {
    pub event_type: String,
    pub txn_id: String,
    pub contents: Contents,
}

/// Queues the messages for our own devices and for other servers, all or none; durable when this returns. A transaction id that the sending
/// device has used for this event type already does nothing. Users and devices that do not exist are left out.
pub async fn send(server: &Arc<Server>, sender: Caller, sending: Sending) -> Result<()> {
    let batch = server.blocking(move |server| Batch::new(server, sender, sending)).await?;
    let (woken, destinations) = server.store.commit(move |tx| batch.write(tx)).await?;
    woken.iter().for_each(|user| server.wakers.user(server, user));
    destinations.into_iter().for_each(|destination| queue::wake(server, destination));
    Ok(())
}

/// An `m.direct_to_device` of a server whose user `sender` is.
pub struct Received {
    pub sender: OwnedUserId,
    pub event_type: String,
    pub message_id: String,
    pub messages: Contents,
}

/// Queues what another server sent for devices of ours; durable when this returns. What was received before, and what is
/// for nobody here, does nothing.
pub async fn receive(server: &Arc<Server>, received: Received) -> Result<()> {
    let Received { sender, event_type, message_id, messages } = received;
    if event_type.len() > MAX_ID_BYTES || message_id.len() > MAX_ID_BYTES {
        return Err(Error::invalid_param("event type or message id are too long"));
    }
    if messages.values().map(BTreeMap::len).sum::<usize>() > MAX_MESSAGES {
        return Err(too_many());
    }
    let mut ours = BTreeMap::new();
    for (user, contents) in messages.into_iter().filter(|(user, _)| server.is_ours(user)) {
        let readable = contents.into_iter().filter_map(|(device, content)| {
            let message = message(&sender, &event_type, &content).ok()?;
            Some((device, message))
        });
        ours.insert(user, readable.collect::<BTreeMap<_, _>>());
    }
    let at_ms = server.clock.now_ms();
    let services: Vec<_> = server.appservices.told_to_device().cloned().collect();
    let write = move |tx: &mut Transaction<'_>| {
        let key = (sender.server_name(), message_id.as_str());
        if tx.get::<ReceivedToDevice>(&key)?.is_some() {
            return Ok(BTreeSet::new());
        }
        tx.put::<ReceivedToDevice>(&key, &at_ms);
        enqueue_all(tx, &ours, &services)
    };
    let woken = server.store.commit(write).await?;
    woken.iter().for_each(|user| server.wakers.user(server, user));
    Ok(())
}

/// Messages that were checked and only need their receivers' devices.
struct Batch {
    sender: Caller,
    event_type: String,
    txn_id: String,
    at_ms: u64,
    messages: Messages,
    to_others: Additions,
    /// Those of the other servers that the sender may have made up.
    strangers: BTreeSet<OwnedServerName>,
    /// The application services that are told what their users get.
    services: Vec<Arc<Appservice>>,
}

/// Events by receiver, as he reads them.
type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Json>>;

impl Batch {
    fn new(server: &Server, sender: Caller, sending: Sending) -> Result<Self> {
        let Sending { event_type, txn_id, contents } = sending;
        if event_type.len() > MAX_ID_BYTES || txn_id.len() > MAX_ID_BYTES {
            return Err(Error::invalid_param(format!(
                "Event type and transaction id may have {MAX_ID_BYTES} bytes at most"
            )));
        }
        if contents.values().map(BTreeMap::len).sum::<usize>() > MAX_MESSAGES {
            return Err(too_many());
        }
        let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            contents.into_iter().partition(|(user, _)| server.is_ours(user));
        let to_others = for_others(server, &sender.user_id, &event_type, others)?;
        let strangers = queue::strangers(&server.store.snapshot(), &sender.user_id, to_others.destinations())?;
        let mut messages = BTreeMap::new();
        for (user, contents) in ours {
            let to_user: Result<_> = contents
                .into_iter()
                .map(|(device, content)| Ok((device, message(&sender.user_id, &event_type, &content)?)))
                .collect();
            messages.insert(user, to_user?);
        }
        let services = server.appservices.told_to_device().cloned().collect();
        let at_ms = server.clock.now_ms();
        Ok(Self { sender, event_type, txn_id, at_ms, messages, to_others, strangers, services })
    }

    /// Gives the users who have news, and the servers that have.
    fn write(mut self, tx: &mut Transaction<'_>) -> Result<(BTreeSet<OwnedUserId>, Vec<OwnedServerName>)> {
        if !self.begin_transaction(tx)? {
            return Ok((BTreeSet::new(), Vec::new()));
        }
        let woken = enqueue_all(tx, &self.messages, &self.services)?;
        self.to_others.limit(tx, &self.strangers)?;
        Ok((woken, self.to_others.write(tx)?))
    }

    /// Notes the transaction id; false if it was known.
    fn begin_transaction(&self, tx: &mut Transaction<'_>) -> store::Result<bool> {
        let (user, device) = (&*self.sender.user_id, &*self.sender.device_id);
        let key = (user, device, self.event_type.as_str(), self.txn_id.as_str());
        if tx.get::<ToDeviceTransactions>(&key)?.is_some() {
            return Ok(false);
        }
        tx.put::<ToDeviceTransactions>(&key, &self.at_ms);
        Ok(true)
    }
}

/// What other servers are sent, in parts of bounded size, each with an id of its own.
fn for_others(server: &Server, sender: &UserId, event_type: &str, others: Contents) -> Result<Additions> {
    let mut parts = BTreeMap::<OwnedServerName, Vec<(usize, Contents)>>::new();
    for (user, contents) in others {
        if user.as_str().len() > MAX_ID_BYTES || !queue::may_tell(server, user.server_name()) {
            continue;
        }
        let of_server = parts.entry(user.server_name().to_owned()).or_default();
        for (device, content) in contents {
            check_content(content.get())?;
            if matches!(&device, DeviceIdOrAllDevices::DeviceId(id) if id.as_str().len() > MAX_ID_BYTES) {
                continue;
            }
            let size = content.get().len() + user.as_str().len() + MAX_ID_BYTES;
            match of_server.last_mut().filter(|(used, _)| used + size <= MAX_PART_BYTES) {
                Some((used, part)) => {
                    *used += size;
                    part.entry(user.clone()).or_default().insert(device, content);
                }
                None => of_server.push((size, BTreeMap::from([(user.clone(), BTreeMap::from([(device, content)]))]))),
            }
        }
    }
    let mut additions = Additions::default();
    for (destination, parts) in parts {
        for (_, messages) in parts {
            let message_id = server.random.text(24);
            let content =
                json!({ "sender": sender, "type": event_type, "message_id": message_id, "messages": messages });
            let content = content.to_string();
            // Else nobody could sign it, nor whatever shares a transaction with it.
            serde_json::from_str::<CanonicalJsonObject>(&content)
                .map_err(|e| Error::bad_json(format!("A message can't be sent to other servers: {e}")))?;
            additions.add(destination.clone(), Item::ToDevice { content });
        }
    }
    Ok(additions)
}

/// Puts messages into the queues of the devices that there are; gives the users who have news.
fn enqueue_all(
    tx: &mut Transaction<'_>,
    messages: &Messages,
    services: &[Arc<Appservice>],
) -> Result<BTreeSet<OwnedUserId>> {
    let mut woken = BTreeSet::new();
    let (mut count, mut bytes, mut number) = (0, 0, 0);
    for (user, messages) in messages {
        for (device, message) in receivers(tx.before(), user, messages)? {
            count += 1;
            bytes += message.0.get().len();
            if count > MAX_MESSAGES || bytes > MAX_REQUEST_BYTES {
                return Err(too_many());
            }
            enqueue(tx, user, &device, message)?;
            for service in services.iter().filter(|service| service.has_user(user)) {
                let receiver = Receiver { user_id: user.clone(), device_id: device.clone() };
                tx.put::<ToDeviceRows>(&(&service.id, tx.pos(), number), &receiver);
                number += 1;
            }
            woken.insert(user.clone());
        }
    }
    Ok(woken)
}

fn too_many() -> Error {
    Error::too_large(format!(
        "One request may send {MAX_MESSAGES} messages of together {MAX_REQUEST_BYTES} bytes at most"
    ))
}

/// The event as its receiver reads it.
fn message(sender: &UserId, event_type: &str, content: &RawValue) -> Result<Json> {
    #[derive(Serialize)]
    struct Message<'a> {
        #[serde(rename = "type")]
        event_type: &'a str,
        sender: &'a UserId,
        content: &'a RawValue,
    }
    check_content(content.get())?;
    Ok(Json::of(&Message { event_type, sender, content }))
}

/// A content that a receiver's parser refuses would make the whole of its `/sync` unreadable, again and again.
fn check_content(json: &str) -> Result<()> {
    if json.len() > MAX_CONTENT_BYTES {
        return Err(Error::too_large(format!("A message has more than {MAX_CONTENT_BYTES} bytes")));
    }
    plain_json::object(json.as_bytes()).map(drop)
}

/// The devices of `user` that get a message: one each, of which the one for just that device wins over `*`.
fn receivers<'m>(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    messages: &'m BTreeMap<DeviceIdOrAllDevices, Json>,
) -> Result<Vec<(OwnedDeviceId, &'m Json)>> {
    if let Some(for_all) = messages.get(&DeviceIdOrAllDevices::AllDevices) {
        let devices = device::list(snapshot, user)?.into_iter().map(|(device, _)| device);
        let message = |device: &OwnedDeviceId| messages.get(&device.clone().into()).unwrap_or(for_all);
        return Ok(devices.map(|device| (device.clone(), message(&device))).collect());
    }
    let mut receivers = Vec::new();
    for (device, message) in messages {
        if let DeviceIdOrAllDevices::DeviceId(device) = device
            && device::get(snapshot, user, device)?.is_some()
        {
            receivers.push((device.clone(), message));
        }
    }
    Ok(receivers)
}

/// Puts a message at the end of a device's queue, at most one in a transaction.
fn enqueue(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, message: &Json) -> store::Result<()> {
    let mut count = tx.get::<ToDeviceCounts>(&(user, device))?.unwrap_or_default();
    if count >= MAX_QUEUED {
        count = count.saturating_sub(drop_oldest(tx, user, device)?);
    }
    let pos = tx.pos();
    tx.put::<ToDevice>(&(user, device, pos, 0), message);
    tx.put::<ToDeviceCounts>(&(user, device), &(count + 1));
    Ok(())
}

/// Removes messages of a device that were delivered, but not by its `/sync`; they need not be there any more.
pub fn delete(
    tx: &mut Transaction<'_>,
    user: &UserId,
    device: &DeviceId,
    places: impl IntoIterator<Item = StreamPos>,
) -> store::Result<()> {
    let count = tx.get::<ToDeviceCounts>(&(user, device))?.unwrap_or_default();
    let mut removed = 0;
    for pos in places {
        if tx.before().contains::<ToDevice>(&(user, device, pos, 0))? {
            tx.delete::<ToDevice>(&(user, device, pos, 0));
            removed += 1;
        }
    }
    match count.saturating_sub(removed) {
        _ if removed == 0 => {}
        0 => tx.delete::<ToDeviceCounts>(&(user, device)),
        left => tx.put::<ToDeviceCounts>(&(user, device), &left),
    }
    Ok(())
}

/// Removes the oldest messages of a full queue; gives their number.
fn drop_oldest(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> store::Result<u64> {
    let oldest: Vec<_> =
        tx.before().list::<ToDevice>(&(user, device)).take(DROPPED_AT_ONCE).collect::<store::Result<_>>()?;
    for row in &oldest {
        tx.delete::<ToDevice>(&row.key()?);
    }
    Ok(oldest.len() as u64)
}

/// Removes the messages up to the position that the device has acknowledged.
pub fn acknowledge(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId, until: StreamPos) -> store::Result<()> {
    let count = tx.get::<ToDeviceCounts>(&(user, device))?.unwrap_or_default();
    let mut removed = 0;
    for row in tx.before().scan::<ToDevice>(up_to(user, device, until)) {
        row?;
        removed += 1;
    }
    if removed == 0 {
        return Ok(());
    }
    tx.delete_range::<ToDevice>(up_to(user, device, until));
    match count.saturating_sub(removed) {
        0 => tx.delete::<ToDeviceCounts>(&(user, device)),
        left => tx.put::<ToDeviceCounts>(&(user, device), &left),
    }
    Ok(())
}

fn up_to(user: &UserId, device: &DeviceId, until: StreamPos) -> Scan {
    Scan::range::<ToDevice>(&(user, device), &(user, device, until.next()))
}

/// Forgets what waits for a device that is being deleted, and what it has sent.
pub fn delete_device(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) {
    tx.delete_group::<ToDevice>(&(user, device), Group::of((user, device)));
    tx.delete::<ToDeviceCounts>(&(user, device));
    tx.delete_all::<ToDeviceTransactions>(&(user, device));
}

#[cfg(test)]
mod tests {
    use ruma::{api::error::ErrorKind, user_id};

    use super::*;
    use crate::room::testing::{TestRoom, user};

    #[test]
    fn servers_that_may_be_made_up_get_a_thousand_queues_at_most() {
        let room = TestRoom::new();
        let (bob, carol) = (user_id!("@bob:b.test"), user_id!("@carol:c.test"));
        room.receive_member(bob, "join");
        room.state("alice", "m.room.member", carol.as_str(), &json!({ "membership": "invite" }));
        let send = |txn_id: &str, receivers: Vec<OwnedUserId>| {
            let message = || RawValue::from_string("{}".to_owned()).unwrap();
            let contents = receivers
                .into_iter()
                .map(|receiver| (receiver, BTreeMap::from([(DeviceIdOrAllDevices::AllDevices, message())])))
                .collect();
            let sending = Sending { event_type: "my.type".to_owned(), txn_id: txn_id.to_owned(), contents };
            let batch = Batch::new(&room.server, Caller::on_device(user("alice"), "D".into()), sending).unwrap();
            room.server.store.commit_blocking(move |tx| batch.write(tx)).unwrap().1
        };
        let made_up = |number: usize| UserId::parse(format!("@x:s{number}.test")).unwrap();
        assert_eq!(send("1", (0..1_500).map(made_up).collect()).len(), 1_000);
        let others = vec![made_up(2_000), made_up(1), bob.to_owned(), carol.to_owned()];
        assert_eq!(send("2", others), ["b.test", "c.test", "s1.test"], "those who are known, and whose queue is there");
    }

    #[test]
    fn what_cannot_be_signed_is_refused_for_other_servers_only() {
        let room = TestRoom::new();
        let send = |receiver: &UserId, device: &str, content: &str| {
            let content = RawValue::from_string(content.to_owned()).unwrap();
            let device = DeviceIdOrAllDevices::DeviceId(device.into());
            let contents = BTreeMap::from([(receiver.to_owned(), BTreeMap::from([(device, content)]))]);
            let sending = Sending { event_type: "my.type".to_owned(), txn_id: "1".to_owned(), contents };
            Batch::new(&room.server, Caller::on_device(user("alice"), "D".into()), sending).map(drop)
        };
        let bob = user_id!("@bob:b.test");
        for number in ["1.5", "1e3", "-0", "9007199254740992", "-9007199254740992", "18446744073709551615"] {
            let content = format!(r#"{{"a":[{number}]}}"#);
            assert!(send(&user("alice"), "D", &content).is_ok(), "{number}");
            let refused = send(bob, "D", &content);
            assert!(matches!(refused, Err(Error::Refused { kind: ErrorKind::BadJson, .. })), "{number}: {refused:?}");
        }
        assert!(send(bob, "D", r#"{"a":9007199254740991}"#).is_ok());
        assert!(send(bob, "$serde_json::private::RawValue", "{}").is_err(), "serde_json makes something else of it");
    }

    #[test]
    fn contents_that_a_parser_may_refuse_are_refused() {
        let nested = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        for content in ["{}", r#"{"a":1.5,"b":[{}]}"#, &nested(99)] {
            assert!(check_content(content).is_ok(), "{content}");
        }
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CONTENT_BYTES));
        for content in ["[]", "1", "null", r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#, &nested(100), &nested(50_000), &large]
        {
            assert!(check_content(content).is_err(), "{}", &content[..content.len().min(100)]);
        }
    }
}
