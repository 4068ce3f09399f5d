//! Knocking on rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::knock::knock_room::v3::{Request, Response};

use crate::{
    Server,
    error::Result,
    federation::{joining, knocking},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    user::moderation,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(knock)
}

/// `POST /knock/{roomIdOrAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3knockroomidoralias>
async fn knock(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<Request>,
) -> Result<Matrix<Response>> {
    server.limits.message(&sender)?;
    moderation::check_not_suspended(&server.store.snapshot(), &sender.user_id)?;
    let (room_id, via) = joining::find(&server, &body.room_id_or_alias, body.via).await?;
    knocking::knock(&server, &sender.user_id, &room_id, &via, body.reason).await?;
    Ok(Matrix(Response::new(room_id)))
}
