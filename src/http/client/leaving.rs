//! Leaving rooms, and forgetting them.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::membership::{forget_room, leave_room};

use crate::{
    Server,
    error::Result,
    federation::leaving,
    http::{
        endpoint,
        extract::{Client, GuestClient, Matrix},
    },
    room::membership,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<forget_room::v3::Request, _, _>(forget)).merge(endpoint::<
        leave_room::v3::Request,
        _,
        _,
    >(leave))
}

/// `POST /rooms/{roomId}/leave`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave>
async fn leave(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<leave_room::v3::Request>,
) -> Result<Matrix<leave_room::v3::Response>> {
    server.limits.message(&sender)?;
    leaving::leave(&server, &sender.user_id, &body.room_id, body.reason).await?;
    Ok(Matrix(leave_room::v3::Response::new()))
}

/// `POST /rooms/{roomId}/forget`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget>
async fn forget(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<forget_room::v3::Request>,
) -> Result<Matrix<forget_room::v3::Response>> {
    membership::forget(&server, &sender.user_id, &body.room_id).await?;
    Ok(Matrix(forget_room::v3::Response::new()))
}
