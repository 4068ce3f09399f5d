//! What is told of a room without becoming part of it: who is typing, and how far users have read.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>,
//! <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use std::collections::BTreeMap;

use ruma::{EventId, OwnedUserId};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    answer::Context,
    json::{self, put},
};
use crate::{
    error::Result,
    room::{
        View,
        event_filter::EventFilter,
        partial::may_be_joined,
        tables::{Receipt, ReceiptChanges, Receipts},
    },
    store::{Group, Scan, StreamPos},
};

const PRIVATE: &str = "m.read.private";

/// The content of one `m.receipt` event: event, receipt type, user.
pub type Content = BTreeMap<String, BTreeMap<String, BTreeMap<OwnedUserId, Shown>>>;

/// One user's receipt as others see it.
#[derive(Debug, Serialize)]
pub struct Shown {
    ts: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    thread_id: String,
}

/// A receipt and what it is kept by.
pub struct Row {
    pub user_id: OwnedUserId,
    receipt_type: String,
    thread_id: String,
    pub receipt: Receipt,
}

impl Row {
    /// Whether what was read up to may be an event.
    pub fn is_of_event(&self) -> bool {
        <&EventId>::try_from(&*self.receipt.event_id).is_ok()
    }
}

/// Writes the room's ephemeral events that came after `after`; `false` if there are none.
pub fn write(context: &Context<'_>, view: &View<'_>, after: Option<StreamPos>, out: &mut Vec<u8>) -> Result<bool> {
    let filter = &context.request.filter.room.ephemeral;
    let wanted = EventFilter::new(filter, view.room_id());
    let mut events = Vec::new();
    if wanted.allows_type("m.typing") {
        events.extend(typing(context, view, after.and(context.ephemeral_since))?);
    }
    if wanted.allows_type("m.receipt") {
        events.extend(contents(receipts(context, view, after)?).into_iter().map(receipt_event));
    }
    let Ok(()) = json::events(out, &events, |out, event| {
        put(out, event);
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(!events.is_empty())
}

/// The event that tells who types, if a client that has seen the changes up to `since` should be told.
pub fn typing(context: &Context<'_>, view: &View<'_>, since: Option<u64>) -> Result<Option<Value>> {
    let Some(typing) = context.server.typing.news(view.nid, since) else { return Ok(None) };
    let mut there = Vec::with_capacity(typing.len());
    for user in typing.into_iter().filter(|user| !context.ignored.contains(user)) {
        // Somebody may have left since.
        if may_be_joined(context.server, context.snapshot, view.nid, &user)? {
            there.push(user);
        }
    }
    Ok(Some(json!({ "type": "m.typing", "content": { "user_ids": there } })))
}

pub fn receipt_event(content: Content) -> Value {
    json!({ "type": "m.receipt", "content": content })
}

/// The receipts that the user may see, and that changed after `after`.
pub fn receipts(context: &Context<'_>, view: &View<'_>, after: Option<StreamPos>) -> Result<Vec<Row>> {
    let is_shown = |row: &Row| {
        let is_own = row.user_id == context.user_id();
        is_own || row.receipt_type != PRIVATE && !context.ignored.contains(&row.user_id)
    };
    let rows = match after {
        None => all(view)?,
        Some(after) if context.may_have_changed::<ReceiptChanges>(Group::of(view.nid), after) => changed(view, after)?,
        Some(_) => Vec::new(),
    };
    Ok(rows.into_iter().filter(is_shown).collect())
}

fn all(view: &View<'_>) -> Result<Vec<Row>> {
    let rows = view.snapshot.list::<Receipts>(&view.nid).map(|row| {
        let row = row?;
        let (_, user_id, receipt_type, thread_id) = row.key()?;
        Ok(Row {
            user_id: user_id.to_owned(),
            receipt_type: receipt_type.to_owned(),
            thread_id: thread_id.to_owned(),
            receipt: row.value.clone(),
        })
    });
    rows.collect()
}

fn changed(view: &View<'_>, after: StreamPos) -> Result<Vec<Row>> {
    let scan = Scan::from::<ReceiptChanges>(&(view.nid, after.next()), &view.nid);
    let mut changed = Vec::new();
    for row in view.snapshot.scan::<ReceiptChanges>(scan) {
        let row = row?;
        let (room, _, user_id, receipt_type, thread_id) = row.key()?;
        if let Some(receipt) = view.snapshot.get::<Receipts>(&(room, user_id, receipt_type, thread_id))? {
            changed.push(Row {
                user_id: user_id.to_owned(),
                receipt_type: receipt_type.to_owned(),
                thread_id: thread_id.to_owned(),
                receipt,
            });
        }
    }
    Ok(changed)
}

/// As few events as hold all receipts: one can't say that a user has read up to the same event in two threads. What
/// other servers told with ids that are none comes last, in events of its own: many clients pass over one that has such.
pub fn contents(rows: Vec<Row>) -> Vec<Content> {
    let (rows, odd): (Vec<_>, _) = rows.into_iter().partition(Row::is_of_event);
    let mut contents = packed(rows);
    contents.extend(packed(odd));
    contents
}

fn packed(rows: Vec<Row>) -> Vec<Content> {
    let mut contents: Vec<Content> = Vec::new();
    for Row { user_id, receipt_type, thread_id, receipt } in rows {
        let has = |content: &Content| {
            let of_type = content.get(&receipt.event_id).and_then(|types| types.get(&receipt_type));
            of_type.is_some_and(|users| users.contains_key(&user_id))
        };
        let free = contents.iter().position(|content| !has(content)).unwrap_or_else(|| {
            contents.push(Content::new());
            contents.len() - 1
        });
        let shown = Shown { ts: receipt.ts_ms, thread_id };
        contents[free].entry(receipt.event_id).or_default().entry(receipt_type).or_default().insert(user_id, shown);
    }
    contents
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn row(user_id: &ruma::UserId, event_id: &str, thread_id: &str) -> Row {
        let receipt = Receipt { event_id: event_id.to_owned(), ts_ms: 1, changed: StreamPos(1) };
        let receipt_type = "m.read".to_owned();
        Row { user_id: user_id.to_owned(), receipt_type, thread_id: thread_id.to_owned(), receipt }
    }

    #[test]
    fn a_user_who_read_two_threads_up_to_one_event_takes_two_events() {
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let contents = contents(vec![row(alice, "$e", ""), row(alice, "$e", "main"), row(bob, "$e", "")]);
        assert_eq!(
            json!(contents),
            json!([
                { "$e": { "m.read": { "@alice:x": { "ts": 1 }, "@bob:x": { "ts": 1 } } } },
                { "$e": { "m.read": { "@alice:x": { "ts": 1, "thread_id": "main" } } } },
            ])
        );
    }

    #[test]
    fn ids_that_are_none_spoil_no_other_receipt() {
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let contents = contents(vec![row(alice, "odd", ""), row(bob, "$e", "")]);
        assert_eq!(
            json!(contents),
            json!([
                { "$e": { "m.read": { "@bob:x": { "ts": 1 } } } },
                { "odd": { "m.read": { "@alice:x": { "ts": 1 } } } },
            ])
        );
    }
}
