//! Push notifications: <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedDeviceId,
    api::client::push::{get_notifications, get_pushers, set_pusher},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Loose, Matrix, json_object},
    },
    push::{
        notifications::{self, Page},
        pushers::{self, Kind, Pusher, PusherKey},
    },
    user::session::Caller,
};

/// How many notifications are listed at once, and if the client does not say.
const MAX_LIMIT: usize = 100;
const DEFAULT_LIMIT: usize = 20;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_pushers::v3::Request, _, _>(list))
        .merge(endpoint::<set_pusher::v3::Request, _, _>(set))
        .merge(endpoint::<get_notifications::v3::Request, _, _>(notifications))
}

/// A pusher as clients see it; ruma's type lacks what MSC3881 adds.
#[derive(Serialize)]
struct Shown {
    pushkey: String,
    app_id: String,
    kind: &'static str,
    app_display_name: String,
    device_display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_tag: Option<String>,
    lang: String,
    data: Map<String, Value>,
    #[serde(rename = "org.matrix.msc3881.enabled")]
    enabled: bool,
    #[serde(rename = "org.matrix.msc3881.device_id", skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
}

#[derive(Serialize)]
struct Pushers {
    pushers: Vec<Shown>,
}

/// `GET /pushers`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushers>
async fn list(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_pushers::v3::Request>,
) -> Result<Json<Pushers>> {
    let found = server.read(move |snapshot| pushers::list(snapshot, &sender.user_id)).await?;
    let shown = found.into_iter().map(|(key, pusher)| {
        let data = pusher.data()?;
        let kind = match pusher.kind {
            Kind::Http => "http",
            Kind::Email => "email",
        };
        Ok(Shown {
            pushkey: key.pushkey,
            app_id: key.app_id,
            kind,
            app_display_name: pusher.app_display_name,
            device_display_name: pusher.device_display_name,
            profile_tag: pusher.profile_tag,
            lang: pusher.lang,
            data,
            enabled: pusher.is_enabled,
            device_id: pusher.device_id,
        })
    });
    Ok(Json(Pushers { pushers: shown.collect::<Result<_>>()? }))
}

/// The body of `POST /pushers/set`. ruma's type can't tell a member that is missing from one that is wrong.
#[derive(Deserialize)]
struct Wish {
    app_id: Option<String>,
    pushkey: Option<String>,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
    #[serde(rename = "org.matrix.msc3881.enabled", alias = "enabled")]
    enabled: Option<bool>,
    #[serde(rename = "org.matrix.msc4076.disable_badge_count")]
    disable_badge_count: Option<bool>,
}

/// `POST /pushers/set`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>
async fn set(
    State(server): State<Arc<Server>>,
    Client { sender, raw, .. }: Client<Loose<set_pusher::v3::Request>>,
) -> Result<Matrix<set_pusher::v3::Response>> {
    let body = json_object(&raw)?;
    let kind = body.get("kind").cloned().ok_or_else(|| missing("kind"))?;
    let wish: Wish = serde_json::from_value(Value::Object(body)).map_err(|e| Error::bad_json(e.to_string()))?;
    let app_id = wish.app_id.clone().ok_or_else(|| missing("app_id"))?;
    let pushkey = wish.pushkey.clone().ok_or_else(|| missing("pushkey"))?;
    let key = PusherKey { user: sender.user_id.clone(), app_id, pushkey };
    let append = wish.append;
    match kind {
        Value::Null => pushers::remove(&server, key).await?,
        Value::String(kind) => pushers::set(&server, key, read(&server, &sender, &kind, wish)?, append).await?,
        _ => return Err(Error::bad_json("`kind` is a text or null")),
    }
    Ok(Matrix(set_pusher::v3::Response::new()))
}

fn read(server: &Server, sender: &Caller, kind: &str, wish: Wish) -> Result<Pusher> {
    let kind = match kind {
        "http" => Kind::Http,
        "email" => Kind::Email,
        _ => return Err(Error::invalid_param("Unknown kind of pusher")),
    };
    let data = wish.data.ok_or_else(|| missing("data"))?;
    // MSC4076 has it beside `data`; clients put it in there, where Synapse looks for it.
    let in_data = data.get("org.matrix.msc4076.disable_badge_count").and_then(Value::as_bool);
    Ok(Pusher {
        kind,
        app_display_name: wish.app_display_name.ok_or_else(|| missing("app_display_name"))?,
        device_display_name: wish.device_display_name.ok_or_else(|| missing("device_display_name"))?,
        profile_tag: wish.profile_tag,
        lang: wish.lang.ok_or_else(|| missing("lang"))?,
        data: serde_json::to_string(&data).map_err(Error::internal)?,
        device_id: sender.has_device().then(|| sender.device_id.clone()),
        is_enabled: wish.enabled.unwrap_or(true),
        set_at_ms: server.clock.now_ms(),
        is_badge_count_disabled: wish.disable_badge_count.or(in_data).unwrap_or(false),
    })
}

fn missing(name: &str) -> Error {
    Error::missing_param(format!("`{name}` is missing"))
}

/// `GET /notifications`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications>
async fn notifications(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_notifications::v3::Request>,
) -> Result<Matrix<get_notifications::v3::Response>> {
    let only_highlights = match body.only.as_deref() {
        None => false,
        Some(only) => only.split(',').any(|only| only == "highlight"),
    };
    let limit = body.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT));
    let page = Page {
        from: body.from.as_deref().map(notifications::parse_token).transpose()?,
        limit: limit.clamp(1, MAX_LIMIT),
        only_highlights,
    };
    let found = server.blocking(move |server| notifications::list(server, &sender.user_id, &page)).await?;
    let mut response = get_notifications::v3::Response::new(found.notifications);
    response.next_token = found.next_token;
    Ok(Matrix(response))
}
