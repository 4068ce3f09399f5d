//! Third-party invites: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::federation::thirdparty::{bind_callback, exchange_invite},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Server,
    error::{Error, Result},
    federation::{
        binding,
        resident::third_party::{self, Exchange, Signed},
    },
    http::{
        endpoint,
        extract::{Federation, Json, Loose, Matrix, Public, json_object},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<exchange_invite::v1::Request, _, _>(exchange)).merge(endpoint::<
        bind_callback::v1::Request,
        _,
        _,
    >(bound))
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

/// `PUT /_matrix/federation/v1/3pid/onbind`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind>
async fn bound(
    State(server): State<Arc<Server>>,
    Public { raw, address, .. }: Public<Loose<bind_callback::v1::Request>>,
) -> Result<Json<Value>> {
    // What address it is, and of what kind, makes no difference to us: the token tells which invites are meant.
    #[derive(Deserialize)]
    struct Body {
        mxid: OwnedUserId,
        invites: Vec<Invite>,
    }
    #[derive(Deserialize)]
    struct Invite {
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        signed: Signed,
    }
    if !server.config.allow_federation {
        return Err(Error::forbidden("This server does not federate"));
    }
    server.limits.registration(address)?;
    json_object(&raw)?;
    let told: Body =
        serde_json::from_slice(&raw).map_err(|e| Error::bad_json(format!("That tells of no user: {e}")))?;
    let invites = told.invites.into_iter();
    let invites = invites.map(|Invite { room_id, sender, signed }| binding::Invite { room_id, sender, signed });
    binding::receive(&server, told.mxid, invites.collect())?;
    Ok(Json(json!({})))
}
