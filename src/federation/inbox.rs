//! Events that other servers send: looked at, kept, acknowledged, then worked on room by room, each room in order and
//! several at a time. What was acknowledged survives a restart.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{
    ID_MAX_BYTES, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::{error::ErrorKind, federation::transactions::send_transaction_message::v1::Request},
    room_version_rules::RoomVersionRules,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tracing::{debug, error, info};

use super::{
    keys,
    missing::{self, Asker},
    turns::Turns,
    waiting::Waiting,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{FormatError, Received, Verified, format},
    room::{
        Membership, View, acl, ends, invited, outliers,
        tables::{RoomIds, UserRooms},
        view::membership_in,
    },
    store::{Family, Record, RoomNid, Row, Scan, Snapshot, StreamPos, Table, TableInfo, Transaction},
    sweep,
};

pub const TABLES: [TableInfo; 2] = [TableInfo::of::<Staged>(), TableInfo::of::<ReceivedTransactions>()];

/// The most events and ephemeral messages in one transaction.
/// <https://spec.matrix.org/v1.19/server-server-api/#transactions>
pub const MAX_PDUS: usize = 50;
pub const MAX_EDUS: usize = 100;

/// To how many rooms events are added at a time.
const ROOMS_AT_A_TIME: usize = 8;

/// For how many rooms servers are asked at a time what is missing there, and for how many one of them is: one that
/// answers slowly holds up what it sent, and no room that lacks nothing. Source: our choice.
const ASKING_AT_A_TIME: usize = 32;
const ASKED_AT_A_TIME: usize = 8;

/// How long an event waits for its turn to ask before it is put behind the others of its room.
const TURN: Duration = Duration::from_secs(5);

/// How long a transaction waits for joins that are under way before its server is asked to send it later. Source: our choice,
/// half of what a Chappe waits for an answer.
const JOINING: Duration = Duration::from_secs(15);

/// How many events of a room are read at once, and from how many bytes of them on no more: they are in memory while servers
/// are asked what is missing before them, in all rooms at once.
const BATCH: usize = 50;
const BATCH_BYTES: usize = 128 << 10;

/// The most characters of what is answered to an event that is malformed: a reason may name a key of it.
const MAX_REASON: usize = 200;

/// How often an event is tried that fails for a reason of our own, and how long is waited in between.
const MAX_TRIES: u32 = 3;
const RETRY: Duration = Duration::from_secs(5);

/// How long it is remembered that a transaction was received, in milliseconds: longer than any server repeats one.
pub const TRANSACTIONS_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Of how many transactions of each server that is remembered: it waits for an answer before it sends another one. Source:
/// our choice.
pub const TRANSACTIONS_KEPT: usize = 8;

/// Of how many servers that is known without a look into the database.
const SERVERS_REMEMBERED: usize = 10_000;

/// Events that were acknowledged and are not part of their rooms yet, in the order in which they came.
pub struct Staged;
impl Table for Staged {
    const NAME: &'static str = "staged_events";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 120;
    /// When it came, and its place among those that came with it.
    type Key<'a> = (RoomNid, StreamPos, u32);
    type Value = StagedEvent;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StagedEvent {
    /// Who sent it to us.
    pub origin: OwnedServerName,
    /// The event as it was verified.
    pub json: String,
}

impl Record for StagedEvent {}

/// The transactions that other servers sent, and what they were answered: a repeated one is answered with the same.
/// The last few of each server; old ones are removed by the sweep.
pub struct ReceivedTransactions;
impl Table for ReceivedTransactions {
    const NAME: &'static str = "received_transactions";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 120;
    /// Who sent it, and its id.
    type Key<'a> = (&'a str, &'a str);
    type Value = ReceivedTransaction;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceivedTransaction {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// By event: why it was refused; empty if it was not.
    pub answer: Vec<(OwnedEventId, String)>,
}

impl Record for ReceivedTransaction {}

/// What of all this is in memory.
pub struct Inbox {
    /// Rooms that are being joined, or into which nobody may come for a moment.
    pub joins: Turns<OwnedRoomId>,
    /// Rooms whose past is being fetched.
    pub backfills: Turns<RoomNid>,
    /// Gaps that could not be filled, and when that was found, in milliseconds since the Unix epoch.
    pub unfilled: Mutex<HashMap<(RoomNid, i64), u64>>,
    transactions: Turns<OwnedServerName>,
    at_work: Mutex<HashSet<RoomNid>>,
    /// Up to where nothing is left of what came for a room: RocksDB would step over the marks that it left.
    done: Mutex<HashMap<RoomNid, StreamPos>>,
    /// Who adds events to a room.
    pub permits: Semaphore,
    /// Who waits for what is missing in a room, of all servers and of one.
    pub asking: Semaphore,
    pub asked: Turns<OwnedServerName>,
    waiting: Waiting,
    /// Which transactions of each server are remembered, the oldest first; those of before the start are removed by age.
    remembered: Mutex<HashMap<OwnedServerName, VecDeque<String>>>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            joins: Turns::default(),
            backfills: Turns::default(),
            unfilled: Mutex::default(),
            transactions: Turns::default(),
            at_work: Mutex::default(),
            done: Mutex::default(),
            permits: Semaphore::new(ROOMS_AT_A_TIME),
            asking: Semaphore::new(ASKING_AT_A_TIME),
            asked: Turns::new(ASKED_AT_A_TIME),
            waiting: Waiting::default(),
            remembered: Mutex::default(),
        }
    }
}

impl Inbox {
    /// Which transaction of a server need not be remembered any more beside this one.
    fn outdated(&self, origin: &ServerName, txn_id: &str) -> Option<String> {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= SERVERS_REMEMBERED && !remembered.contains_key(origin) {
            remembered.clear();
        }
        let of_origin = remembered.entry(origin.to_owned()).or_default();
        of_origin.retain(|known| known != txn_id);
        of_origin.push_back(txn_id.to_owned());
        if of_origin.len() > TRANSACTIONS_KEPT { of_origin.pop_front() } else { None }
    }

    /// How many events wait to be worked on.
    pub fn waiting(&self) -> usize {
        self.waiting.all()
    }
}

/// What became of each event: why it was refused, if it was.
pub type Answer = BTreeMap<OwnedEventId, Result<(), String>>;

/// Takes the events of a transaction; they are durable when it returns. An event that is not one, or not of a room that
/// we are in, is refused by itself. Those of a room that is being joined wait until we are in it.
///
/// Errors: `M_LIMIT_EXCEEDED` while too much waits to be worked on, of that server or of all.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid>
pub async fn receive(
    server: &Arc<Server>,
    origin: &ServerName,
    txn_id: &str,
    pdus: Vec<Box<RawValue>>,
) -> Result<Answer> {
    until_joined(server, &pdus).await?;
    let (server, origin, txn_id) = (Arc::clone(server), origin.to_owned(), txn_id.to_owned());
    // Not detached yet: what waits counts as the memory of its request, and goes with it if the server hangs up.
    let turn = server.inbox.transactions.take(origin.clone()).await;
    Server::detached(async move {
        let _turn = turn;
        let key = (origin.clone(), txn_id.clone());
        let look = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let (origin, txn_id) = key;
            if let Some(known) = snapshot.get::<ReceivedTransactions>(&(origin.as_str(), &txn_id))? {
                return Ok(Looked::Known(known));
            }
            if !server.inbox.waiting.has_room_for(&origin, pdus.len()) {
                return Err(Error::limit_exceeded(Duration::from_secs(30)));
            }
            triage(server, &snapshot, &origin, pdus).map(Looked::New)
        };
        let Triaged { accepted, mut answer } = match server.blocking(look).await? {
            Looked::New(triaged) => triaged,
            Looked::Known(known) => {
                // It may have been written a moment ago and not be durable yet.
                server.store.commit(|_| Ok::<_, Error>(())).await?;
                let outcome = |why: String| if why.is_empty() { Ok(()) } else { Err(why) };
                return Ok(known.answer.into_iter().map(|(id, why)| (id, outcome(why))).collect());
            }
        };
        let mut staged = Vec::new();
        for (room, OfRoom { rules, events }) in accepted {
            let ids: Vec<_> = events.iter().map(|event| event.pdu().event_id.clone()).collect();
            let events = events.into_iter().map(Ok).collect();
            for (id, verified) in std::iter::zip(ids, keys::verify_received(&server, rules, events).await?) {
                let outcome = match verified {
                    Ok(event) => {
                        staged.push((room.clone(), event));
                        Ok(())
                    }
                    Err(why) => Err(why.to_string()),
                };
                answer.insert(id, outcome);
            }
        }
        let mut kept = Vec::new();
        for (room, event) in staged {
            match room {
                Room::Resident(room) => kept.push((room, event)),
                Room::Awaited(room, user) => end_of_wait(&server, room, user, event).await?,
            }
        }
        stage(&server, origin, txn_id, kept, &answer).await?;
        Ok(answer)
    })
    .await
}

/// Waits for the joins that are under way of rooms of these events: whoever let us in sends what happens next only once,
/// be it that he who joins was kicked.
async fn until_joined(server: &Arc<Server>, pdus: &[Box<RawValue>]) -> Result<()> {
    let taken = server.inbox.joins.taken();
    if taken.is_empty() {
        return Ok(());
    }
    let named = pdus.iter().filter_map(|pdu| serde_json::from_str::<Named>(pdu.get()).ok());
    let joined: HashSet<_> = named.map(|named| named.room_id).filter(|room_id| taken.contains(room_id)).collect();
    if joined.is_empty() {
        return Ok(());
    }
    let look = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut awaited = Vec::new();
        for room_id in joined {
            let view = View::open(&server.rooms, &snapshot, &room_id)?;
            if !view.map_or(Ok(false), |view| view.is_resident())? {
                awaited.push(room_id);
            }
        }
        Ok(awaited)
    };
    let awaited = server.blocking(look).await?;
    let until_done = async {
        for room_id in awaited {
            drop(server.inbox.joins.take(room_id).await);
        }
    };
    tokio::time::timeout(JOINING, until_done).await.map_err(|_| Error::limit_exceeded(JOINING))
}

/// Keeps the events, and that the transaction was received, unless none of it needs an answer.
async fn stage(
    server: &Arc<Server>,
    origin: OwnedServerName,
    txn_id: String,
    events: Vec<(RoomNid, Verified)>,
    answer: &Answer,
) -> Result<()> {
    if answer.is_empty() {
        return Ok(());
    }
    let outdated = server.inbox.outdated(&origin, &txn_id);
    let mut rooms: HashMap<RoomNid, usize> = HashMap::new();
    events.iter().for_each(|(room, _)| *rooms.entry(*room).or_default() += 1);
    let sender = origin.clone();
    let answer = answer.iter().map(|(id, outcome)| (id.clone(), outcome.clone().err().unwrap_or_default())).collect();
    let transaction = ReceivedTransaction { at_ms: server.clock.now_ms(), answer };
    let write = move |tx: &mut Transaction<'_>| {
        for (number, (room, event)) in (0u32..).zip(events) {
            let json = serde_json::to_string(event.json()).map_err(Error::internal)?;
            tx.put::<Staged>(&(room, tx.pos(), number), &StagedEvent { origin: origin.clone(), json });
        }
        if let Some(outdated) = outdated {
            tx.delete::<ReceivedTransactions>(&(origin.as_str(), &outdated));
        }
        tx.put::<ReceivedTransactions>(&(origin.as_str(), &txn_id), &transaction);
        Ok::<_, Error>(())
    };
    // Counted first: somebody may be at work in the room, and be done with them before this goes on.
    rooms.iter().for_each(|(room, count)| server.inbox.waiting.add(&sender, *room, *count));
    let written = server.store.commit(write).await;
    for (room, count) in rooms {
        match &written {
            Ok(()) => work(server, room),
            Err(_) => server.inbox.waiting.remove(&sender, room, count),
        }
    }
    written
}

/// Where an event goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Room {
    /// A room that we are in.
    Resident(RoomNid),
    /// One that this user of ours is invited to, or knocks on, which is all that we have to do with it.
    Awaited(RoomNid, OwnedUserId),
}

/// What came for one room.
struct OfRoom {
    rules: &'static RoomVersionRules,
    events: Vec<Received>,
}

/// A transaction, at first sight.
enum Looked {
    /// It was received before.
    Known(ReceivedTransaction),
    New(Triaged),
}

struct Triaged {
    /// By room, what may be part of it if its signatures are right.
    accepted: Vec<(Room, OfRoom)>,
    answer: Answer,
}

/// Of an event, the room that it is of.
#[derive(Deserialize)]
struct Named {
    room_id: OwnedRoomId,
}

/// Sorts events by what can be said of them without asking anybody.
fn triage(server: &Server, snapshot: &Snapshot<'_>, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Result<Triaged> {
    let mut by_room: HashMap<Room, OfRoom> = HashMap::new();
    let mut order = Vec::new();
    let mut answer = Answer::new();
    for pdu in pdus {
        // Of what room an event is that does not say so nobody knows, and so not what its id is.
        let Ok(Named { room_id }) = serde_json::from_str(pdu.get()) else { continue };
        let Some(nid) = snapshot.get::<RoomIds>(&&*room_id)? else { continue };
        let view = View::of(&server.rooms, snapshot, nid)?;
        let received = match format::parse(pdu.get().as_bytes(), view.rules) {
            Ok(received) => received,
            Err(error) => {
                debug!(%room_id, %origin, "an event that came in is none: {error}");
                let id = format::id_of_refused(pdu.get().as_bytes(), view.rules);
                answer.extend(id.map(|id| (id, Err(why_none(&error)))));
                continue;
            }
        };
        match room_for(server, &view, origin, &received)? {
            Ok(room) => {
                let entry = by_room.entry(room.clone()).or_insert_with(|| {
                    order.push(room);
                    OfRoom { rules: view.rules, events: Vec::new() }
                });
                // The others of the transaction need not wait for a room that is flooded. What is left out is
                // asked for as missing once something that follows on it comes.
                if !server.inbox.waiting.has_room_in(nid, entry.events.len()) {
                    let why = "Too many events of this room wait to be worked on".to_owned();
                    answer.insert(received.pdu().event_id.clone(), Err(why));
                    continue;
                }
                entry.events.push(received);
            }
            Err(why) => {
                answer.insert(received.pdu().event_id.clone(), Err(why.to_owned()));
            }
        }
    }
    let accepted = order.into_iter().filter_map(|room| by_room.remove_entry(&room));
    Ok(Triaged { accepted: accepted.collect(), answer })
}

/// Why something is no event, in so many words that the answer can be kept.
fn why_none(error: &FormatError) -> String {
    error.to_string().chars().take(MAX_REASON).collect()
}

/// Where an event goes, or why nowhere.
fn room_for(
    server: &Server,
    view: &View<'_>,
    origin: &ServerName,
    event: &Received,
) -> Result<Result<Room, &'static str>> {
    if view.is_resident()? {
        return Ok(match acl::allows(view, origin)? {
            true => Ok(Room::Resident(view.nid)),
            false => Err("Your server is not allowed to take part in this room"),
        });
    }
    let pdu = event.pdu();
    let user = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let refused = Ok(Err("This server is not in that room"));
    let Some(user) = user.filter(|user| server.is_ours(user) && pdu.r#type == "m.room.member") else {
        return refused;
    };
    let Some(Membership::Leave | Membership::Ban) = membership_in(pdu.content.get()) else { return refused };
    let Some(row) = view.snapshot.get::<UserRooms>(&(&user, view.nid))? else { return refused };
    // Whether the sender may do that we can't know without the room's state, so only who invited is believed, and
    // of a knock the server that refuses it itself. What ended an earlier invite or knock does not end this one.
    let member = view.event(row.event)?;
    let is_believed = match row.membership {
        Membership::Invite => member.sender == pdu.sender,
        Membership::Knock => origin == pdu.sender.server_name(),
        Membership::Join | Membership::Leave | Membership::Ban => false,
    };
    if !is_believed || pdu.sender == user || !pdu.auth_events.contains(&member.event_id) {
        return refused;
    }
    Ok(Ok(Room::Awaited(view.nid, user)))
}

/// An invite was withdrawn, or a knock refused.
async fn end_of_wait(server: &Arc<Server>, room: RoomNid, user: OwnedUserId, event: Verified) -> Result<()> {
    let to = membership_in(event.pdu().content.get()).unwrap_or(Membership::Leave);
    invited::set(server, room, user, to, event, None).await?;
    Ok(())
}

/// Goes on with what was not finished before a restart.
pub async fn resume(server: Arc<Server>) {
    let waiting = server.read(|snapshot| {
        let mut waiting: HashMap<(RoomNid, OwnedServerName), usize> = HashMap::new();
        for row in snapshot.list::<Staged>(&()) {
            let row = row?;
            *waiting.entry((row.key()?.0, row.value.origin.clone())).or_default() += 1;
        }
        Ok(waiting)
    });
    match waiting.await {
        Ok(waiting) => {
            for ((room, origin), count) in waiting {
                server.inbox.waiting.add(&origin, room, count);
                work(&server, room);
            }
        }
        Err(error) => error!("the events that wait to be worked on can't be read: {error:?}"),
    }
}

/// Sees to it that somebody works on what waits for `room`.
fn work(server: &Arc<Server>, room: RoomNid) {
    if server.inbox.at_work.lock().insert(room) {
        tokio::spawn(work_on(Arc::clone(server), room));
    }
}

/// What the work on a room has cost since it began.
#[derive(Default)]
struct Effort {
    /// How often an event failed for a reason of our own.
    tries: HashMap<(StreamPos, u32), u32>,
    /// For how much longer a server that sent events may keep the room waiting for what is before them.
    patience: HashMap<OwnedServerName, Duration>,
}

async fn work_on(server: Arc<Server>, room: RoomNid) {
    let mut effort = Effort::default();
    while !server.shutdown.is_cancelled() {
        match work_once(&server, room, &mut effort).await {
            Ok(true) if server.inbox.waiting.is_any_in(room) => continue,
            Ok(_) => {
                server.inbox.at_work.lock().remove(&room);
                // Something may have come between the last look and now, and have found somebody at work. What is
                // counted and not written yet finds nobody.
                if !server.inbox.waiting.is_any_in(room) {
                    return;
                }
                match next(&server, room).await {
                    Ok(Some(_)) if server.inbox.at_work.lock().insert(room) => continue,
                    _ => return,
                }
            }
            Err(error) => error!(room = room.0, "events that came in can't be worked on: {error:?}"),
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// What is to be worked on next in a room.
struct Batch {
    room_id: OwnedRoomId,
    rules: &'static RoomVersionRules,
    rows: Vec<Row<Staged>>,
}

/// `None` if there is nothing.
async fn next(server: &Arc<Server>, room: RoomNid) -> Result<Option<Batch>> {
    let read = move |server: &Server| {
        let done = server.inbox.done.lock().get(&room).copied().unwrap_or_default();
        let snapshot = server.store.snapshot();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in snapshot.scan::<Staged>(Scan::from::<Staged>(&(room, done), &room)).take(BATCH) {
            let row = row?;
            bytes += row.value.json.len();
            rows.push(row);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let view = View::of(&server.rooms, &snapshot, room)?;
        Ok(Some(Batch { room_id: view.room_id().to_owned(), rules: view.rules, rows }))
    };
    server.blocking(read).await
}

/// Works on the next events of a room; whether there were any.
async fn work_once(server: &Arc<Server>, room: RoomNid, effort: &mut Effort) -> Result<bool> {
    let Some(Batch { room_id, rules, rows }) = next(server, room).await? else { return Ok(false) };
    let last = rows.last().map(|row| row.key().map(|(_, pos, _)| pos)).transpose()?.unwrap_or_default();
    let mut places = HashMap::new();
    let mut events = Vec::with_capacity(rows.len());
    let mut done = Vec::new();
    for row in rows {
        let (_, pos, number) = row.key()?;
        match Verified::kept(row.value.json.as_bytes(), rules) {
            Ok(event) if !places.contains_key(&event.pdu().event_id) => {
                places.insert(event.pdu().event_id.clone(), ((pos, number), row.value.origin.clone()));
                events.push(event);
            }
            _ => done.push(((pos, number), row.value.origin)),
        }
    }
    remove(server, room, done).await?;
    let mut without_turn: HashMap<OwnedServerName, Vec<(StreamPos, u32)>> = HashMap::new();
    for event in outliers::in_order(events, |pdu| &pdu.prev_events) {
        let id = event.pdu().event_id.clone();
        let Some((place, origin)) = places.remove(&id) else { continue };
        let asker = Asker::new(server, room, room_id.clone(), rules, origin.clone());
        let patience = effort.patience.entry(origin.clone()).or_insert(missing::PATIENCE);
        let turn = if without_turn.contains_key(&origin) { Duration::ZERO } else { TURN };
        match missing::receive(&asker, event, turn, patience).await {
            Ok(true) => {}
            Ok(false) => {
                without_turn.entry(origin).or_default().push(place);
                continue;
            }
            Err(error @ Error::Internal(_)) => {
                let tried = effort.tries.entry(place).or_default();
                *tried += 1;
                if *tried < MAX_TRIES {
                    return Err(error);
                }
                error!(%id, %origin, "an event is given up: {error:?}");
            }
            Err(error) => info!(%id, %origin, "an event can't be part of its room: {error:?}"),
        }
        effort.tries.remove(&place);
        remove(server, room, vec![(place, origin)]).await?;
    }
    remove(server, room, places.into_values().collect()).await?; // events that go round in circles
    put_behind(server, room, without_turn.into_values().flatten().collect()).await?;
    server.inbox.done.lock().insert(room, last); // of what came with the last one, more may be left
    ends::merge(server, room).await?;
    Ok(true)
}

/// Removes rows, by their places and who sent them.
async fn remove(server: &Arc<Server>, room: RoomNid, rows: Vec<((StreamPos, u32), OwnedServerName)>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let (places, origins): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let delete = move |tx: &mut Transaction<'_>| {
        places.iter().for_each(|(pos, number)| tx.delete::<Staged>(&(room, *pos, *number)));
        Ok::<_, Error>(())
    };
    server.store.write(delete).await?;
    origins.iter().for_each(|origin| server.inbox.waiting.remove(origin, room, 1));
    Ok(())
}

/// Puts rows behind all others of their room.
async fn put_behind(server: &Arc<Server>, room: RoomNid, mut places: Vec<(StreamPos, u32)>) -> Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    places.sort_unstable();
    let write = move |tx: &mut Transaction<'_>| {
        for (number, (pos, before)) in (0u32..).zip(places) {
            if let Some(row) = tx.get::<Staged>(&(room, pos, before))? {
                tx.delete::<Staged>(&(room, pos, before));
                tx.put::<Staged>(&(room, tx.pos(), number), &row);
            }
        }
        Ok::<_, Error>(())
    };
    server.store.write(write).await?;
    Ok(())
}

/// Removes what is remembered of old transactions; how many.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let oldest = server.clock.now_ms().saturating_sub(TRANSACTIONS_KEPT_MS);
    let is_old = move |received: &ReceivedTransaction| received.at_ms < oldest;
    sweep::rows::<ReceivedTransactions>(server, is_old, |tx, row| {
        tx.delete::<ReceivedTransactions>(&row.key()?);
        Ok(())
    })
    .await
}

/// Refuses a transaction as a whole that is larger than the specification lets it be, has an id that is too long to keep, or
/// is of another server than says so.
pub fn check_size(origin: &ServerName, transaction: &Request) -> Result<()> {
    if transaction.origin != origin {
        return Err(Error::forbidden("The transaction is of another server than sent it"));
    }
    if transaction.transaction_id.as_str().len() > ID_MAX_BYTES {
        return Err(Error::invalid_param(format!("A transaction id may have {ID_MAX_BYTES} bytes at most")));
    }
    if transaction.pdus.len() > MAX_PDUS || transaction.edus.len() > MAX_EDUS {
        let message = format!("A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs");
        return Err(Error::refused(ErrorKind::TooLarge, message).with_status(http::StatusCode::BAD_REQUEST));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::server_name;

    use super::*;
    use crate::{clock::Clock, config::Config, random::Random};

    #[tokio::test]
    async fn what_waits_for_its_turn_goes_when_its_sender_hangs_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("here");
        directory.path().clone_into(&mut config.database_path);
        let open = || Server::open(config, Clock::manual(0), Random::from_seed(0)).unwrap();
        let server = tokio::task::spawn_blocking(open).await.unwrap();
        let origin = server_name!("there");
        let first = server.inbox.transactions.take(origin.to_owned()).await;
        let mut second = Box::pin(receive(&server, origin, "2", Vec::new()));
        assert!(futures_util::poll!(&mut second).is_pending());
        tokio::task::yield_now().await; // by now also what it had spawned would wait
        drop(second);
        drop(first);
        assert!(server.inbox.transactions.take(origin.to_owned()).now_or_never().is_some());
    }
}
