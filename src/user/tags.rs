//! The labels that a user puts on his rooms.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-tagging>

use std::sync::Arc;

use ruma::UserId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::account_data;
use crate::{
    Server,
    error::{Error, Result},
    store::{RoomNid, Snapshot, Transaction},
};

/// The account data that holds the tags of a room.
const EVENT_TYPE: &str = "m.tag";

/// Longest name of a tag. Source: the specification.
const MAX_NAME_BYTES: usize = 255;

#[derive(Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    tags: Map<String, Value>,
}

/// The user's tags of a room, and what belongs to each.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId, room: RoomNid) -> Result<Map<String, Value>> {
    let content = account_data::get(snapshot, user, room, EVENT_TYPE)?;
    // A client may have written the event as account data, so it may hold anything.
    Ok(content.and_then(|content| serde_json::from_str::<Content>(&content).ok()).unwrap_or_default().tags)
}

/// Puts a tag on a room, or replaces it. `info` is what the client gave: an object, perhaps with an `order`.
///
/// Errors: `M_BAD_JSON` and `M_INVALID_PARAM` for what can't be a tag, `M_TOO_LARGE`.
pub async fn put(server: &Arc<Server>, user: &UserId, room: RoomNid, name: String, info: Value) -> Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::invalid_param(format!("The name of a tag is longer than {MAX_NAME_BYTES} bytes")));
    }
    check_order(&info)?;
    change(server, user, room, move |tags| {
        let before = tags.insert(name, info.clone());
        before != Some(info)
    })
    .await
}

/// Takes a tag off a room; does nothing if it is not there.
pub async fn delete(server: &Arc<Server>, user: &UserId, room: RoomNid, name: String) -> Result<()> {
    change(server, user, room, move |tags| tags.remove(&name).is_some()).await
}

/// Gives a room the tags of another one that it does not have.
pub async fn copy(server: &Arc<Server>, user: &UserId, from: RoomNid, to: RoomNid) -> Result<()> {
    let tags = list(&server.store.snapshot(), user, from)?;
    if tags.is_empty() {
        return Ok(());
    }
    change(server, user, to, move |present| {
        let before = present.len();
        for (name, info) in tags {
            present.entry(name).or_insert(info);
        }
        present.len() != before
    })
    .await
}

/// Runs `work` on the tags of a room and keeps them if it says that they changed.
async fn change(
    server: &Arc<Server>,
    user: &UserId,
    room: RoomNid,
    work: impl FnOnce(&mut Map<String, Value>) -> bool + Send + 'static,
) -> Result<()> {
    let owner = user.to_owned();
    let write = move |tx: &mut Transaction<'_>| {
        let mut tags = list(tx.before(), &owner, room)?;
        if !work(&mut tags) {
            return Ok(());
        }
        let content = serde_json::to_string(&Content { tags }).map_err(Error::internal)?;
        account_data::check_limits(tx.before(), &owner, room, EVENT_TYPE, content.len())?;
        account_data::put(tx, &owner, room, EVENT_TYPE, content)
    };
    server.commit_and_wake(user, write).await
}

fn check_order(info: &Value) -> Result<()> {
    let info = info.as_object().ok_or_else(|| Error::bad_json("A tag must be a JSON object"))?;
    match info.get("order") {
        None => Ok(()),
        Some(order) => match order.as_f64() {
            Some(order) if (0.0..=1.0).contains(&order) => Ok(()),
            Some(_) => Err(Error::invalid_param("The order of a tag must be between 0 and 1")),
            None => Err(Error::bad_json("The order of a tag must be a number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_is_a_number_from_0_to_1() {
        for good in [json!({}), json!({ "order": 0 }), json!({ "order": 1 }), json!({ "order": 0.25, "x": [] })] {
            check_order(&good).unwrap();
        }
        for bad in
            [json!([]), json!(null), json!({ "order": "0.5" }), json!({ "order": null }), json!({ "order": 1.1 })]
        {
            check_order(&bad).unwrap_err();
        }
    }
}
