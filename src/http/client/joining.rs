//! Joining rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::membership::{ThirdPartySigned, join_room_by_id, join_room_by_id_or_alias, joined_rooms};

use super::inviting::no_identity_server;
use crate::{
    Server,
    error::{Error, Result},
    federation::joining,
    http::{
        endpoint,
        extract::{Client, GuestClient, Matrix},
    },
    room::membership::{self, Content},
    user::moderation,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<join_room_by_id::v3::Request, _, _>(by_id))
        .merge(endpoint::<join_room_by_id_or_alias::v3::Request, _, _>(by_id_or_alias))
        .merge(endpoint::<joined_rooms::v3::Request, _, _>(joined))
}

/// `POST /rooms/{roomId}/join`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin>
async fn by_id(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, raw }: GuestClient<join_room_by_id::v3::Request>,
) -> Result<Matrix<join_room_by_id::v3::Response>> {
    server.limits.message(&sender)?;
    refuse_signed(body.third_party_signed.as_ref())?;
    moderation::check_not_suspended(&server.store.snapshot(), &sender.user_id)?;
    joining::join(&server, &sender.user_id, &body.room_id, &[], extra(&raw)?).await?;
    Ok(Matrix(join_room_by_id::v3::Response::new(body.room_id)))
}

/// `POST /join/{roomIdOrAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3joinroomidoralias>
async fn by_id_or_alias(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, raw }: GuestClient<join_room_by_id_or_alias::v3::Request>,
) -> Result<Matrix<join_room_by_id_or_alias::v3::Response>> {
    server.limits.message(&sender)?;
    refuse_signed(body.third_party_signed.as_ref())?;
    moderation::check_not_suspended(&server.store.snapshot(), &sender.user_id)?;
    let (room_id, via) = joining::find(&server, &body.room_id_or_alias, body.via).await?;
    joining::join(&server, &sender.user_id, &room_id, &via, extra(&raw)?).await?;
    Ok(Matrix(join_room_by_id_or_alias::v3::Response::new(room_id)))
}

/// `GET /joined_rooms`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3joined_rooms>
async fn joined(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<joined_rooms::v3::Request>,
) -> Result<Matrix<joined_rooms::v3::Response>> {
    let rooms = server.read(move |snapshot| membership::joined_rooms(snapshot, &sender.user_id)).await?;
    Ok(Matrix(joined_rooms::v3::Response::new(rooms)))
}

/// What the client wants in its member event: `reason`, and whatever else, as other servers allow it.
fn extra(raw: &[u8]) -> Result<Content> {
    serde_json::from_slice(raw).map_err(|e| Error::bad_json(e.to_string()))
}

/// A signature of an identity server for an invite by e-mail. Whether its keys are still valid would have to be asked of
/// that server, which we do of none.
fn refuse_signed(signed: Option<&ThirdPartySigned>) -> Result<()> {
    signed.map_or(Ok(()), |_| Err(no_identity_server("so it can't check `third_party_signed`")))
}
