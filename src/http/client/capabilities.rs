//! Capabilities negotiation: <https://spec.matrix.org/v1.19/client-server-api/#capabilities-negotiation>

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::State};
use ruma::{RoomVersionId, api::client::discovery::get_capabilities};
use serde_json::{Value, json};

use crate::{
    Server,
    error::Result,
    event::rules,
    http::{
        endpoint,
        extract::{Client, Json},
    },
    user::{account, session},
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<get_capabilities::v3::Request, _, _>(capabilities)
}

/// `GET /capabilities`. Not in ruma's type, which leaves out what has its default value; clients look for it.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3capabilities>
async fn capabilities(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_capabilities::v3::Request>,
) -> Result<Json<Value>> {
    let stability = |version: RoomVersionId| {
        let stability = if rules::SUPPORTED.contains(&version) { "stable" } else { "unstable" };
        (version.to_string(), stability)
    };
    let available: BTreeMap<_, _> = rules::known().into_iter().map(stability).collect();
    let delayed = &server.config.delayed_events;
    // A client that logged in by OAuth has no endpoints for what its user does on the page of his account.
    let has_uiaa = !session::is_by_oauth(&server.store.snapshot(), &sender.user_id, &sender.device_id)?;
    let mut capabilities = json!({
        "m.room_versions": {"default": server.config.default_room_version, "available": available},
        "m.change_password": {"enabled": has_uiaa},
        "m.get_login_token": {"enabled": has_uiaa},
        "m.profile_fields": {"enabled": true},
        "m.set_displayname": {"enabled": true},
        "m.set_avatar_url": {"enabled": true},
        "m.3pid_changes": {"enabled": has_uiaa && server.config.mail.is_some()},
        "m.forget_forced_upon_leave": {"enabled": false},
        "org.matrix.msc4140.delayed_events": {
            "max_delay_ms": u64::try_from(delayed.max_delay.as_millis()).unwrap_or(u64::MAX),
            "max_scheduled": delayed.max_scheduled,
        },
    });
    if account::is_admin(&server.store.snapshot(), &sender.user_id)? {
        // Whoever looks for the feature in `/versions` knows the capability by that name, too.
        for name in ["m.account_moderation", "uk.timedout.msc4323"] {
            capabilities[name] = json!({"suspend": true, "lock": true});
        }
    }
    Ok(Json(json!({ "capabilities": capabilities })))
}
