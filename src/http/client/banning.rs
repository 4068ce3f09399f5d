//! Banning users from rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::membership::{ban_user, unban_user};

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
    Router::new()
        .merge(endpoint::<ban_user::v3::Request, _, _>(ban))
        .merge(endpoint::<unban_user::v3::Request, _, _>(unban))
}

/// `POST /rooms/{roomId}/ban`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidban>
async fn ban(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<ban_user::v3::Request>,
) -> Result<Matrix<ban_user::v3::Response>> {
    server.limits.message(&sender)?;
    let room = membership::known(&server, &body.room_id)?;
    membership::ban(&server, &sender.user_id, &body.user_id, room, body.reason).await?;
    Ok(Matrix(ban_user::v3::Response::new()))
}

/// `POST /rooms/{roomId}/unban`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidunban>
async fn unban(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<unban_user::v3::Request>,
) -> Result<Matrix<unban_user::v3::Response>> {
    server.limits.message(&sender)?;
    let room = membership::known(&server, &body.room_id)?;
    membership::unban(&server, &sender.user_id, &body.user_id, room, body.reason).await?;
    Ok(Matrix(unban_user::v3::Response::new()))
}
