//! Who a user is, for services that he gave a token.

use std::sync::Arc;

use axum::{Router, extract::State};
use http::StatusCode;
use ruma::api::{
    error::{ErrorKind, UnknownTokenErrorData},
    federation::openid::get_openid_userinfo,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Loose, Matrix, Public},
    },
    user::session,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Loose<get_openid_userinfo::v1::Request>, _, _>(userinfo)
}

/// `GET /_matrix/federation/v1/openid/userinfo`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1openiduserinfo>
async fn userinfo(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<Loose<get_openid_userinfo::v1::Request>>,
) -> Result<Matrix<get_openid_userinfo::v1::Response>> {
    let body = body.with_body(&[]).map_err(|_| Error::missing_token())?;
    let unknown = || {
        let kind = ErrorKind::UnknownToken(UnknownTokenErrorData::new());
        Error::refused(kind, "Access token unknown or expired").with_status(StatusCode::UNAUTHORIZED)
    };
    let user = server.openid_tokens.with(server.clock.now_ms(), &body.access_token, |user| user.clone());
    let user = user.ok_or_else(unknown)?;
    session::check_in_use(&server.store.snapshot(), &user).map_err(|error| match error {
        Error::Refused { .. } => unknown(), // that a user is locked concerns no other service
        error => error,
    })?;
    Ok(Matrix(get_openid_userinfo::v1::Response::new(user)))
}
