//! What other servers ask of our users and aliases.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::federation::query::{get_profile_information, get_room_information};

use crate::{
    Server, appservice,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    room::aliases,
    user::profile,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_profile_information::v1::Request, _, _>(of_user)).merge(endpoint::<
        get_room_information::v1::Request,
        _,
        _,
    >(alias))
}

/// `GET /_matrix/federation/v1/query/profile`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile>
async fn of_user(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_profile_information::v1::Request>,
) -> Result<Matrix<get_profile_information::v1::Response>> {
    if !server.is_ours(&body.user_id) {
        return Err(Error::invalid_param("The user is not one of this server"));
    }
    let mut profile = profile::of_ours(&server, &body.user_id).await?;
    if let Some(field) = body.field {
        profile.retain(|name, _| name == field.as_str());
    }
    let mut response = get_profile_information::v1::Response::new();
    response.data = profile.into_iter().collect();
    Ok(Matrix(response))
}

/// `GET /_matrix/federation/v1/query/directory`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory>
async fn alias(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_room_information::v1::Request>,
) -> Result<Matrix<get_room_information::v1::Response>> {
    if body.room_alias.server_name() != server.name() {
        return Err(Error::not_found("The alias is not one of this server"));
    }
    appservice::query::alias(&server, &body.room_alias).await?;
    let (room_id, servers) = server.blocking(move |server| aliases::room_of(server, &body.room_alias)).await?;
    Ok(Matrix(get_room_information::v1::Response::new(room_id, servers)))
}
