//! Filters that clients keep with us.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UserId,
    api::client::filter::{create_filter, get_filter},
};
use serde_json::value::RawValue;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix},
    },
    user::{
        filter::{self, Filter},
        session::Caller,
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<create_filter::v3::Request, _, _>(create)).merge(endpoint::<
        get_filter::v3::Request,
        _,
        _,
    >(get))
}

/// `POST /user/{userId}/filter`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter>
async fn create(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<create_filter::v3::Request>,
) -> Result<Matrix<create_filter::v3::Response>> {
    check_own(&sender, &body.user_id)?;
    let filter = Filter::read(&raw).map_err(|e| Error::bad_json(e.to_string()))?;
    let id = filter::keep(&server, &body.user_id, &filter).await?;
    Ok(Matrix(create_filter::v3::Response::new(id)))
}

/// `GET /user/{userId}/filter/{filterId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridfilterfilterid>
async fn get(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_filter::v3::Request>,
) -> Result<Json<Box<RawValue>>> {
    check_own(&sender, &body.user_id)?;
    let filter = filter::get(&server.store.snapshot(), &body.user_id, &body.filter_id)?;
    Ok(Json(filter.to_json().0))
}

fn check_own(sender: &Caller, user_id: &UserId) -> Result<()> {
    if sender.user_id == user_id { Ok(()) } else { Err(Error::forbidden("You may only use your own filters")) }
}
