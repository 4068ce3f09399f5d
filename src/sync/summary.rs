//! What a client needs to name a room without knowing its members.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync_response-200_roomsummary>

use ruma::{OwnedUserId, UserId, events::StateEventType};
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    room::{Membership, View},
    store::EventNid,
};

/// How many members a nameless room is called after.
const HEROES: usize = 5;

#[derive(Debug, Serialize)]
pub struct Summary {
    /// `None` if the room has a name of its own.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    #[serde(rename = "m.joined_member_count")]
    pub joined: u64,
    #[serde(rename = "m.invited_member_count")]
    pub invited: u64,
}

impl Summary {
    /// Of the room as it is now, for `reader`.
    pub fn work_out(view: &View<'_>, reader: &UserId) -> Result<Self> {
        let heroes = if has_name(view)? { None } else { Some(heroes(view, reader)?) };
        Ok(Self { heroes, joined: view.room.joined, invited: view.room.invited })
    }
}

fn has_name(view: &View<'_>) -> Result<bool> {
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    #[derive(Deserialize)]
    struct Alias {
        alias: String,
    }
    let state = view.current_state();
    let name: Option<Name> = view.state_content(state, &StateEventType::RoomName, "")?;
    if name.is_some_and(|name| !name.name.is_empty()) {
        return Ok(true);
    }
    let alias: Option<Alias> = view.state_content(state, &StateEventType::RoomCanonicalAlias, "")?;
    Ok(alias.is_some_and(|alias| !alias.alias.is_empty()))
}

/// Whom a nameless room is called after: the first others who are there, or are to come; if there are none, those who were.
pub fn heroes(view: &View<'_>, reader: &UserId) -> Result<Vec<OwnedUserId>> {
    for memberships in [[Membership::Join, Membership::Invite], [Membership::Leave, Membership::Ban]] {
        let mut others: Vec<(EventNid, OwnedUserId)> = Vec::new();
        for membership in memberships {
            let members = view.members(membership)?.into_iter().filter(|(user, _)| user != reader);
            others.extend(members.map(|(user, event)| (event, user)));
        }
        if !others.is_empty() {
            others.sort_unstable_by_key(|(event, _)| *event);
            return Ok(others.into_iter().map(|(_, user)| user).take(HEROES).collect());
        }
    }
    Ok(Vec::new())
}
