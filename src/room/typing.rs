//! Who is typing, where. In memory only; what of it clients have yet to hear outlives an orderly end of the server.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Membership, View, visibility::not_in_room};
use crate::{
    Server, appservice,
    clock::Clock,
    ephemeral::Order,
    error::Result,
    federation::queue,
    store::{self, Family, Record, RoomNid, Store, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 1] = [TableInfo::of::<KeptTyping>()];

/// The longest that somebody counts as typing without saying so again. Source: our choice; clients ask for 30 seconds.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// How long somebody on another server counts as typing. Source: our choice, as Synapse has it.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often is looked who stopped, at least: an end may come that is sooner, or the clock be set. Source: our choice.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

/// How long a room in which nobody types any more is remembered, so that clients hear of the end. Source: our choice; a
/// phone may be without a network for a night.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Everybody who is typing.
pub struct Typing {
    order: Arc<Order>,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    rooms: HashMap<RoomNid, RoomState>,
    /// The same by the numbers of their last changes.
    by_change: BTreeMap<u64, RoomNid>,
    /// Those in which somebody types.
    busy: BTreeSet<RoomNid>,
    /// Of rooms that are not in `rooms` a client that has seen no more than this may believe anything.
    forgotten: u64,
    /// The next moment at which something ends by itself, in milliseconds since the Unix epoch.
    next_end_ms: u64,
    /// Who stopped by the clock, for application services and other servers.
    over: Vec<(RoomNid, OwnedUserId)>,
    /// Whether a task looks for ends.
    is_swept: bool,
}

#[derive(Default)]
struct RoomState {
    /// The number of the last change.
    changed: u64,
    changed_ms: u64,
    /// Until when each counts as typing, in milliseconds since the Unix epoch.
    users: BTreeMap<OwnedUserId, u64>,
}

/// The last changes in rooms at the end of the server, by which everybody has stopped. The next run of the server
/// removes it when it has read it; commands that open its database leave it.
struct KeptTyping;
impl Table for KeptTyping {
    const NAME: &'static str = "kept_typing";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 252;
    type Key<'a> = ();
    type Value = Kept;
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    forgotten: u64,
    /// `changed` and `changed_ms` of each room.
    rooms: Vec<(RoomNid, u64, u64)>,
}

impl Record for Kept {}

impl Kept {
    /// What the last run of the server has kept; `None` if that did not end in order.
    pub fn read(store: &Store) -> store::Result<Option<Self>> {
        store.snapshot().get::<KeptTyping>(&())
    }

    /// Removes it when this run has read it: should this one not end in order, the next must not take it for its own.
    pub async fn remove(store: &Store) {
        let remove = |tx: &mut Transaction<'_>| {
            tx.delete::<KeptTyping>(&());
            Ok::<_, store::Error>(())
        };
        // With a full disk it stays, and may count once more. By that clients miss what they would without it.
        if let Err(error) = store.commit_when_full(remove).await {
            warn!(?error, "who was typing in the last run can't be removed");
        }
    }
}

impl Typing {
    /// `kept`: by the last run of the server.
    pub fn new(order: &Arc<Order>, clock: &Clock, kept: Option<Kept>) -> Self {
        let start = order.newest();
        let Kept { forgotten, mut rooms } = kept.unwrap_or(Kept { forgotten: start, rooms: Vec::new() });
        rooms.sort_unstable_by_key(|(_, changed, _)| *changed);
        // Whatever the clock said: nothing changed in the future, nor later than what changed after it.
        let mut latest_ms = clock.now_ms();
        for (.., changed_ms) in rooms.iter_mut().rev() {
            latest_ms = latest_ms.min(*changed_ms);
            *changed_ms = latest_ms;
        }
        let mut state = State {
            rooms: HashMap::with_capacity(rooms.len()),
            by_change: BTreeMap::new(),
            busy: BTreeSet::new(),
            forgotten: forgotten.min(start),
            next_end_ms: u64::MAX,
            over: Vec::new(),
            is_swept: false,
        };
        for (room, changed, changed_ms) in rooms {
            // If the clock was set back, it would be newer than everything that clients see of this run.
            let changed = if changed < start { changed } else { order.next() };
            state.by_change.insert(changed, room);
            state.rooms.insert(room, RoomState { changed, changed_ms, users: BTreeMap::new() });
        }
        Self { order: Arc::clone(order), clock: clock.clone(), state: Mutex::new(state) }
    }

    /// Keeps what clients have yet to hear of, for the next run: at the end of this one, when nobody can type any more.
    pub async fn keep(&self, store: &Store) -> store::Result<()> {
        let kept = self.kept();
        let put = move |tx: &mut Transaction<'_>| {
            tx.put::<KeptTyping>(&(), &kept);
            Ok::<_, store::Error>(())
        };
        store.commit_when_full(put).await
    }

    fn kept(&self) -> Kept {
        let state = self.state.lock();
        let now_ms = self.clock.now_ms();
        let rooms = state.rooms.iter().map(|(room, typists)| {
            let is_over = typists.users.is_empty();
            let (changed, changed_ms) =
                if is_over { (typists.changed, typists.changed_ms) } else { (self.order.next(), now_ms) };
            (*room, changed, changed_ms)
        });
        Kept { forgotten: state.forgotten, rooms: rooms.collect() }
    }

    /// The rooms in which somebody began or stopped after `since`.
    pub fn changed_rooms(&self, since: u64) -> Vec<RoomNid> {
        let state = self.state.lock();
        state.by_change.range((Bound::Excluded(since), Bound::Unbounded)).map(|(_, room)| *room).collect()
    }

    /// Who is typing in `room`, if a client that has seen the changes up to `since` should be told.
    pub fn news(&self, room: RoomNid, since: Option<u64>) -> Option<Vec<OwnedUserId>> {
        let state = self.state.lock();
        let typists = |room: &RoomState| room.users.keys().cloned().collect::<Vec<_>>();
        match (state.rooms.get(&room), since) {
            (Some(room), None) => Some(typists(room)).filter(|users| !users.is_empty()),
            (Some(room), Some(since)) => (room.changed > since).then(|| typists(room)),
            (None, Some(since)) => (since < state.forgotten).then(Vec::new),
            (None, None) => None,
        }
    }

    /// `until_ms`: `None` ends it. Whether somebody began or stopped by that.
    fn set(&self, room: RoomNid, user: &UserId, until_ms: Option<u64>) -> bool {
        let mut state = self.state.lock();
        let has_changed = match until_ms {
            Some(until) => state.rooms.entry(room).or_default().users.insert(user.to_owned(), until).is_none(),
            None => state.rooms.get_mut(&room).is_some_and(|typists| typists.users.remove(user).is_some()),
        };
        if has_changed {
            state.note_change(room, self.order.next(), self.clock.now_ms());
        }
        state.next_end_ms = state.next_end_ms.min(until_ms.unwrap_or(u64::MAX));
        has_changed
    }

    /// Ends what is over by the clock; the rooms in which somebody stopped.
    pub fn expire(&self) -> Vec<RoomNid> {
        let mut state = self.state.lock();
        let now_ms = self.clock.now_ms();
        if state.next_end_ms == u64::MAX || !is_over(state.next_end_ms, now_ms) {
            return Vec::new();
        }
        let (mut ended, mut over) = (Vec::new(), Vec::new());
        let busy: Vec<RoomNid> = state.busy.iter().copied().collect();
        for room in &busy {
            let Some(typists) = state.rooms.get_mut(room) else { continue };
            let stopped: Vec<_> =
                typists.users.extract_if(.., |_, until| is_over(*until, now_ms)).map(|(user, _)| user).collect();
            if !stopped.is_empty() {
                ended.push(*room);
                over.extend(stopped.into_iter().map(|user| (*room, user)));
            }
        }
        for room in &ended {
            state.note_change(*room, self.order.next(), now_ms);
        }
        state.over.extend(over);
        state.forget(now_ms);
        ended
    }

    /// Who stopped by the clock since this was last asked.
    fn take_over(&self) -> Vec<(RoomNid, OwnedUserId)> {
        std::mem::take(&mut self.state.lock().over)
    }

    /// How long the sweep may wait. `None` ends it, as nobody types: the next who does starts it again.
    fn pause(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        state.is_swept = !state.busy.is_empty() || !state.over.is_empty();
        let left_ms = state.next_end_ms.saturating_sub(self.clock.now_ms()).saturating_add(1);
        state.is_swept.then_some(SWEPT_EVERY.min(Duration::from_millis(left_ms)))
    }
}

/// Whether an end has come. One further away than anybody may say was set before the clock was set back.
fn is_over(until_ms: u64, now_ms: u64) -> bool {
    let longest_ms = u64::try_from(MAX_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    until_ms <= now_ms || until_ms > now_ms.saturating_add(longest_ms)
}

impl State {
    fn note_change(&mut self, room: RoomNid, number: u64, now_ms: u64) {
        let typists = self.rooms.entry(room).or_default();
        self.by_change.remove(&typists.changed);
        (typists.changed, typists.changed_ms) = (number, now_ms);
        if typists.users.is_empty() {
            self.busy.remove(&room)
        } else {
            self.busy.insert(room)
        };
        self.by_change.insert(number, room);
    }

    /// Removes the rooms in which nobody has typed for long.
    fn forget(&mut self, now_ms: u64) {
        let remembered_ms = u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX);
        let is_old = |room: &RoomState| room.changed_ms.saturating_add(remembered_ms) < now_ms;
        // If the clock was set back, those of before would stay until it is that late again, and all later ones too.
        for room in self.by_change.values() {
            let Some(typists) = self.rooms.get_mut(room) else { continue };
            if typists.changed_ms <= now_ms && !self.busy.contains(room) {
                break;
            }
            typists.changed_ms = typists.changed_ms.min(now_ms);
        }
        let oldest = self.by_change.iter().map(|(changed, room)| (*changed, *room));
        let old: Vec<_> = oldest
            .take_while(|(_, room)| self.rooms.get(room).is_none_or(is_old))
            .filter(|(_, room)| !self.busy.contains(room))
            .collect();
        for (changed, room) in old {
            self.by_change.remove(&changed);
            self.rooms.remove(&room);
            self.forgotten = self.forgotten.max(changed);
        }
        let busy = self.busy.iter().filter_map(|room| self.rooms.get(room));
        let ends = busy.flat_map(|room| room.users.values().copied());
        self.next_end_ms = ends.min().unwrap_or(u64::MAX);
    }
}

/// A joined member types for the next `timeout`, or stopped if that is `None`. `M_FORBIDDEN` for others.
pub async fn set(server: &Arc<Server>, user: &UserId, room_id: &RoomId, timeout: Option<Duration>) -> Result<()> {
    let (member, room_id) = (user.to_owned(), room_id.to_owned());
    let find = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::open(&server.rooms, &snapshot, &room_id)?.ok_or_else(not_in_room)?;
        let membership = view.membership(view.current_state(), &member)?;
        if membership == Some(Membership::Join) { Ok(view.nid) } else { Err(not_in_room()) }
    };
    let room = server.blocking(find).await?;
    let timeout = timeout.map(|timeout| timeout.min(MAX_TIMEOUT));
    let until = |timeout: Duration| server.clock.now_ms() + u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let has_changed = server.typing.set(room, user, timeout.map(until));
    tell(server, room, has_changed);
    // Also who goes on: other servers take him to have stopped if they hear nothing more.
    tell_others(server, room, user.to_owned(), timeout.is_some()).await
}

async fn tell_others(server: &Arc<Server>, room: RoomNid, user: OwnedUserId, is_typing: bool) -> Result<()> {
    let whole = Arc::clone(server);
    server.blocking(move |_| Ok(queue::typing(&whole, room, &user, is_typing)?)).await
}

/// Another server says that a user of its, who is in the room, types or stopped.
pub fn set_remote(server: &Arc<Server>, room: RoomNid, user: &UserId, is_typing: bool) {
    let timeout_ms = u64::try_from(REMOTE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    let until_ms = is_typing.then(|| server.clock.now_ms().saturating_add(timeout_ms));
    let has_changed = server.typing.set(room, user, until_ms);
    tell(server, room, has_changed);
}

/// Tells members and application services if somebody began or stopped, and sees to it that somebody looks for the end.
fn tell(server: &Arc<Server>, room: RoomNid, has_changed: bool) {
    if has_changed {
        server.wakers.room(server, room);
        tell_services(server, room);
    }
    if !std::mem::replace(&mut server.typing.state.lock().is_swept, true) {
        tokio::spawn(sweep(Arc::downgrade(server)));
    }
}

/// Tells application services who types in a room now.
fn tell_services(server: &Server, room: RoomNid) {
    let typists = server.typing.news(room, Some(0)).unwrap_or_default();
    if let Err(error) = appservice::ephemeral::typing(server, room, &typists) {
        warn!(?error, "application services can't be told who types");
    }
}

/// Tells of those who stopped by the clock, as long as anybody types.
async fn sweep(server: Weak<Server>) {
    while let Some(pause) = server.upgrade().and_then(|server| server.typing.pause()) {
        tokio::time::sleep(pause).await;
        let Some(server) = server.upgrade() else { return };
        expire(&server).await;
    }
}

/// Tells the members of rooms, application services and other servers that somebody's time is up.
pub async fn expire(server: &Arc<Server>) {
    for room in server.typing.expire() {
        server.wakers.room(server, room);
    }
    let over = server.typing.take_over(); // of rooms too whose end an answer to a client found first
    let rooms: BTreeSet<_> = over.iter().map(|(room, _)| *room).collect();
    for room in rooms {
        tell_services(server, room);
    }
    for (room, user) in over.into_iter().filter(|(_, user)| server.is_ours(user)) {
        if let Err(error) = tell_others(server, room, user, false).await {
            error!("other servers are not told that somebody stopped typing: {error:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::user_id;

    use super::*;
    use crate::room::testing::{TestRoom, user};

    const ROOM: RoomNid = RoomNid(1);

    fn typing() -> (Typing, Clock) {
        let clock = Clock::manual(1_000_000);
        (Typing::new(&Arc::new(Order::new(&clock)), &clock, None), clock)
    }

    #[test]
    fn the_end_of_typing_is_news_too() {
        let (typing, clock) = typing();
        let alice = user_id!("@alice:x");
        let start = typing.order.newest();
        assert_eq!(typing.news(ROOM, Some(start)), None);
        assert!(typing.set(ROOM, alice, Some(clock.now_ms() + 30_000)));
        assert_eq!(typing.news(ROOM, Some(start)).unwrap(), [alice]);
        assert_eq!(typing.news(ROOM, None).unwrap(), [alice]);
        let seen = typing.order.newest();
        assert!(!typing.changed_rooms(seen).contains(&ROOM));
        assert!(!typing.set(ROOM, alice, Some(clock.now_ms() + 60_000)));
        assert!(!typing.changed_rooms(seen).contains(&ROOM), "she went on");
        clock.advance(Duration::from_secs(30));
        assert!(typing.expire().is_empty());
        clock.advance(Duration::from_secs(30));
        assert_eq!(typing.expire(), [ROOM]);
        assert_eq!(typing.take_over(), [(ROOM, alice.to_owned())]);
        assert!(typing.changed_rooms(seen).contains(&ROOM));
        assert!(typing.news(ROOM, Some(seen)).unwrap().is_empty());
        assert_eq!(typing.news(ROOM, None), None);
        assert!(!typing.set(ROOM, alice, None));
    }

    #[test]
    fn who_says_again_that_he_types_wakes_nobody_and_makes_no_other_task() {
        let room = TestRoom::new();
        let bob = user_id!("@bob:b.test");
        room.receive_member(bob, "join");
        let tasks = || Arc::weak_count(&room.server);
        let before = tasks();
        room.block_on(async {
            let mut news = room.server.wakers.subscribe(&room.server, &user("alice"));
            set_remote(&room.server, room.nid, bob, true);
            news.changed().now_or_never().expect("she is woken");
            for _ in 0..100 {
                set_remote(&room.server, room.nid, bob, true);
            }
            assert!(news.changed().now_or_never().is_none(), "she knows");
            assert_eq!(tasks(), before + 1);
            set_remote(&room.server, room.nid, bob, false);
            news.changed().now_or_never().expect("he stopped");
        });
    }

    #[test]
    fn ends_are_looked_for_as_long_as_anybody_types() {
        let (typing, clock) = typing();
        let alice = user_id!("@alice:x");
        assert_eq!(typing.pause(), None);
        typing.set(ROOM, alice, Some(clock.now_ms() + 30_000));
        assert_eq!(typing.pause(), Some(SWEPT_EVERY));
        clock.advance(Duration::from_millis(29_500));
        assert_eq!(typing.pause(), Some(Duration::from_millis(501)));
        clock.set_back(Duration::from_secs(600));
        assert_eq!(typing.expire(), [ROOM], "else she would type until it is that late again");
        assert!(typing.pause().is_some(), "other servers are not told yet");
        assert_eq!(typing.take_over(), [(ROOM, alice.to_owned())]);
        assert_eq!(typing.pause(), None);
    }

    #[test]
    fn whoever_saw_typing_before_a_restart_is_told_that_it_ended() {
        let (before, clock) = typing();
        before.set(ROOM, user_id!("@alice:x"), Some(u64::MAX));
        let seen = before.order.newest();
        clock.advance(Duration::from_millis(1));
        let after = Typing::new(&Arc::new(Order::new(&clock)), &clock, None);
        assert!(after.order.newest() > seen);
        assert!(after.news(ROOM, Some(seen)).unwrap().is_empty());
        assert_eq!(after.news(ROOM, Some(after.order.newest())), None);
    }

    #[test]
    fn an_orderly_end_is_an_end_of_typing_where_somebody_did() {
        const OTHER: RoomNid = RoomNid(2);
        let (before, clock) = typing();
        let (alice, start) = (user_id!("@alice:x"), before.order.newest());
        before.set(OTHER, alice, Some(u64::MAX));
        before.set(OTHER, alice, None);
        let seen_other = before.order.newest();
        before.set(ROOM, alice, Some(u64::MAX));
        let seen = before.order.newest();
        clock.advance(Duration::from_secs(1));
        let after = Typing::new(&Arc::new(Order::new(&clock)), &clock, Some(before.kept()));
        assert_eq!(after.changed_rooms(seen), [ROOM]);
        assert!(after.news(ROOM, Some(seen)).unwrap().is_empty());
        assert_eq!(after.news(RoomNid(3), Some(start)), None, "nobody did there");
        assert_eq!(after.changed_rooms(start), [OTHER, ROOM], "who was away longer");
        assert_eq!(after.changed_rooms(seen_other), [ROOM]);
        assert!(after.changed_rooms(after.order.newest()).is_empty());
        clock.advance(REMEMBERED);
        after.set(ROOM, alice, Some(clock.now_ms()));
        after.expire();
        assert_eq!(after.changed_rooms(start), [ROOM]);

        let early = Clock::manual(1_000);
        let set_back = Typing::new(&Arc::new(Order::new(&early)), &early, Some(before.kept()));
        assert!(set_back.changed_rooms(set_back.order.newest()).is_empty());
        assert_eq!(set_back.changed_rooms(0), [OTHER, ROOM], "as they changed");
    }

    #[test]
    fn what_is_kept_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&store::Options::for_tests(directory.path())).unwrap();
        let (typing, clock) = typing();
        typing.set(ROOM, user_id!("@alice:x"), Some(u64::MAX));
        let seen = typing.order.newest();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(typing.keep(&store)).unwrap();
        clock.advance(Duration::from_secs(1));
        for reader in ["a command", "the server"] {
            let kept = Kept::read(&store).unwrap();
            let after = Typing::new(&Arc::new(Order::new(&clock)), &clock, kept);
            assert_eq!(after.changed_rooms(seen), [ROOM], "{reader}");
        }
        runtime.block_on(Kept::remove(&store));
        assert!(Kept::read(&store).unwrap().is_none());
    }

    #[test]
    fn quiet_rooms_are_forgotten() {
        const BUSY: RoomNid = RoomNid(3);
        let (typing, clock) = typing();
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        typing.set(BUSY, bob, Some(clock.now_ms() + 60_000));
        typing.set(ROOM, alice, Some(clock.now_ms() + 1));
        clock.advance(Duration::from_secs(1));
        typing.expire();
        clock.advance(REMEMBERED);
        typing.set(BUSY, bob, Some(clock.now_ms() + 60_000));
        typing.set(RoomNid(2), bob, Some(clock.now_ms()));
        clock.advance(Duration::from_secs(1));
        let seen = typing.order.newest();
        typing.expire();
        assert!(!typing.state.lock().rooms.contains_key(&ROOM));
        assert_eq!(typing.news(ROOM, Some(seen)), None);
        assert!(typing.state.lock().rooms.contains_key(&BUSY), "he went on all the time");
    }

    #[test]
    fn rooms_of_before_the_clock_was_set_back_are_forgotten_too() {
        const BUSY: RoomNid = RoomNid(2);
        const OTHER: RoomNid = RoomNid(3);
        const LAST: RoomNid = RoomNid(4);
        let (typing, clock) = typing();
        let alice = user_id!("@alice:x");
        let go_on = |room| typing.set(room, alice, Some(clock.now_ms() + 60_000));
        go_on(BUSY);
        clock.advance(Duration::from_secs(600));
        go_on(ROOM);
        typing.set(ROOM, alice, None);
        clock.set_back(Duration::from_secs(300));
        let after = Typing::new(&Arc::new(Order::new(&clock)), &clock, Some(typing.kept()));
        go_on(BUSY);
        typing.set(OTHER, alice, Some(clock.now_ms()));
        typing.expire();
        clock.advance(REMEMBERED + Duration::from_secs(1));
        go_on(BUSY);
        for typing in [&typing, &after] {
            typing.set(LAST, alice, Some(clock.now_ms()));
            typing.expire();
            assert!(!typing.state.lock().rooms.contains_key(&ROOM));
        }
        assert!(typing.state.lock().rooms.contains_key(&BUSY));
    }
}
