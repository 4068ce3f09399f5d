//! What other servers send us.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::federation::transactions::send_transaction_message::v1::{Request, Response};

use crate::{
    Server,
    error::Result,
    federation::{edu, inbox},
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(send)
}

/// `PUT /send/{txnId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid>
async fn send(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<Request>,
) -> Result<Matrix<Response>> {
    inbox::check_size(&origin, &body)?;
    let answer = inbox::receive(&server, &origin, body.transaction_id.as_str(), body.pdus).await?;
    // Who gets a message must be woken even if the peer hangs up: what it sends again is known then, and wakes nobody.
    Server::detached(async move {
        for message in body.edus {
            edu::receive(&server, &origin, message).await?;
        }
        Ok(())
    })
    .await?;
    Ok(Matrix(Response::new(answer)))
}
