//! Threads that users follow: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306> and
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4308>

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
};
use ruma::{
    api::client::threads::{
        get_thread_subscription, get_thread_subscriptions_changes as get_changes, subscribe_thread, unsubscribe_thread,
    },
    exports::serde_html_form,
};
use serde::Deserialize;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::{history, show::Reader},
    store::StreamPos,
    sync::{sliding::Pos, token},
    user::thread_subscriptions::{self as subscriptions, Changes, MAX_CHANGES, Wish, no_thread},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_thread_subscription::unstable::Request, _, _>(get))
        .merge(endpoint::<subscribe_thread::unstable::Request, _, _>(subscribe))
        .merge(endpoint::<unsubscribe_thread::unstable::Request, _, _>(unsubscribe))
        .merge(endpoint::<get_changes::unstable::Request, _, _>(changes))
}

/// `GET …/rooms/{roomId}/thread/{threadRoot}/subscription`
async fn get(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_thread_subscription::unstable::Request>,
) -> Result<Matrix<get_thread_subscription::unstable::Response>> {
    let work = move |reader: &Reader<'_, '_>, _| subscriptions::is_automatic(reader, &body.thread_root);
    let automatic = history::read(&server, sender, body.room_id, work).await?.ok_or_else(no_thread)?;
    Ok(Matrix(get_thread_subscription::unstable::Response::new(automatic)))
}

/// `PUT …/rooms/{roomId}/thread/{threadRoot}/subscription`
async fn subscribe(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<subscribe_thread::unstable::Request>,
) -> Result<Matrix<subscribe_thread::unstable::Response>> {
    let wish = body.automatic.map_or(Wish::Manual, Wish::Automatic);
    subscriptions::set(&server, sender, body.room_id, body.thread_root, wish).await?;
    Ok(Matrix(subscribe_thread::unstable::Response::new()))
}

/// `DELETE …/rooms/{roomId}/thread/{threadRoot}/subscription`
async fn unsubscribe(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<unsubscribe_thread::unstable::Request>,
) -> Result<Matrix<unsubscribe_thread::unstable::Response>> {
    subscriptions::set(&server, sender, body.room_id, body.thread_root, Wish::End).await?;
    Ok(Matrix(unsubscribe_thread::unstable::Response::new()))
}

/// `GET …/thread_subscriptions`
async fn changes(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    Client { sender, body, .. }: Client<get_changes::unstable::Request>,
) -> Result<Matrix<get_changes::unstable::Response>> {
    check_direction(query.as_deref())?;
    let before = body.from.as_deref().map(token::change).transpose()?.unwrap_or(StreamPos::MAX);
    let after = body.to.as_deref().map(moment_of).transpose()?.unwrap_or_default();
    let limit = body.limit.map_or(MAX_CHANGES, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than zero"));
    }
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        Changes::read(server, &snapshot, &sender.user_id, (after, before), limit)
    };
    let Changes { subscribed, unsubscribed, next } = server.blocking(work).await?;
    let mut response = get_changes::unstable::Response::new();
    (response.subscribed, response.unsubscribed) = (subscribed, unsubscribed);
    response.end = next.map(|next| next.to_string());
    Ok(Matrix(response))
}

/// The moment of a `pos` of sliding sync.
fn moment_of(pos: &str) -> Result<StreamPos> {
    let pos = pos.parse::<Pos>().map_err(|_| Error::invalid_param("`to` is not a `pos` of sliding sync"))?;
    Ok(pos.moment.pos)
}

/// There is no way but backward. ruma reads the parameter, and keeps it to itself.
fn check_direction(query: Option<&str>) -> Result<()> {
    #[derive(Deserialize)]
    struct Query {
        dir: String,
    }
    let query = serde_html_form::from_str::<Query>(query.unwrap_or_default());
    let is_backward = query.is_ok_and(|query| query.dir == "b");
    if is_backward { Ok(()) } else { Err(Error::invalid_param("`dir` must be `b`")) }
}
