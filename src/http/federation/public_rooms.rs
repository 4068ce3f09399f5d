//! Our directory of public rooms, for other servers.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::RoomNetwork,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    room::directory::{self, Network, Page, Query},
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
) -> Result<Matrix<get_public_rooms::v1::Response>> {
    let network = network(body.room_network);
    let query = Query { limit: body.limit, since: body.since, network, ..Query::default() };
    let page = page(&server, query).await?;
    let mut response = get_public_rooms::v1::Response::new();
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total as u64));
    (response.chunk, response.next_batch, response.prev_batch) = (page.rooms, page.next_batch, page.prev_batch);
    Ok(Matrix(response))
}

/// `POST /_matrix/federation/v1/publicRooms`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1publicrooms>
async fn search(
    State(server): State<Arc<Server>>,
    Federation { body, .. }: Federation<get_public_rooms_filtered::v1::Request>,
) -> Result<Matrix<get_public_rooms_filtered::v1::Response>> {
    let query = Query {
        limit: body.limit,
        since: body.since,
        search: body.filter.generic_search_term,
        room_types: body.filter.room_types,
        network: network(body.room_network),
    };
    let page = page(&server, query).await?;
    let mut response = get_public_rooms_filtered::v1::Response::new();
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total as u64));
    (response.chunk, response.next_batch, response.prev_batch) = (page.rooms, page.next_batch, page.prev_batch);
    Ok(Matrix(response))
}

async fn page(server: &Arc<Server>, query: Query) -> Result<Page> {
    if !server.config.allow_public_room_directory_over_federation {
        return Err(Error::forbidden("This server shows its directory of public rooms to its own users only"));
    }
    server.blocking(move |server| directory::page(server, &query)).await
}

fn network(asked: RoomNetwork) -> Network {
    match asked {
        RoomNetwork::All => Network::All,
        RoomNetwork::ThirdParty(network) => Network::Of(network),
        _ => Network::Own,
    }
}
