//! Who is there. In memory only.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId, presence::PresenceState};
use tracing::error;

use crate::{
    Server, appservice,
    clock::Clock,
    ephemeral::Order,
    error::{Error, Result},
    federation::queue,
    room::{Membership, servers::is_joined, tables::UserRooms},
    store::{self, Snapshot},
};

/// A device that has not asked for news for so long is offline. Source: our choice, as Synapse has it.
const OFFLINE_AFTER_MS: u64 = 30_000;

/// A user who did nothing for so long is idle, though his client is running. Source: the specification's example.
const IDLE_AFTER_MS: u64 = 5 * 60_000;

/// How long somebody who is offline and left no message is remembered after that was told, or he did something.
const REMEMBERED_MS: u64 = 24 * 3_600_000;

/// How often others are told again of a user who is here, and after what time without that one of theirs counts as gone.
/// Source: our choice, as Synapse has them.
const TOLD_EVERY_MS: u64 = 25 * 60_000;
const REMOTE_TIMEOUT_MS: u64 = 30 * 60_000;

/// Longest status message, in bytes. Source: our choice.
const MAX_STATUS_BYTES: usize = 1_024;

/// How often it is looked for users who have become idle or offline.
const SWEPT_EVERY: Duration = Duration::from_secs(5);

/// What others see of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub state: State,
    pub status_msg: Option<String>,
    pub currently_active: bool,
    /// Milliseconds since the Unix epoch; `None` if he was not active since the server started.
    pub last_active_ms: Option<u64>,
}

/// A presence of the specification; the later ones win if a user's devices differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    #[default]
    Offline,
    Unavailable,
    Online,
}

impl State {
    /// `M_INVALID_PARAM` if it is not one that the specification knows.
    pub fn of(state: &PresenceState) -> Result<Self> {
        match state {
            PresenceState::Offline => Ok(Self::Offline),
            PresenceState::Unavailable => Ok(Self::Unavailable),
            PresenceState::Online => Ok(Self::Online),
            other => Err(Error::invalid_param(format!("{other} is no presence"))),
        }
    }

    pub fn to_ruma(self) -> PresenceState {
        match self {
            Self::Offline => PresenceState::Offline,
            Self::Unavailable => PresenceState::Unavailable,
            Self::Online => PresenceState::Online,
        }
    }
}

/// The presence of everybody who was here lately.
pub struct Presence {
    is_enabled: bool,
    order: Arc<Order>,
    clock: Clock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    users: HashMap<OwnedUserId, Entry>,
    /// Whom each user's last change is of, by its number.
    changes: BTreeMap<u64, OwnedUserId>,
    /// Of users who are not in `users` a client that has seen no more than this may believe anything.
    forgotten: u64,
    /// Until when somebody who was here before the restart may come back without being told of as offline.
    returning_until_ms: Option<u64>,
    is_swept: bool,
}

#[derive(Default)]
struct Entry {
    devices: HashMap<OwnedDeviceId, Device>,
    status_msg: Option<String>,
    last_active_ms: Option<u64>,
    /// The same without what he did to say that he is away: by this he is idle or not.
    last_here_ms: Option<u64>,
    /// Of a user of another server: what it said.
    remote: Option<Remote>,
    /// As it was last told.
    state: State,
    changed: u64,
    changed_ms: u64,
}

#[derive(Clone, Copy)]
struct Remote {
    state: State,
    currently_active: bool,
    /// Until when it counts.
    until_ms: u64,
}

#[derive(Default)]
struct Device {
    state: State,
    /// Set by its user, so that a client that only asks for news does not change it.
    is_chosen: bool,
    /// Requests for news that are being answered.
    syncing: u32,
    last_seen_ms: u64,
}

impl Entry {
    /// What the user is at `now_ms`.
    fn state_at(&self, now_ms: u64) -> State {
        if let Some(remote) = self.remote {
            return if remote.until_ms > now_ms { remote.state } else { State::Offline };
        }
        let is_here = |device: &&Device| device.syncing > 0 || device.last_seen_ms + OFFLINE_AFTER_MS > now_ms;
        let state = self.devices.values().filter(is_here).map(|device| device.state).max().unwrap_or_default();
        let is_idle = self.last_here_ms.is_none_or(|active| active + IDLE_AFTER_MS <= now_ms);
        if state == State::Online && is_idle { State::Unavailable } else { state }
    }

    /// The user does something.
    fn act(&mut self, now_ms: u64) {
        (self.last_active_ms, self.last_here_ms) = (Some(now_ms), Some(now_ms));
    }

    /// What others see of the user, who is `state`.
    fn shown(&self, state: State) -> Shown {
        let currently_active = match self.remote {
            Some(remote) => remote.currently_active && state > State::Offline,
            None => state == State::Online,
        };
        Shown { state, status_msg: self.status_msg.clone(), currently_active, last_active_ms: self.last_active_ms }
    }
}

impl Known {
    /// Gives the user's change the number `changed`.
    fn mark(&mut self, user: &UserId, changed: u64, now_ms: u64) {
        let Some(entry) = self.users.get_mut(user) else { return };
        self.changes.remove(&entry.changed);
        (entry.changed, entry.changed_ms) = (changed, now_ms);
        self.changes.insert(changed, user.to_owned());
    }
}

/// As long as this lives, a device is asking for news.
pub struct Syncing<'p> {
    presence: &'p Presence,
    user: OwnedUserId,
    device: OwnedDeviceId,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        let now_ms = self.presence.clock.now_ms();
        let mut known = self.presence.known.lock();
        let device = known.users.get_mut(&self.user).and_then(|entry| entry.devices.get_mut(&self.device));
        if let Some(device) = device {
            device.syncing = device.syncing.saturating_sub(1);
            device.last_seen_ms = now_ms;
        }
    }
}

impl Presence {
    pub fn new(is_enabled: bool, order: &Arc<Order>, clock: &Clock) -> Self {
        let returning_until_ms = Some(clock.now_ms().saturating_add(OFFLINE_AFTER_MS));
        let known = Mutex::new(Known { returning_until_ms, ..Known::default() });
        Self { is_enabled, order: Arc::clone(order), clock: clock.clone(), known }
    }

    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// What others see of a user now.
    pub fn get(&self, user: &UserId) -> Shown {
        let known = self.known.lock();
        let Some(entry) = known.users.get(user) else {
            return Entry::default().shown(State::Offline);
        };
        entry.shown(entry.state_at(self.clock.now_ms()))
    }

    /// Whose presence changed after `since`; of everybody who is here, if that is `None`.
    pub fn news(&self, since: Option<u64>) -> Vec<(OwnedUserId, Shown)> {
        let known = self.known.lock();
        let shown = |user: &OwnedUserId| known.users.get(user).map(|entry| (user.clone(), entry.shown(entry.state)));
        match since {
            Some(since) => known.changes.range(since.saturating_add(1)..).filter_map(|(_, user)| shown(user)).collect(),
            None => known.users.keys().filter_map(shown).filter(|(_, shown)| shown.state > State::Offline).collect(),
        }
    }

    /// Whether a client that has seen the changes up to `since` may believe anything of who is forgotten.
    pub fn has_forgotten(&self, since: u64) -> bool {
        since < self.known.lock().forgotten
    }

    /// Whether nothing that was told of a user is remembered. He is offline then.
    pub fn is_forgotten(&self, user: &UserId) -> bool {
        self.known.lock().users.get(user).is_none_or(|entry| entry.changed == 0)
    }

    /// All users who are here, of other servers too.
    pub fn here(&self) -> Vec<OwnedUserId> {
        let known = self.known.lock();
        known.users.iter().filter(|(_, entry)| entry.state > State::Offline).map(|(user, _)| user.clone()).collect()
    }

    /// Changes what is known of a user, by `work`; `true` if others should be told, as they must be if `work` says so.
    fn update(&self, user: &UserId, work: impl FnOnce(&mut Entry, u64) -> bool) -> bool {
        let now_ms = self.clock.now_ms();
        let mut known = self.known.lock();
        let entry = known.users.entry(user.to_owned()).or_default();
        let must_tell = work(entry, now_ms);
        let state = entry.state_at(now_ms);
        let has_changed = must_tell || state != entry.state;
        entry.state = state;
        if has_changed {
            known.mark(user, self.order.next(), now_ms);
        }
        has_changed
    }

    /// Looks who has become idle or offline, and forgets who is long gone; the users whose presence changed.
    pub fn expire(&self) -> Vec<OwnedUserId> {
        let now_ms = self.clock.now_ms();
        let mut known = self.known.lock();
        let mut changed = Vec::new();
        let mut gone = Vec::new();
        for (user, entry) in &mut known.users {
            let state = entry.state_at(now_ms);
            if state != entry.state {
                entry.state = state;
                changed.push(user.clone());
            } else if state == State::Offline
                && entry.status_msg.is_none()
                && entry.changed_ms.max(entry.last_active_ms.unwrap_or_default()) + REMEMBERED_MS < now_ms
            {
                gone.push((user.clone(), entry.changed));
            }
            if entry.remote.is_some_and(|remote| remote.until_ms <= now_ms) {
                entry.remote = None;
            }
            entry.devices.retain(|_, device| device.syncing > 0 || device.last_seen_ms + OFFLINE_AFTER_MS > now_ms);
        }
        for (user, number) in gone {
            known.users.remove(&user);
            known.changes.remove(&number);
            known.forgotten = known.forgotten.max(number);
        }
        if known.returning_until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some() {
            known.forgotten = self.order.next();
        }
        for user in &changed {
            known.mark(user, self.order.next(), now_ms);
        }
        changed
    }

    /// Users who have been here for so long that other servers must be told again.
    fn to_be_repeated(&self) -> Vec<OwnedUserId> {
        let now_ms = self.clock.now_ms();
        let mut known = self.known.lock();
        let long = known.users.iter_mut().filter(|(_, entry)| {
            let is_here = entry.remote.is_none() && entry.state > State::Offline;
            is_here && entry.changed_ms.saturating_add(TOLD_EVERY_MS) <= now_ms
        });
        long.map(|(user, entry)| {
            entry.changed_ms = now_ms;
            user.clone()
        })
        .collect()
    }

    /// Whether nothing will change by itself, so that the sweep may end; the next device starts it again.
    fn is_at_rest(&self) -> bool {
        let mut known = self.known.lock();
        known.is_swept = known.users.values().any(|entry| !entry.devices.is_empty() || entry.remote.is_some());
        !known.is_swept
    }
}

/// Sets what a user says of himself on one of his devices. `M_FORBIDDEN` if the server has no presence.
pub fn set(server: &Arc<Server>, user: &UserId, device: &DeviceId, state: State, status: Option<String>) -> Result<()> {
    if !server.presence.is_enabled {
        return Err(Error::forbidden("This server has no presence"));
    }
    if status.as_ref().is_some_and(|status| status.len() > MAX_STATUS_BYTES) {
        return Err(Error::invalid_param(format!("status_msg is longer than {MAX_STATUS_BYTES} bytes")));
    }
    let has_changed = server.presence.update(user, |entry, now_ms| {
        let has_new_status = entry.status_msg != status;
        entry.status_msg = status;
        let chosen = entry.devices.entry(device.to_owned()).or_default();
        (chosen.state, chosen.is_chosen, chosen.last_seen_ms) = (state, true, now_ms);
        match state {
            State::Online => entry.act(now_ms),
            State::Unavailable => entry.last_active_ms = Some(now_ms), // and another device of his is as idle as it was
            State::Offline => {}
        }
        has_new_status
    });
    tell(server, user, has_changed);
    Ok(())
}

/// A device asks for news until the guard is dropped. `state`: what that makes its user, unless he chose something.
pub fn sync<'s>(server: &'s Arc<Server>, user: &UserId, device: &DeviceId, state: State) -> Option<Syncing<'s>> {
    if !server.presence.is_enabled || state == State::Offline {
        return None;
    }
    let has_changed = server.presence.update(user, |entry, now_ms| {
        let asking = entry.devices.entry(device.to_owned()).or_default();
        let was = asking.state;
        if !asking.is_chosen || state != State::Online {
            (asking.state, asking.is_chosen) = (state, false);
        }
        let has_come = was != State::Online && asking.state == State::Online;
        asking.syncing += 1;
        if has_come {
            entry.act(now_ms);
        }
        false
    });
    tell(server, user, has_changed);
    Some(Syncing { presence: &server.presence, user: user.to_owned(), device: device.to_owned() })
}

/// A user did something: sent, read or typed.
pub fn active(server: &Arc<Server>, user: &UserId, device: &DeviceId) {
    if !server.presence.is_enabled {
        return;
    }
    let has_changed = server.presence.update(user, |entry, now_ms| {
        entry.act(now_ms);
        if let Some(device) = entry.devices.get_mut(device)
            && device.state == State::Unavailable
        {
            (device.state, device.is_chosen) = (State::Online, false);
        }
        false
    });
    tell(server, user, has_changed);
}

/// A user's name or avatar changed, which his presence shows too.
pub fn profile_changed(server: &Arc<Server>, user: &UserId) {
    if server.presence.is_enabled && server.presence.get(user).state > State::Offline {
        let has_changed = server.presence.update(user, |_, _| true);
        tell(server, user, has_changed);
    }
}

/// What another server says of a user of its, with whom we share a room: `last_active_ago_ms` is by its clock.
pub fn set_remote(
    server: &Arc<Server>,
    user: &UserId,
    state: State,
    currently_active: bool,
    status: Option<String>,
    last_active_ago_ms: Option<u64>,
) {
    let status = status.filter(|status| status.len() <= MAX_STATUS_BYTES);
    let has_changed = server.presence.update(user, |entry, now_ms| {
        let was_active = entry.remote.is_some_and(|remote| remote.currently_active);
        let has_news = entry.status_msg != status || was_active != currently_active;
        entry.status_msg = status;
        entry.last_active_ms = last_active_ago_ms.map(|ago_ms| now_ms.saturating_sub(ago_ms));
        entry.remote = Some(Remote { state, currently_active, until_ms: now_ms.saturating_add(REMOTE_TIMEOUT_MS) });
        has_news
    });
    tell(server, user, has_changed);
}

/// Whether `viewer` may see the presence of `user`: of himself, and of those with whom he is in a room.
pub fn is_visible(server: &Server, snapshot: &Snapshot<'_>, viewer: &UserId, user: &UserId) -> store::Result<bool> {
    if viewer == user {
        return Ok(true);
    }
    for row in snapshot.list::<UserRooms>(&viewer) {
        let row = row?;
        if row.value.membership == Membership::Join && is_joined(server, snapshot, row.key()?.1, user)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Tells those who see the user if he changed, and sees to it that somebody looks when he goes.
fn tell(server: &Arc<Server>, user: &UserId, has_changed: bool) {
    if has_changed {
        tell_all(server, user);
    }
    if !std::mem::replace(&mut server.presence.known.lock().is_swept, true) {
        tokio::spawn(sweep(Arc::downgrade(server)));
    }
}

/// Tells other servers, clients and application services of a user who changed.
fn tell_all(server: &Arc<Server>, user: &UserId) {
    tell_others(server, user.to_owned());
    server.wakers.room_mates(server, user);
    if let Err(error) = appservice::ephemeral::presence(server, user) {
        error!(?error, "application services can't be told of presence");
    }
}

/// Tells the servers of a user's rooms of one of ours.
fn tell_others(server: &Arc<Server>, user: OwnedUserId) {
    if !server.is_ours(&user) {
        return;
    }
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = queue::presence(&server, &user) {
            error!("the rooms of {user} can't be read, so other servers do not hear of his presence: {error}");
        }
    });
}

/// Tells of those who become idle or offline, as long as there is anybody who could.
async fn sweep(server: Weak<Server>) {
    loop {
        tokio::time::sleep(SWEPT_EVERY).await;
        let Some(server) = server.upgrade() else { return };
        expire(&server);
        for user in server.presence.to_be_repeated() {
            tell_others(&server, user);
        }
        if server.presence.is_at_rest() {
            return;
        }
    }
}

/// Tells of those who have become idle or offline.
pub fn expire(server: &Arc<Server>) {
    for user in server.presence.expire() {
        tell_all(server, &user);
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn presence(clock: &Clock) -> Presence {
        Presence::new(true, &Arc::new(Order::new(clock)), clock)
    }

    /// Another server says that a user of its is here, who was never active, and says no more for a minute.
    fn come(presence: &Presence, user: &UserId) {
        assert!(presence.update(user, |entry, now_ms| {
            let until_ms = now_ms + 60_000;
            entry.remote = Some(Remote { state: State::Online, currently_active: true, until_ms });
            false
        }));
    }

    #[test]
    fn who_went_is_remembered_for_a_day() {
        let clock = Clock::manual(1_000_000);
        let presence = presence(&clock);
        let alice = user_id!("@alice:x");
        come(&presence, alice);
        let seen = presence.order.newest();
        clock.advance(Duration::from_secs(60));
        assert_eq!(presence.expire(), [alice]);
        let gone = presence.order.newest();
        clock.advance(Duration::from_millis(REMEMBERED_MS));
        assert!(presence.expire().is_empty());
        let news = presence.news(Some(seen));
        assert_eq!(news, [(alice.to_owned(), Entry::default().shown(State::Offline))]);
        assert!(!presence.is_forgotten(alice));

        clock.advance(Duration::from_millis(1));
        assert!(presence.expire().is_empty());
        assert!(presence.news(Some(seen)).is_empty());
        assert!(presence.is_forgotten(alice) && presence.has_forgotten(seen));
        assert!(!presence.has_forgotten(gone), "who knows that she went need not be told again");
    }

    #[test]
    fn who_does_not_come_back_after_a_restart_is_forgotten() {
        let clock = Clock::manual(1_000_000);
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let before = presence(&clock);
        come(&before, alice);
        come(&before, bob);
        let seen = before.order.newest();
        clock.advance(Duration::from_secs(1));
        let after = presence(&clock);
        come(&after, bob);
        clock.advance(Duration::from_millis(OFFLINE_AFTER_MS - 1));
        after.expire();
        assert!(!after.has_forgotten(seen), "she may be on her way");
        clock.advance(Duration::from_millis(1));
        after.expire();
        assert!(after.has_forgotten(seen));
        assert!(after.is_forgotten(alice) && !after.is_forgotten(bob));
        let told = after.order.newest();
        after.expire();
        assert!(!after.has_forgotten(told), "once");
    }
}
