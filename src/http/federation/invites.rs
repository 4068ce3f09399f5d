//! Inviting to a room: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId,
    api::federation::membership::create_invite,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Server,
    error::{Error, Result},
    federation::resident::invite::{self, Invite},
    http::{
        endpoint,
        extract::{Federation, Json, Loose},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<create_invite::v1::Request, _, _>(invite_v1)).merge(endpoint::<
        create_invite::v2::Request,
        _,
        _,
    >(invite_v2))
}

#[derive(Serialize)]
struct Signed {
    event: CanonicalJsonObject,
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>
async fn invite_v2(
    State(server): State<Arc<Server>>,
    Federation { origin, body, raw }: Federation<Loose<create_invite::v2::Request>>,
) -> Result<Json<Signed>> {
    #[derive(Deserialize)]
    struct Body {
        room_version: RoomVersionId,
        event: Box<RawValue>,
        invite_room_state: Option<Box<RawValue>>,
    }
    let Body { room_version, event, invite_room_state } = read(&raw)?;
    let told = Told { version: Some(room_version), event, room_state: invite_room_state };
    Ok(Json(Signed { event: receive(&server, origin, body.path, told).await? }))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`, for rooms of versions 1 and 2, of which the events look alike.
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid>
async fn invite_v1(
    State(server): State<Arc<Server>>,
    Federation { origin, body, raw }: Federation<Loose<create_invite::v1::Request>>,
) -> Result<Json<(u16, Signed)>> {
    #[derive(Deserialize)]
    struct Body {
        unsigned: Option<Unsigned>,
    }
    #[derive(Deserialize)]
    struct Unsigned {
        invite_room_state: Option<Box<RawValue>>,
    }
    let event: Box<RawValue> = read(&raw)?;
    // What is not as it should be in `unsigned` is left out.
    let unsigned = serde_json::from_slice::<Body>(&raw).ok().and_then(|body| body.unsigned);
    let room_state = unsigned.and_then(|unsigned| unsigned.invite_room_state);
    let told = Told { version: None, event, room_state };
    Ok(Json((200, Signed { event: receive(&server, origin, body.path, told).await? })))
}

/// What a request tells of an invite.
struct Told {
    version: Option<RoomVersionId>,
    event: Box<RawValue>,
    room_state: Option<Box<RawValue>>,
}

async fn receive(
    server: &Arc<Server>,
    origin: OwnedServerName,
    path: Vec<String>,
    told: Told,
) -> Result<CanonicalJsonObject> {
    let [room_id, event_id] =
        <[String; 2]>::try_from(path).map_err(|_| Error::invalid_param("The path has a room id and an event id"))?;
    let room_id = OwnedRoomId::try_from(room_id).map_err(|e| Error::invalid_param(format!("Room id: {e}")))?;
    let event_id = OwnedEventId::try_from(event_id).map_err(|e| Error::invalid_param(format!("Event id: {e}")))?;
    // Some servers send `null`, or what is no list: then they tell nothing.
    let room_state = told.room_state.and_then(|state| serde_json::from_str(state.get()).ok()).unwrap_or_default();
    let Told { version, event, .. } = told;
    invite::receive(server, Invite { origin, room_id, event_id, version, event, room_state }).await
}

fn read<T: serde::de::DeserializeOwned>(raw: &[u8]) -> Result<T> {
    crate::http::extract::json_object(raw)?;
    serde_json::from_slice(raw).map_err(|e| Error::bad_json(format!("The body is not an invite: {e}")))
}
