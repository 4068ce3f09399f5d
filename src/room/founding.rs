//! The first events of a room: all of them or none become part of it, whatever happens meanwhile. They are kept together
//! with the create event, and each goes with the change that writes it. What is left, after a crash or because the disk
//! was full, is written at the next start or sweep; so nobody has a room, with its alias, in which nothing is possible.

use std::sync::Arc;

use ruma::RoomVersionId;
use tracing::{error, info};

use super::{
    View,
    append::{self, Appended, Incoming},
    lock::{NextNumbers, Numbers},
    plan::Plan,
    tables,
};
use crate::{
    Server,
    error::{Error, Result},
    event::Verified,
    store::{self, EventNid, Family, Json, RoomNid, Snapshot, StateKeyNid, Table, TableInfo, Transaction, Written},
};

pub const TABLES: [TableInfo; 1] = [TableInfo::of::<UnwrittenEvents>()];

/// The events that rooms still lack which are being made.
pub struct UnwrittenEvents;
impl Table for UnwrittenEvents {
    const NAME: &'static str = "unwritten_events";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 218;
    /// The number says in which order they are written.
    type Key<'a> = (RoomNid, u32);
    /// The event in the form of servers.
    type Value = Json;
}

/// Makes a room of `events`, of which the first creates it and each was built on those before it. Durable when it
/// returns. `with_create` is written together with the create event, and if it fails there is no room.
pub async fn found(
    server: &Arc<Server>,
    version: RoomVersionId,
    events: Vec<Verified>,
    with_create: impl FnOnce(&mut Transaction<'_>, RoomNid) -> Result<()> + Send + 'static,
) -> Result<()> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let room = server.rooms.allot();
        let mut numbers = server.rooms.lock(room).await;
        let mut events = events.into_iter();
        let create = events.next().ok_or_else(|| Error::internal("a room begins with its create event"))?;
        let rest: Vec<Verified> = events.collect();
        let mut founder = Founder { server: &server, room, version, next: FIRST };
        let mut written = vec![founder.create(create, &rest, with_create).await?];
        for (number, event) in (0..).zip(rest) {
            written.push(founder.add(number, event).await?);
        }
        numbers.set(Some(founder.next));
        drop(numbers);
        for event in written {
            append::tell(&server, &event.durable().await?);
        }
        Ok(())
    })
    .await
}

const FIRST: NextNumbers = NextNumbers { event: EventNid(0), state_key: StateKeyNid(0) };

/// Who writes the events of a new room, and is the only one who does.
struct Founder<'s> {
    server: &'s Arc<Server>,
    room: RoomNid,
    version: RoomVersionId,
    next: NextNumbers,
}

impl Founder<'_> {
    async fn create(
        &mut self,
        create: Verified,
        rest: &[Verified],
        with_create: impl FnOnce(&mut Transaction<'_>, RoomNid) -> Result<()> + Send + 'static,
    ) -> Result<Written<Appended>> {
        let room = self.room;
        let plan = self.plan(create).await?;
        let unwritten: Vec<Json> = rest.iter().map(|event| Json::of(event.json())).collect();
        let write = move |tx: &mut Transaction<'_>| {
            plan.check_new(tx)?;
            with_create(tx, room)?;
            for (number, event) in (0..).zip(&unwritten) {
                tx.put::<UnwrittenEvents>(&(room, number), event);
            }
            Ok::<_, Error>(plan.write(tx)?)
        };
        self.server.store.write(write).await
    }

    async fn add(&mut self, number: u32, event: Verified) -> Result<Written<Appended>> {
        let room = self.room;
        let plan = self.plan(event).await?;
        self.server.store.write(move |tx| write(tx, plan, room, number)).await
    }

    async fn plan(&mut self, event: Verified) -> Result<Plan> {
        let (room, version, next) = (self.room, self.version.clone(), self.next);
        let plan = self.server.blocking(move |server| work_out(server, room, version, next, event)).await?;
        self.next = plan.next;
        Ok(plan)
    }
}

/// The plan of one of the first events of a room; the first of all finds no room yet.
fn work_out(
    server: &Server,
    room: RoomNid,
    version: RoomVersionId,
    numbers: NextNumbers,
    event: Verified,
) -> Result<Plan> {
    let snapshot = server.store.snapshot();
    let view = if numbers.event == EventNid(0) {
        let room_id = event.pdu().room_id.clone();
        let empty = tables::Room::unknown(room_id, version);
        View::new(&server.rooms, &snapshot, room, empty)?
    } else {
        View::of(&server.rooms, &snapshot, room)?
    };
    let plan = Plan::work_out(&view, numbers, Incoming::live(event), server)?;
    plan.check_local()?;
    Ok(plan)
}

fn write(tx: &mut Transaction<'_>, plan: Plan, room: RoomNid, number: u32) -> Result<Appended> {
    tx.delete::<UnwrittenEvents>(&(room, number));
    Ok(plan.write(tx)?)
}

/// Finishes all rooms that are not whole, before anybody else can write in them.
pub fn finish_all(server: &Server) {
    let rooms = match unfinished(&server.store.snapshot()) {
        Ok(rooms) => rooms,
        Err(error) => return error!("rooms that are not whole can't be looked for: {error}"),
    };
    for room in rooms {
        if let Err(error) = finish(server, room) {
            error!(%room, ?error, "a room is not whole and can't be finished now"); // a full disk keeps nobody from reading
        }
    }
}

/// As [`finish_all`] while the server runs: those that the disk had no room for. How many they were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let rooms = server.read(|snapshot| Ok(unfinished(snapshot)?)).await?;
    let count = rooms.len();
    for room in rooms {
        let mut numbers = server.rooms.lock(room).await; // of whoever is making it just now
        let finished = server.blocking(move |server| finish(server, room)).await;
        numbers.set(None);
        finished?;
    }
    Ok(count)
}

fn unfinished(snapshot: &Snapshot<'_>) -> store::Result<Vec<RoomNid>> {
    let rooms = snapshot.list::<UnwrittenEvents>(&()).map(|row| row.and_then(|row| Ok(row.key()?.0)));
    let mut rooms: Vec<RoomNid> = rooms.collect::<store::Result<_>>()?;
    rooms.dedup();
    Ok(rooms)
}

/// Whoever asks has the right to write in the room.
fn finish(server: &Server, room: RoomNid) -> Result<()> {
    loop {
        let planned = {
            let snapshot = server.store.snapshot();
            let Some(row) = snapshot.list::<UnwrittenEvents>(&room).next().transpose()? else { return Ok(()) };
            let (_, number) = row.key()?;
            let view = View::of(&server.rooms, &snapshot, room)?;
            let event = Verified::kept(row.value.0.get().as_bytes(), view.rules);
            let event = event.map_err(|e| Error::internal(format!("an event that we made: {e}")))?;
            let numbers = Numbers::default().get(&snapshot, room)?;
            let plan = Plan::work_out(&view, numbers, Incoming::live(event), server);
            (number, plan.and_then(|plan| plan.check_local().map(|()| plan)))
        };
        match planned {
            (number, Ok(plan)) => {
                let appended = server.store.commit_blocking(move |tx| write(tx, plan, room, number))?;
                info!(room_id = %appended.room_id, event_id = %appended.event_id, "a room is being finished");
                append::tell(server, &appended);
            }
            // Somebody has changed the room since, so that it no longer allows what it was to begin with.
            (number, Err(Error::Refused { message, .. })) => {
                error!(%room, %message, "an event of a room that was not whole is left out");
                let leave_out = move |tx: &mut Transaction<'_>| {
                    tx.delete::<UnwrittenEvents>(&(room, number));
                    Ok::<_, Error>(())
                };
                server.store.commit_blocking(leave_out)?;
            }
            (_, Err(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedRoomAliasId, RoomAliasId, UserId};
    use serde_json::json;
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{
        check,
        clock::Clock,
        config::Config,
        random::Random,
        room::{
            Membership, aliases,
            create::{self, NewRoom, Preset},
            tables::{Members, Origin},
            testing::{START_MS, user},
        },
    };

    fn open(directory: &TempDir) -> Arc<Server> {
        let mut config = Config::for_tests("chappe.test");
        config.database_path = directory.path().join("data");
        Server::open(config, Clock::manual(START_MS), Random::from_seed(1)).unwrap()
    }

    fn alias() -> OwnedRoomAliasId {
        RoomAliasId::parse("#tower:chappe.test").unwrap()
    }

    fn new_room() -> NewRoom {
        NewRoom {
            version: RoomVersionId::V12,
            preset: Preset::PublicChat,
            is_listed: false,
            alias: Some(alias()),
            name: Some("The tower".to_owned()),
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state: Vec::new(),
            creation_content: json!({}).as_object().unwrap().clone(),
            power_levels: json!({}).as_object().unwrap().clone(),
            replaces: None,
        }
    }

    /// Writes the create event and `more` others, as far as a crash let it come. How many are missing.
    fn begin(server: &Arc<Server>, more: usize) -> usize {
        let events = create::first_events(server, &user("alice"), &new_room()).unwrap();
        let claim = |tx: &mut Transaction<'_>, room: RoomNid| {
            assert!(aliases::claim(tx, &alias(), room, &user("alice"))?);
            Ok(())
        };
        let room = server.rooms.allot();
        let mut founder = Founder { server, room, version: RoomVersionId::V12, next: FIRST };
        Runtime::new().unwrap().block_on(async {
            founder.create(events[0].clone(), &events[1..], claim).await.unwrap();
            for (number, event) in (0..).zip(&events[1..=more]) {
                founder.add(number, event.clone()).await.unwrap().durable().await.unwrap();
            }
        });
        events.len() - 1 - more
    }

    fn assert_whole(server: &Server) {
        let snapshot = server.store.snapshot();
        assert_eq!(unfinished(&snapshot).unwrap(), []);
        let found = aliases::resolve(&snapshot, &alias()).unwrap().unwrap();
        let view = View::of(&server.rooms, &snapshot, found.room).unwrap();
        let name = view.state_event(view.current_state(), &"m.room.name".into(), "").unwrap();
        assert!(name.is_some(), "the last of its events is there");
        let alice: &UserId = &user("alice");
        assert!(snapshot.contains::<Members>(&(found.room, Membership::Join, Origin::Local, alice)).unwrap());
        assert_eq!(view.forward_extremities().len(), 1);
        let report = check::check(&server.store, server.name()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }

    #[test]
    fn a_room_whose_making_was_interrupted_is_whole_after_the_next_start() {
        for more in [0, 1, 3] {
            let directory = tempfile::tempdir().unwrap();
            let server = open(&directory);
            assert!(begin(&server, more) > 1);
            drop(server);
            assert_whole(&open(&directory));
            assert_whole(&open(&directory));
        }
    }

    #[test]
    fn a_room_that_the_disk_had_no_room_for_is_finished_while_the_server_runs() {
        let directory = tempfile::tempdir().unwrap();
        let server = open(&directory);
        begin(&server, 2);
        let runtime = Runtime::new().unwrap();
        assert_eq!(runtime.block_on(sweep(&server)).unwrap(), 1);
        assert_whole(&server);
        assert_eq!(runtime.block_on(sweep(&server)).unwrap(), 0);
    }

    #[test]
    fn a_room_is_younger_than_any_moment_before_it_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("chappe.test");
        config.database_path = directory.path().join("data");
        let server = Server::open(config, Clock::System, Random::from_seed(1)).unwrap();
        let runtime = Runtime::new().unwrap();
        for _ in 0..3 {
            let before_ms = server.clock.now_ms();
            let room = NewRoom { alias: None, ..new_room() };
            let room_id = runtime.block_on(create::create(&server, &user("alice"), room)).unwrap();
            let snapshot = server.store.snapshot();
            let view = View::open(&server.rooms, &snapshot, &room_id).unwrap().unwrap();
            let events = view.state(view.current_state()).unwrap();
            assert!(events.len() > 3);
            for (_, event) in events {
                let at_ms = view.event(event).unwrap().origin_server_ts;
                assert!(at_ms > before_ms, "{at_ms} is not after {before_ms}");
            }
        }
    }

    #[test]
    fn a_room_that_was_made_has_nothing_left_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let server = open(&directory);
        Runtime::new().unwrap().block_on(create::create(&server, &user("alice"), new_room())).unwrap();
        assert_whole(&server);
    }
}
