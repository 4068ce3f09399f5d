//! Room upgrades.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use super::create_room::with_version;
use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Loose, Matrix},
    },
    room::{
        partial,
        upgrade::{self, Upgrade},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Loose<Request>, _, _>(upgrade_room)
}

/// `POST /rooms/{roomId}/upgrade`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade>
async fn upgrade_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Loose<Request>>,
) -> Result<Matrix<Response>> {
    let body = with_version(body, &raw, "new_version")?;
    server.limits.message(&sender)?;
    // The new room gets the bans of the old one.
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    let wish = Upgrade { version: body.new_version, additional_creators: body.additional_creators };
    let new = upgrade::upgrade(&server, &sender.user_id, &body.room_id, wish).await?;
    Ok(Matrix(Response::new(new)))
}
