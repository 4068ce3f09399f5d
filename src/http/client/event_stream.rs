//! What was before `/sync`, and is deprecated: the stream of events, a first answer with everything, and single events.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events>

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::Response,
    routing::get,
};
use ruma::{OwnedEventId, OwnedRoomId, api::client::peeking::listen_to_new_events};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::streamed::replied;
use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{GuestClient, Json, Loose, UntypedClient, from_query},
    },
    room::{
        View,
        history::{self, INITIAL_LIMIT, event_not_found},
        show::{Format, Reader},
        tables::EventIds,
    },
    sync::{FirstWanted, event_stream, first_answer, token::TimelineToken},
};

pub fn router() -> Router<Arc<Server>> {
    // ruma has none of these but the stream of one room.
    ["r0", "v3"].into_iter().fold(endpoint::<listen_to_new_events::v3::Request, _, _>(events), |all, version| {
        let path = format!("/_matrix/client/{version}");
        all.route(&format!("{path}/events/{{event_id}}"), get(event))
            .route(&format!("{path}/initialSync"), get(initial_sync))
    })
}

#[derive(Deserialize)]
struct Listening {
    from: Option<String>,
    /// Milliseconds.
    timeout: Option<u64>,
    room_id: Option<OwnedRoomId>,
}

#[derive(Serialize)]
struct News {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /events`: of all rooms of the user, or of one that he looks into. Guests do only that.
/// <https://spec.matrix.org/v1.19/client-server-api/#peeking_get_matrixclientv3events>
async fn events(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    GuestClient { sender, .. }: GuestClient<Loose<listen_to_new_events::v3::Request>>,
) -> Result<Json<News>> {
    let Listening { from, timeout, room_id } = from_query(query.as_deref())?;
    if room_id.is_none() {
        sender.check_not_guest()?;
    }
    let from = from.map(|from| from.parse::<TimelineToken>()).transpose()?.map(|from| from.0);
    let timeout = timeout.map(Duration::from_millis);
    let news = event_stream::listen(&server, sender, room_id, from, timeout).await?;
    let token = |pos| TimelineToken(pos).to_string();
    Ok(Json(News { start: token(news.start), end: token(news.end), chunk: news.events }))
}

/// `GET /events/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3eventseventid>
async fn event(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Json<Box<RawValue>>> {
    let event_id = OwnedEventId::try_from(request.part::<String>(0)?).map_err(|_| event_not_found())?;
    let caller = request.sender;
    let find = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let place = snapshot.get::<EventIds>(&&*event_id)?.ok_or_else(event_not_found)?;
        let view = View::of(&server.rooms, &snapshot, place.room)?;
        let reader = Reader::open(&view, &caller.user_id, Some(&caller.device_id), server.clock.now_ms())?;
        let (nid, event) = history::visible(&reader, &event_id)?.ok_or_else(event_not_found)?;
        reader.show(nid, &event, Format::WithRoomId)
    };
    server.blocking(find).await.map(Json)
}

#[derive(Deserialize)]
struct First {
    limit: Option<usize>,
    #[serde(default)]
    archived: bool,
}

/// `GET /initialSync`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync>
async fn initial_sync(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Response> {
    let First { limit, archived } = from_query(request.query.as_deref())?;
    let (user_id, device_id) = (request.sender.user_id, request.sender.device_id);
    let wanted = FirstWanted { user_id, device_id, limit: limit.unwrap_or(INITIAL_LIMIT), archived };
    Ok(replied(first_answer(&server, wanted).await?))
}
