//! The threads of a room.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::threads::get_threads::{self, v1::IncludeThreads};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::{
        history,
        threads::{self, Request},
        visibility::not_in_room,
    },
    sync::token::TimelineToken,
};

/// How many threads a page has if the client does not say.
const DEFAULT_LIMIT: usize = 20;

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_threads::v1::Request, _, _>(list))
}

/// `GET /rooms/{roomId}/threads`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads>
async fn list(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_threads::v1::Request>,
) -> Result<Matrix<get_threads::v1::Response>> {
    let from = body.from.as_deref().map(str::parse::<TimelineToken>).transpose()?.map(|token| token.0);
    let limit = body.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than zero"));
    }
    let only_participated = match body.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(Error::invalid_param("`include` is neither `all` nor `participated`")),
    };
    let answer = history::read(&server, sender, body.room_id, move |reader, newest| {
        let page = threads::list(reader, newest, &Request { from, limit, only_participated })?;
        let chunk = page.entries.iter().map(|root| threads::show_root(reader, root)).collect::<Result<_>>()?;
        let mut response = get_threads::v1::Response::new(chunk);
        response.next_batch = page.next.map(|next| TimelineToken(next).to_string());
        Ok(response)
    });
    answer.await?.map(Matrix).ok_or_else(not_in_room)
}
