//! Room creation.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    RoomVersionId,
    api::{
        IncomingRequest,
        client::room::{
            Visibility,
            create_room::v3::{Request, Response, RoomPreset},
        },
    },
    events::StateEventType,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Loose, Matrix, json_object},
    },
    room::{
        aliases,
        create::{self, InitialState, NewRoom, Preset},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Loose<Request>, _, _>(create_room)
}

/// `POST /createRoom`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
async fn create_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Loose<Request>>,
) -> Result<Matrix<Response>> {
    let body = with_version(body, &raw, "room_version")?;
    server.limits.message(&sender)?;
    let room = new_room(&server, body)?;
    if let Some(alias) = &room.alias {
        server.appservices.check_alias(alias, sender.appservice.as_deref())?;
    }
    let room_id = create::create(&server, &sender.user_id, room).await?;
    Ok(Matrix(Response::new(room_id)))
}

/// A request that names a room version as `member`. Error, beside those of a malformed body: `M_UNSUPPORTED_ROOM_VERSION` if no
/// version can be called that, which ruma takes for a malformed body.
pub(super) fn with_version<R: IncomingRequest>(request: Loose<R>, raw: &[u8], member: &str) -> Result<R> {
    request.with_body(raw).map_err(|error| {
        let body = json_object(raw).unwrap_or_default();
        let version = body.get(member).and_then(Value::as_str);
        if version.is_some_and(|version| RoomVersionId::try_from(version).is_err()) {
            create::unknown_version()
        } else {
            error
        }
    })
}

fn new_room(server: &Server, body: Request) -> Result<NewRoom> {
    if !body.invite_3pid.is_empty() {
        return Err(super::inviting::no_third_party_invites());
    }
    let is_listed = is_public(&body.visibility)?;
    Ok(NewRoom {
        version: body.room_version.unwrap_or_else(|| server.config.default_room_version.clone()),
        preset: preset(body.preset, is_listed)?,
        is_listed,
        alias: body.room_alias_name.map(|localpart| aliases::with_localpart(server, &localpart)).transpose()?,
        name: body.name,
        topic: body.topic,
        invite: body.invite,
        is_direct: body.is_direct,
        initial_state: body.initial_state.iter().map(|raw| initial_state(raw.json())).collect::<Result<_>>()?,
        creation_content: object("creation_content", body.creation_content.as_ref())?,
        power_levels: object("power_level_content_override", body.power_level_content_override.as_ref())?,
        replaces: None,
    })
}

/// Whether a visibility puts a room into the directory. Error: `M_INVALID_PARAM` if it is none of the specification's.
pub(super) fn is_public(visibility: &Visibility) -> Result<bool> {
    match visibility {
        Visibility::Public => Ok(true),
        Visibility::Private => Ok(false),
        _ => Err(Error::invalid_param("`visibility` is neither `public` nor `private`")),
    }
}

fn preset(asked: Option<RoomPreset>, is_listed: bool) -> Result<Preset> {
    match asked {
        Some(RoomPreset::PrivateChat) => Ok(Preset::PrivateChat),
        Some(RoomPreset::TrustedPrivateChat) => Ok(Preset::TrustedPrivateChat),
        Some(RoomPreset::PublicChat) => Ok(Preset::PublicChat),
        None if is_listed => Ok(Preset::PublicChat),
        None => Ok(Preset::PrivateChat),
        Some(_) => Err(Error::invalid_param("`preset` is none of those of the specification")),
    }
}

fn initial_state(event: &RawValue) -> Result<InitialState> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        event_type: StateEventType,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let event: Result<Event, _> = serde_json::from_str(event.get());
    let Event { event_type, state_key, content } =
        event.map_err(|e| Error::bad_json(format!("`initial_state` has what is no state event: {e}")))?;
    Ok(InitialState { event_type, state_key, content })
}

/// The members of an object that may be missing.
fn object<T>(name: &str, raw: Option<&Raw<T>>) -> Result<Map<String, Value>> {
    let parsed = raw.map(|raw| serde_json::from_str(raw.json().get())).transpose();
    let parsed = parsed.map_err(|_| Error::bad_json(format!("`{name}` is no JSON object")))?;
    Ok(parsed.unwrap_or_default())
}
