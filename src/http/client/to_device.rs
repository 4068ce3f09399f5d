//! <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::to_device::send_event_to_device;

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{GuestClient, Matrix},
    },
    user::to_device::{self, Sending},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<send_event_to_device::v3::Request, _, _>(send_event_to_device))
}

/// `PUT /sendToDevice/{eventType}/{txnId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid>
async fn send_event_to_device(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<send_event_to_device::v3::Request>,
) -> Result<Matrix<send_event_to_device::v3::Response>> {
    let contents = body.messages.into_iter().map(|(user, messages)| {
        (user, messages.into_iter().map(|(device, content)| (device, content.into_json())).collect())
    });
    let sending = Sending {
        event_type: body.event_type.to_string(),
        txn_id: body.txn_id.to_string(),
        contents: contents.collect(),
    };
    // The receivers must be woken even if the sender hangs up.
    Server::detached(async move { to_device::send(&server, sender, sending).await }).await?;
    Ok(Matrix(send_event_to_device::v3::Response::new()))
}
