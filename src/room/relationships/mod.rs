//! Trees of replies: events that name another in `m.relationship`, and walks through them.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/2836>
//!
//! Unlike relations (`m.relates_to`), these may lead to events that are here without a place in the room, since other
//! servers are asked for what is missing of a tree.

pub mod page;
pub mod told;
pub mod walk;

use ruma::{EventId, OwnedEventId, UserId};
use serde::{Deserialize, Serialize};

use super::{View, visibility::Sight};
use crate::{
    error::{Error, Result},
    event::StoredEvent,
    store::{self, EventNid, Family, Record, RoomNid, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 3] =
    [TableInfo::of::<Children>(), TableInfo::of::<Parents>(), TableInfo::of::<told::ToldChildren>()];

/// The field of an event's content that names its parent.
const FIELD: &str = "m.relationship";

/// The longest type of a relationship, in bytes. Source: our choice; the proposal's own are much shorter.
const MAX_TYPE: usize = 255;

/// Types of relationships that stay when the event is redacted, so that a tree does not fall apart.
const LASTING: [&str; 3] = ["m.annotation", "m.reference", "m.replace"];

/// The events that name another as their parent: those with a place in the room, and those that other servers gave us.
pub struct Children;
impl Table for Children {
    const NAME: &'static str = "relationship_children";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 245;
    /// The parent, which we need not have; the child.
    type Key<'a> = (RoomNid, &'a EventId, EventNid);
    type Value = Child;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub rel_type: String,
    /// As the sending server claims; by this the children of an event are ordered.
    pub origin_server_ts: u64,
}

impl Record for Child {}

/// The same from the child's side.
pub struct Parents;
impl Table for Parents {
    const NAME: &'static str = "relationship_parents";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 246;
    type Key<'a> = (RoomNid, EventNid);
    type Value = Parent;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub event_id: OwnedEventId,
}

impl Record for Parent {}

/// The rows of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    pub parent: OwnedEventId,
    event: EventNid,
    child: Child,
}

impl Relationship {
    /// `None` if the event names no parent.
    pub fn of(event: &StoredEvent, nid: EventNid) -> Option<Self> {
        if !event.common.contains(FIELD) {
            return None;
        }
        let content = event.view().content().ok()?;
        let (parent, rel_type) = parent_in(content.get())?;
        let child = Child { rel_type, origin_server_ts: event.origin_server_ts };
        Some(Self { parent, event: nid, child })
    }

    /// Whether it stays when the event is redacted.
    pub fn lasts(&self) -> bool {
        LASTING.contains(&self.child.rel_type.as_str())
    }

    pub fn put(&self, tx: &mut Transaction<'_>, room: RoomNid) {
        tx.put::<Children>(&(room, &self.parent, self.event), &self.child);
        tx.put::<Parents>(&(room, self.event), &Parent { event_id: self.parent.clone() });
    }

    pub fn delete(&self, tx: &mut Transaction<'_>, room: RoomNid) {
        tx.delete::<Children>(&(room, &self.parent, self.event));
        tx.delete::<Parents>(&(room, self.event));
    }
}

/// Removes what is kept of an event as a reply.
pub(super) fn forget(tx: &mut Transaction<'_>, room: RoomNid, event: EventNid) -> store::Result<()> {
    if let Some(Parent { event_id }) = tx.get::<Parents>(&(room, event))? {
        tx.delete::<Children>(&(room, &event_id, event));
        tx.delete::<Parents>(&(room, event));
    }
    Ok(())
}

fn parent_in(content: &str) -> Option<(OwnedEventId, String)> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relationship")]
        relationship: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        rel_type: String,
        event_id: OwnedEventId,
    }
    let Named { rel_type, event_id } = serde_json::from_str::<Content>(content).ok()?.relationship;
    (rel_type.len() <= MAX_TYPE).then_some((event_id, rel_type))
}

/// Whether one of our users may send this: he can only reply to what he sees.
///
/// Error: `M_INVALID_PARAM`.
pub fn check(view: &View<'_>, sender: &UserId, content: &str) -> Result<()> {
    let Some((parent, _)) = parent_in(content) else { return Ok(()) };
    if let Some(nid) = view.event_nid(&parent)? {
        let (sight, event) = (Sight::of(view, sender)?, view.event(nid)?);
        if sight.may_see(nid, &event)? || sight.may_see_unplaced(&event)? {
            return Ok(());
        }
    }
    Err(Error::invalid_param(format!("`m.relationship` names {parent}, which is no event of this room")))
}

/// The parent of an event.
fn parent_of(view: &View<'_>, event: EventNid) -> store::Result<Option<OwnedEventId>> {
    Ok(view.snapshot.get::<Parents>(&(view.nid, event))?.map(|parent| parent.event_id))
}

/// The children of an event that are here, at most `limit`.
fn children_of(view: &View<'_>, parent: &EventId, limit: usize) -> store::Result<Vec<(EventNid, Child)>> {
    let rows = view.snapshot.list::<Children>(&(view.nid, parent)).take(limit);
    rows.map(|row| row.and_then(|row| Ok((row.key()?.2, row.value)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_named_whole_or_not_at_all() {
        let named = |text: &str| parent_in(text).map(|(parent, rel_type)| (parent.to_string(), rel_type));
        let whole = r#"{"m.relationship":{"rel_type":"m.reference","event_id":"$a"}}"#;
        assert_eq!(named(whole), Some(("$a".to_owned(), "m.reference".to_owned())));
        let long = format!(r#"{{"m.relationship":{{"rel_type":"{}","event_id":"$a"}}}}"#, "x".repeat(MAX_TYPE + 1));
        for wrong in [
            "{}",
            r#"{"m.relationship":1}"#,
            r#"{"m.relationship":{"rel_type":"m.reference"}}"#,
            r#"{"m.relationship":{"rel_type":"m.reference","event_id":"a"}}"#,
            r#"{"m.relates_to":{"rel_type":"m.reference","event_id":"$a"}}"#,
            &long,
        ] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }
}
