//! The authorization rules of a room version, applied to one event.
//!
//! ruma's rules read events through closures that can only answer "none". A store that fails must not look like an event
//! that is absent: wrap each look-up in [`Fallible::keep`] and ask [`Fallible::check`] before believing the verdict.

use std::{cell::OnceCell, collections::HashMap};

use ruma::{
    EventId, OwnedEventId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::{Event, auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules},
};
use serde_json::value::RawValue;

use super::Pdu;

/// The rules do not allow an event; says which one, in words for a log or a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Keeps the first error of look-ups that are made inside closures which cannot return one.
#[derive(Debug)]
pub struct Fallible<E>(OnceCell<E>);

impl<E> Default for Fallible<E> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<E> Fallible<E> {
    /// The answer of a look-up for the closure to pass on; its error stays here.
    pub fn keep<T>(&self, answer: Result<Option<T>, E>) -> Option<T> {
        answer.unwrap_or_else(|error| {
            self.0.get_or_init(|| error);
            None
        })
    }

    /// `verdict`, unless a look-up failed: then what the rules saw was not the room, and their verdict means nothing.
    pub fn check<T>(self, verdict: T) -> Result<T, E> {
        match self.0.into_inner() {
            Some(error) => Err(error),
            None => Ok(verdict),
        }
    }
}

/// Which entries of the current state an event must name as its auth events.
///
/// Refused if the content is not what the event type asks for, in which case the event could not be allowed either.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>
pub fn auth_types(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<(StateEventType, String)>, Refusal> {
    auth_types_for_event(event_type, sender, state_key, content, &rules.authorization).map_err(Refusal)
}

/// Whether `event` is allowed by itself and by its own auth events; if not, it is rejected.
///
/// `fetch_event` finds events by id, whatever room they claim to be of: the rules compare the rooms.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu> (checks 4 and the first part
/// of each room version's authorization rules)
pub fn check_against_auth_events<E: Event<Id = OwnedEventId> + Clone>(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
) -> Result<(), Refusal> {
    check_state_independent_auth_rules(&rules.authorization, event, &fetch_event).map_err(Refusal)?;
    let state = state_of_auth_events(&rules.authorization, event, fetch_event);
    check_against_state(rules, event, |event_type, state_key| {
        state.get(&(event_type.to_string(), state_key.to_owned())).cloned()
    })
}

/// Whether `event` is allowed in a room with the state that `fetch_state` reads; asked for the state before the event
/// (if not, it is rejected) and for the current state (if not, it is soft-failed).
pub fn check_against_state<E: Event>(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<E>,
) -> Result<(), Refusal> {
    check_state_dependent_auth_rules(&rules.authorization, event, fetch_state).map_err(Refusal)
}

/// The state that the auth events of `event` amount to, with the create event that version 12 leaves unnamed.
fn state_of_auth_events<E: Event<Id = OwnedEventId>>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
) -> HashMap<(String, String), E> {
    let create = rules
        .room_create_event_id_as_room_id
        .then(|| EventId::parse(format!("${}", event.room_id.strip_sigil())).ok())
        .flatten();
    create
        .iter()
        .chain(&event.auth_events)
        .filter_map(|id| fetch_event(id))
        .filter_map(|found| Some(((found.event_type().to_string(), found.state_key()?.to_owned()), found)))
        .collect()
}
