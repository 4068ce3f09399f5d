//! Inviting to rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use http::StatusCode;
use ruma::api::{
    client::membership::invite_user::v3::{InvitationRecipient, Request, Response},
    error::ErrorKind,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::membership,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(invite)
}

/// `POST /rooms/{roomId}/invite`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite>
async fn invite(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<Request>,
) -> Result<Matrix<Response>> {
    server.limits.message(&sender)?;
    let InvitationRecipient::UserId(invited) = body.recipient else { return Err(no_third_party_invites()) };
    let room = membership::known(&server, &body.room_id)?;
    membership::invite(&server, &sender.user_id, &invited.user_id, room, invited.reason).await?;
    Ok(Matrix(Response::new()))
}

/// An invite by e-mail or telephone number goes through an identity server that the client names.
pub(super) fn no_third_party_invites() -> Error {
    no_identity_server("so it invites nobody by e-mail address or telephone number")
}

pub(super) fn no_identity_server(consequence: &str) -> Error {
    let message = format!("This server trusts no identity server, {consequence}");
    Error::refused(ErrorKind::ServerNotTrusted, message).with_status(StatusCode::FORBIDDEN)
}
