//! Server administration: <https://spec.matrix.org/v1.19/client-server-api/#server-administration>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::admin::{get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user},
};
use serde_json::{Map, Value, json};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix},
    },
    user::{
        account, device,
        moderation::{self, Measure},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_user_info::v3::Request, _, _>(who_is))
        .merge(endpoint::<is_user_locked::v1::Request, _, _>(is_locked))
        .merge(endpoint::<lock_user::v1::Request, _, _>(lock))
        .merge(endpoint::<is_user_suspended::v1::Request, _, _>(is_suspended))
        .merge(endpoint::<suspend_user::v1::Request, _, _>(suspend))
}

/// `GET /admin/whois/{userId}`: for the user himself and for administrators. Not in ruma's type, which leaves out empty
/// lists.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid>
async fn who_is(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_user_info::v3::Request>,
) -> Result<Json<Value>> {
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let target = body.user_id;
        if sender.user_id != target && !account::is_admin(&snapshot, &sender.user_id)? {
            return Err(Error::forbidden("Only administrators of this server look up others"));
        }
        if account::get(&snapshot, &target)?.is_none() {
            return Err(Error::not_found("There is no such user on this server"));
        }
        let mut devices = Map::new();
        for (id, device) in device::list(&snapshot, &target)? {
            let seen = device.last_seen.map(|seen| {
                let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(seen.at_ms));
                json!({ "ip": seen.address, "last_seen": at, "user_agent": "" })
            });
            let connections: Vec<_> = seen.into_iter().collect();
            devices.insert(id.to_string(), json!({ "sessions": [{ "connections": connections }] }));
        }
        Ok(json!({ "user_id": target, "devices": devices }))
    };
    server.blocking(read).await.map(Json)
}

/// `GET /admin/lock/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminlockuserid>
async fn is_locked(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<is_user_locked::v1::Request>,
) -> Result<Matrix<is_user_locked::v1::Response>> {
    let locked = moderation::is_set(&server, &sender.user_id, &body.user_id, Measure::Lock)?;
    Ok(Matrix(is_user_locked::v1::Response::new(locked)))
}

/// `PUT /admin/lock/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminlockuserid>
async fn lock(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<lock_user::v1::Request>,
) -> Result<Matrix<lock_user::v1::Response>> {
    moderation::set(&server, &sender.user_id, &body.user_id, Measure::Lock, body.locked).await?;
    Ok(Matrix(lock_user::v1::Response::new(body.locked)))
}

/// `GET /admin/suspend/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminsuspenduserid>
async fn is_suspended(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<is_user_suspended::v1::Request>,
) -> Result<Matrix<is_user_suspended::v1::Response>> {
    let suspended = moderation::is_set(&server, &sender.user_id, &body.user_id, Measure::Suspend)?;
    Ok(Matrix(is_user_suspended::v1::Response::new(suspended)))
}

/// `PUT /admin/suspend/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminsuspenduserid>
async fn suspend(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<suspend_user::v1::Request>,
) -> Result<Matrix<suspend_user::v1::Response>> {
    moderation::set(&server, &sender.user_id, &body.user_id, Measure::Suspend, body.suspended).await?;
    Ok(Matrix(suspend_user::v1::Response::new(body.suspended)))
}
