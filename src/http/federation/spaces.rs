//! Spaces: <https://spec.matrix.org/v1.19/server-server-api/#spaces>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::federation::space::get_hierarchy;

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    room::hierarchy,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_hierarchy::v1::Request, _, _>(get_hierarchy))
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>
async fn get_hierarchy(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_hierarchy::v1::Request>,
) -> Result<Matrix<get_hierarchy::v1::Response>> {
    let tell = move |server: &Server| hierarchy::for_server(server, &origin, &body.room_id, body.suggested_only);
    server.blocking(tell).await.map(Matrix)
}
