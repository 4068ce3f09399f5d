//! Logout: <https://spec.matrix.org/v1.19/client-server-api/#login>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::session::{logout, logout_all};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{LockedClient, Matrix},
    },
    user::device::{self, Selection},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<logout::v3::Request, _, _>(log_out))
        .merge(endpoint::<logout_all::v3::Request, _, _>(log_out_all))
}

/// `POST /logout`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout>
async fn log_out(
    State(server): State<Arc<Server>>,
    LockedClient { sender, .. }: LockedClient<logout::v3::Request>,
) -> Result<Matrix<logout::v3::Response>> {
    sender.check_device()?; // the token of an application service does not end
    device::log_out(server, sender.user_id, Selection::These([sender.device_id].into())).await?;
    Ok(Matrix(logout::v3::Response::new()))
}

/// `POST /logout/all`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logoutall>
async fn log_out_all(
    State(server): State<Arc<Server>>,
    LockedClient { sender, .. }: LockedClient<logout_all::v3::Request>,
) -> Result<Matrix<logout_all::v3::Response>> {
    device::log_out(server, sender.user_id, Selection::All).await?;
    Ok(Matrix(logout_all::v3::Response::new()))
}
