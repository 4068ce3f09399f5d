use ruma::{
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
    state_res::events::RoomCreateEvent,
};

use super::View;
use crate::error::{Error, Result};

/// Who may do what in the room now. A power-levels event that does not say it in the specification's form counts as
/// none: nobody gains by it.
pub fn power_levels(view: &View<'_>) -> Result<RoomPowerLevels> {
    let create = view.state_pdu(view.current_state(), &StateEventType::RoomCreate, "")?;
    let create = create.ok_or_else(|| Error::internal(format!("{} has no create event", view.room_id())))?;
    let creators = RoomCreateEvent::new(create).creators(&view.rules.authorization).map_err(Error::internal)?;
    let content: Option<RoomPowerLevelsEventContent> =
        view.state_content(view.current_state(), &StateEventType::RoomPowerLevels, "")?;
    let source = content.map_or(RoomPowerLevelsSource::None, RoomPowerLevelsSource::Original);
    Ok(RoomPowerLevels::new(source, &view.rules.authorization, creators))
}
