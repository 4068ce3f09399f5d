//! The state of a room that a user may know.

use ruma::{
    UserId,
    events::{AnyStrippedStateEvent, StateEventType},
    serde::Raw,
};
use serde::de::DeserializeOwned;

use super::{
    Membership, View, show,
    tables::UserRoom,
    visibility::{Sight, Standing},
};
use crate::{error::Result, event::StateRoot};

/// The state as it is, as it was when the user left, or as he was told with an invite or a knock.
pub struct KnownState<'v, 's> {
    view: &'v View<'s>,
    form: Form,
}

enum Form {
    Whole(StateRoot),
    Told(Vec<Raw<AnyStrippedStateEvent>>),
}

impl<'v, 's> KnownState<'v, 's> {
    /// `row`: the user's, of this room; who has none knows nothing.
    pub fn of(view: &'v View<'s>, user: &UserId, row: Option<&UserRoom>) -> Result<Self> {
        let form = match row.map(|row| (row.membership, row.event)) {
            Some((Membership::Join, _)) => Form::Whole(view.current_state()),
            Some((Membership::Invite | Membership::Knock, event)) => Form::Told(show::stripped_state(view, event)?),
            Some((Membership::Leave | Membership::Ban, _)) => match Sight::of(view, user)?.standing {
                Standing::Left(departure) => Form::Whole(departure.state),
                Standing::Joined | Standing::Stranger => Form::Told(Vec::new()),
            },
            None => Form::Told(Vec::new()),
        };
        Ok(Self { view, form })
    }

    /// `None` too if the content is not what `T` asks for, since a room may hold anything.
    pub fn content<T: DeserializeOwned>(&self, event_type: &StateEventType, state_key: &str) -> Result<Option<T>> {
        match &self.form {
            Form::Whole(root) => Ok(self.view.state_content(*root, event_type, state_key)?),
            Form::Told(events) => {
                let event_type = event_type.to_string();
                let has = |event: &Raw<AnyStrippedStateEvent>, field: &str, value: &str| {
                    event.get_field::<String>(field).ok().flatten().is_some_and(|found| found == value)
                };
                let event =
                    events.iter().find(|event| has(event, "type", &event_type) && has(event, "state_key", state_key));
                Ok(event.and_then(|event| event.get_field("content").ok().flatten()))
            }
        }
    }
}
