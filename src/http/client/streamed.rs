//! Bodies that are sent while they are made.

use std::io;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::header;
use tracing::error;

use crate::{
    error::Result,
    event::StoredEvent,
    room::{
        show::{Format, Reader},
        state_list::StateList,
    },
    store::EventNid,
    sync::Reply,
};

/// A body that ends early, so that the client takes it for broken, if the answer can't be finished.
fn streamed(pieces: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Body {
    Body::from_stream(pieces.map_err(|cause| {
        error!("an answer that was begun could not be finished: {cause:?}");
        io::Error::other("the answer could not be finished")
    }))
}

pub fn listed(mut list: StateList) -> Response {
    json(match list.take_whole() {
        Some(whole) => Body::from(whole),
        None => streamed(list.into_stream()),
    })
}

pub fn replied(reply: Reply) -> Response {
    json(match reply {
        Reply::Whole(answer) => Body::from(answer),
        Reply::Begun(pieces) => streamed(pieces.into_stream()),
    })
}

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An event of a [`StateList`] in its client format.
pub fn write_event(reader: &Reader<'_, '_>, out: &mut Vec<u8>, nid: EventNid, event: &StoredEvent) -> Result<()> {
    reader.write(out, nid, event, Format::WithRoomId)
}
