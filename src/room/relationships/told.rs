//! How many children an event has: those that are here, and what other servers say.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedEventId, serde::Base64};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Child, MAX_TYPE, children_of};
use crate::{
    room::View,
    store::{self, EventNid, Family, Record, RoomNid, Table, Transaction},
};

/// How many types of relationships are believed of one event.
const MAX_TYPES: usize = 16;
/// The greatest number of children that is believed: what every JSON parser reads.
const MAX_COUNT: u64 = (1 << 53) - 1;
/// How many children of one event are counted.
pub(super) const MAX_COUNTED: usize = 10_000;

/// What other servers said of the children of events: the most that any of them knew.
pub struct ToldChildren;
impl Table for ToldChildren {
    const NAME: &'static str = "relationship_told_children";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 247;
    type Key<'a> = (RoomNid, EventNid);
    type Value = Told;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub summary: Summary,
    /// They were asked for since: whatever is missing still can't be had.
    pub is_explored: bool,
}

impl Record for Told {}

/// The children of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are of each type.
    pub children: BTreeMap<String, u64>,
    /// SHA-256 of their ids, sorted, one after the other.
    pub hash: [u8; 32],
}

impl Summary {
    /// Of these children, by id and type.
    pub fn of(children: impl IntoIterator<Item = (OwnedEventId, String)>) -> Self {
        let mut sorted: Vec<_> = children.into_iter().collect();
        sorted.sort_unstable();
        let mut summary = Self::default();
        let mut hasher = Sha256::new();
        for (id, rel_type) in sorted {
            hasher.update(id.as_bytes());
            *summary.children.entry(rel_type).or_default() += 1;
        }
        summary.hash = hasher.finalize().into();
        summary
    }

    pub fn total(&self) -> u64 {
        self.children.values().copied().fold(0, u64::saturating_add)
    }

    /// What stands in an event's `unsigned`: `None` if that is nothing, or nothing that one could believe.
    pub fn told_in(unsigned: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Unsigned {
            children: BTreeMap<String, u64>,
            children_hash: String,
        }
        let Unsigned { children, children_hash } = serde_json::from_str(unsigned).ok()?;
        let hash: Base64 = Base64::parse(children_hash).ok()?;
        let summary = Self { hash: hash.as_bytes().try_into().ok()?, children };
        let is_sound =
            summary.children.len() <= MAX_TYPES && summary.children.keys().all(|rel_type| rel_type.len() <= MAX_TYPE);
        (is_sound && (1..=MAX_COUNT).contains(&summary.total())).then_some(summary)
    }

    /// The fields that an event's `unsigned` gets.
    pub fn fields(&self) -> [(&'static str, serde_json::Value); 2] {
        let hash: Base64 = Base64::new(self.hash.to_vec());
        [("children", serde_json::json!(self.children)), ("children_hash", hash.encode().into())]
    }
}

/// What another server said of an event is kept if it knew more than was known, or as much and something else.
pub fn hear(tx: &mut Transaction<'_>, room: RoomNid, event: EventNid, summary: Summary) -> store::Result<()> {
    let known = tx.get::<ToldChildren>(&(room, event))?;
    if known.is_none_or(|known| known.summary.total() <= summary.total() && known.summary != summary) {
        tx.put::<ToldChildren>(&(room, event), &Told { summary, is_explored: false });
    }
    Ok(())
}

/// Notes that the children of an event were asked for.
pub fn explored(tx: &mut Transaction<'_>, room: RoomNid, event: EventNid) -> store::Result<()> {
    if let Some(told) = tx.get::<ToldChildren>(&(room, event))? {
        tx.put::<ToldChildren>(&(room, event), &Told { is_explored: true, ..told });
    }
    Ok(())
}

/// What other servers said of an event.
pub(super) fn told(view: &View<'_>, event: EventNid) -> store::Result<Option<Told>> {
    view.snapshot.get::<ToldChildren>(&(view.nid, event))
}

/// Whether other servers know of children of an event that are not here, and were not asked for them.
pub(super) fn has_unexplored(view: &View<'_>, event: EventNid, id: &EventId) -> store::Result<bool> {
    let Some(told) = told(view, event)?.filter(|told| !told.is_explored) else { return Ok(false) };
    let here = children_of(view, id, MAX_COUNTED)?;
    let with_id = |(nid, Child { rel_type, .. }): (EventNid, Child)| Ok((view.event_id(nid)?, rel_type));
    let here = Summary::of(here.into_iter().map(with_id).collect::<store::Result<Vec<_>>>()?);
    Ok(here.total() != told.summary.total() || here.hash != told.summary.hash)
}

/// The `unsigned` of an event as a server sent it.
pub fn unsigned_of(event: &RawValue) -> Option<Summary> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        unsigned: &'a RawValue,
    }
    Summary::told_in(serde_json::from_str::<Event<'_>>(event.get()).ok()?.unsigned.get())
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_is_that_of_the_proposal_s_example() {
        let children = [
            (owned_event_id!("$CCC"), "m.reference".to_owned()),
            (owned_event_id!("$BBB"), "m.reference".to_owned()),
            (owned_event_id!("$DDD"), "custom".to_owned()),
        ];
        let [(_, counts), (_, hash)] = Summary::of(children).fields();
        assert_eq!(counts, json!({ "m.reference": 2, "custom": 1 }));
        assert_eq!(hash, "GE6QH8oImiq8IoMwQmIDxF9keqtY2Q7KKtJ4caXdYb0");
    }

    #[test]
    fn what_a_server_says_is_read_with_and_without_padding_and_believed_within_bounds() {
        let hash = "GE6QH8oImiq8IoMwQmIDxF9keqtY2Q7KKtJ4caXdYb0";
        let told = |children: serde_json::Value, hash: &str| {
            Summary::told_in(&json!({ "children": children, "children_hash": hash }).to_string())
        };
        let good = told(json!({ "m.reference": 3 }), hash).unwrap();
        assert_eq!(Some(&good), told(json!({ "m.reference": 3 }), &format!("{hash}=")).as_ref());
        assert_eq!(good.total(), 3);
        let many: BTreeMap<String, u64> = (0..17).map(|number| (number.to_string(), 1)).collect();
        for wrong in
            [json!({}), json!({ "x": 0 }), json!({ "x": -1 }), json!({ "x": 1_u64 << 53 }), json!(many), json!(1)]
        {
            assert_eq!(told(wrong.clone(), hash), None, "{wrong}");
        }
        assert_eq!(told(json!({ "x": u64::MAX, "y": u64::MAX }), hash), None);
        assert_eq!(told(json!({ "x": 1 }), "GE6Q"), None);
        assert_eq!(told(json!({ "x": 1 }), "?"), None);
    }
}
