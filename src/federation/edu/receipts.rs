//! <https://spec.matrix.org/v1.19/server-server-api/#receipts>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{ID_MAX_BYTES, OwnedRoomId, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::room_of;
use crate::{
    Server,
    error::{Error, Result},
    room::{
        receipts::{PUBLIC, Remote, Thread},
        servers::{is_in, is_joined},
        tables::{Receipts, Rooms},
    },
    store::{RoomNid, Snapshot, Transaction},
};

/// How many receipts one EDU may bring. Source: our choice.
const MAX_RECEIPTS: usize = 1_000;

/// The content of an `m.receipt`: room, receipt type, user.
pub type Content = BTreeMap<OwnedRoomId, BTreeMap<String, BTreeMap<OwnedUserId, Receipt>>>;

#[derive(Debug, Serialize, Deserialize)]
pub struct Receipt {
    data: Data,
    event_ids: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Data {
    #[serde(default)]
    ts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

/// As few contents as hold these receipts of our users, as they are now: one can't say that a user has read in two
/// threads of a room. Nothing of rooms that the user or `destination` has left.
pub fn contents(
    server: &Server,
    snapshot: &Snapshot<'_>,
    destination: &ServerName,
    receipts: Vec<(RoomNid, OwnedUserId, String)>,
) -> Result<Vec<Content>> {
    let mut contents: Vec<Content> = Vec::new();
    let receipts: BTreeSet<_> = receipts.into_iter().filter(|(_, user, _)| server.is_ours(user)).collect();
    for (room, user, thread) in receipts {
        if !is_in(snapshot, room, destination)? || !is_joined(server, snapshot, room, &user)? {
            continue;
        }
        let Some(kept) = snapshot.get::<Receipts>(&(room, &user, PUBLIC, &thread))? else { continue };
        let Some(row) = snapshot.get::<Rooms>(&room)? else { continue };
        let has = |content: &Content| {
            let of_room = content.get(&row.room_id).and_then(|types| types.get(PUBLIC));
            of_room.is_some_and(|users| users.contains_key(&user))
        };
        let free = contents.iter().position(|content| !has(content)).unwrap_or_else(|| {
            contents.push(Content::new());
            contents.len() - 1
        });
        let data = Data { ts: kept.ts_ms, thread_id: Some(thread).filter(|thread| !thread.is_empty()) };
        let receipt = Receipt { data, event_ids: vec![kept.event_id] };
        let of_room = contents[free].entry(row.room_id).or_default();
        of_room.entry(PUBLIC.to_owned()).or_default().insert(user, receipt);
    }
    Ok(contents)
}

/// Other receipts than public ones are nobody's to send. What they are for need not be an event id: it is told
/// to clients apart from those that are.
pub async fn receive(server: &Arc<Server>, origin: &ServerName, content: BTreeMap<String, Value>) -> Result<()> {
    let origin = origin.to_owned();
    let select = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut selected = Vec::new();
        for (room_id, mut types) in content {
            let Ok(room_id) = OwnedRoomId::try_from(room_id) else { continue };
            let Some(Value::Object(users)) = types.get_mut(PUBLIC).map(Value::take) else { continue };
            for (user, receipt) in users {
                let Ok(user) = OwnedUserId::try_from(user) else { continue };
                let Ok(Receipt { data, event_ids }) = serde_json::from_value(receipt) else { continue };
                let event_id = event_ids.into_iter().next().filter(|id| (1..=ID_MAX_BYTES).contains(&id.len()));
                let Some(event_id) = event_id else { continue };
                let Ok(thread) = data.thread_id.as_deref().map_or(Ok(Thread::Any), Thread::parse) else { continue };
                if selected.len() >= MAX_RECEIPTS {
                    break;
                }
                match room_of(server, &snapshot, &origin, &user, &room_id) {
                    Ok(room) => {
                        selected.push(Remote { room, user, thread, event_id, ts_ms: data.ts });
                    }
                    Err(Error::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(selected)
    };
    let receipts = server.blocking(select).await?;
    if receipts.is_empty() {
        return Ok(());
    }
    let write = move |tx: &mut Transaction<'_>| {
        let mut moved = Vec::new();
        for receipt in receipts {
            if receipt.put(tx)? {
                moved.push(receipt);
            }
        }
        Ok::<_, Error>(moved)
    };
    let mut rooms = BTreeSet::new();
    for receipt in server.store.commit(write).await? {
        receipt.tell_services(server)?;
        rooms.insert(receipt.room);
    }
    rooms.into_iter().for_each(|room| server.wakers.room(server, room));
    Ok(())
}
