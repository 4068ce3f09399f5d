//! What users find inappropriate, for the administrators of this server to look at.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>

use std::sync::Arc;

use ruma::{EventId, ID_MAX_BYTES, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    Server,
    error::{Error, Result},
    room::{Membership, View, history, show::Reader, tables::RoomIds},
    store::{Family, Record, Scan, Snapshot, StreamPos, Table, TableInfo, Transaction},
    user::{account, session::Caller},
};

pub const TABLES: [TableInfo; 1] = [TableInfo::of::<Reports>()];

/// How many reports are kept: the oldest make room for new ones.
const MAX_REPORTS: usize = 5_000;

/// How much of a reason is kept, in bytes.
const MAX_REASON: usize = 2_000;

/// The reports in their order. The oldest go when there are too many.
pub struct Reports;
impl Table for Reports {
    const NAME: &'static str = "reports";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 150;
    type Key<'a> = StreamPos;
    type Value = Report;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub reporter: OwnedUserId,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub subject: Subject,
    /// The reporter's words.
    pub reason: Option<String>,
}

impl Record for Report {}

/// What was reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    Event { room_id: OwnedRoomId, event_id: OwnedEventId, sender: OwnedUserId },
    Room(OwnedRoomId),
    User(OwnedUserId),
}

/// Reports an event. `M_NOT_FOUND` if there is none that the reporter may see, or he is not joined to the room.
pub async fn event(
    server: &Arc<Server>,
    reporter: &Caller,
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    reason: Option<String>,
) -> Result<()> {
    server.limits.message(reporter)?;
    let by = reporter.user_id.clone();
    let find = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let sender = sender_of(server, &snapshot, &by, &room_id, &event_id)?;
        let sender = sender.ok_or_else(|| Error::not_found("You are not in a room with such an event"))?;
        Ok(Subject::Event { room_id, event_id, sender })
    };
    let subject = server.blocking(find).await?;
    keep(server, &reporter.user_id, subject, reason).await
}

/// `None` if the reporter may not report the event.
fn sender_of(
    server: &Server,
    snapshot: &Snapshot<'_>,
    reporter: &UserId,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<Option<OwnedUserId>> {
    let Some(view) = View::open(&server.rooms, snapshot, room_id)? else { return Ok(None) };
    if view.membership(view.current_state(), reporter)? != Some(Membership::Join) {
        return Ok(None);
    }
    let reader = Reader::open(&view, reporter, None, server.clock.now_ms())?;
    Ok(history::visible(&reader, event_id)?.map(|(_, event)| event.sender))
}

/// Reports a room, whether or not the reporter is in it. One that this server does not know is not kept, and that is
/// not told: nobody shall learn by reports which rooms there are. So every report counts, and before anything is looked up.
pub async fn room(server: &Arc<Server>, reporter: &Caller, room_id: OwnedRoomId, reason: String) -> Result<()> {
    server.limits.message(reporter)?;
    if !server.store.snapshot().contains::<RoomIds>(&&*room_id)? {
        return Ok(());
    }
    keep(server, &reporter.user_id, Subject::Room(room_id), Some(reason)).await
}

/// Reports a user, of whatever server. One of ours who does not exist is not kept, nor who can't exist, and that is not
/// told.
pub async fn user(server: &Arc<Server>, reporter: &Caller, user_id: OwnedUserId, reason: String) -> Result<()> {
    server.limits.message(reporter)?;
    let is_nobody = user_id.as_str().len() > ID_MAX_BYTES
        || server.is_ours(&user_id) && account::get(&server.store.snapshot(), &user_id)?.is_none();
    if is_nobody {
        return Ok(());
    }
    keep(server, &reporter.user_id, Subject::User(user_id), Some(reason)).await
}

async fn keep(server: &Arc<Server>, reporter: &UserId, subject: Subject, reason: Option<String>) -> Result<()> {
    let reason = reason.filter(|reason| !reason.is_empty()).map(|mut reason| {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        reason
    });
    let report = Report { reporter: reporter.to_owned(), at_ms: server.clock.now_ms(), subject, reason };
    warn!(reporter = %report.reporter, subject = ?report.subject, "a user reported something");
    server
        .store
        .commit(move |tx| {
            make_room(tx)?;
            let pos = tx.pos();
            tx.put::<Reports>(&pos, &report);
            Ok(())
        })
        .await
}

/// Removes the oldest report if there are as many as are kept.
fn make_room(tx: &mut Transaction<'_>) -> Result<()> {
    let mut oldest = None;
    let mut count = 0;
    for row in tx.before().list::<Reports>(&()) {
        let pos = row?.key()?;
        oldest = oldest.or(Some(pos));
        count += 1;
    }
    if let Some(oldest) = oldest.filter(|_| count >= MAX_REPORTS) {
        tx.delete::<Reports>(&oldest);
    }
    Ok(())
}

/// All reports, the newest first.
pub fn list(snapshot: &Snapshot<'_>) -> Result<Vec<(StreamPos, Report)>> {
    let rows = snapshot.scan::<Reports>(Scan::prefix::<Reports>(&()).backward());
    rows.map(|row| row.and_then(|row| Ok((row.key()?, row.value))).map_err(Error::from)).collect()
}
