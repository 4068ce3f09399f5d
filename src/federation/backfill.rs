//! The past of rooms: what was before the events that we have, asked of other servers when somebody reads that far.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ruma::{OwnedEventId, OwnedServerName, UInt, api::federation::backfill::get_backfill};
use tracing::{debug, info};

use super::{events, missing::Asker, request};
use crate::{
    Server,
    error::{Error, Result},
    event::{Verified, format},
    room::{
        View,
        append::{self, Incoming, Place},
        gaps::{self, Gap, Gaps},
        outliers, remote,
    },
    store::{RoomNid, RoomPos, Transaction},
};

/// How many events are asked for at once.
const LIMIT: u32 = 100;

/// How many servers are asked before it is given up for a while.
const MAX_ASKED: usize = 5;

/// How long a reader waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long newer events wait for others of the same gap to be put there.
const TURN: Duration = Duration::from_secs(5);

/// How long one server may take to tell all of it.
const PATIENCE_WITH_SERVER: Duration = Duration::from_secs(120);

/// For how long a gap is left alone that could not be filled, in milliseconds.
const RETRY_AFTER_MS: u64 = 60_000;

/// How many gaps that could not be filled are remembered.
const MAX_UNFILLED: usize = 1_000;

/// Fetches events for the gap that somebody meets who reads backward from `until`. Whether any came.
pub async fn fill(server: &Arc<Server>, room: RoomNid, until: RoomPos) -> Result<bool> {
    let server = Arc::clone(server);
    let filling = Server::detached(async move {
        let _turn = server.inbox.backfills.take(room).await;
        let find = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let is_here = view.is_resident()?;
            let Some(gap) = gaps::below(&view, until)?.filter(|_| is_here) else { return Ok(None) };
            let Some(missing) = gaps::missing_at(&view, gap.pos)? else { return Ok(None) };
            Ok(Some((gap, missing, remote::servers(&view, server.name())?)))
        };
        let Some((gap, wanted, servers)) = server.blocking(find).await? else { return Ok(false) };
        if wanted.is_empty() {
            close(&server, room, gap.pos).await?; // the events came by themselves
            return Ok(true);
        }
        if gap.free() == 0 || is_unfillable(&server, room, gap.pos) {
            return Ok(false);
        }
        for asked in servers.into_iter().take(MAX_ASKED) {
            let told = fill_by(&server, room, &gap, &wanted, asked.clone());
            let told = tokio::time::timeout(PATIENCE_WITH_SERVER, told).await;
            match told.unwrap_or_else(|_| Err(Error::not_found("It did not come in time"))) {
                Ok(true) => return Ok(true),
                Ok(false) => debug!(server = %asked, "this server told nothing of a room's past"),
                Err(error @ Error::Internal(_)) => return Err(error),
                Err(error) => info!(server = %asked, "this server does not tell a room's past: {error:?}"),
            }
        }
        let mut unfilled = server.inbox.unfilled.lock();
        if unfilled.len() >= MAX_UNFILLED {
            unfilled.clear();
        }
        unfilled.insert((room, gap.pos.0), server.clock.now_ms());
        Ok(false)
    });
    // Who waits no longer finds the events the next time: it goes on meanwhile.
    tokio::time::timeout(PATIENCE, filling).await.unwrap_or(Ok(false))
}

fn is_unfillable(server: &Server, room: RoomNid, pos: RoomPos) -> bool {
    let failed = server.inbox.unfilled.lock().get(&(room, pos.0)).copied();
    // Either way: the clock may have been set back.
    failed.is_some_and(|at_ms| server.clock.now_ms().abs_diff(at_ms) < RETRY_AFTER_MS)
}

async fn fill_by(
    server: &Arc<Server>,
    room: RoomNid,
    gap: &Gap,
    wanted: &[OwnedEventId],
    asked: OwnedServerName,
) -> Result<bool> {
    let asker = Asker::open(server, room, asked).await?;
    let ask = get_backfill::v1::Request::new(asker.room_id.clone(), wanted.to_vec(), UInt::from(LIMIT));
    let mut told = request(server, &asker.asked, ask).await?.pdus;
    told.truncate(2 * LIMIT as usize);
    let events = events::check_read(server, asker.rules, &asker.room_id, told, format::parse_past).await?;
    // What is here already may have been put into the middle of the gap: what leads on from there does not belong before
    // the gap's end, but before that.
    let mut events = before(unplaced(server, room, events).await?, wanted);
    let fitting = events.len().min(usize::try_from(gap.free()).unwrap_or(usize::MAX));
    events.drain(..events.len() - fitting);
    put(&asker, gap, first_of(gap, fitting), events).await
}

/// The place of the first of so many events that end where a gap ends.
fn first_of(gap: &Gap, count: usize) -> i64 {
    gap.last_place() + 1 - i64::try_from(count).unwrap_or(i64::MAX)
}

/// Makes events, the oldest first, part of the room in a gap, from the place `first` on; whether any came into the
/// timeline.
async fn put(asker: &Asker, gap: &Gap, first: i64, events: Vec<Verified>) -> Result<bool> {
    let (server, room) = (&asker.server, asker.room);
    let mut any = false;
    for (event, pos) in std::iter::zip(events, first..) {
        let id = event.pdu().event_id.clone();
        match take_in(asker, event, RoomPos(pos)).await {
            Ok(is_placed) => any |= is_placed,
            Err(error @ Error::Internal(_)) => return Err(error),
            Err(error) => debug!(%id, "an old event can't be part of the room: {error:?}"),
        }
    }
    let gap = gap.pos;
    let is_filled = server.blocking(move |server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        Ok(gaps::missing_at(&view, gap)?.is_some_and(|missing| missing.is_empty()))
    });
    if is_filled.await? {
        close(server, room, gap).await?;
    }
    Ok(any)
}

/// Events that belong into a gap.
struct Behind {
    gap: Gap,
    /// The place of the first of them.
    first: i64,
    /// The oldest first.
    events: Vec<Verified>,
}

impl Behind {
    /// At the end of the gap if nothing is missing after them there; `None` if there is no room for them.
    fn new(gap: Gap, is_at_end: bool, events: Vec<Verified>) -> Option<Self> {
        let first = if is_at_end { first_of(&gap, events.len()) } else { gap.first_place() };
        (events.len() as u64 <= gap.free()).then_some(Self { gap, first, events })
    }

    fn find(view: &View<'_>, events: Vec<Verified>) -> Result<Vec<Self>> {
        let mut rest = Vec::with_capacity(events.len());
        let mut stale = Vec::new();
        for event in events {
            let id = &event.pdu().event_id;
            if let Some((nid, known)) = gaps::known(view, id)? {
                if known.state_after.is_some() {
                    continue;
                }
                if gaps::is_behind(view, nid, &known)? {
                    stale.push(id.clone());
                }
            }
            rest.push(event);
        }
        let known = if rest.is_empty() { Vec::new() } else { gaps::with_missing(view)? };
        let mut found = Vec::new();
        for (gap, wanted) in &known {
            let old = before(rest.clone(), wanted);
            let ids: HashSet<OwnedEventId> = old.iter().map(|event| event.pdu().event_id.clone()).collect();
            rest.retain(|event| !ids.contains(&event.pdu().event_id));
            let is_at_end = wanted.iter().all(|id| ids.contains(id));
            found.extend(if old.is_empty() { None } else { Self::new(*gap, is_at_end, old) });
        }
        let old = before(rest, &stale);
        if let (Some((newest, _)), false) = (known.first(), old.is_empty()) {
            // First, while there is room before what comes to its end.
            found.splice(0..0, Self::new(*newest, false, old));
        }
        Ok(found)
    }
}

/// Of events that another server says are missing, those that are from before a gap get their places there, and the
/// others are answered: old ones are no news, and their state is not that of another branch.
pub(super) async fn put_aside(asker: &Asker, mut events: Vec<Verified>) -> Result<Vec<Verified>> {
    let find = async || {
        let (room, events) = (asker.room, events.clone());
        let find = move |server: &Server| {
            let snapshot = server.store.snapshot();
            Behind::find(&View::of(&server.rooms, &snapshot, room)?, events)
        };
        asker.server.blocking(find).await
    };
    if events.is_empty() || find().await?.is_empty() {
        return Ok(events);
    }
    // Rather told as news than lost: whoever reads that far may have them fetched at the moment, which takes its time.
    let turn = asker.server.inbox.backfills.take(asker.room);
    let Ok(_turn) = tokio::time::timeout(TURN, turn).await else { return Ok(events) };
    let found = find().await?;
    for Behind { gap, first, events: old } in found {
        events.retain(|event| !old.iter().any(|old| old.pdu().event_id == event.pdu().event_id));
        put(asker, &gap, first, old).await?;
    }
    Ok(events)
}

/// Those of `events` that `wanted` and what is before it lead to, the oldest first.
fn before(events: Vec<Verified>, wanted: &[OwnedEventId]) -> Vec<Verified> {
    let ordered = outliers::in_order(events, |pdu| &pdu.prev_events);
    let mut reached: HashSet<OwnedEventId> = wanted.iter().cloned().collect();
    let mut kept = Vec::with_capacity(ordered.len());
    for event in ordered.into_iter().rev() {
        if reached.contains(&event.pdu().event_id) {
            reached.extend(event.pdu().prev_events.iter().cloned());
            kept.push(event);
        }
    }
    kept.reverse();
    kept
}

async fn unplaced(server: &Arc<Server>, room: RoomNid, events: Vec<Verified>) -> Result<Vec<Verified>> {
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let mut unplaced = Vec::with_capacity(events.len());
            for event in events {
                if gaps::placed(&view, &event.pdu().event_id)?.is_none() {
                    unplaced.push(event);
                }
            }
            Ok(unplaced)
        })
        .await
}

/// Makes an old event part of the room; whether it is in the timeline now.
pub(super) async fn take_in(asker: &Asker, event: Verified, pos: RoomPos) -> Result<bool> {
    asker.complete_auth_events(&event).await?;
    let (room, prev_events) = (asker.room, event.pdu().prev_events.clone());
    let lacks_any = asker.server.blocking(move |server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        for id in &prev_events {
            if gaps::placed(&view, id)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    });
    let (mut given, mut is_incomplete) = (Vec::new(), false);
    if lacks_any.await? {
        let told = asker.told_before(&event.pdu().event_id, false).await?;
        is_incomplete = told.missing > 0;
        given.push(told.events.into());
    }
    let incoming = Incoming { place: Place::Past(pos), given, is_incomplete, ..Incoming::live(event) };
    let appended = append::take_in(&asker.server, room, vec![incoming]).await?;
    Ok(appended.iter().any(|appended| appended.verdict == append::Verdict::Accepted))
}

async fn close(server: &Arc<Server>, room: RoomNid, pos: RoomPos) -> Result<()> {
    let close = move |tx: &mut Transaction<'_>| {
        tx.delete::<Gaps>(&(room, pos));
        Ok::<_, Error>(())
    };
    server.store.write(close).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn a_clock_that_was_set_back_keeps_no_gap_open() {
        let room = TestRoom::new();
        let (server, pos) = (&room.server, RoomPos(1));
        server.inbox.unfilled.lock().insert((room.nid, pos.0), server.clock.now_ms());
        assert!(is_unfillable(server, room.nid, pos));
        server.clock.set_back(Duration::from_millis(RETRY_AFTER_MS));
        assert!(!is_unfillable(server, room.nid, pos));
    }
}
