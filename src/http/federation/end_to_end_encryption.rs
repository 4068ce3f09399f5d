//! <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
    serde::Raw,
};

use crate::{
    Server,
    error::{Error, Result},
    federation::queue::tables::DeviceStreams,
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    user::{
        account,
        keys::{self, Asker},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<claim_keys::v1::Request, _, _>(claim_keys))
        .merge(endpoint::<get_devices::v1::Request, _, _>(get_devices))
        .merge(endpoint::<get_keys::v1::Request, _, _>(get_keys))
}

/// `POST /user/keys/query`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery>
async fn get_keys(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_keys::v1::Request>,
) -> Result<Matrix<get_keys::v1::Response>> {
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut answer = get_keys::v1::Response::new(BTreeMap::new());
        for (user, devices) in body.device_keys {
            if !server.is_ours(&user) || account::get(&snapshot, &user)?.is_none() {
                continue;
            }
            let found = keys::query(&snapshot, Asker::server(server), &user, &devices)?;
            let devices = found.devices.into_iter().map(|(device, keys)| (device, Raw::from_json(keys)));
            answer.device_keys.insert(user.clone(), devices.collect());
            answer.master_keys.extend(found.master.map(|key| (user.clone(), Raw::from_json(key))));
            answer.self_signing_keys.extend(found.self_signing.map(|key| (user, Raw::from_json(key))));
        }
        Ok(answer)
    };
    Ok(Matrix(server.blocking(read).await?))
}

/// `POST /user/keys/claim`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim>
async fn claim_keys(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<claim_keys::v1::Request>,
) -> Result<Matrix<claim_keys::v1::Response>> {
    let ours = body.one_time_keys.into_iter().filter(|(user, _)| server.is_ours(user));
    let wanted: BTreeMap<_, BTreeMap<_, _>> = ours
        .map(|(user, devices)| {
            (user, devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string())).collect())
        })
        .collect();
    let count = wanted.values().map(BTreeMap::len).sum::<usize>();
    server.limits.key_claim(&origin, count)?;
    let mut answer = claim_keys::v1::Response::new(BTreeMap::new());
    for (user, keys) in keys::claim(&server, wanted).await? {
        let of_user = answer.one_time_keys.entry(user).or_default();
        for (device, key) in keys {
            let id = key.id.try_into().map_err(|e| Error::internal(format!("a stored key has a wrong id: {e}")))?;
            let key = Raw::from_json_string(key.key).map_err(Error::internal)?;
            of_user.insert(device, BTreeMap::from([(id, key)]));
        }
    }
    Ok(Matrix(answer))
}

/// `GET /user/devices/{userId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid>
async fn get_devices(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_devices::v1::Request>,
) -> Result<Matrix<get_devices::v1::Response>> {
    let user = body.user_id;
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        if !server.is_ours(&user) || account::get(&snapshot, &user)?.is_none() {
            return Err(Error::not_found("There is no such user here"));
        }
        let stream_id = snapshot.get::<DeviceStreams>(&&*user)?.unwrap_or_default();
        let found = keys::query(&snapshot, Asker::server(server), &user, &[])?;
        let mut answer = get_devices::v1::Response::new(user, UInt::new_saturating(stream_id));
        for (device, keys) in found.devices {
            let name = keys::name_in(keys.get());
            let mut told = get_devices::v1::UserDevice::new(device, Raw::from_json(keys));
            told.device_display_name = name;
            answer.devices.push(told);
        }
        answer.master_key = found.master.map(Raw::from_json);
        answer.self_signing_key = found.self_signing.map(Raw::from_json);
        Ok(answer)
    };
    Ok(Matrix(server.blocking(read).await?))
}
