use ruma::{
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
    state_res::events::RoomCreateEvent,
};

use super::{View, state::trie::Tries};
use crate::{
    error::{Error, Result},
    event::StateRoot,
};

/// Who may do what in the room now. A power-levels event that does not say it in the specification's form counts as
/// none: nobody gains by it.
pub fn power_levels(view: &View<'_>) -> Result<RoomPowerLevels> {
    power_levels_in(view, &view.tries(), view.current_state())
}

/// As [`power_levels`], in a state that may not be written yet, but is in `tries`.
pub(super) fn power_levels_in(view: &View<'_>, tries: &Tries<'_>, state: StateRoot) -> Result<RoomPowerLevels> {
    let create = view.state_pdu_in(tries, state, &StateEventType::RoomCreate, "")?;
    let create = create.ok_or_else(|| Error::internal(format!("{} has no create event", view.room_id())))?;
    let creators = RoomCreateEvent::new(create).creators(&view.rules.authorization).map_err(Error::internal)?;
    let levels = view.state_pdu_in(tries, state, &StateEventType::RoomPowerLevels, "")?;
    let content: Option<RoomPowerLevelsEventContent> =
        levels.and_then(|levels| serde_json::from_str(levels.content.get()).ok());
    let source = content.map_or(RoomPowerLevelsSource::None, RoomPowerLevelsSource::Original);
    Ok(RoomPowerLevels::new(source, &view.rules.authorization, creators))
}
