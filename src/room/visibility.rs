//! What one user may see of one room: its history visibility, applied to each event as the room was then.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>

use std::{cell::RefCell, collections::HashMap};

use ruma::{
    UserId,
    events::room::history_visibility::{HistoryVisibility, RoomHistoryVisibilityEventContent},
};

use super::{
    Membership, View,
    tables::{UserRoom, UserRooms},
    view::membership_in,
};
use crate::{
    error::{Error, Result},
    event::{StateRoot, StoredEvent, stored::DecodeError},
    store::{self, EventNid, RoomPos, StateKeyNid},
};

/// How many member events are looked at to find out when somebody left: he may have been invited and banned many times
/// since.
const MAX_MEMBER_EVENTS: usize = 64;

/// How a user stands to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Joined,
    /// Was joined once: sees the room as it was when he left.
    Left(Departure),
    /// Never was joined, or asked to forget the room.
    Stranger,
}

/// When a user left a room, and what the room was like then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    pub pos: RoomPos,
    pub state: StateRoot,
}

/// One of our users who looks at a room. What it finds out about states it remembers, so that a page of events of one
/// state costs one look-up.
pub struct Sight<'v, 's> {
    pub view: &'v View<'s>,
    pub user_id: &'v UserId,
    pub standing: Standing,
    /// The user's current member event.
    member_event: Option<EventNid>,
    member_key: Option<StateKeyNid>,
    visibility_key: Option<StateKeyNid>,
    known_states: RefCell<HashMap<StateRoot, AtState>>,
}

/// What decides who may see the events of one state.
#[derive(Clone, Debug)]
struct AtState {
    /// Of the user.
    membership: Option<Membership>,
    visibility: HistoryVisibility,
}

impl<'v, 's> Sight<'v, 's> {
    pub fn of(view: &'v View<'s>, user_id: &'v UserId) -> Result<Self> {
        let row = view.snapshot.get::<UserRooms>(&(user_id, view.nid))?.filter(|row| !row.is_forgotten);
        Ok(Self {
            view,
            user_id,
            standing: row.as_ref().map_or(Ok(Standing::Stranger), |row| standing(view, row))?,
            member_event: row.map(|row| row.event),
            member_key: view.state_key_nid("m.room.member", user_id.as_str())?,
            visibility_key: view.state_key_nid("m.room.history_visibility", "")?,
            known_states: RefCell::default(),
        })
    }

    /// The state that the user may read as that of the room: the current one, or that of when he left. `M_FORBIDDEN`
    /// if there is none.
    pub fn readable_state(&self) -> Result<StateRoot> {
        match self.standing {
            Standing::Joined => Ok(self.view.current_state()),
            Standing::Left(departure) => Ok(departure.state),
            Standing::Stranger if self.is_world_readable_now()? => Ok(self.view.current_state()),
            Standing::Stranger => Err(not_in_room()),
        }
    }

    /// The last place of the timeline that can hold anything that the user may see. `M_FORBIDDEN` if there is none.
    pub fn horizon(&self) -> Result<RoomPos> {
        match self.standing {
            Standing::Joined => Ok(RoomPos::MAX),
            Standing::Left(_) | Standing::Stranger if self.is_world_readable_now()? => Ok(RoomPos::MAX),
            Standing::Left(departure) => Ok(departure.pos),
            Standing::Stranger => Err(not_in_room()),
        }
    }

    /// Whether the user may see an event of the room. Rejected and soft-failed events are nobody's to see, nor are those
    /// whose place in the room is not known.
    pub fn may_see(&self, nid: EventNid, event: &StoredEvent) -> Result<bool> {
        if event.flags.rejected || event.flags.soft_failed {
            return Ok(false);
        }
        // NOTSPEC: what the user is to the room he may always know. An invite was shown to him without the room's
        // state, and whoever declines it, or has it withdrawn, must learn that it is over.
        if self.member_event == Some(nid) {
            return Ok(true);
        }
        let Some(state) = event.state_after else { return Ok(false) };
        let after = self.at(state)?;
        let pos = RoomPos(event.room_pos);
        if self.allows(&after, pos) {
            return Ok(true);
        }
        Ok(self.before(event, after)?.is_some_and(|before| self.allows(&before, pos)))
    }

    /// The user's membership at an event, with what the event itself changed; `None` if the state there is not known.
    pub fn membership_at(&self, event: &StoredEvent) -> Result<Option<Membership>> {
        let at = event.state_after.map(|state| self.at(state)).transpose()?;
        Ok(at.map(|at| at.membership.unwrap_or(Membership::Leave)))
    }

    /// Whether anybody at all may read what is said in the room now.
    fn is_world_readable_now(&self) -> Result<bool> {
        Ok(self.at(self.view.current_state())?.visibility == HistoryVisibility::WorldReadable)
    }

    fn allows(&self, at: &AtState, pos: RoomPos) -> bool {
        let was_received_in_time = match self.standing {
            Standing::Joined => true,
            Standing::Left(departure) => pos <= departure.pos,
            Standing::Stranger => false,
        };
        match at.visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Invited => {
                was_received_in_time && matches!(at.membership, Some(Membership::Join | Membership::Invite))
            }
            HistoryVisibility::Joined => was_received_in_time && at.membership == Some(Membership::Join),
            _ => was_received_in_time, // `shared`: who was joined then sees it, and who joined later
        }
    }

    fn at(&self, state: StateRoot) -> store::Result<AtState> {
        if let Some(known) = self.known_states.borrow().get(&state) {
            return Ok(known.clone());
        }
        let tries = self.view.tries();
        let event = |key: Option<StateKeyNid>| key.map_or(Ok(None), |key| tries.get(state, key));
        let at = AtState {
            membership: self.membership_by(event(self.member_key)?)?,
            visibility: self.visibility_by(event(self.visibility_key)?)?,
        };
        self.known_states.borrow_mut().insert(state, at.clone());
        Ok(at)
    }

    /// What decided before a history-visibility event, or before a member event of the user himself; `None` for other
    /// events, before which nothing else decided than after them.
    fn before(&self, event: &StoredEvent, after: AtState) -> store::Result<Option<AtState>> {
        let replaced = event.replaces.map(EventNid);
        match (event.event_type.as_str(), event.state_key.as_deref()) {
            ("m.room.history_visibility", Some("")) => {
                Ok(Some(AtState { visibility: self.visibility_by(replaced)?, ..after }))
            }
            ("m.room.member", Some(user)) if user == self.user_id => {
                Ok(Some(AtState { membership: self.membership_by(replaced)?, ..after }))
            }
            _ => Ok(None),
        }
    }

    fn membership_by(&self, event: Option<EventNid>) -> store::Result<Option<Membership>> {
        let pdu = event.map(|event| self.view.pdu(event)).transpose()?;
        Ok(pdu.and_then(|pdu| membership_in(pdu.content.get())))
    }

    fn visibility_by(&self, event: Option<EventNid>) -> store::Result<HistoryVisibility> {
        let pdu = event.map(|event| self.view.pdu(event)).transpose()?;
        Ok(pdu.map_or(HistoryVisibility::Shared, |pdu| visibility_in(pdu.content.get())))
    }
}

/// Why somebody who is not in a room, and was not, is told nothing about it; the same for rooms that do not exist.
pub fn not_in_room() -> Error {
    Error::forbidden("You are not in this room, and were not before")
}

/// `shared` if the content says nothing that the specification knows.
fn visibility_in(content: &str) -> HistoryVisibility {
    let content = serde_json::from_str::<RoomHistoryVisibilityEventContent>(content);
    match content.map(|content| content.history_visibility) {
        Ok(known @ (HistoryVisibility::WorldReadable | HistoryVisibility::Invited | HistoryVisibility::Joined)) => {
            known
        }
        _ => HistoryVisibility::Shared,
    }
}

fn standing(view: &View<'_>, row: &UserRoom) -> Result<Standing> {
    if row.membership == Membership::Join {
        return Ok(Standing::Joined);
    }
    let departure = if row.joined_at.is_some() { departure(view, row)? } else { None };
    Ok(departure.map_or(Standing::Stranger, Standing::Left))
}

/// When a user left who was joined before: at the first of his member events since he was. `None` if the room's state
/// of then is not known.
fn departure(view: &View<'_>, row: &UserRoom) -> Result<Option<Departure>> {
    let last = view.event(row.event)?;
    let mut event = last.clone();
    for _ in 0..MAX_MEMBER_EVENTS {
        let Some(replaced) = event.replaces.map(EventNid) else { break };
        let before = view.event(replaced)?;
        let is_departure = membership_in(before.view().content().map_err(unreadable)?.get()) == Some(Membership::Join);
        if is_departure {
            return Ok(event.state_after.map(|state| Departure { pos: RoomPos(event.room_pos), state }));
        }
        event = before;
    }
    Ok(last.state_after.map(|state| Departure { pos: RoomPos::from(row.since), state }))
}

pub(super) fn unreadable(error: DecodeError) -> Error {
    Error::internal(error.to_string())
}
