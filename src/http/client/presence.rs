//! Who is there.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State};
use ruma::api::client::presence::{get_presence, set_presence};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    user::{
        account,
        presence::{self, State as Shown},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_presence::v3::Request, _, _>(get)).merge(endpoint::<
        set_presence::v3::Request,
        _,
        _,
    >(set))
}

/// `GET /presence/{userId}/status`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3presenceuseridstatus>
async fn get(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_presence::v3::Request>,
) -> Result<Matrix<get_presence::v3::Response>> {
    let user_id = body.user_id.clone();
    let check = move |server: &Server| {
        let snapshot = server.store.snapshot();
        if !presence::is_visible(server, &snapshot, &sender.user_id, &body.user_id)? {
            return Err(Error::forbidden("You are not allowed to see their presence"));
        }
        let is_unknown = server.is_ours(&body.user_id) && account::get(&snapshot, &body.user_id)?.is_none();
        if is_unknown || !server.presence.is_enabled() {
            return Err(Error::not_found("Nothing is known of the presence of this user"));
        }
        Ok(())
    };
    server.blocking(check).await?;
    let shown = server.presence.get(&user_id);
    let mut response = get_presence::v3::Response::new(shown.state.to_ruma());
    response.status_msg = shown.status_msg;
    response.currently_active = Some(shown.currently_active);
    let now_ms = server.clock.now_ms();
    response.last_active_ago = shown.last_active_ms.map(|at| Duration::from_millis(now_ms.saturating_sub(at)));
    Ok(Matrix(response))
}

/// `PUT /presence/{userId}/status`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3presenceuseridstatus>
async fn set(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<set_presence::v3::Request>,
) -> Result<Matrix<set_presence::v3::Response>> {
    if sender.user_id != body.user_id {
        return Err(Error::forbidden("You can't set the presence of somebody else"));
    }
    let state = Shown::of(&body.presence)?;
    presence::set(&server, &sender.user_id, &sender.device_id, state, body.status_msg)?;
    Ok(Matrix(set_presence::v3::Response::new()))
}
