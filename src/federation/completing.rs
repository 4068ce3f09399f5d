//! Asking for the members of rooms that we have come into without them: a task for each such room, until its state is
//! whole. What was asked for and answered is kept, so a restart goes on where the last run was.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3902>

use std::{sync::Arc, time::Duration};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use tracing::{error, info};

use super::{alternatives, missing::Asker, queue};
use crate::{
    Server,
    error::{Error, Result},
    outgoing::Limits,
    room::{
        View,
        partial::{self, Partial, completion, tables::PartialRooms},
        remote,
    },
    store::{RoomNid, Transaction},
};

/// How long one server may take for one answer, and how large that may be: a state of a hundred thousand members.
const LIMITS: Limits = Limits { time: Duration::from_secs(300), bytes: 128 << 20, redirects: false };

/// How many servers are asked one after the other before it is waited.
const MAX_ASKED: usize = 10;

/// How long is waited for one until the next is asked as well, and how many may be asked at once. A large room takes the servers of
/// others a minute; one that hangs must not hold up the room for as long as an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 2;

/// How long is waited after all of them were asked in vain: twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How long is waited for what happened in a room to be queued for its servers.
const QUEUING: Duration = Duration::from_secs(60);

/// After how many rounds in vain a state is taken parts of which nobody has.
const STRICT_ROUNDS: u32 = 2;

/// Goes on with what was not finished before a restart.
pub async fn resume(server: Arc<Server>) {
    let rooms = server.read(|snapshot| {
        let rows = snapshot.list::<PartialRooms>(&());
        Ok(rows.map(|row| row?.key()).collect::<crate::store::Result<Vec<_>>>()?)
    });
    match rooms.await {
        Ok(rooms) => rooms.into_iter().for_each(|room| start(&server, room)),
        Err(error) => error!("the rooms whose state is not whole can't be read: {error:?}"),
    }
}

/// Sees to it that somebody completes the state of `room`.
pub fn start(server: &Arc<Server>, room: RoomNid) {
    if server.partial.at_work.lock().insert(room) {
        tokio::spawn(work_on(Arc::clone(server), room));
    }
}

/// What came of asking once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// There is nothing left to do.
    Done,
    /// Nobody gave all that is wanted, so often by now.
    InVain(u32),
}

async fn work_on(server: Arc<Server>, room: RoomNid) {
    loop {
        let wait = match round(&server, room).await {
            Ok(Round::Done) => {
                server.partial.at_work.lock().remove(&room);
                // It may have been entered anew between the last look and now, by somebody who found us at work.
                match server.read(move |snapshot| Ok(partial::is_partial(snapshot, room)?)).await {
                    Ok(true) if server.partial.at_work.lock().insert(room) => continue,
                    _ => return,
                }
            }
            Ok(Round::InVain(times)) => {
                LONGEST_WAIT.min(FIRST_WAIT * 2_u32.saturating_pow(times.saturating_sub(1).min(16)))
            }
            Err(error) => {
                error!(room = room.0, "the state of a room can't be completed: {error:?}");
                LONGEST_WAIT
            }
        };
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Asks for what is wanted, and completes the room if nothing is.
async fn round(server: &Arc<Server>, room: RoomNid) -> Result<Round> {
    let Ok(permit) = server.partial.permits.acquire().await else { return Ok(Round::Done) };
    let look = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let Some(partial) = partial::of(&snapshot, room)? else { return Ok(None) };
        let view = View::of(&server.rooms, &snapshot, room)?;
        let entry = view.event_by_id(&partial.entry)?;
        let is_in = entry.is_some_and(|event| event.state_after.is_some());
        let wanted = completion::wanted(&snapshot, room)?;
        let mut asked = partial.servers.clone();
        let known = remote::servers(&view, server.name())?;
        let new: Vec<_> = known.into_iter().filter(|name| !partial.has(name)).collect();
        asked.extend(new);
        asked.retain(|name| super::allows(server, name));
        // With each round others come first, so that in the end all were asked.
        let turn = (partial.failures as usize).saturating_mul(MAX_ASKED) % asked.len().max(1);
        asked.rotate_left(turn);
        asked.truncate(MAX_ASKED);
        Ok(Some((partial, view.room_id().to_owned(), is_in, view.is_resident()?, wanted, asked)))
    };
    let Some((known, room_id, is_in, is_resident, wanted, asked)) = server.blocking(look).await? else {
        return Ok(Round::Done);
    };
    if !is_in && !is_resident {
        // It was stopped just before we came in, or we are about to.
        drop(permit);
        return give_up(server, room, room_id, known.entry).await;
    }
    for wanted in wanted {
        if !ask_all(server, room, &known, &asked, &wanted).await? {
            if is_resident {
                return Ok(Round::InVain(failed(server, room).await?));
            }
            drop(permit);
            // All servers that are said to be there are told first that it was left.
            if let Ok(queued) = tokio::time::timeout(QUEUING, queue::until_sent(server, &[])).await {
                queued?;
            }
            return give_up(server, room, room_id, known.entry).await;
        }
    }
    match completion::complete(server, room).await? {
        true => Ok(Round::Done),
        false => Ok(Round::InVain(1)), // somebody came in meanwhile by another event
    }
}

/// Gives up a room that nobody of ours was in when it was looked at, unless somebody came in since. A join that is under
/// way is waited for, which may take long.
async fn give_up(server: &Arc<Server>, room: RoomNid, room_id: OwnedRoomId, entry: OwnedEventId) -> Result<Round> {
    let _turn = server.inbox.joins.take(room_id).await;
    if !partial::give_up_left(server, room, entry).await? {
        return Ok(Round::InVain(1));
    }
    info!(room = room.0, "a room that was left before its state was whole is given up");
    Ok(Round::Done)
}

/// Asks for the states that one event lacks; whether a server told them.
async fn ask_all(
    server: &Arc<Server>,
    room: RoomNid,
    known: &Partial,
    servers: &[OwnedServerName],
    wanted: &completion::Wanted,
) -> Result<bool> {
    let takes_parts = known.failures >= STRICT_ROUNDS;
    let ask = |candidate| async move {
        let Err(error) = ask(server, room, candidate, takes_parts, wanted).await else { return Some(Ok(())) };
        info!(room = room.0, server = %candidate, "the state of a room is not told: {error:?}");
        matches!(error, Error::Internal(_)).then_some(Err(error))
    };
    let told = tokio::select! {
        () = server.shutdown.cancelled() => None,
        told = alternatives::first_answer(servers, PATIENCE, AT_ONCE, ask) => told,
    };
    Ok(told.transpose()?.is_some())
}

async fn ask(
    server: &Arc<Server>,
    room: RoomNid,
    candidate: &OwnedServerName,
    takes_parts: bool,
    wanted: &completion::Wanted,
) -> Result<()> {
    let asker = Asker { limits: LIMITS, ..Asker::open(server, room, candidate.clone()).await? };
    let mut told = Vec::with_capacity(wanted.after.len());
    for event in &wanted.after {
        let state = asker.state_after(event).await?;
        info!(
            room_id = %asker.room_id, server = %candidate, events = state.events.len(), missing = state.missing,
            "the members of a room came in"
        );
        if state.missing > 0 && !takes_parts {
            return Err(Error::not_found(format!("{} events of the state can't be had", state.missing)));
        }
        told.push(state.events);
    }
    completion::keep_state(server, room, wanted.place, told).await
}

/// Notes that all servers were asked in vain; how often by now.
async fn failed(server: &Arc<Server>, room: RoomNid) -> Result<u32> {
    let note = move |tx: &mut Transaction<'_>| {
        let Some(partial) = tx.get::<PartialRooms>(&room)? else { return Ok(1) };
        let failures = partial.failures.saturating_add(1);
        tx.put::<PartialRooms>(&room, &Partial { failures, ..partial });
        Ok::<_, Error>(failures)
    };
    server.store.commit(note).await
}
