//! Events of our own users: from a draft to a signed event with a place in its room.

use std::collections::HashMap;

use ruma::{OwnedEventId, OwnedRoomId, UserId, room_version_rules::RoomVersionRules};

use super::View;
use crate::{
    Server,
    error::{Error, Result},
    event::{
        Context, Draft, FormatError, StoredEvent, Verified, authorize,
        build::{self, Legacy, Template},
        format::MAX_PREV_EVENTS,
        hash,
    },
};

/// Where a new event stands: after these events, allowed by those.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` only for a create event that gives the room its id.
    pub room_id: Option<OwnedRoomId>,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    /// One more than that of the deepest previous event.
    pub depth: u64,
    /// The reference hashes of all those events: room versions 1 and 2 name them as well. Others leave this empty.
    pub hashes: HashMap<OwnedEventId, String>,
}

/// The event that `draft` asks for. Errors: `M_BAD_JSON`, `M_TOO_LARGE`.
pub(super) fn make(
    server: &Server,
    rules: &RoomVersionRules,
    sender: &UserId,
    draft: Draft,
    place: &Place,
) -> Result<Verified> {
    with_context(server, rules, sender, place, |context| build::build(draft, context))
}

fn with_context<T>(
    server: &Server,
    rules: &RoomVersionRules,
    sender: &UserId,
    place: &Place,
    build: impl FnOnce(&Context<'_>) -> Result<T, FormatError>,
) -> Result<T> {
    let localpart = build::needs_legacy(rules).then(|| server.random.text(18));
    let context = Context {
        rules,
        room_id: place.room_id.as_deref(),
        sender,
        prev_events: &place.prev_events,
        auth_events: &place.auth_events,
        depth: place.depth,
        origin_server_ts: server.clock.now(),
        server_name: server.name(),
        key: &server.key,
        legacy: localpart.as_deref().map(|localpart| Legacy { localpart, hashes: &place.hashes }),
    };
    build(&context).map_err(|error| match error {
        FormatError::TooLarge(reason) => Error::too_large(format!("The event is too large: {reason}")),
        FormatError::BadJson(reason) => Error::bad_json(format!("The event is malformed: {reason}")),
    })
}

/// The event that `draft` asks for, at the current end of the room.
pub(super) fn make_next(server: &Server, view: &View<'_>, sender: &UserId, draft: Draft) -> Result<Verified> {
    let place = next_place(view, sender, &draft)?;
    make(server, view.rules, sender, draft, &place)
}

/// As [`make_next`], of a user of another server, which must sign it.
pub fn template_next(server: &Server, view: &View<'_>, sender: &UserId, draft: Draft) -> Result<Template> {
    let place = next_place(view, sender, &draft)?;
    with_context(server, view.rules, sender, &place, |context| build::template(draft, context))
}

fn next_place(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<Place> {
    let mut ends = view.events(view.forward_extremities())?;
    ends.sort_by_key(|event| std::cmp::Reverse(event.depth));
    ends.truncate(MAX_PREV_EVENTS);
    let auth_events = auth_events(view, sender, draft)?;
    let hashes = match build::needs_legacy(view.rules) {
        true => reference_hashes(view, ends.iter().chain(&auth_events))?,
        false => HashMap::new(),
    };
    Ok(Place {
        room_id: Some(view.room_id().to_owned()),
        depth: ends.first().map_or(0, |deepest| deepest.depth) + 1,
        prev_events: ends.into_iter().map(|event| event.event_id).collect(),
        auth_events: auth_events.into_iter().map(|event| event.event_id).collect(),
        hashes,
    })
}

/// The entries of the current state that the event must name as what allows it.
fn auth_events(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<Vec<StoredEvent>> {
    let event_type = draft.event_type.as_str().into();
    let types = authorize::auth_types(&event_type, sender, draft.state_key.as_deref(), &draft.content, view.rules)
        .map_err(|refusal| Error::bad_json(refusal.0))?;
    let mut found = Vec::new();
    for (event_type, state_key) in types {
        found.extend(view.state_event(view.current_state(), &event_type, &state_key)?);
    }
    Ok(found)
}

fn reference_hashes<'a>(
    view: &View<'_>,
    events: impl Iterator<Item = &'a StoredEvent>,
) -> Result<HashMap<OwnedEventId, String>> {
    let hash = |event: &StoredEvent| {
        let json = event.view().json(view.room_id(), view.rules).map_err(|e| Error::internal(e.to_string()))?;
        let hash = hash::reference_sha256(&json, view.rules).map_err(|e| Error::internal(e.to_string()))?;
        Ok((event.event_id.clone(), hash))
    };
    events.map(hash).collect()
}
