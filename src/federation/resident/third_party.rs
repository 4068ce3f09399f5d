//! Invites by e-mail address and the like, whose owner has become known: an identity server tells his homeserver, which
//! asks the inviter's to make a real invite of it.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId,
    events::{StateEventType, room::third_party_invite::RoomThirdPartyInviteEventContent},
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::approach;
use crate::{
    Server,
    error::{Error, Result},
    room::{
        Membership,
        membership::{self, Content},
    },
    store::RoomNid,
};

/// What the server of the invited user asks for, be it this one.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    /// Who invited.
    pub sender: OwnedUserId,
    pub invited: OwnedUserId,
    pub signed: Signed,
}

/// What an identity server signed: that the user is whom the invite with this token is for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Signed {
    pub mxid: OwnedUserId,
    pub token: String,
    pub signatures: Value,
}

impl Signed {
    pub fn to_json(&self) -> Box<RawValue> {
        to_raw_value(self).expect("texts and JSON serialize")
    }
}

/// Makes an invite of our user's, whose content we build of what the room says and the identity server signed. The
/// rules of the room check that signature.
///
/// Errors: `M_FORBIDDEN`, `M_NOT_FOUND`, `M_LIMIT_EXCEEDED`, and what the invited user's server refuses.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid>
pub async fn exchange(server: &Arc<Server>, exchange: Exchange) -> Result<()> {
    let Exchange { origin, sender, invited, .. } = exchange.clone();
    server.limits.invite_of_server(&origin)?;
    let (room, content) = server.blocking(move |server| check(server, &exchange)).await?;
    membership::invite_as(server, &sender, &invited, room, content).await
}

fn check(server: &Server, exchange: &Exchange) -> Result<(RoomNid, Content)> {
    let Exchange { origin, room_id, sender, invited, signed } = exchange;
    let snapshot = server.store.snapshot();
    let view = approach(server, &snapshot, room_id, origin)?;
    if !server.is_ours(sender) {
        return Err(Error::forbidden("That invite was not made here"));
    }
    if invited.server_name() != origin || signed.mxid != *invited {
        return Err(Error::forbidden("That invite is not for a user of your server"));
    }
    let state = view.current_state();
    let invite = view.state_pdu(state, &StateEventType::RoomThirdPartyInvite, &signed.token)?;
    let invite = invite.filter(|invite| invite.sender == *sender);
    let invite = invite.ok_or_else(|| Error::forbidden("There is no such invite"))?;
    if view.membership(state, sender)? != Some(Membership::Join) {
        return Err(Error::forbidden("Who invited is not in the room any more"));
    }
    let invite: RoomThirdPartyInviteEventContent =
        serde_json::from_str(invite.content.get()).map_err(|_| Error::forbidden("The invite was taken back"))?;
    let content = json!({
        "third_party_invite": {
            "display_name": invite.display_name,
            "signed": { "mxid": signed.mxid, "token": signed.token, "signatures": signed.signatures },
        },
    });
    let content: Content = serde_json::from_value(content).map_err(Error::internal)?;
    Ok((view.nid, content))
}
