//! Device management: <https://spec.matrix.org/v1.19/client-server-api/#device-management>

use std::sync::Arc;

use axum::{Router, extract::State};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{self as api, delete_device, delete_devices, get_device, get_devices, update_device},
};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, GuestClient, Matrix},
    },
    user::{
        device::{self, Selection},
        tables::Device,
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_devices::v3::Request, _, _>(list))
        .merge(endpoint::<get_device::v3::Request, _, _>(get))
        .merge(endpoint::<update_device::v3::Request, _, _>(update))
        .merge(endpoint::<delete_device::v3::Request, _, _>(delete_one))
        .merge(endpoint::<delete_devices::v3::Request, _, _>(delete_many))
}

fn shape(device_id: OwnedDeviceId, device: Device) -> api::Device {
    let mut shaped = api::Device::new(device_id);
    shaped.display_name = device.display_name;
    shaped.last_seen_ip = device.last_seen.map(|seen| seen.address.to_string());
    shaped.last_seen_ts = device.last_seen.map(|seen| MilliSecondsSinceUnixEpoch(UInt::new_saturating(seen.at_ms)));
    shaped
}

/// `GET /devices`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devices>
async fn list(
    State(server): State<Arc<Server>>,
    GuestClient { sender, .. }: GuestClient<get_devices::v3::Request>,
) -> Result<Matrix<get_devices::v3::Response>> {
    let devices = server.read(move |snapshot| device::list(snapshot, &sender.user_id)).await?;
    let devices = devices.into_iter().map(|(device_id, device)| shape(device_id, device));
    Ok(Matrix(get_devices::v3::Response::new(devices.collect())))
}

/// `GET /devices/{deviceId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devicesdeviceid>
async fn get(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_device::v3::Request>,
) -> Result<Matrix<get_device::v3::Response>> {
    let found = device::get(&server.store.snapshot(), &sender.user_id, &body.device_id)?;
    let device = found.ok_or_else(device::unknown)?;
    Ok(Matrix(get_device::v3::Response::new(shape(body.device_id, device))))
}

/// `PUT /devices/{deviceId}`: names a device, or, for an application service, makes it.
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3devicesdeviceid>
async fn update(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<update_device::v3::Request>,
) -> Result<(StatusCode, Matrix<update_device::v3::Response>)> {
    device::check_display_name(body.display_name.as_deref())?;
    let is_known = device::get(&server.store.snapshot(), &sender.user_id, &body.device_id)?.is_some();
    if sender.appservice.is_some() && !is_known {
        device::create(&server, sender.user_id, body.device_id, body.display_name).await?;
        return Ok((StatusCode::CREATED, Matrix(update_device::v3::Response::new())));
    }
    match body.display_name {
        Some(name) => device::rename(server, sender.user_id, body.device_id, name).await?,
        None if is_known => {}
        None => return Err(device::unknown()),
    }
    Ok((StatusCode::OK, Matrix(update_device::v3::Response::new())))
}

/// `DELETE /devices/{deviceId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3devicesdeviceid>
async fn delete_one(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<delete_device::v3::Request>,
) -> Result<Matrix<delete_device::v3::Response>> {
    let operation = Operation::of::<delete_device::v3::Request>(body.device_id.as_str(), &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    device::log_out(server, sender.user_id, Selection::These([body.device_id].into())).await?;
    Ok(Matrix(delete_device::v3::Response::new()))
}

/// `POST /delete_devices`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices>
async fn delete_many(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<delete_devices::v3::Request>,
) -> Result<Matrix<delete_devices::v3::Response>> {
    let operation = Operation::of::<delete_devices::v3::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    device::log_out(server, sender.user_id, Selection::These(body.devices.into_iter().collect())).await?;
    Ok(Matrix(delete_devices::v3::Response::new()))
}
