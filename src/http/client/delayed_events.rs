//! Delayed events: <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        client::delayed_events::{
            DelayedEventData, get_all_delayed_events, get_delayed_event, send_delayed_event,
            update_delayed_event::{self, UpdateAction},
        },
        error::{ErrorKind, StandardErrorBody},
    },
    events::sticky::StickyDurationMs,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        error::unreadable,
        extract::{GuestClient, Loose, Matrix, Public},
    },
    room::{
        View,
        delayed::{
            self, Action, NewEvent,
            tables::{DelayedEvent, Outcome},
        },
    },
    store::Snapshot,
    user::session::Caller,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<Loose<send_delayed_event::unstable::Request>, _, _>(send))
        .merge(endpoint::<get_all_delayed_events::unstable::Request, _, _>(list))
        .merge(endpoint::<get_delayed_event::unstable::Request, _, _>(get))
        .merge(endpoint::<update_delayed_event::unstable_v1::Request, _, _>(update_by_body))
        .merge(endpoint::<update_delayed_event::unstable_v2::Request, _, _>(update))
}

/// `PUT …/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
async fn send(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    GuestClient { sender, body, raw }: GuestClient<Loose<send_delayed_event::unstable::Request>>,
) -> Result<Matrix<send_delayed_event::unstable::Response>> {
    /// As the proposal has it; ruma knows the delay by its earlier name only.
    #[derive(Deserialize)]
    struct Body {
        #[serde(alias = "delay_ms")]
        delay: u64,
        state_key: Option<String>,
        content: Box<RawValue>,
    }
    server.limits.message(&sender)?;
    let Body { delay, state_key, content } = serde_json::from_slice(&raw).map_err(|e| unreadable(e.into()))?;
    let [room_id, event_type, txn_id] =
        <[String; 3]>::try_from(body.path).map_err(|_| Error::internal("the path has three parameters"))?;
    let room_id = ruma::RoomId::parse(room_id).map_err(|e| Error::invalid_param(format!("Not a room id: {e}")))?;
    let new = NewEvent {
        event_type,
        state_key,
        content: content.get().to_owned(),
        delay: Duration::from_millis(delay),
        txn_id: Some(txn_id),
        sticky_ms: asked_in(query.as_deref())?.sticky_ms,
    };
    let delay_id = delayed::schedule(&server, &sender, &room_id, new).await?;
    Ok(Matrix(send_delayed_event::unstable::Response::new(delay_id)))
}

/// What `/send` or `/state` asks for by the query.
pub struct Asked {
    /// By the parameter of an earlier form of the proposal, which clients use today.
    pub delay: Option<Duration>,
    /// MSC4354, at most an hour.
    pub sticky_ms: Option<u32>,
}

/// `M_INVALID_PARAM` for what is no number, or too large.
pub fn asked_in(query: Option<&str>) -> Result<Asked> {
    #[derive(Deserialize)]
    struct Query {
        #[serde(rename = "org.matrix.msc4140.delay")]
        delay: Option<u64>,
        #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
        sticky: Option<StickyDurationMs>,
    }
    let query: Query = ruma::exports::serde_html_form::from_str(query.unwrap_or_default())
        .map_err(|e| Error::invalid_param(format!("A query parameter is wrong: {e}")))?;
    Ok(Asked { delay: query.delay.map(Duration::from_millis), sticky_ms: query.sticky.map(StickyDurationMs::get) })
}

/// `GET …/delayed_events`
async fn list(
    State(server): State<Arc<Server>>,
    GuestClient { sender, .. }: GuestClient<get_all_delayed_events::unstable::Request>,
) -> Result<Matrix<get_all_delayed_events::unstable::Response>> {
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let events = delayed::list(&snapshot, &sender.user_id)?;
        events.into_iter().map(|(delay_id, event)| data(server, &snapshot, delay_id, event)).collect()
    };
    Ok(Matrix(get_all_delayed_events::unstable::Response::new(server.blocking(work).await?)))
}

/// `GET …/delayed_events/{delayId}`
async fn get(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_delayed_event::unstable::Request>,
) -> Result<Matrix<get_delayed_event::unstable::Response>> {
    let snapshot = server.store.snapshot();
    let event = delayed::get(&snapshot, &sender.user_id, &body.delay_id)?;
    let data = data(&server, &snapshot, body.delay_id, event)?;
    Ok(Matrix(get_delayed_event::unstable::Response::new(data)))
}

/// `POST …/delayed_events/{delayId}/{action}`, for whoever knows the id: those who carry a call's media, say.
async fn update(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<update_delayed_event::unstable_v2::Request>,
) -> Result<Matrix<update_delayed_event::unstable_v2::Response>> {
    let action = action(&body.action).ok_or_else(|| Error::unrecognized("There is no such action"))?;
    delayed::act(server, body.delay_id, action).await?;
    Ok(Matrix(update_delayed_event::unstable_v2::Response::new()))
}

/// `POST …/delayed_events/{delayId}`, an earlier form.
async fn update_by_body(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<update_delayed_event::unstable_v1::Request>,
) -> Result<Matrix<update_delayed_event::unstable_v1::Response>> {
    let Caller { user_id, .. } = sender;
    let action = action(&body.action).ok_or_else(|| Error::invalid_param("There is no such action"))?;
    delayed::get(&server.store.snapshot(), &user_id, &body.delay_id)?;
    delayed::act(server, body.delay_id, action).await?;
    Ok(Matrix(update_delayed_event::unstable_v1::Response::new()))
}

fn action(action: &UpdateAction) -> Option<Action> {
    match action {
        UpdateAction::Restart => Some(Action::Restart),
        UpdateAction::Send => Some(Action::Send),
        UpdateAction::Cancel => Some(Action::Cancel),
        _ => None,
    }
}

fn data(server: &Server, snapshot: &Snapshot<'_>, delay_id: String, event: DelayedEvent) -> Result<DelayedEventData> {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let room_id = View::of(&server.rooms, snapshot, event.room)?.room_id().to_owned();
    let content = Raw::from_json(RawValue::from_string(event.content).map_err(Error::internal)?);
    let (delay, since) = (Duration::from_millis(event.delay_ms), time(event.since_ms));
    let mut data =
        DelayedEventData::new(delay_id, room_id, event.event_type.into(), event.state_key, content, delay, since);
    if let Some(end) = event.end {
        data.finalized_ts = Some(time(end.at_ms));
        match end.outcome {
            Outcome::Sent(event_id) => data.event_id = Some(event_id),
            Outcome::Cancelled => {}
            Outcome::Failed(errcode, message) => {
                // A few errcodes come with more than is kept.
                let kind = serde_json::from_value(json!({ "errcode": errcode })).unwrap_or(ErrorKind::Unknown);
                data.error = Some(StandardErrorBody::new(kind, message));
            }
        }
    }
    Ok(data)
}
