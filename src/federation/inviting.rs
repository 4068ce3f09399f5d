//! Inviting users of other servers: their server signs the invite before it becomes part of the room.

use std::sync::Arc;

use ruma::{
    OwnedEventId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
};

use super::{events, handshake::raw, refusal, request};
use crate::{
    Server,
    error::{Error, Result},
    event::Verified,
    room::{
        append::{self, Prepared, Verdict},
        membership::{self, Content},
        partial, show,
    },
    store::RoomNid,
};

/// Invites a user of another server to a room that we are in. `content`: what the client wants in the member event.
/// Once the room is whole, it goes on to its end even if the client hangs up.
///
/// Errors: `M_FORBIDDEN` where the room or that server does not allow it.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>
pub async fn invite(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    content: Content,
) -> Result<OwnedEventId> {
    // What he is to the room may not be known yet.
    partial::until_whole_for(server, sender, room).await?;
    let (server, sender, target) = (Arc::clone(server), sender.to_owned(), target.to_owned());
    // A client that hangs up must not leave an invite there of which the room does not know.
    Server::detached(async move {
        let (inviter, invited) = (sender.clone(), target.clone());
        let prepared = append::prepare(&server, room, &sender, move |_, view| {
            membership::invite_step(view, &inviter, &invited, content)
        })
        .await?;
        let event = match prepared {
            Prepared::Event(event) => *event,
            Prepared::Done(event_id) => return Ok(event_id),
        };
        let (version, rules, state) = server
            .blocking(move |server| {
                let snapshot = server.store.snapshot();
                let view = crate::room::View::of(&server.rooms, &snapshot, room)?;
                let state = show::telling_pdus(&view, view.current_state(), Some(&sender))?;
                Ok((view.room.version.clone(), view.rules, state))
            })
            .await?;
        let state = state.into_iter().map(RawStrippedState::Pdu).collect();
        let (room_id, event_id) = (event.pdu().room_id.clone(), event.pdu().event_id.clone());
        let ask = create_invite::v2::Request::new(room_id, event_id.clone(), version, raw(&event), state);
        let answer = request(&server, target.server_name(), ask).await.map_err(refusal::as_ours)?;
        let event = countersigned(&server, rules, event, target.server_name(), answer.event).await?;
        match append::append(&server, room, event).await?.1 {
            Verdict::Accepted => Ok(event_id),
            Verdict::Rejected(refusal) | Verdict::SoftFailed(refusal) => {
                Err(Error::forbidden(format!("The rules of the room do not allow this: {refusal}")))
            }
        }
    })
    .await
}

/// Our invite with the signature of the invited user's server.
async fn countersigned(
    server: &Arc<Server>,
    rules: &'static ruma::room_version_rules::RoomVersionRules,
    ours: Verified,
    by: &ServerName,
    signed: Box<serde_json::value::RawValue>,
) -> Result<Verified> {
    let checked = events::check(server, rules, &ours.pdu().room_id, vec![signed]).await?;
    let same = checked.into_iter().find(|event| {
        event.pdu().event_id == ours.pdu().event_id && event.json().get("content") == ours.json().get("content")
    });
    let signatures = same.map(|event| event.signatures_of(by)).unwrap_or_default();
    if signatures.is_empty() {
        return Ok(ours);
    }
    // Only its own: ours has those of us and of the room's policy server.
    ours.with_signatures(rules, by, signatures).map_err(|error| Error::too_large(error.to_string()))
}
