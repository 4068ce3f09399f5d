//! The children of a space, in their order.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId,
    events::{StateEventType, room::create::RoomCreateEventContent, space::child::HierarchySpaceChildEvent},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::is_space;
use crate::{
    error::{Error, Result},
    room::{View, tables::StateKeys},
    store::StateKeyNid,
};

const EVENT_TYPE: &str = "m.space.child";
/// Longest `order` that counts, in characters. Source: the specification.
const MAX_ORDER: usize = 50;
/// How many children of one space are looked at. Source: our choice.
const MAX_CHILDREN: usize = 1_000;
/// How many servers of a child are kept, of those that the event names.
const MAX_VIA: usize = 5;

/// A link from a space to a room.
#[derive(Clone, Debug)]
pub struct Child {
    pub room_id: OwnedRoomId,
    pub via: Vec<OwnedServerName>,
    is_suggested: bool,
    order: Option<String>,
    origin_server_ts: u64,
    sender: OwnedUserId,
    content: Box<RawValue>,
}

/// In stripped form, as servers and clients are told of it.
#[derive(Serialize, Deserialize)]
struct Stripped {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    sender: OwnedUserId,
    content: Box<RawValue>,
    origin_server_ts: u64,
}

impl Child {
    /// `None` if it is no valid link.
    fn read(event: Stripped) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<String>,
            order: Option<serde_json::Value>,
            suggested: Option<serde_json::Value>,
        }
        let content: Content = serde_json::from_str(event.content.get()).ok()?;
        let via = content.via.iter().filter_map(|name| OwnedServerName::try_from(name.as_str()).ok());
        let via: Vec<_> = via.take(MAX_VIA).collect();
        let order = content.order.as_ref().and_then(serde_json::Value::as_str).filter(|order| is_order(order));
        (!via.is_empty()).then_some(Self {
            room_id: event.state_key.try_into().ok()?,
            via,
            is_suggested: content.suggested == Some(true.into()),
            order: order.map(ToOwned::to_owned),
            origin_server_ts: event.origin_server_ts,
            sender: event.sender,
            content: event.content,
        })
    }

    pub fn to_event(&self) -> Raw<HierarchySpaceChildEvent> {
        let event = Stripped {
            event_type: EVENT_TYPE.to_owned(),
            state_key: self.room_id.to_string(),
            sender: self.sender.clone(),
            content: self.content.clone(),
            origin_server_ts: self.origin_server_ts,
        };
        Raw::from_json(to_raw_value(&event).expect("texts, a number and JSON can be written as JSON"))
    }

    /// Those with an order come first.
    fn rank(&self) -> (bool, Option<&str>, u64, &OwnedRoomId) {
        (self.order.is_none(), self.order.as_deref(), self.origin_server_ts, &self.room_id)
    }
}

fn is_order(text: &str) -> bool {
    text.len() <= MAX_ORDER && text.bytes().all(|byte| matches!(byte, b'\x20'..=b'\x7e'))
}

/// The children of a room, if it is a space.
pub fn of(view: &View<'_>, suggested_only: bool) -> Result<Vec<Child>> {
    let state = view.current_state();
    let create: Option<RoomCreateEventContent> = view.state_content(state, &StateEventType::RoomCreate, "")?;
    if !is_space(create.and_then(|create| create.room_type).as_ref()) {
        return Ok(Vec::new());
    }
    let tries = view.tries();
    let keys = view.snapshot.list::<StateKeys>(&(view.nid, EVENT_TYPE));
    let keys: Vec<StateKeyNid> = keys.map(|row| Ok(row?.value)).collect::<Result<_>>()?;
    let mut children = Vec::new();
    for key in keys {
        let Some(nid) = tries.get(state, key)? else { continue };
        let event = view.event(nid)?;
        let content = event.view().content().map_err(|e| Error::internal(e.to_string()))?.to_owned();
        children.extend(Child::read(Stripped {
            event_type: event.event_type,
            state_key: event.state_key.unwrap_or_default(),
            sender: event.sender,
            content,
            origin_server_ts: event.origin_server_ts,
        }));
    }
    Ok(sorted(children.into_iter().filter(|child| !suggested_only || child.is_suggested).collect()))
}

/// As [`of`], from what another server said; what it was asked for it has filtered.
pub fn of_events(events: &[Raw<HierarchySpaceChildEvent>]) -> Vec<Child> {
    let read = |event: &Raw<HierarchySpaceChildEvent>| serde_json::from_str::<Stripped>(event.json().get()).ok();
    let events = events.iter().take(MAX_CHILDREN).filter_map(read).filter(|event| event.event_type == EVENT_TYPE);
    sorted(events.filter_map(Child::read).collect())
}

fn sorted(mut children: Vec<Child>) -> Vec<Child> {
    children.sort_by(|one, other| one.rank().cmp(&other.rank()));
    children.truncate(MAX_CHILDREN);
    children
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn child(id: &str, ts: u64, content: Value) -> Option<Child> {
        let event = json!({
            "type": EVENT_TYPE, "state_key": id, "sender": "@a:b", "content": content, "origin_server_ts": ts,
        });
        Child::read(serde_json::from_value(event).unwrap())
    }

    fn order(children: Vec<Option<Child>>) -> Vec<String> {
        sorted(children.into_iter().flatten().collect()).into_iter().map(|child| child.room_id.to_string()).collect()
    }

    #[test]
    fn the_example_of_the_specification_is_ordered_as_it_says() {
        let via = json!(["example.org"]);
        let children = vec![
            child("!c:x", 1_640_841_000_000, json!({ "order": "first", "via": via })),
            child("!d:x", 1_640_741_000_000, json!({ "via": via })),
            child("!b:x", 1_640_341_000_000, json!({ "order": " ", "via": via })),
            child("!e:x", 1_640_641_000_000, json!({ "via": via })),
            child("!a:x", 1_640_141_000_000, json!({ "order": "aaaa", "via": via })),
        ];
        assert_eq!(order(children), ["!b:x", "!a:x", "!c:x", "!e:x", "!d:x"]);
    }

    #[test]
    fn what_is_no_order_counts_as_none_and_same_times_are_told_apart_by_room() {
        let of = |id: &str, order: Value| child(id, 1, json!({ "order": order, "via": ["x"] }));
        let wrong = [json!("é"), json!("a\u{1}"), json!("a".repeat(51)), json!(1), json!(null)];
        let mut children: Vec<_> = wrong.into_iter().zip(["!5:x", "!4:x", "!3:x", "!2:x", "!1:x"]).collect();
        children.push((json!("~"), "!9:x"));
        let children = children.into_iter().map(|(order, id)| of(id, order)).collect();
        assert_eq!(order(children), ["!9:x", "!1:x", "!2:x", "!3:x", "!4:x", "!5:x"]);
    }

    #[test]
    fn a_link_without_a_server_is_none() {
        for content in [json!({}), json!({ "via": [] }), json!({ "via": "x" }), json!({ "via": ["not a name"] })] {
            assert!(child("!a:x", 1, content.clone()).is_none(), "{content}");
        }
        assert!(child("not a room", 1, json!({ "via": ["x"] })).is_none());
    }
}
