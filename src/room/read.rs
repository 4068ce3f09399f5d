//! The state of a room, whole or in part. Who may read which state is `visibility`'s to say.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruma::{OwnedMxcUri, OwnedUserId, UserId, events::StateEventType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Membership, View,
    event_filter::EventFilter,
    show::Reader,
    tables::StateKeys,
    timeline::Entry,
    view::BATCH,
    visibility::{membership_of, unreadable},
};
use crate::{
    error::Result,
    event::{StateRoot, StoredEvent},
    store::{self, EventNid, StateKeyNid},
};

/// A state event and its number.
pub type Found = (EventNid, StoredEvent);

/// Every event of a state.
pub fn all(view: &View<'_>, state: StateRoot) -> Result<Vec<Found>> {
    let nids = view.state(state)?.into_iter().map(|(_, nid)| nid).collect();
    load(view, nids)
}

/// The events of a state that pass `filter`; of the member events only those of `members`, where that is given.
pub fn filtered(
    view: &View<'_>,
    state: StateRoot,
    filter: &EventFilter<'_>,
    members: Option<&BTreeSet<OwnedUserId>>,
) -> Result<Vec<Found>> {
    let mut nids = Vec::new();
    for (key, nid) in view.state(state)? {
        let name = view.state_key_name(key)?;
        let is_unwanted_member = name.event_type == "m.room.member"
            && members
                .is_some_and(|members| !<&UserId>::try_from(&*name.state_key).is_ok_and(|user| members.contains(user)));
        if !is_unwanted_member && filter.allows_type(&name.event_type) {
            nids.push(nid);
        }
    }
    let mut found = Vec::with_capacity(nids.len());
    for (nid, event) in load(view, nids)? {
        if filter.allows(&event).map_err(unreadable)? {
            found.push((nid, event));
        }
    }
    Ok(found)
}

/// The member events of a state whose membership `wants` wants.
pub fn members(view: &View<'_>, state: StateRoot, wants: impl Fn(Membership) -> bool) -> Result<Vec<EventNid>> {
    let mut wanted = Vec::new();
    if state == view.current_state() {
        for membership in Membership::ALL.into_iter().filter(|membership| wants(*membership)) {
            wanted.extend(view.members(membership)?.into_iter().map(|(_, nid)| nid));
        }
        return Ok(wanted);
    }
    let rows = view.snapshot.list::<StateKeys>(&(view.nid, "m.room.member"));
    let keys: HashSet<StateKeyNid> = rows.map(|row| Ok(row?.value)).collect::<store::Result<_>>()?;
    let is_member = |(key, nid)| keys.contains(&key).then_some(nid);
    let members: Vec<EventNid> = view.state(state)?.into_iter().filter_map(is_member).collect();
    for batch in members.chunks(BATCH) {
        for (nid, event) in std::iter::zip(batch, view.events(batch)?) {
            if membership_of(&event)?.is_some_and(&wants) {
                wanted.push(*nid);
            }
        }
    }
    Ok(wanted)
}

/// The member events of the senders of `entries`: of each sender that of the time of his first event there.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
pub fn senders(view: &View<'_>, entries: &[Entry]) -> Result<Vec<Found>> {
    let mut nids = Vec::new();
    let mut known = HashSet::new();
    for entry in entries {
        if known.insert(&entry.event.sender)
            && let Some(state) = entry.event.state_after
        {
            nids.extend(view.state_nid(state, &StateEventType::RoomMember, entry.event.sender.as_str())?);
        }
    }
    load(view, nids)
}

/// The senders of `entries`, as they were then, and as the reader is shown them.
pub fn profiles_of_senders(reader: &Reader<'_, '_>, entries: &[Entry]) -> Result<BTreeMap<OwnedUserId, Profile>> {
    let profile = |(_, event): Found| {
        let user = event.state_key.as_deref().and_then(|user| OwnedUserId::try_from(user).ok());
        user.map(|user| Ok((user, profile_in(reader.content(&event)?.get()))))
    };
    senders(reader.view(), entries)?.into_iter().filter_map(profile).collect()
}

/// What a member event says about its user, where it says it in the specification's form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
}

/// What a member event says about its user.
pub fn profile(event: &StoredEvent) -> Result<Profile> {
    Ok(profile_in(event.view().content().map_err(unreadable)?.get()))
}

fn profile_in(content: &str) -> Profile {
    #[derive(Deserialize)]
    struct Content {
        displayname: Option<Value>,
        avatar_url: Option<Value>,
    }
    let Ok(content) = serde_json::from_str::<Content>(content) else { return Profile::default() };
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    Profile { displayname: text(content.displayname), avatar_url: text(content.avatar_url).map(Into::into) }
}

fn load(view: &View<'_>, nids: Vec<EventNid>) -> Result<Vec<Found>> {
    let events = view.events(&nids)?;
    Ok(std::iter::zip(nids, events).collect())
}
