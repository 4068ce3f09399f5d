//! Kicking users from rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::membership::kick_user::v3::{Request, Response};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::membership,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(kick)
}

/// `POST /rooms/{roomId}/kick`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick>
async fn kick(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<Request>,
) -> Result<Matrix<Response>> {
    server.limits.message(&sender)?;
    let room = membership::known(&server, &body.room_id)?;
    membership::kick(&server, &sender.user_id, &body.user_id, room, body.reason).await?;
    Ok(Matrix(Response::new()))
}
