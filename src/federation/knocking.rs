//! Knocking on rooms of other servers.

use std::sync::Arc;

use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{create_knock_event, prepare_knock_event},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::info;

use super::{
    exchange_signed,
    handshake::{Candidates, Prepared, raw},
    joining::resident,
    refusal, request,
};
use crate::{
    Server,
    error::{Error, Result},
    event::rules,
    outgoing,
    room::{
        Membership,
        invited::{self, Told},
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
    let answer = exchange_signed(server, through, send, request::ordinary(server)).await?;
    // The room has the knock by now, whatever else is wrong with the answer.
    let answer = outgoing::read(answer.into_body()).await.unwrap_or_default();
    let told = Told { state: invited::stripped(state_in(&answer), None), through: Some(through.to_owned()) };
    let room = remote::claim(server, room_id.to_owned(), version).await?;
    invited::set(server, room, user.to_owned(), Membership::Knock, event, Some(told)).await?;
    Ok(())
}

/// What a server tells of its room's state. Some send `null`, or what is no list: then they tell nothing.
///
/// NOTSPEC: signatures are not looked at: as stripped state, which older servers send, it may say the same without.
fn state_in(answer: &[u8]) -> Vec<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Answer {
        knock_room_state: Option<Box<RawValue>>,
    }
    let state = serde_json::from_slice::<Answer>(answer).ok().and_then(|answer| answer.knock_room_state);
    state.and_then(|state| serde_json::from_str(state.get()).ok()).unwrap_or_default()
}
