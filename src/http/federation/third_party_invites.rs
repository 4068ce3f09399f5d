//! Third-party invites: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{OwnedRoomId, OwnedUserId, api::federation::thirdparty::exchange_invite};
use serde::Deserialize;

use crate::{
    Server,
    error::{Error, Result},
    federation::resident::third_party::{self, Exchange, Signed},
    http::{
        endpoint,
        extract::{Federation, Loose, Matrix, json_object},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<exchange_invite::v1::Request, _, _>(exchange))
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid>
async fn exchange(
    State(server): State<Arc<Server>>,
    Federation { origin, body, raw }: Federation<Loose<exchange_invite::v1::Request>>,
) -> Result<Matrix<exchange_invite::v1::Response>> {
    #[derive(Deserialize)]
    struct Body {
        r#type: String,
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        state_key: OwnedUserId,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
        third_party_invite: Invite,
    }
    #[derive(Deserialize)]
    struct Invite {
        signed: Signed,
    }
    json_object(&raw)?;
    let asked: Body = serde_json::from_slice(&raw).map_err(|e| Error::bad_json(format!("That is no invite: {e}")))?;
    if asked.r#type != "m.room.member" || asked.content.membership != "invite" {
        return Err(Error::invalid_param("The event is no invite"));
    }
    if body.path.first().map(String::as_str) != Some(asked.room_id.as_str()) {
        return Err(Error::invalid_param("The event is of another room than the path"));
    }
    let exchange = Exchange {
        origin,
        room_id: asked.room_id,
        sender: asked.sender,
        invited: asked.state_key,
        signed: asked.content.third_party_invite.signed,
    };
    third_party::exchange(&server, exchange).await?;
    Ok(Matrix(exchange_invite::v1::Response::new()))
}
