//! Our directory of public rooms, for other servers.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Federation, Json},
        room_list::{RoomList, network},
    },
    room::directory::{self, Page, Query},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_public_rooms::v1::Request, _, _>(list)).merge(endpoint::<
        get_public_rooms_filtered::v1::Request,
        _,
        _,
    >(search))
}

/// `GET /_matrix/federation/v1/publicRooms`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms>
async fn list(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_public_rooms::v1::Request>,
) -> Result<Json<RoomList>> {
    let network = network(body.room_network);
    // Here 0 means no limit but ours.
    let limit = body.limit.filter(|limit| *limit > UInt::MIN);
    let query = Query { limit, since: body.since, network, ..Query::default() };
    Ok(Json(page(&server, query).await?.into()))
}

/// `POST /_matrix/federation/v1/publicRooms`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1publicrooms>
async fn search(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_public_rooms_filtered::v1::Request>,
) -> Result<Json<RoomList>> {
    let query = Query {
        limit: body.limit,
        since: body.since,
        search: body.filter.generic_search_term,
        room_types: body.filter.room_types,
        network: network(body.room_network),
    };
    Ok(Json(page(&server, query).await?.into()))
}

async fn page(server: &Arc<Server>, query: Query) -> Result<Page> {
    if !server.config.allow_public_room_directory_over_federation {
        return Err(Error::forbidden("This server shows its directory of public rooms to its own users only"));
    }
    server.blocking(move |server| directory::page(server, &query)).await
}
