//! The keys of servers.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, RawQuery, State},
};
use ruma::api::federation::discovery::{get_remote_server_keys, get_remote_server_keys_batch, get_server_keys};

use crate::{
    Server,
    error::{Error, Result},
    federation::keys::{self, Wanted},
    http::{
        endpoint,
        extract::{Matrix, Public},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_server_keys::v2::Request, _, _>(own))
        .merge(endpoint::<get_remote_server_keys::v2::Request, _, _>(of_one))
        // Whoever joins a large room asks for the keys of thousands of servers.
        .merge(endpoint::<get_remote_server_keys_batch::v2::Request, _, _>(of_many).layer(DefaultBodyLimit::disable()))
        // Older servers name the key that they want; the specification has it deprecated.
        .route("/_matrix/key/v2/server/{key_id}", axum::routing::get(own_by_id))
}

/// `GET /_matrix/key/v2/server`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server>
async fn own(
    State(server): State<Arc<Server>>,
    _: Public<get_server_keys::v2::Request>,
) -> Result<Matrix<get_server_keys::v2::Response>> {
    answer_own(&server)
}

async fn own_by_id(State(server): State<Arc<Server>>) -> Result<Matrix<get_server_keys::v2::Response>> {
    answer_own(&server)
}

fn answer_own(server: &Server) -> Result<Matrix<get_server_keys::v2::Response>> {
    check_federates(server)?;
    Ok(Matrix(get_server_keys::v2::Response::new(keys::publish(server)?)))
}

/// `GET /_matrix/key/v2/query/{serverName}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2queryservername>
async fn of_one(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    Public { body, .. }: Public<get_remote_server_keys::v2::Request>,
) -> Result<Matrix<get_remote_server_keys::v2::Response>> {
    check_federates(&server)?;
    // ruma fills what is left out in with the time of its own clock.
    let is_given = query.is_some_and(|query| query.contains("minimum_valid_until_ts="));
    let valid_at = if is_given { body.minimum_valid_until_ts.get().into() } else { server.clock.now_ms() };
    let asked = [(body.server_name, Wanted { valid_at_ms: valid_at, ..Wanted::default() })].into();
    Ok(Matrix(get_remote_server_keys::v2::Response::new(keys::answer(&server, asked).await?)))
}

/// `POST /_matrix/key/v2/query`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixkeyv2query>
async fn of_many(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<get_remote_server_keys_batch::v2::Request>,
) -> Result<Matrix<get_remote_server_keys_batch::v2::Response>> {
    check_federates(&server)?;
    let now = server.clock.now_ms();
    let asked = body.server_keys.into_iter().map(|(other, keys)| {
        let times = keys.values().filter_map(|key| key.minimum_valid_until_ts.map(|ts| ts.get().into()));
        let valid_at_ms = times.max().unwrap_or(now);
        let key_ids = keys.keys().map(ToString::to_string).collect();
        (other, Wanted { key_ids, valid_at_ms, is_calling: false })
    });
    Ok(Matrix(get_remote_server_keys_batch::v2::Response::new(keys::answer(&server, asked.collect()).await?)))
}

fn check_federates(server: &Server) -> Result<()> {
    if server.config.allow_federation { Ok(()) } else { Err(Error::forbidden("This server does not federate")) }
}
