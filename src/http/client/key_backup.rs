//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use std::{collections::BTreeMap, io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::client::backup::{
        add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session, create_backup_version,
        delete_backup_keys, delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    user::backup::{self, Backup, Description, Scope},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<create_backup_version::v3::Request, _, _>(create_version))
        .merge(endpoint::<get_latest_backup_info::v3::Request, _, _>(get_current_version))
        .merge(endpoint::<get_backup_info::v3::Request, _, _>(get_version))
        .merge(endpoint::<update_backup_version::v3::Request, _, _>(update_version))
        .merge(endpoint::<delete_backup_version::v3::Request, _, _>(delete_version))
        .merge(endpoint::<add_backup_keys::v3::Request, _, _>(put_keys))
        .merge(endpoint::<add_backup_keys_for_room::v3::Request, _, _>(put_keys_of_room))
        .merge(endpoint::<add_backup_keys_for_session::v3::Request, _, _>(put_key))
        .merge(endpoint::<get_backup_keys::v3::Request, _, _>(get_keys))
        .merge(endpoint::<get_backup_keys_for_room::v3::Request, _, _>(get_keys_of_room))
        .merge(endpoint::<get_backup_keys_for_session::v3::Request, _, _>(get_key))
        .merge(endpoint::<delete_backup_keys::v3::Request, _, _>(delete_keys))
        .merge(endpoint::<delete_backup_keys_for_room::v3::Request, _, _>(delete_keys_of_room))
        .merge(endpoint::<delete_backup_keys_for_session::v3::Request, _, _>(delete_key))
}

/// `POST /room_keys/version`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion>
async fn create_version(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<create_backup_version::v3::Request>,
) -> Result<Matrix<create_backup_version::v3::Response>> {
    let description = Description::parse(body.algorithm.json().get())?;
    let version = backup::create(&server, sender.user_id, description).await?;
    Ok(Matrix(create_backup_version::v3::Response::new(version.to_string())))
}

/// `GET /room_keys/version`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversion>
async fn get_current_version(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_latest_backup_info::v3::Request>,
) -> Result<Matrix<get_latest_backup_info::v3::Response>> {
    let (version, backup) = server.read(move |snapshot| backup::current(snapshot, &sender.user_id)).await?;
    let (algorithm, count, etag) = described(&backup)?;
    Ok(Matrix(get_latest_backup_info::v3::Response::new(algorithm, count, etag, version.to_string())))
}

/// `GET /room_keys/version/{version}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversionversion>
async fn get_version(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_backup_info::v3::Request>,
) -> Result<Matrix<get_backup_info::v3::Response>> {
    let (version, backup) = server.read(move |snapshot| backup::get(snapshot, &sender.user_id, &body.version)).await?;
    let (algorithm, count, etag) = described(&backup)?;
    Ok(Matrix(get_backup_info::v3::Response::new(algorithm, count, etag, version.to_string())))
}

/// `PUT /room_keys/version/{version}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keysversionversion>
async fn update_version(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<update_backup_version::v3::Request>,
) -> Result<Matrix<update_backup_version::v3::Response>> {
    let description = Description::parse(body.algorithm.json().get())?;
    backup::update(&server, sender.user_id, body.version, description).await?;
    Ok(Matrix(update_backup_version::v3::Response::new()))
}

/// `DELETE /room_keys/version/{version}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keysversionversion>
async fn delete_version(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_backup_version::v3::Request>,
) -> Result<Matrix<delete_backup_version::v3::Response>> {
    backup::delete(&server, sender.user_id, body.version).await?;
    Ok(Matrix(delete_backup_version::v3::Response::new()))
}

/// `PUT /room_keys/keys`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeys>
async fn put_keys(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<add_backup_keys::v3::Request>,
) -> Result<Matrix<add_backup_keys::v3::Response>> {
    let keys = body.rooms.into_iter().map(|(room, keys)| (room, sessions(keys.sessions)));
    let state = backup::put_keys(&server, sender.user_id, body.version, keys.collect()).await?;
    Ok(Matrix(add_backup_keys::v3::Response::new(state.etag.to_string(), UInt::new_saturating(state.count))))
}

/// `PUT /room_keys/keys/{roomId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomid>
async fn put_keys_of_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<add_backup_keys_for_room::v3::Request>,
) -> Result<Matrix<add_backup_keys_for_room::v3::Response>> {
    let keys = BTreeMap::from([(body.room_id, sessions(body.sessions))]);
    let state = backup::put_keys(&server, sender.user_id, body.version, keys).await?;
    let (etag, count) = (state.etag.to_string(), UInt::new_saturating(state.count));
    Ok(Matrix(add_backup_keys_for_room::v3::Response::new(etag, count)))
}

/// `PUT /room_keys/keys/{roomId}/{sessionId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid>
async fn put_key(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<add_backup_keys_for_session::v3::Request>,
) -> Result<Matrix<add_backup_keys_for_session::v3::Response>> {
    let session = BTreeMap::from([(body.session_id, body.session_data.into_json())]);
    let keys = BTreeMap::from([(body.room_id, session)]);
    let state = backup::put_keys(&server, sender.user_id, body.version, keys).await?;
    let (etag, count) = (state.etag.to_string(), UInt::new_saturating(state.count));
    Ok(Matrix(add_backup_keys_for_session::v3::Response::new(etag, count)))
}

/// `GET /room_keys/keys`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeys>
async fn get_keys(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_backup_keys::v3::Request>,
) -> Result<Response> {
    stream_keys(server, sender.user_id, body.version, None).await
}

/// `GET /room_keys/keys/{roomId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomid>
async fn get_keys_of_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_backup_keys_for_room::v3::Request>,
) -> Result<Response> {
    stream_keys(server, sender.user_id, body.version, Some(body.room_id)).await
}

/// `GET /room_keys/keys/{roomId}/{sessionId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid>
async fn get_key(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_backup_keys_for_session::v3::Request>,
) -> Result<Matrix<get_backup_keys_for_session::v3::Response>> {
    let get_backup_keys_for_session::v3::Request { version, room_id, session_id, .. } = body;
    let key =
        server.read(move |snapshot| backup::key(snapshot, &sender.user_id, &version, &room_id, &session_id)).await?;
    let key = Raw::from_json_string(key.json).map_err(Error::internal)?;
    Ok(Matrix(get_backup_keys_for_session::v3::Response::new(key)))
}

/// `DELETE /room_keys/keys`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeys>
async fn delete_keys(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_backup_keys::v3::Request>,
) -> Result<Matrix<delete_backup_keys::v3::Response>> {
    let state = backup::delete_keys(&server, sender.user_id, body.version, Scope::All).await?;
    Ok(Matrix(delete_backup_keys::v3::Response::new(state.etag.to_string(), UInt::new_saturating(state.count))))
}

/// `DELETE /room_keys/keys/{roomId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomid>
async fn delete_keys_of_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_backup_keys_for_room::v3::Request>,
) -> Result<Matrix<delete_backup_keys_for_room::v3::Response>> {
    let scope = Scope::Room(body.room_id);
    let state = backup::delete_keys(&server, sender.user_id, body.version, scope).await?;
    let (etag, count) = (state.etag.to_string(), UInt::new_saturating(state.count));
    Ok(Matrix(delete_backup_keys_for_room::v3::Response::new(etag, count)))
}

/// `DELETE /room_keys/keys/{roomId}/{sessionId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid>
async fn delete_key(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_backup_keys_for_session::v3::Request>,
) -> Result<Matrix<delete_backup_keys_for_session::v3::Response>> {
    let scope = Scope::Session(body.room_id, body.session_id);
    let state = backup::delete_keys(&server, sender.user_id, body.version, scope).await?;
    let (etag, count) = (state.etag.to_string(), UInt::new_saturating(state.count));
    Ok(Matrix(delete_backup_keys_for_session::v3::Response::new(etag, count)))
}

fn sessions<K>(sessions: BTreeMap<String, Raw<K>>) -> BTreeMap<String, Box<RawValue>> {
    sessions.into_iter().map(|(session, key)| (session, key.into_json())).collect()
}

/// What the two requests for a version answer, but for its number.
fn described<A>(backup: &Backup) -> Result<(Raw<A>, UInt, String)> {
    let auth_data = serde_json::from_str::<&RawValue>(&backup.auth_data).map_err(Error::internal)?;
    let algorithm = to_raw_value(&json!({ "algorithm": backup.algorithm, "auth_data": auth_data }));
    let algorithm = Raw::from_json(algorithm.map_err(Error::internal)?);
    Ok((algorithm, UInt::new_saturating(backup.count), backup.etag.to_string()))
}

/// Answers with the keys of one room, or of all, part by part: a backup may have more of them than should be in memory.
async fn stream_keys(
    server: Arc<Server>,
    user: OwnedUserId,
    version: String,
    room: Option<OwnedRoomId>,
) -> Result<Response> {
    let owner = user.clone();
    let (version, _) = server.read(move |snapshot| backup::get(snapshot, &owner, &version)).await?;
    let writer = backup::Writer::new(user, version, room);
    let parts = stream::try_unfold(Some(writer), move |writer| next_part(Arc::clone(&server), writer));
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(parts)).into_response())
}

/// An error cuts the answer off, so that the client does not take a part for the whole.
async fn next_part(
    server: Arc<Server>,
    writer: Option<backup::Writer>,
) -> Result<Option<(Bytes, Option<backup::Writer>)>, io::Error> {
    let Some(mut writer) = writer else { return Ok(None) };
    let part = server.read(move |snapshot| {
        let (part, is_last) = writer.next_part(snapshot)?;
        Ok((Bytes::from(part), (!is_last).then_some(writer)))
    });
    part.await.map(Some).map_err(|error| io::Error::other(format!("{error:?}")))
}
