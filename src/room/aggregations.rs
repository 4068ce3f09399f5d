//! What is shown with an event of those that relate to it: its edit, its thread, what refers to it. Worked out when it
//! is read, of what the reader may see; nothing of it is stored.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events>

use std::{cell::Cell, collections::HashMap};

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    relations::{Related, Relations},
    show::{Format, Reader},
    visibility::unreadable,
};
use crate::{
    error::{Error, Result},
    event::StoredEvent,
    store::{self, EventNid, Row, Scan},
};

/// How many relations are looked at for all events of one answer, and from how many bytes on no more is bundled. Those
/// that come after are shown without.
const BUDGET: usize = 20_000;
const MAX_BYTES: usize = 4 << 20;

/// How many references to one event are listed, and among how many of its newest edits the last one is looked for: a
/// client that needs more asks for the relations themselves.
const MAX_REFERENCES: usize = 500;
const MAX_EDITS: usize = 50;

/// How many relations may still be looked at, and how many bytes bundled.
#[derive(Debug)]
pub(super) struct Budget {
    relations: Cell<usize>,
    bytes: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { relations: Cell::new(BUDGET), bytes: Cell::new(MAX_BYTES) }
    }
}

impl Budget {
    /// Whether there is one more relation; takes it.
    fn take(&self) -> bool {
        let left = self.relations.get();
        self.relations.set(left.saturating_sub(1));
        left > 0
    }
}

/// `m.relations`.
#[derive(Serialize)]
struct Bundle {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    references: Option<References>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    edit: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<Thread>,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: OwnedEventId,
}

#[derive(Serialize)]
struct Thread {
    latest_event: Box<RawValue>,
    count: usize,
    current_user_participated: bool,
}

/// The aggregations of an event that the reader is shown; `None` if it has none.
pub(super) fn bundle(reader: &Reader<'_, '_>, event: &StoredEvent, format: Format) -> Result<Option<Box<RawValue>>> {
    let bytes_left = &reader.budget().bytes;
    // State events get none, by the specification.
    let mut related = reader.view().snapshot.list::<Relations>(&(reader.view().nid, &*event.event_id));
    if event.state_key.is_some() || bytes_left.get() == 0 || related.next().transpose()?.is_none() {
        return Ok(None);
    }
    let bundle = Bundle {
        references: references(reader, event)?,
        edit: edit(reader, event, format)?,
        thread: thread(reader, event, format)?,
    };
    if bundle.references.is_none() && bundle.edit.is_none() && bundle.thread.is_none() {
        return Ok(None);
    }
    let bundle = to_raw_value(&bundle).map_err(Error::internal)?;
    bytes_left.set(bytes_left.get().saturating_sub(bundle.get().len()));
    Ok(Some(bundle))
}

/// <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreference>
fn references(reader: &Reader<'_, '_>, parent: &StoredEvent) -> Result<Option<References>> {
    let mut chunk = Vec::new();
    for row in related(reader, parent, "m.reference", Order::OldestFirst) {
        let Some((_, event)) = visible(reader, &row?)? else { continue };
        chunk.push(Reference { event_id: event.event_id });
        if chunk.len() == MAX_REFERENCES {
            break;
        }
    }
    Ok(if chunk.is_empty() { None } else { Some(References { chunk }) })
}

/// The edit that stands.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreplace-relationships>
fn edit(reader: &Reader<'_, '_>, original: &StoredEvent, format: Format) -> Result<Option<Box<RawValue>>> {
    let is_edit = original.relation.as_ref().is_some_and(|relation| relation.rel_type == "m.replace");
    if original.flags.redacted || is_edit {
        return Ok(None);
    }
    let mut newest: Option<(EventNid, StoredEvent)> = None;
    let mut edits = 0;
    for row in related(reader, original, "m.replace", Order::NewestFirst) {
        let row = row?;
        if row.sender != original.sender || row.event_type != original.event_type {
            continue;
        }
        edits += 1;
        if edits > MAX_EDITS {
            break;
        }
        let Some((nid, edit)) = visible(reader, &row)? else { continue };
        let age = |event: &StoredEvent| (event.origin_server_ts, event.event_id.clone());
        let is_newer = newest.as_ref().is_none_or(|(_, newest)| age(newest) < age(&edit));
        if is_newer && edit.state_key.is_none() && has_new_content(&edit)? {
            newest = Some((nid, edit));
        }
    }
    newest.map(|(nid, edit)| reader.show(nid, &edit, format)).transpose()
}

/// Whether an edit says what to put in the place of the original. Of encrypted ones only the recipients know.
fn has_new_content(edit: &StoredEvent) -> Result<bool> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        _new_content: HashMap<String, IgnoredAny>,
    }
    let content = edit.view().content().map_err(unreadable)?;
    Ok(edit.event_type == "m.room.encrypted" || serde_json::from_str::<Content>(content.get()).is_ok())
}

/// <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mthread-relationships>
fn thread(reader: &Reader<'_, '_>, root: &StoredEvent, format: Format) -> Result<Option<Thread>> {
    if root.relation.is_some() {
        return Ok(None); // a thread can't begin in the middle of something else
    }
    let me = reader.sight.user_id;
    let mut current_user_participated = root.sender == me;
    let mut latest = None;
    let (mut count, mut sees_all) = (0, false);
    for row in related(reader, root, "m.thread", Order::NewestFirst) {
        let row = row?;
        current_user_participated |= row.sender == me;
        if sees_all {
            // The number may be approximate: where both ends of a thread are for all members, so is what lies between.
            count += usize::from(!reader.ignored()?.contains(&row.sender));
            continue;
        }
        let Some((nid, event)) = visible(reader, &row)? else { continue };
        count += 1;
        if latest.is_none() {
            let ends = root.state_after.zip(event.state_after);
            sees_all = match ends {
                Some((first, last)) => reader.sight.sees_all_of(first)? && reader.sight.sees_all_of(last)?,
                None => false,
            };
            latest = Some((nid, event));
        }
    }
    let Some((nid, event)) = latest else { return Ok(None) };
    Ok(Some(Thread { latest_event: reader.show(nid, &event, format)?, count, current_user_participated }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// What relates to `parent` in a way, as far as the budget goes.
fn related<'r>(
    reader: &'r Reader<'_, '_>,
    parent: &StoredEvent,
    rel_type: &str,
    order: Order,
) -> impl Iterator<Item = store::Result<Related>> + 'r {
    let view = reader.view();
    let scan = Scan::prefix::<Relations>(&(view.nid, &*parent.event_id, rel_type));
    let scan = if order == Order::NewestFirst { scan.backward() } else { scan };
    let rows = view.snapshot.scan::<Relations>(scan).take_while(|_| reader.budget().take());
    rows.map(|row: store::Result<Row<Relations>>| Ok(row?.value))
}

/// A relating event that the reader may see, and does not ignore the sender of.
fn visible(reader: &Reader<'_, '_>, related: &Related) -> Result<Option<(EventNid, StoredEvent)>> {
    if reader.ignored()?.contains(&related.sender) {
        return Ok(None);
    }
    let event = reader.view().event(related.event)?;
    Ok(reader.sight.may_see(related.event, &event)?.then_some((related.event, event)))
}
