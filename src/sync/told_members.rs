//! Which member events were told to the clients that load members lazily, so that who says something often is not told
//! with each message anew.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId, api::client::filter::LazyLoadOptions};

use super::answer::Context;
use crate::{
    metrics::CacheUse,
    store::{EventNid, RoomNid, StateKeyNid, StreamPos},
};

/// Of so many members of a room it is kept. When more were told, it begins anew.
const MAX_MEMBERS: usize = 32;

/// What a room takes with its members, about.
const ROOM_BYTES: u64 = 1 << 10;

pub struct ToldMembers(Cache<Place, Arc<Mutex<Members>>>);

/// One room on one device, to those parts of it that use one filter: the others are told in answers of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    filter: u64,
    room: RoomNid,
}

/// The event of each member, and the position of the first answer that had it: who asks for what comes after that, or after a
/// later one, has it.
type Members = HashMap<StateKeyNid, (EventNid, StreamPos)>;

/// What the client of one request has been told of one room.
#[derive(Debug)]
pub struct Told {
    members: Arc<Mutex<Members>>,
    since: Option<StreamPos>,
    now: StreamPos,
}

impl ToldMembers {
    /// `memory_bytes`: for what is kept.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::new(usize::try_from(memory_bytes / ROOM_BYTES).unwrap_or(usize::MAX)))
    }

    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }

    /// What was told of a room; nothing from now on, if it `begins_anew`, as when a client has lost what it knew. `None` if
    /// the client does not load members lazily, or wants them with each message.
    pub fn of(&self, context: &Context<'_>, room: RoomNid, begins_anew: bool) -> Option<Told> {
        let request = context.request;
        if request.filter.room.state.lazy_load_options
            != (LazyLoadOptions::Enabled { include_redundant_members: false })
        {
            return None;
        }
        let place = Place {
            user_id: request.user_id.clone(),
            device_id: request.device_id.clone(),
            filter: request.filter_hash,
            room,
        };
        let known = if begins_anew { None } else { self.0.get(&place) };
        let members = known.unwrap_or_else(|| {
            let members = Arc::default();
            self.0.insert(place, Arc::clone(&members));
            members
        });
        Some(Told { members, since: context.since, now: context.now })
    }
}

impl Told {
    /// Whether the client has a member's event.
    pub fn has(&self, member: StateKeyNid, event: EventNid) -> bool {
        let told = self.members.lock().get(&member).copied();
        told.is_some_and(|(told, at)| told == event && self.since.is_some_and(|since| at <= since))
    }

    /// Notes what the answer tells.
    pub fn note(&self, told: impl IntoIterator<Item = (StateKeyNid, EventNid)>) {
        let mut members = self.members.lock();
        for (member, event) in told {
            // Once more to a client that lost the answer: it may have been told before to others.
            if members.get(&member).is_some_and(|(known, _)| *known == event) {
                continue;
            }
            if members.len() >= MAX_MEMBERS && !members.contains_key(&member) {
                members.clear();
            }
            members.insert(member, (event, self.now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(members: &Arc<Mutex<Members>>, since: u64, now: u64) -> Told {
        Told { members: Arc::clone(members), since: Some(StreamPos(since)), now: StreamPos(now) }
    }

    #[test]
    fn a_client_has_what_came_in_the_answers_that_it_read() {
        let members = Arc::default();
        let (key, old, new) = (StateKeyNid(1), EventNid(1), EventNid(2));
        told(&members, 1, 5).note([(key, old)]);
        assert!(!told(&members, 4, 6).has(key, old), "that answer was lost");
        told(&members, 4, 6).note([(key, old)]);
        assert!(told(&members, 5, 7).has(key, old), "it was told at 5 already");
        assert!(!told(&members, 5, 7).has(key, new));
        told(&members, 5, 7).note([(key, new)]);
        assert!(!told(&members, 6, 8).has(key, new));
        assert!(told(&members, 7, 8).has(key, new));
        assert!(!Told { members, since: None, now: StreamPos(9) }.has(key, new), "it begins anew");
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let members = Arc::default();
        let told = told(&members, 1, 1);
        for n in (0_u32..).take(10 * MAX_MEMBERS) {
            told.note([(StateKeyNid(n), EventNid(1))]);
            assert!(told.has(StateKeyNid(n), EventNid(1)));
            assert!(members.lock().len() <= MAX_MEMBERS);
        }
    }
}
