//! How far users have read.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::receipt::create_receipt::{self, v3::ReceiptType};
use serde_json::Value;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Loose, Matrix, json_object},
    },
    room::receipts::{self, Kind, Mark, Thread},
    user::presence,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<create_receipt::v3::Request, _, _>(create))
}

/// `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid>
async fn create(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Loose<create_receipt::v3::Request>>,
) -> Result<Matrix<create_receipt::v3::Response>> {
    let thread = thread(json_object(&raw)?.get("thread_id"))?;
    let request = body.with_body(b"{}")?;
    let kind = match request.receipt_type {
        ReceiptType::Read => Kind::Public,
        ReceiptType::ReadPrivate => Kind::Private,
        ReceiptType::FullyRead => Kind::FullyRead,
        other => return Err(Error::invalid_param(format!("{other} is no receipt type"))),
    };
    let mark = Mark { kind, thread, event_id: request.event_id };
    receipts::set(&server, &sender.user_id, &request.room_id, vec![mark]).await?;
    presence::active(&server, &sender.user_id, &sender.device_id);
    Ok(Matrix(create_receipt::v3::Response::new()))
}

fn thread(thread_id: Option<&Value>) -> Result<Thread> {
    match thread_id {
        None => Ok(Thread::Any),
        Some(Value::String(thread_id)) => Thread::parse(thread_id),
        Some(_) => Err(Error::invalid_param("thread_id must be a string")),
    }
}
