//! Account management: <https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management>

use std::sync::Arc;

use axum::Router;
use ruma::api::client::account::whoami;

use crate::{
    Server,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<whoami::v3::Request, _, _>(who_am_i)
}

/// `GET /account/whoami`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>
async fn who_am_i(Client { sender, .. }: Client<whoami::v3::Request>) -> Matrix<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(sender.user_id, false);
    response.device_id = Some(sender.device_id);
    Matrix(response)
}
