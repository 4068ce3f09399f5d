//! Who is typing, where. In memory only.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, RoomId, UserId};
use tracing::{error, warn};

use super::{Membership, View, visibility::not_in_room};
use crate::{Server, appservice, clock::Clock, ephemeral::Order, error::Result, federation::queue, store::RoomNid};

/// The longest that somebody counts as typing without saying so again. Source: our choice; clients ask for 30 seconds.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// How long somebody on another server counts as typing. Source: our choice, as Synapse has it.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a room in which nobody types any more is remembered, so that clients hear of the end.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Everybody who is typing.
pub struct Typing {
    order: Arc<Order>,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    rooms: HashMap<RoomNid, RoomState>,
    /// Of rooms that are not in `rooms` a client that has seen no more than this may believe anything.
    forgotten: u64,
    /// The next moment at which something ends by itself, in milliseconds since the Unix epoch.
    next_end_ms: u64,
    /// Who stopped by the clock, for application services and other servers. Whoever began has a task that takes it.
    over: Vec<(RoomNid, OwnedUserId)>,
}

#[derive(Default)]
struct RoomState {
    /// The number of the last change.
    changed: u64,
    changed_ms: u64,
    /// Until when each counts as typing, in milliseconds since the Unix epoch.
    users: BTreeMap<OwnedUserId, u64>,
}

impl Typing {
    pub fn new(order: &Arc<Order>, clock: &Clock) -> Self {
        let state = State { rooms: HashMap::new(), forgotten: order.newest(), next_end_ms: u64::MAX, over: Vec::new() };
        Self { order: Arc::clone(order), clock: clock.clone(), state: Mutex::new(state) }
    }

    /// The rooms in which somebody began or stopped after `since`.
    pub fn changed_rooms(&self, since: u64) -> Vec<RoomNid> {
        let state = self.state.lock();
        let changed = state.rooms.iter().filter(|(_, state)| state.changed > since);
        changed.map(|(room, _)| *room).collect()
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

    /// `until_ms`: `None` ends it.
    fn set(&self, room: RoomNid, user: &UserId, until_ms: Option<u64>) {
        let mut state = self.state.lock();
        if until_ms.is_none() && !state.rooms.contains_key(&room) {
            return;
        }
        let typists = state.rooms.entry(room).or_default();
        let has_changed = match until_ms {
            Some(until) => typists.users.insert(user.to_owned(), until).is_none(),
            None => typists.users.remove(user).is_some(),
        };
        if has_changed {
            (typists.changed, typists.changed_ms) = (self.order.next(), self.clock.now_ms());
        }
        state.next_end_ms = state.next_end_ms.min(until_ms.unwrap_or(u64::MAX));
    }

    /// Ends what is over by the clock; the rooms in which somebody stopped.
    pub fn expire(&self) -> Vec<RoomNid> {
        let mut state = self.state.lock();
        let now_ms = self.clock.now_ms();
        if now_ms < state.next_end_ms {
            return Vec::new();
        }
        let (mut ended, mut over) = (Vec::new(), Vec::new());
        for (room, typists) in &mut state.rooms {
            let stopped: Vec<_> =
                typists.users.extract_if(.., |_, until| *until <= now_ms).map(|(user, _)| user).collect();
            if !stopped.is_empty() {
                (typists.changed, typists.changed_ms) = (self.order.next(), now_ms);
                ended.push(*room);
                over.extend(stopped.into_iter().map(|user| (*room, user)));
            }
        }
        state.over.extend(over);
        state.forget(now_ms);
        ended
    }

    /// Who stopped by the clock since this was last asked.
    fn take_over(&self) -> Vec<(RoomNid, OwnedUserId)> {
        std::mem::take(&mut self.state.lock().over)
    }
}

impl State {
    /// Removes the rooms in which nobody has typed for long.
    fn forget(&mut self, now_ms: u64) {
        let remembered_ms = u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX);
        let is_old = |room: &RoomState| room.users.is_empty() && room.changed_ms.saturating_add(remembered_ms) < now_ms;
        let mut forgotten = self.forgotten;
        self.rooms.retain(|_, room| {
            let is_old = is_old(room);
            if is_old {
                forgotten = forgotten.max(room.changed);
            }
            !is_old
        });
        self.forgotten = forgotten;
        let ends = self.rooms.values().flat_map(|room| room.users.values().copied());
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
    server.typing.set(room, user, timeout.map(until));
    server.wakers.room(server, room);
    tell_services(server, room);
    if let Some(timeout) = timeout {
        tokio::spawn(expire_after(Arc::downgrade(server), timeout));
    }
    tell_others(server, room, user.to_owned(), timeout.is_some()).await
}

async fn tell_others(server: &Arc<Server>, room: RoomNid, user: OwnedUserId, is_typing: bool) -> Result<()> {
    let whole = Arc::clone(server);
    server.blocking(move |_| Ok(queue::typing(&whole, room, &user, is_typing)?)).await
}

/// Another server says that a user of its, who is in the room, types or stopped.
pub fn set_remote(server: &Arc<Server>, room: RoomNid, user: &UserId, is_typing: bool) {
    let timeout_ms = u64::try_from(REMOTE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    server.typing.set(room, user, is_typing.then(|| server.clock.now_ms().saturating_add(timeout_ms)));
    server.wakers.room(server, room);
    tell_services(server, room);
    if is_typing {
        tokio::spawn(expire_after(Arc::downgrade(server), REMOTE_TIMEOUT));
    }
}

/// Tells application services who types in a room now.
fn tell_services(server: &Server, room: RoomNid) {
    let typists = server.typing.news(room, Some(0)).unwrap_or_default();
    if let Err(error) = appservice::ephemeral::typing(server, room, &typists) {
        warn!(?error, "application services can't be told who types");
    }
}

async fn expire_after(server: Weak<Server>, timeout: Duration) {
    tokio::time::sleep(timeout + Duration::from_millis(1)).await;
    if let Some(server) = server.upgrade() {
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
    use ruma::user_id;

    use super::*;

    const ROOM: RoomNid = RoomNid(1);

    fn typing() -> (Typing, Clock) {
        let clock = Clock::manual(1_000_000);
        (Typing::new(&Arc::new(Order::new(&clock)), &clock), clock)
    }

    #[test]
    fn the_end_of_typing_is_news_too() {
        let (typing, clock) = typing();
        let alice = user_id!("@alice:x");
        let start = typing.order.newest();
        assert_eq!(typing.news(ROOM, Some(start)), None);
        typing.set(ROOM, alice, Some(clock.now_ms() + 30_000));
        assert_eq!(typing.news(ROOM, Some(start)).unwrap(), [alice]);
        assert_eq!(typing.news(ROOM, None).unwrap(), [alice]);
        let seen = typing.order.newest();
        assert!(!typing.changed_rooms(seen).contains(&ROOM));
        typing.set(ROOM, alice, Some(clock.now_ms() + 60_000));
        assert!(!typing.changed_rooms(seen).contains(&ROOM), "she went on");
        clock.advance(Duration::from_secs(30));
        assert!(typing.expire().is_empty());
        clock.advance(Duration::from_secs(30));
        assert_eq!(typing.expire(), [ROOM]);
        assert_eq!(typing.take_over(), [(ROOM, alice.to_owned())]);
        assert!(typing.changed_rooms(seen).contains(&ROOM));
        assert!(typing.news(ROOM, Some(seen)).unwrap().is_empty());
        assert_eq!(typing.news(ROOM, None), None);
    }

    #[test]
    fn whoever_saw_typing_before_a_restart_is_told_that_it_ended() {
        let (before, clock) = typing();
        before.set(ROOM, user_id!("@alice:x"), Some(u64::MAX));
        let seen = before.order.newest();
        clock.advance(Duration::from_millis(1));
        let after = Typing::new(&Arc::new(Order::new(&clock)), &clock);
        assert!(after.order.newest() > seen);
        assert!(after.news(ROOM, Some(seen)).unwrap().is_empty());
        assert_eq!(after.news(ROOM, Some(after.order.newest())), None);
    }

    #[test]
    fn quiet_rooms_are_forgotten() {
        let (typing, clock) = typing();
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        typing.set(ROOM, alice, Some(clock.now_ms() + 1));
        clock.advance(Duration::from_secs(1));
        typing.expire();
        clock.advance(REMEMBERED);
        typing.set(RoomNid(2), bob, Some(clock.now_ms()));
        clock.advance(Duration::from_secs(1));
        let seen = typing.order.newest();
        typing.expire();
        assert!(!typing.state.lock().rooms.contains_key(&ROOM));
        assert_eq!(typing.news(ROOM, Some(seen)), None);
    }
}
