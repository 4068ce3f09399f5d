//! The directory of public rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedRoomId, ServerName,
    api::{
        IncomingRequest, Metadata,
        client::{
            directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
            room::Visibility,
        },
        error::{DeserializationError, ErrorKind},
    },
};
use serde::Deserialize;

use super::create_room::is_public;
use crate::{
    Server,
    error::{Error, Result},
    federation::query,
    http::{
        endpoint,
        extract::{Client, Json, Matrix, MaybeClient, Public, WithOptionalToken},
        room_list::{RoomList, network},
    },
    room::directory::{self, Page, Query},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<WithOptionalToken<get_public_rooms::v3::Request>, _, _>(list))
        .merge(endpoint::<get_public_rooms_filtered::v3::Request, _, _>(search))
        .merge(endpoint::<get_room_visibility::v3::Request, _, _>(visibility))
        .merge(endpoint::<SetVisibility, _, _>(set_visibility))
}

/// `GET /publicRooms`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms>
async fn list(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body: WithOptionalToken(body), .. }: MaybeClient<
        WithOptionalToken<get_public_rooms::v3::Request>,
    >,
) -> Result<Json<RoomList>> {
    if sender.is_none() && !server.config.allow_public_room_directory_without_auth {
        return Err(Error::refused(ErrorKind::MissingToken, "Log in to read the directory of public rooms"));
    }
    let query = Query { limit: body.limit, since: body.since, ..Query::default() };
    if sender.is_none() && other_server(&server, body.server.as_deref()).is_some() {
        return Err(Error::refused(ErrorKind::MissingToken, "Log in to read the directories of other servers"));
    }
    Ok(Json(page(&server, body.server.as_deref(), query).await?.into()))
}

/// `POST /publicRooms`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms>
async fn search(
    State(server): State<Arc<Server>>,
    Client { body, .. }: Client<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<RoomList>> {
    let query = Query {
        limit: body.limit,
        since: body.since,
        search: body.filter.generic_search_term,
        room_types: body.filter.room_types,
        network: network(body.room_network),
    };
    Ok(Json(page(&server, body.server.as_deref(), query).await?.into()))
}

/// A page of our directory, or of the server that is asked for.
async fn page(server: &Arc<Server>, asked: Option<&ServerName>, query: Query) -> Result<Page> {
    if let Some(other) = other_server(server, asked) {
        let found = query::public_rooms(server, other, query).await?;
        let total = found.total_room_count_estimate.and_then(|count| usize::try_from(count).ok());
        return Ok(Page {
            total: total.unwrap_or(found.chunk.len()),
            rooms: found.chunk,
            next_batch: found.next_batch,
            prev_batch: found.prev_batch,
        });
    }
    server.blocking(move |server| directory::page(server, &query)).await
}

fn other_server<'a>(server: &Server, asked: Option<&'a ServerName>) -> Option<&'a ServerName> {
    asked.filter(|name| *name != server.name())
}

/// `GET /directory/list/room/{roomId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid>
async fn visibility(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<get_room_visibility::v3::Request>,
) -> Result<Matrix<get_room_visibility::v3::Response>> {
    let visibility = match directory::is_listed(&server, &body.room_id)? {
        true => Visibility::Public,
        false => Visibility::Private,
    };
    Ok(Matrix(get_room_visibility::v3::Response::new(visibility)))
}

/// `PUT /directory/list/room/{roomId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid>
async fn set_visibility(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<SetVisibility>,
) -> Result<Matrix<set_room_visibility::v3::Response>> {
    let is_listed = is_public(&body.visibility)?;
    directory::set_listed(&server, &sender.user_id, &body.room_id, is_listed).await?;
    Ok(Matrix(set_room_visibility::v3::Response::new()))
}

/// ruma's request, but that `visibility` may be left out: then it is `public`.
struct SetVisibility {
    room_id: OwnedRoomId,
    visibility: Visibility,
}

impl Metadata for SetVisibility {
    const METHOD: http::Method = set_room_visibility::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_room_visibility::v3::Request::RATE_LIMITED;
    type Authentication = <set_room_visibility::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_room_visibility::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_room_visibility::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetVisibility {
    type EndpointError = <set_room_visibility::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_room_visibility::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Body {
            visibility: Option<Visibility>,
        }
        let visibility = serde_json::from_slice::<Body>(request.body())?.visibility.unwrap_or(Visibility::Public);
        let room_id = path_args.first().copied().unwrap_or_default().try_into()?;
        Ok(Self { room_id, visibility })
    }
}
