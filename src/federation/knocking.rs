//! Knocking on rooms of other servers.

use std::sync::Arc;

use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_knock_event, prepare_knock_event},
};
use serde_json::value::RawValue;
use tracing::info;

use super::{
    handshake::{Candidates, Prepared, raw},
    joining::resident,
    refusal, request,
};
use crate::{
    Server,
    error::{Error, Result},
    event::rules,
    room::{
        Membership, invited,
        membership::{self, Content},
        remote,
    },
};

/// Knocks on a room wherever it is. Errors: as [`super::joining::join`].
///
/// <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>
pub async fn knock(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<()> {
    // Where members are not known, nobody here knows who may knock.
    if let Some((room, true)) = resident(server, room_id).await? {
        return membership::knock(server, user, room, reason).await;
    }
    let content = membership::because(reason);
    let (server, user, room_id, via) = (Arc::clone(server), user.to_owned(), room_id.to_owned(), via.to_vec());
    Server::detached(async move {
        let mut failed = None;
        for candidate in Candidates::find(&server, &user, &room_id, &via).await?.iter() {
            match knock_by(&server, &user, &room_id, candidate, content.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    info!(%room_id, server = %candidate, "nobody can knock through this server: {error:?}");
                    failed = Some(refusal::more_telling(failed, error));
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::not_found("This server knows no such room, and nobody to ask about it")))
    })
    .await
}

async fn knock_by(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    through: &ServerName,
    content: Content,
) -> Result<()> {
    let mut prepare = prepare_knock_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    prepare.ver = rules::known();
    let draft = request(server, through, prepare).await?;
    let prepared = Prepared::read(Some(draft.room_version), &draft.event, room_id, user, Membership::Knock)?;
    let version = prepared.version.clone();
    let content = membership::own_content(server, user, Membership::Knock, content).await?;
    let event = prepared.build(server, room_id, user, &content)?;
    let send = create_knock_event::v1::Request::new(room_id.to_owned(), event.pdu().event_id.clone(), raw(&event));
    let answer = request(server, through, send).await?;
    let told = invited::stripped(answer.knock_room_state.into_iter().filter_map(stripped_json).collect(), None);
    let room = remote::claim(server, room_id.to_owned(), version).await?;
    invited::set(server, room, user.to_owned(), Membership::Knock, event, told).await?;
    Ok(())
}

/// The JSON of an event that a server tells of its room's state, in whichever form.
#[expect(deprecated, reason = "older servers send that form")]
fn stripped_json(event: RawStrippedState) -> Option<Box<RawValue>> {
    match event {
        RawStrippedState::Stripped(event) => Some(event.into_json()),
        RawStrippedState::Pdu(event) => Some(event),
        _ => None,
    }
}
