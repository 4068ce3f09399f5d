//! The events that relate to another.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
};
use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        Direction as Dir,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
        },
    },
    events::AnyMessageLikeEvent,
    serde::Raw,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Checked, Client, Matrix},
    },
    room::{
        children::{self, MAX_DEPTH},
        history::{self, event_not_found},
    },
    store::Direction,
    sync::token::TimelineToken,
    user::session::Caller,
};

/// How many events a page has if the client does not say.
const DEFAULT_LIMIT: usize = 20;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_relating_events::v1::Request, _, _>(all))
        .merge(endpoint::<get_relating_events_with_rel_type::v1::Request, _, _>(of_type))
        .merge(endpoint::<get_relating_events_with_rel_type_and_event_type::v1::Request, _, _>(of_types))
}

/// `GET /rooms/{roomId}/relations/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid>
async fn all(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_relating_events::v1::Request>,
) -> Result<Matrix<get_relating_events::v1::Response>> {
    let query = Query {
        room_id: body.room_id,
        event_id: body.event_id,
        rel_type: None,
        event_type: None,
        paging: (body.from, body.to, body.dir, body.limit),
        is_recursive: body.recurse,
    };
    let found = query.answer(&server, sender).await?;
    let mut response = get_relating_events::v1::Response::new(found.chunk);
    (response.next_batch, response.prev_batch) = (found.next_batch, found.prev_batch);
    response.recursion_depth = found.recursion_depth;
    Ok(Matrix(response))
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype>
async fn of_type(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_relating_events_with_rel_type::v1::Request>,
) -> Result<Matrix<get_relating_events_with_rel_type::v1::Response>> {
    let query = Query {
        room_id: body.room_id,
        event_id: body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        event_type: None,
        paging: (body.from, body.to, body.dir, body.limit),
        is_recursive: body.recurse,
    };
    let found = query.answer(&server, sender).await?;
    let mut response = get_relating_events_with_rel_type::v1::Response::new(found.chunk);
    (response.next_batch, response.prev_batch) = (found.next_batch, found.prev_batch);
    response.recursion_depth = found.recursion_depth;
    Ok(Matrix(response))
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype>
async fn of_types(
    State(server): State<Arc<Server>>,
    // ruma takes some types for others.
    Checked(Path((_, _, _, event_type))): Checked<Path<(String, String, String, String)>>,
    Client { sender, body, .. }: Client<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<Matrix<get_relating_events_with_rel_type_and_event_type::v1::Response>> {
    let query = Query {
        room_id: body.room_id,
        event_id: body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        event_type: Some(event_type),
        paging: (body.from, body.to, body.dir, body.limit),
        is_recursive: body.recurse,
    };
    let found = query.answer(&server, sender).await?;
    let mut response = get_relating_events_with_rel_type_and_event_type::v1::Response::new(found.chunk);
    (response.next_batch, response.prev_batch) = (found.next_batch, found.prev_batch);
    response.recursion_depth = found.recursion_depth;
    Ok(Matrix(response))
}

/// What the three endpoints have in common.
struct Query {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<String>,
    /// `from`, `to`, `dir` and `limit`.
    paging: (Option<String>, Option<String>, Dir, Option<UInt>),
    is_recursive: bool,
}

struct Found {
    chunk: Vec<Raw<AnyMessageLikeEvent>>,
    next_batch: Option<String>,
    prev_batch: Option<String>,
    recursion_depth: Option<UInt>,
}

impl Query {
    async fn answer(self, server: &Arc<Server>, sender: Caller) -> Result<Found> {
        let (from, to, dir, limit) = self.paging;
        let place = |token: &Option<String>| token.as_deref().map(str::parse::<TimelineToken>).transpose();
        let (from_place, to_place) = (place(&from)?.map(|token| token.0), place(&to)?.map(|token| token.0));
        let direction = match dir {
            Dir::Forward => Direction::Forward,
            Dir::Backward => Direction::Backward,
        };
        let limit = limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if limit == 0 {
            return Err(Error::invalid_param("`limit` must be greater than zero"));
        }
        let answer = history::read(server, sender, self.room_id, move |reader, newest| {
            let request = children::Request {
                parent: &self.event_id,
                rel_type: self.rel_type.as_deref(),
                event_type: self.event_type.as_deref(),
                from: from_place,
                to: to_place,
                direction,
                limit,
                is_recursive: self.is_recursive,
            };
            let page = children::list(reader, newest, &request)?;
            Ok(Found {
                chunk: reader.raw_entries(&page.entries)?,
                next_batch: page.next.map(|next| TimelineToken(next).to_string()),
                prev_batch: from,
                recursion_depth: self.is_recursive.then(|| UInt::try_from(MAX_DEPTH).unwrap_or(UInt::MAX)),
            })
        });
        answer.await?.ok_or_else(event_not_found)
    }
}
