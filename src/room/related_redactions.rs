//! Redactions that take along what relates to their target: edits, a thread, all that there is.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3912>
//!
//! What a user wants is a row. A reader of the log redacts for him what related to the target when that was redacted, and
//! what comes later. Where the room's policy server is away, the target is noted, and tried again apart from the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId, api::error::ErrorKind};
use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::{
    View,
    append::{self, Step},
    redact,
    relations::Relations,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Draft, StoredEvent},
    log::{self, Entry},
    store::{self, EventNid, Family, Record, RoomNid, Snapshot, StreamPos, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 2] = [TableInfo::of::<Wishes>(), TableInfo::of::<Unfinished>()];

const READER: &str = "related_redactions";
const AT_ONCE: usize = 200;

/// How often it is tried again what a policy server was away for. Source: our choice; one that goes on failing is asked
/// less often.
const RETRY: Duration = Duration::from_secs(60);

/// How many types of relations one request names, and how long they are, in bytes.
const MAX_TYPES: usize = 50;
const MAX_TYPE: usize = 255;

/// Stands for relations of all types.
const ANY: &str = "*";

/// Who wants what relates to an event redacted with it.
pub struct Wishes;
impl Table for Wishes {
    const NAME: &'static str = "related_redactions";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 248;
    /// The redacted event, and who redacted it.
    type Key<'a> = (RoomNid, &'a EventId, &'a UserId);
    type Value = Wish;
}

/// Redacted events with whose related ones something is left to do.
pub struct Unfinished;
impl Table for Unfinished {
    const NAME: &'static str = "unfinished_related_redactions";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 249;
    type Key<'a> = (RoomNid, &'a EventId);
    /// When it was noted last.
    type Value = StreamPos;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub rel_types: BTreeSet<String>,
    pub reason: Option<String>,
}

impl Record for Wish {}

impl Wish {
    /// `M_INVALID_PARAM` if that is too much.
    pub fn new(rel_types: BTreeSet<String>, reason: Option<String>) -> Result<Self> {
        if rel_types.len() > MAX_TYPES || rel_types.iter().any(|rel_type| rel_type.len() > MAX_TYPE) {
            return Err(Error::invalid_param("`with_rel_types` names too many types, or too long ones"));
        }
        Ok(Self { rel_types, reason })
    }

    fn is_for(&self, rel_type: &str) -> bool {
        self.rel_types.contains(rel_type) || self.rel_types.contains(ANY)
    }
}

/// Notes what `sender` wants, beside what he wanted of the same event before. This comes before he redacts the event: as
/// long as it is not redacted nothing follows from it.
pub async fn wish(server: &Server, room: RoomNid, target: &EventId, sender: &UserId, wish: Wish) -> Result<()> {
    let (target, sender) = (target.to_owned(), sender.to_owned());
    let put = move |tx: &mut Transaction<'_>| {
        let key = (room, &*target, &*sender);
        let mut wish = wish;
        wish.rel_types.extend(tx.get::<Wishes>(&key)?.into_iter().flat_map(|before| before.rel_types));
        tx.put::<Wishes>(&key, &wish);
        Ok::<_, Error>(())
    };
    server.store.commit(put).await
}

/// Takes that back, where the redaction was refused.
pub async fn forget(server: &Server, room: RoomNid, target: &EventId, sender: &UserId) -> Result<()> {
    let (target, sender) = (target.to_owned(), sender.to_owned());
    let delete = move |tx: &mut Transaction<'_>| {
        tx.delete::<Wishes>(&(room, &*target, &*sender));
        Ok::<_, Error>(())
    };
    server.store.commit(delete).await
}

/// Follows the log, and tries again what could not be done, until the server ends.
pub async fn run(server: Arc<Server>) {
    tokio::join!(log::follow(Arc::clone(&server), READER, AT_ONCE, work), retry(&server));
}

async fn retry(server: &Arc<Server>) {
    let mut ticks = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = finish(server).await {
            error!("related events can't be redacted, trying again: {error:?}");
        }
    }
}

async fn work(server: Arc<Server>, entries: Vec<Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let look = move |server: &Server| {
        let todos = find(server, &entries)?;
        // Who did not answer is not asked again here: other rooms wait.
        let left = waiting(&server.store.snapshot(), &todos)?;
        Ok((todos, left))
    };
    let (todos, left) = server.blocking(look).await?;
    let left = redact_all(&server, todos, left).await?;
    let done = move |tx: &mut Transaction<'_>| {
        for (room, targets) in &left {
            for target in targets {
                tx.put::<Unfinished>(&(*room, &**target), &tx.pos());
            }
        }
        log::done(tx, READER, last);
        Ok::<_, Error>(())
    };
    server.store.commit(done).await
}

/// Tries again what could not be done so far.
pub async fn finish(server: &Arc<Server>) -> Result<()> {
    for (room, noted) in server.read(|snapshot| Ok(unfinished(snapshot)?)).await? {
        if let Err(error) = finish_room(server, room, noted).await {
            error!(room = room.0, "related events can't be redacted, trying again: {error:?}");
        }
    }
    Ok(())
}

async fn finish_room(server: &Arc<Server>, room: RoomNid, noted: BTreeMap<OwnedEventId, StreamPos>) -> Result<()> {
    let targets: Vec<OwnedEventId> = noted.keys().cloned().collect();
    let look = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let mut todos = Vec::new();
        for target in &targets {
            todos.extend(related(&view, target)?);
        }
        Ok(todos)
    };
    let todos = server.blocking(look).await?;
    let left = redact_all(server, todos, Left::new()).await?.remove(&room).unwrap_or_default();
    let done = move |tx: &mut Transaction<'_>| {
        for (target, noted_at) in noted.iter().filter(|(target, _)| !left.contains(*target)) {
            let key = (room, &**target);
            // The reader may have noted it again meanwhile, for what came later.
            if tx.get::<Unfinished>(&key)? == Some(*noted_at) {
                tx.delete::<Unfinished>(&key);
            }
        }
        Ok::<_, Error>(())
    };
    server.store.commit(done).await
}

/// The events in [`Unfinished`] of each room, and when they were noted.
fn unfinished(snapshot: &Snapshot<'_>) -> store::Result<BTreeMap<RoomNid, BTreeMap<OwnedEventId, StreamPos>>> {
    let mut rooms = BTreeMap::<_, BTreeMap<_, _>>::new();
    for row in snapshot.list::<Unfinished>(&()) {
        let row = row?;
        let (room, target) = row.key()?;
        rooms.entry(room).or_default().insert(target.to_owned(), row.value);
    }
    Ok(rooms)
}

/// Of each room, the redacted events with whose related ones something is left to do.
type Left = BTreeMap<RoomNid, BTreeSet<OwnedEventId>>;

/// The rooms of `todos` in which something is left from before.
fn waiting(snapshot: &Snapshot<'_>, todos: &[Todo]) -> store::Result<Left> {
    let mut left = Left::new();
    for todo in todos {
        if snapshot.list::<Unfinished>(&todo.room).next().transpose()?.is_some() {
            left.entry(todo.room).or_default();
        }
    }
    Ok(left)
}

/// Makes redactions, but for those in the rooms of `left`, and adds there what is left: another server may be away.
async fn redact_all(server: &Arc<Server>, todos: Vec<Todo>, mut left: Left) -> Result<Left> {
    for todo in todos {
        if let Some(targets) = left.get_mut(&todo.room) {
            targets.insert(todo.parent);
            continue;
        }
        let (room, parent, event_id) = (todo.room, todo.parent.clone(), todo.target.clone());
        match redact(server, todo).await {
            Ok(()) => {}
            Err(error @ Error::Internal(_)) => return Err(error),
            // The policy server is away, or has too much to do.
            Err(error @ (Error::Remote { .. } | Error::Refused { kind: ErrorKind::LimitExceeded(_), .. })) => {
                info!(%room, %event_id, "a related event can't be redacted yet: {error:?}");
                left.entry(room).or_default().insert(parent);
            }
            // What the user may not redact stays.
            Err(error) => info!(%room, %event_id, "a related event is not redacted: {error:?}"),
        }
    }
    Ok(left)
}

/// A redaction to be made for a user.
struct Todo {
    room: RoomNid,
    /// The redacted event that it takes along.
    parent: OwnedEventId,
    target: OwnedEventId,
    sender: OwnedUserId,
    reason: Option<String>,
}

fn find(server: &Server, entries: &[Entry]) -> Result<Vec<Todo>> {
    let snapshot = server.store.snapshot();
    let mut found = Vec::new();
    for entry in entries {
        let view = View::of(&server.rooms, &snapshot, entry.room)?;
        let event = view.event(entry.event)?;
        if let Some(target) = event.redacts.as_deref() {
            found.extend(related(&view, target)?);
        }
        if let Some(relation) = &event.relation {
            found.extend(late(&view, &relation.event_id, &relation.rel_type, &event)?);
        }
    }
    Ok(found)
}

/// What relates to an event that was redacted and is to go with it.
fn related(view: &View<'_>, target: &EventId) -> Result<Vec<Todo>> {
    let mut found = Vec::new();
    for (sender, wish) in wishes(view, target)? {
        let Some(parent) = redacted(view, target)? else { continue };
        for row in view.snapshot.list::<Relations>(&(view.nid, target)) {
            let row = row?;
            let (_, _, rel_type, _) = row.key()?;
            if wish.is_for(rel_type) {
                found.extend(todo(view, &parent, rel_type, row.value.event, &sender, &wish)?);
            }
        }
    }
    Ok(found)
}

/// The same of an event that came later.
fn late(view: &View<'_>, parent: &EventId, rel_type: &str, event: &StoredEvent) -> Result<Vec<Todo>> {
    let mut found = Vec::new();
    for (sender, wish) in wishes(view, parent)?.into_iter().filter(|(_, wish)| wish.is_for(rel_type)) {
        let (Some(parent), Some(nid)) = (redacted(view, parent)?, view.event_nid(&event.event_id)?) else { continue };
        found.extend(todo(view, &parent, rel_type, nid, &sender, &wish)?);
    }
    Ok(found)
}

fn wishes(view: &View<'_>, target: &EventId) -> store::Result<Vec<(OwnedUserId, Wish)>> {
    let rows = view.snapshot.list::<Wishes>(&(view.nid, target));
    rows.map(|row| row.and_then(|row| Ok((row.key()?.2.to_owned(), row.value.clone())))).collect()
}

fn redacted(view: &View<'_>, target: &EventId) -> store::Result<Option<StoredEvent>> {
    Ok(view.event_by_id(target)?.filter(|event| event.flags.redacted))
}

/// `None` for what is redacted already, and for edits that are none: anybody can send what looks like one.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events>
fn todo(
    view: &View<'_>,
    parent: &StoredEvent,
    rel_type: &str,
    event: EventNid,
    sender: &UserId,
    wish: &Wish,
) -> store::Result<Option<Todo>> {
    let event = view.event(event)?;
    let is_edit = event.sender == parent.sender
        && event.event_type == parent.event_type
        && event.state_key.is_none()
        && parent.state_key.is_none();
    let is_meant = !event.flags.redacted && (rel_type != "m.replace" || is_edit);
    let (parent, target) = (parent.event_id.clone(), event.event_id);
    let (sender, reason) = (sender.to_owned(), wish.reason.clone());
    Ok(is_meant.then_some(Todo { room: view.nid, parent, target, sender, reason }))
}

async fn redact(server: &Arc<Server>, todo: Todo) -> Result<()> {
    let Todo { room, target, sender, reason, .. } = todo;
    let user = sender.clone();
    append::act(server, room, &sender, None, move |_, view| {
        redact::check(view, &user, &target)?;
        // It may have been worked on before the server stopped.
        let before = view.event_by_id(&target)?.and_then(|event| event.redacted_by);
        match before {
            Some(redaction) => Ok(Step::Done(view.event_id(EventNid(redaction))?)),
            None => Ok(Step::Send(Draft::redaction(target, reason.as_deref()))),
        }
    })
    .await
    .map(drop)
}
