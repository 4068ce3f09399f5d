//! Tokens by which other services learn who a user is.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{OwnedUserId, api::client::account::request_openid_token, authentication::TokenType};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    server::OPENID_TOKEN_LIFETIME,
};

const TOKEN_LENGTH: usize = 32;

/// How many tokens of one user are good at a time: the oldest make room.
const MAX_TOKENS: usize = 100;

pub fn router() -> Router<Arc<Server>> {
    endpoint::<request_openid_token::v3::Request, _, _>(request_token)
}

/// `POST /user/{userId}/openid/request_token`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token>
async fn request_token(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<request_openid_token::v3::Request>,
) -> Result<Matrix<request_openid_token::v3::Response>> {
    if body.user_id != sender.user_id {
        return Err(Error::forbidden("You may only ask for a token of your own"));
    }
    server.limits.message(&sender)?;
    let token = server.random.text(TOKEN_LENGTH);
    let is_his = |other: &OwnedUserId| *other == sender.user_id;
    server.openid_tokens.insert_among(server.clock.now_ms(), &token, sender.user_id.clone(), MAX_TOKENS, is_his);
    let name = server.owned_name();
    Ok(Matrix(request_openid_token::v3::Response::new(token, TokenType::Bearer, name, OPENID_TOKEN_LIFETIME)))
}
