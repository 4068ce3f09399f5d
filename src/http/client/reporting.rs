//! Telling the administrators of what should not be.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    reports,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<report_content::v3::Request, _, _>(event))
        .merge(endpoint::<report_room::v3::Request, _, _>(room))
        .merge(endpoint::<report_user::v3::Request, _, _>(user))
}

/// `POST /rooms/{roomId}/report/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreporteventid>
async fn event(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<report_content::v3::Request>,
) -> Result<Matrix<report_content::v3::Response>> {
    reports::event(&server, &sender, body.room_id, body.event_id, body.reason).await?;
    Ok(Matrix(report_content::v3::Response::new()))
}

/// `POST /rooms/{roomId}/report`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreport>
async fn room(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<report_room::v3::Request>,
) -> Result<Matrix<report_room::v3::Response>> {
    reports::room(&server, &sender, body.room_id, body.reason).await?;
    Ok(Matrix(report_room::v3::Response::new()))
}

/// `POST /users/{userId}/report`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3usersuseridreport>
async fn user(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<report_user::v3::Request>,
) -> Result<Matrix<report_user::v3::Response>> {
    reports::user(&server, &sender, body.user_id, body.reason).await?;
    Ok(Matrix(report_user::v3::Response::new()))
}
