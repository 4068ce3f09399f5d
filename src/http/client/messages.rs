//! A page of a room's timeline, and the deprecated first look at a room.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::{Method, Uri};
use ruma::{
    api::{
        Direction as Dir, IncomingRequest, Metadata,
        auth_scheme::AccessToken,
        client::{
            message::get_message_events,
            peeking::get_current_state::{self, v3::PaginationChunk},
            room::Visibility,
        },
        error::DeserializationError,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize, de};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Server,
    error::{Error, Result},
    federation::backfill,
    http::{
        endpoint,
        extract::{GuestClient, Matrix},
    },
    room::{
        Membership,
        event_filter::RelationFilter,
        history::{self, INITIAL_LIMIT, Request},
        visibility::not_in_room,
    },
    store::{Direction, RoomPos},
    sync::token::TimelineToken,
    user::tables::AccountDatum,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_message_events::v3::Request, _, _>(messages)).merge(endpoint::<
        get_current_state::v3::Request,
        _,
        _,
    >(initial_sync))
}

/// How often one request asks other servers for what is missing.
const MAX_BACKFILLS: usize = 3;

/// `GET /rooms/{roomId}/messages`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
async fn messages(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body: MessagesRequest { body, relations }, .. }: GuestClient<MessagesRequest>,
) -> Result<Matrix<get_message_events::v3::Response>> {
    let (from, to) = (place(body.from.as_deref())?, place(body.to.as_deref())?);
    let direction = match body.dir {
        Dir::Forward => Direction::Forward,
        Dir::Backward => Direction::Backward,
    };
    let wanted = Arc::new((body.filter, relations));
    let limit = usize::try_from(body.limit).unwrap_or(usize::MAX);
    let mut tries_left = MAX_BACKFILLS;
    let mut stops_at_gaps = false;
    loop {
        let (wanted, given) = (Arc::clone(&wanted), body.from.clone());
        let answer = history::read(&server, sender.clone(), body.room_id.clone(), move |reader, newest| {
            let (filter, relations) = &*wanted;
            let request = Request { from, to, direction, limit, filter, relations, stops_at_gaps };
            let found = history::messages(reader, newest, &request)?;
            let mut response = get_message_events::v3::Response::new();
            response.start = given.unwrap_or_else(|| TimelineToken(found.start).to_string());
            response.end = found.end.or(found.later).map(|end| TimelineToken(end).to_string());
            response.chunk = reader.raw_entries(&found.entries)?;
            response.state = reader.raw_events(&found.members)?;
            Ok((response, found.gap))
        });
        let (response, gap) = answer.await?.ok_or_else(not_in_room)?;
        match gap {
            None => return Ok(Matrix(response)),
            Some(_) if stops_at_gaps => return Ok(Matrix(response)), // it begins at one that nobody fills
            Some((room, until)) if tries_left > 0 && backfill::fill(&server, room, until).await? => tries_left -= 1,
            // What is missing may come later, so the page ends before it, and the next one begins with another try.
            Some(_) => stops_at_gaps = true,
        }
    }
}

/// NOTSPEC: without `dir` it is `f`, as Synapse has it; Complement's tests of forgotten rooms leave it out.
struct MessagesRequest {
    body: get_message_events::v3::Request,
    /// What of the filter is not in the specification, and not in ruma's type.
    relations: RelationFilter,
}

/// The part of the query that is read for a [`RelationFilter`].
#[derive(Deserialize)]
struct FilterQuery {
    filter: Option<String>,
}

impl Metadata for MessagesRequest {
    const METHOD: Method = get_message_events::v3::Request::METHOD;
    const RATE_LIMITED: bool = get_message_events::v3::Request::RATE_LIMITED;
    type Authentication = AccessToken;
    type PathBuilder = <get_message_events::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = get_message_events::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for MessagesRequest {
    type EndpointError = <get_message_events::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = get_message_events::v3::Response;

    fn try_from_http_request_inner(
        mut request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = request.uri().query().unwrap_or_default();
        if !query.split('&').any(|pair| pair.starts_with("dir="))
            && let Ok(with_dir) = Uri::try_from(format!("{}?dir=f&{query}", request.uri().path()))
        {
            *request.uri_mut() = with_dir;
        }
        let query = Query::<FilterQuery>::try_from_uri(request.uri()).ok(); // ruma says what is wrong with it
        let body = get_message_events::v3::Request::try_from_http_request_inner(request, path_args)?;
        let filter = query.and_then(|Query(query)| query.filter);
        let relations = filter.map_or(Ok(RelationFilter::default()), |filter| serde_json::from_str(&filter));
        let relations = relations.map_err(|e| DeserializationError::Query(de::Error::custom(e)))?;
        Ok(Self { body, relations })
    }
}

fn place(token: Option<&str>) -> Result<Option<RoomPos>> {
    Ok(token.map(str::parse::<TimelineToken>).transpose()?.map(|token| token.0))
}

/// `GET /rooms/{roomId}/initialSync`, which is deprecated.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync>
async fn initial_sync(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_current_state::v3::Request>,
) -> Result<Response> {
    let _turn = server.long_answers.turn().await?;
    let room_id = body.room_id.clone();
    let answer = history::read(&server, sender, body.room_id, move |reader, newest| {
        let found = history::first_look(reader, newest, INITIAL_LIMIT)?;
        let end = TimelineToken(found.end).to_string();
        let mut messages = PaginationChunk::new(reader.raw_entries(&found.entries)?, end);
        messages.start = found.start.map(|start| TimelineToken(start).to_string());
        let mut response = get_current_state::v3::Response::new(room_id);
        response.messages = Some(messages);
        response.state = reader.raw_events(&found.state)?;
        response.membership = found.membership.map(Membership::to_state);
        response.visibility = Some(if found.is_listed { Visibility::Public } else { Visibility::Private });
        response.account_data = found.account_data.iter().map(account_data_event).collect::<Result<_>>()?;
        Ok(response)
    });
    Ok(Matrix(answer.await?.ok_or_else(not_in_room)?).into_response())
}

/// Account data in the form of an event.
fn account_data_event<T>((event_type, datum): &(String, AccountDatum)) -> Result<Raw<T>> {
    #[derive(Serialize)]
    struct Event<'e> {
        r#type: &'e str,
        content: &'e RawValue,
    }
    let content = serde_json::from_str(&datum.content).map_err(Error::internal)?;
    to_raw_value(&Event { r#type: event_type, content }).map(Raw::from_json).map_err(Error::internal)
}
