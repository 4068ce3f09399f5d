//! State resets: room versions before 12 can fall back to what was replaced long ago, or lose it, though nobody undid anything
//! (problems A and B of MSC4297). The specification wants it so and all servers of a room must come to the same, so an alarm is all
//! there is. It can't tell such a reset from a fork whose branches contradicted each other, and goes for both.

use ruma::{OwnedEventId, room_version_rules::StateResolutionVersion};

use super::trie::Difference;
use crate::{
    room::View,
    store::{EventNid, Result},
};

/// What decides who may do what and who reads what. That a name or a topic falls back is no harm.
const WATCHED: [&str; 6] = [
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.server_acl",
    "m.room.history_visibility",
    "m.room.encryption",
];

/// How many events that one replaced are looked at, one after the other.
const MAX_REPLACED: usize = 50;

/// The state of a room fell back behind an event.
#[derive(Clone, Debug)]
pub struct Reset {
    pub event_type: String,
    pub state_key: String,
    pub lost: OwnedEventId,
}

/// The resets among these changes of the current state, which come with `event`.
pub fn among(view: &View<'_>, changes: &[Difference], event: EventNid) -> Result<Vec<Reset>> {
    let mut resets = Vec::new();
    if !can_reset(view) {
        return Ok(resets);
    }
    for &(key, old, new) in changes {
        let Some(old) = old.filter(|_| new != Some(event)) else { continue };
        let name = view.state_key_name(key)?;
        if WATCHED.contains(&name.event_type.as_str()) && falls_back(view, old, new)? {
            let lost = view.event_id(old)?;
            resets.push(Reset { event_type: name.event_type, state_key: name.state_key, lost });
        }
    }
    Ok(resets)
}

fn can_reset(view: &View<'_>) -> bool {
    match &view.rules.state_res {
        StateResolutionVersion::V2(rules) => !rules.consider_conflicted_state_subgraph,
        _ => true,
    }
}

/// Whether `new` is nothing, or what `old` or something before it replaced.
fn falls_back(view: &View<'_>, old: EventNid, new: Option<EventNid>) -> Result<bool> {
    let Some(new) = new else { return Ok(true) };
    let mut replaced = old;
    for _ in 0..MAX_REPLACED {
        match view.event(replaced)?.replaces.map(EventNid) {
            Some(before) if before == new => return Ok(true),
            Some(before) => replaced = before,
            None => break,
        }
    }
    Ok(false)
}
