//! Which thread of a room an event belongs to.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts>

use ruma::EventId;

use super::View;
use crate::{
    event::StoredEvent,
    store::{EventNid, Result},
};

/// How many relations are followed from an event to one that names its thread. Source: the specification.
const MAX_HOPS: usize = 3;

/// The thread that is none: all that belongs to no other.
pub const MAIN: &str = "main";

/// The root of the thread that an event is in; `None` for the main timeline, and for threads whose root we do not know.
pub fn root_of(view: &View<'_>, event: &StoredEvent) -> Result<Option<EventNid>> {
    let mut relation = event.relation.clone();
    for _ in 0..=MAX_HOPS {
        let Some(parent) = relation else { return Ok(None) };
        let nid = view.event_nid(&parent.event_id)?;
        if parent.rel_type == "m.thread" {
            return Ok(nid);
        }
        let Some(nid) = nid else { return Ok(None) };
        relation = view.event(nid)?.relation;
    }
    Ok(None)
}

/// Whether somebody can have read up to `event` in the thread of `root`: it is in the thread, is the root, or refers to
/// either.
pub fn is_readable_in(view: &View<'_>, event: &StoredEvent, root: &EventId) -> Result<bool> {
    let mut event_id = event.event_id.clone();
    let mut relation = event.relation.clone();
    for _ in 0..=MAX_HOPS {
        if event_id == root {
            return Ok(true);
        }
        let Some(parent) = relation else { return Ok(false) };
        relation = view.event_by_id(&parent.event_id)?.and_then(|parent| parent.relation);
        event_id = parent.event_id;
    }
    Ok(event_id == root)
}
