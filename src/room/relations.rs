//! Which events refer to which: reactions, edits, threads, references.

use ruma::{EventId, OwnedEventId, UserId};
use serde::{Deserialize, Serialize};

use super::threads::ThreadEvents;
use crate::{
    event::StoredEvent,
    store::{EventNid, Family, Record, Result, RoomNid, RoomPos, Snapshot, Table, Transaction},
};

/// The events that relate to another, in the order of the room. Redacted ones relate to nothing any more.
pub struct Relations;
impl Table for Relations {
    const NAME: &'static str = "relations";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 12;
    /// The event that is related to, which we need not have; the type of the relation; place of the relating event.
    type Key<'a> = (RoomNid, &'a EventId, &'a str, RoomPos);
    type Value = Related;
}

/// What is asked of a relating event before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    pub event: EventNid,
    pub event_type: String,
    pub sender: ruma::OwnedUserId,
}

impl Record for Related {}

/// The annotations that stand: a user may make each but once.
pub struct Annotations;
impl Table for Annotations {
    const NAME: &'static str = "annotations";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 13;
    /// Who annotated, and what with what: see [`annotation_hash`].
    type Key<'a> = (RoomNid, &'a UserId, [u8; 16]);
    type Value = EventNid;
}

/// The rows of one relating event.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    parent: OwnedEventId,
    rel_type: String,
    related: Related,
    annotation: Option<[u8; 16]>,
}

impl Relation {
    /// `None` if the event relates to no other.
    pub fn of(event: &StoredEvent, nid: EventNid) -> Option<Self> {
        let relation = event.relation.clone()?;
        let related = Related { event: nid, event_type: event.event_type.clone(), sender: event.sender.clone() };
        let content = event.view().content().ok();
        let annotation = content.and_then(|content| annotation_in(&event.event_type, content.get()));
        Some(Self { parent: relation.event_id, rel_type: relation.rel_type, related, annotation })
    }

    pub fn put(&self, tx: &mut Transaction<'_>, room: RoomNid, at: RoomPos) {
        tx.put::<Relations>(&(room, &self.parent, &self.rel_type, at), &self.related);
        if self.rel_type == "m.thread" {
            tx.put::<ThreadEvents>(&(room, at, &self.parent), &self.related.event);
        }
        if let Some(hash) = self.annotation {
            tx.put::<Annotations>(&(room, &self.related.sender, hash), &self.related.event);
        }
    }

    pub fn delete(&self, tx: &mut Transaction<'_>, room: RoomNid, at: RoomPos) -> Result<()> {
        tx.delete::<Relations>(&(room, &self.parent, &self.rel_type, at));
        tx.delete::<ThreadEvents>(&(room, at, &self.parent));
        if let Some(hash) = self.annotation {
            let key = (room, &*self.related.sender, hash);
            // Servers may send the same annotation twice, of which the second stands.
            if tx.get::<Annotations>(&key)? == Some(self.related.event) {
                tx.delete::<Annotations>(&key);
            }
        }
        Ok(())
    }
}

/// The event by which `sender` made the same annotation before, if `content` is one and that event was not redacted.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#avoiding-duplicate-annotations>
pub fn same_annotation(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    sender: &UserId,
    event_type: &str,
    content: &str,
) -> Result<Option<EventNid>> {
    match annotation_in(event_type, content) {
        Some(hash) => snapshot.get::<Annotations>(&(room, sender, hash)),
        None => Ok(None),
    }
}

/// The hash of the annotation in `content`, if there is one.
fn annotation_in(event_type: &str, content: &str) -> Option<[u8; 16]> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
        event_id: OwnedEventId,
        key: String,
    }
    let RelatesTo { rel_type, event_id, key } = serde_json::from_str::<Content>(content).ok()?.relates_to;
    (rel_type == "m.annotation").then(|| annotation_hash(event_type, &event_id, &key))
}

/// Half of a hash of all that makes two annotations of one user the same; the parts are told apart by their lengths.
fn annotation_hash(event_type: &str, parent: &EventId, key: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in [event_type, parent.as_str(), key] {
        hasher.update(&part.len().to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(event_type: &str, rel_type: &str, parent: &str, key: &str) -> Option<[u8; 16]> {
        let content = json!({ "m.relates_to": { "rel_type": rel_type, "event_id": parent, "key": key } });
        annotation_in(event_type, &content.to_string())
    }

    #[test]
    fn only_equal_annotations_are_the_same() {
        let one = hash("m.reaction", "m.annotation", "$a", "👍");
        assert!(one.is_some());
        assert_eq!(one, hash("m.reaction", "m.annotation", "$a", "👍"));
        assert_ne!(one, hash("m.reaction", "m.annotation", "$a", "👍\u{fe0f}"));
        assert_ne!(one, hash("m.reaction", "m.annotation", "$b", "👍"));
        assert_ne!(one, hash("x.reaction", "m.annotation", "$a", "👍"));
        assert_eq!(hash("m.reaction", "m.thread", "$a", "👍"), None);
        assert_eq!(
            annotation_in("m.reaction", r#"{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a"}}"#),
            None
        );
    }
}
