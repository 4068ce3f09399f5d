//! <https://spec.matrix.org/v1.19/client-server-api/#key-management-api>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, extract::State};
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, UInt,
    api::client::keys::{
        claim_keys::{self, v3::OneTimeKeys},
        get_key_changes, get_keys, upload_keys,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::{Value as JsonValue, json, value::RawValue};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, GuestClient, Json, Matrix},
    },
    sync::{DeviceLists, token::Token},
    user::{
        account,
        keys::{self, Asker, Upload},
    },
};

/// How long other servers have to answer, if the client does not say, and at most.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery>
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<claim_keys::v3::Request, _, _>(claim_keys))
        .merge(endpoint::<get_key_changes::v3::Request, _, _>(get_key_changes))
        .merge(endpoint::<get_keys::v3::Request, _, _>(get_keys))
        .merge(endpoint::<upload_keys::v3::Request, _, _>(upload_keys))
}

/// `POST /keys/upload`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload>
async fn upload_keys(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<upload_keys::v3::Request>,
) -> Result<Matrix<upload_keys::v3::Response>> {
    let upload =
        Upload { device_keys: body.device_keys, one_time_keys: body.one_time_keys, fallback_keys: body.fallback_keys };
    // Who shares rooms with the caller must be woken even if he hangs up.
    sender.check_device()?;
    let counts = Server::detached(async move { keys::upload(&server, sender, upload).await }).await?;
    let counts = counts.into_iter().map(|(algorithm, count)| (algorithm.into(), UInt::new_saturating(count)));
    Ok(Matrix(upload_keys::v3::Response::new(counts.collect())))
}

/// `POST /keys/query`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery>
///
/// `timeout` is for other servers.
async fn get_keys(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_keys::v3::Request>,
) -> Result<Json<QueriedKeys>> {
    let timeout = body.timeout.unwrap_or(ANSWER_WITHIN).min(MAX_TIMEOUT);
    let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        body.device_keys.into_iter().partition(|(user, _)| server.is_ours(user));
    let others = keys::remote::query_remote(&server, &sender.user_id, others, timeout).await?;
    let found = server.blocking(move |server| {
        let snapshot = server.store.snapshot();
        let mut found = Vec::new();
        for (user, devices) in ours {
            if account::get(&snapshot, &user)?.is_some() {
                let keys = keys::query(&snapshot, Asker::User(&sender.user_id), &user, &devices)?;
                found.push((user, keys));
            }
        }
        Ok(found)
    });
    let mut answer = QueriedKeys { failures: failures(others.failures), ..QueriedKeys::default() };
    for (user, found) in found.await?.into_iter().chain(others.found) {
        answer.device_keys.insert(user.clone(), found.devices);
        let of_user = |key: Option<Box<RawValue>>| key.map(|key| (user.clone(), key));
        answer.master_keys.extend(of_user(found.master));
        answer.self_signing_keys.extend(of_user(found.self_signing));
        answer.user_signing_keys.extend(of_user(found.user_signing));
    }
    Ok(Json(answer))
}

/// ruma's type leaves out what is empty, and matrix-js-sdk reads `device_keys` unasked.
#[derive(Default, Serialize)]
struct QueriedKeys {
    failures: BTreeMap<OwnedServerName, JsonValue>,
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    master_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    self_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    user_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
}

/// `POST /keys/claim`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim>
async fn claim_keys(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<claim_keys::v3::Request>,
) -> Result<Json<ClaimedKeys>> {
    let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        body.one_time_keys.into_iter().partition(|(user, _)| server.is_ours(user));
    server.limits.key_claim_of(&sender, ours.values().map(BTreeMap::len).sum())?;
    let wanted = ours.into_iter().map(|(user, devices)| {
        (user, devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string())).collect())
    });
    let mut one_time_keys = BTreeMap::<OwnedUserId, OneTimeKeys>::new();
    for (user, keys) in keys::claim(&server, wanted.collect()).await? {
        let of_user = one_time_keys.entry(user).or_default();
        for (device, key) in keys {
            let id = key.id.try_into().map_err(|e| Error::internal(format!("a stored key has a wrong id: {e}")))?;
            let key = Raw::from_json_string(key.key).map_err(Error::internal)?;
            of_user.insert(device, BTreeMap::from([(id, key)]));
        }
    }
    let timeout = body.timeout.unwrap_or(ANSWER_WITHIN).min(MAX_TIMEOUT);
    let others = keys::remote::claim_remote(&server, others, timeout).await;
    one_time_keys.extend(others.found);
    Ok(Json(ClaimedKeys { failures: failures(others.failures), one_time_keys }))
}

/// ruma's type leaves out `failures` if it is empty.
#[derive(Serialize)]
struct ClaimedKeys {
    failures: BTreeMap<OwnedServerName, JsonValue>,
    one_time_keys: BTreeMap<OwnedUserId, OneTimeKeys>,
}

/// `GET /keys/changes`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>
async fn get_key_changes(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_key_changes::v3::Request>,
) -> Result<Matrix<get_key_changes::v3::Response>> {
    let (from, _to) = (body.from.parse::<Token>()?, body.to.parse::<Token>()?);
    let lists = server.blocking(move |server| DeviceLists::since(server, sender, from)).await?;
    let (changed, left) = (lists.changed.into_iter().collect(), lists.left.into_iter().collect());
    Ok(Matrix(get_key_changes::v3::Response::new(changed, left)))
}

fn failures(of: BTreeMap<OwnedServerName, Error>) -> BTreeMap<OwnedServerName, JsonValue> {
    of.into_iter().map(|(name, error)| (name, failure(&error))).collect()
}

/// What is said of another server in `failures`.
fn failure(error: &Error) -> JsonValue {
    let reason = match error {
        Error::Remote { source, .. } => source.to_string(),
        Error::Refused { message, .. } => message.to_string(),
        _ => "its answer could not be worked on".to_owned(),
    };
    json!({ "errcode": "M_UNKNOWN", "error": reason })
}
