//! The server-server API: a file per section of the specification, each with a `router()`.

mod backfill;
mod end_to_end_encryption;
mod event_relationships;
mod events;
mod invites;
mod joins;
mod keys;
mod knocks;
mod leaving;
mod media;
mod openid;
mod public_rooms;
mod query;
mod spaces;
mod third_party_invites;
mod transactions;
mod version;

use std::{io, sync::Arc};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header;
use tracing::warn;

use crate::{Server, federation::resident::answer::Pieces};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(backfill::router())
        .merge(end_to_end_encryption::router())
        .merge(event_relationships::router())
        .merge(events::router())
        .merge(invites::router())
        .merge(joins::router())
        .merge(keys::router())
        .merge(knocks::router())
        .merge(leaving::router())
        .merge(media::router())
        .merge(openid::router())
        .merge(public_rooms::router())
        .merge(query::router())
        .merge(spaces::router())
        .merge(third_party_invites::router())
        .merge(transactions::router())
        .merge(version::router())
}

/// A body that ends early, so that the other server takes it for broken, if the answer can't be finished.
fn streamed(pieces: Pieces) -> Response {
    answer(read(pieces))
}

/// As [`streamed`], in the form that endpoints had first: `[200, {…}]`.
fn streamed_with_status(pieces: Pieces) -> Response {
    let piece = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
    answer(piece("[200,").chain(read(pieces)).chain(piece("]")))
}

fn read(pieces: Pieces) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.next().await?.map_err(|cause| {
            warn!("an answer to another server could not be finished: {cause:?}");
            io::Error::other("the answer could not be finished")
        });
        Some((piece, pieces))
    })
}

fn answer(body: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}
