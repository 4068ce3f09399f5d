//! Ends of a room's event graph that have become too many: every event of ours would name them, and the state of all of
//! them is resolved for each. One event of ours that follows on them makes them one.

use std::sync::Arc;

use ruma::{OwnedUserId, events::MessageLikeEventType};
use serde_json::value::RawValue;
use tracing::debug;

use super::{View, append, power_levels};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    store::RoomNid,
    user::moderation,
};

/// An event that says nothing: other servers know it by this type too, and show it to nobody.
pub const DUMMY: &str = "org.matrix.dummy_event";

/// From how many ends on they are made one. Source: our choice, as that of Synapse; an event may name 20.
const MAX_ENDS: usize = 10;

/// How many of our users are looked at for one who may send the event.
const MAX_SENDERS: usize = 100;

/// Makes the ends of a room few if there are too many, and somebody of ours may.
pub async fn merge(server: &Arc<Server>, room: RoomNid) -> Result<()> {
    while merge_some(server, room).await? {}
    Ok(())
}

/// Makes as many ends one as an event can name; whether there were too many.
async fn merge_some(server: &Arc<Server>, room: RoomNid) -> Result<bool> {
    let find = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let count = view.forward_extremities().len();
        Ok(if count > MAX_ENDS { sender(&view)?.map(|sender| (sender, count)) } else { None })
    };
    let Some((sender, count)) = server.blocking(find).await? else { return Ok(false) };
    debug!(room = room.0, count, "the ends of a room are made one");
    let content = RawValue::from_string("{}".to_owned()).map_err(Error::internal)?;
    match append::send(server, room, &sender, Draft::message(DUMMY.into(), content), None).await {
        Ok(_) => Ok(true),
        // The room has changed meanwhile, or its policy server does not answer: then not now.
        Err(Error::Refused { .. } | Error::Remote { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn sender(view: &View<'_>) -> Result<Option<OwnedUserId>> {
    let levels = power_levels(view)?;
    for user in view.each_local_member().take(MAX_SENDERS) {
        let user = user?;
        let may_send = levels.user_can_send_message(&user, MessageLikeEventType::from(DUMMY));
        if may_send && !moderation::is_suspended(view.snapshot, &user)? {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        room::testing::{TestRoom, user},
        user::tables::{Account, Accounts},
    };

    #[test]
    fn nobody_is_chosen_who_is_suspended() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        let chosen = || room.read("bob", |reader, _| sender(reader.view()).unwrap());
        assert_eq!(chosen(), Some(user("alice")));
        let suspended = Account { is_suspended: true, ..Account::without_password(0) };
        room.change(move |tx| tx.put::<Accounts>(&&*user("alice"), &suspended));
        assert_eq!(chosen(), Some(user("bob")));
    }
}
