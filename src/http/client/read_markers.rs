//! The last event that a user has dealt with.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::read_marker::set_read_marker;

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::receipts::{self, Kind, Mark, Thread},
    user::presence,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<set_read_marker::v3::Request, _, _>(set))
}

/// `POST /rooms/{roomId}/read_markers`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidread_markers>
async fn set(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<set_read_marker::v3::Request>,
) -> Result<Matrix<set_read_marker::v3::Response>> {
    let marks = [
        (Kind::FullyRead, body.fully_read),
        (Kind::Public, body.read_receipt),
        (Kind::Private, body.private_read_receipt),
    ];
    let marks = marks.into_iter().filter_map(|(kind, event_id)| {
        let event_id = event_id?;
        Some(Mark { kind, thread: Thread::Any, event_id })
    });
    receipts::set(&server, &sender.user_id, &body.room_id, marks.collect()).await?;
    presence::active(&server, &sender.user_id, &sender.device_id);
    Ok(Matrix(set_read_marker::v3::Response::new()))
}
