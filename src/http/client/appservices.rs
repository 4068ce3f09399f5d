//! What application services offer to clients, and ask of us in their own names.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#client-server-api-extensions>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, extract::State, response::Response};
use http::{Method, StatusCode};
use ruma::api::client::{
    appservice::{request_ping, set_room_visibility},
    thirdparty::{
        get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
        get_user_for_user_id,
    },
};
use serde_json::{Map, Value, json};

use crate::{
    Server,
    appservice::{
        accounts::forbid_unknown_token,
        call::{self, Failure},
        custom, third_party,
    },
    error::{Error, Result},
    http::{
        endpoint,
        extract::{ByAppservice, Client, Json, Matrix},
    },
    room::directory,
    user::session::Caller,
};

/// The longest part of a service's answer to a ping that is passed on.
const MAX_PASSED_ON: usize = 4_096;

/// As whom a service acts, in the query of its request.
const ASSERTED: [&str; 3] = ["user_id", "device_id", "org.matrix.msc3202.device_id"];

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<request_ping::v1::Request, _, _>(ping))
        .merge(endpoint::<set_room_visibility::v3::Request, _, _>(list_room))
        .merge(endpoint::<get_protocols::v3::Request, _, _>(protocols))
        .merge(endpoint::<get_protocol::v3::Request, _, _>(protocol))
        .merge(endpoint::<get_location_for_protocol::v3::Request, _, _>(locations))
        .merge(endpoint::<get_location_for_room_alias::v3::Request, _, _>(locations_of_alias))
        .merge(endpoint::<get_user_for_protocol::v3::Request, _, _>(users))
        .merge(endpoint::<get_user_for_user_id::v3::Request, _, _>(users_of_id))
}

/// `POST /appservice/{appserviceId}/ping`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1appserviceappserviceidping>
async fn ping(
    State(server): State<Arc<Server>>,
    request: Result<ByAppservice<request_ping::v1::Request>>,
) -> Result<Response> {
    use axum::response::IntoResponse;
    let ByAppservice { service, body } = request.map_err(forbid_unknown_token)?;
    if body.appservice_id != service.id {
        return Err(Error::forbidden("That is another application service"));
    }
    if service.url.is_none() {
        return Err(Error::refused(custom("M_URL_NOT_SET"), "The application service has no address"));
    }
    let begun = std::time::Instant::now();
    let transaction = body.transaction_id.map_or_else(|| json!({}), |id| json!({ "transaction_id": id }));
    let client = &server.appservices.client;
    let asked = call::request(client, &service, Method::POST, &["ping"], &[], Some(transaction.to_string()));
    let failure = match asked.await {
        Ok(_) => {
            let took: Duration = begun.elapsed();
            return Ok(Matrix(request_ping::v1::Response::new(took)).into_response());
        }
        Err(failure) => failure,
    };
    let message = failure.to_string();
    let (status, answer) = match failure {
        Failure::TimedOut => (StatusCode::GATEWAY_TIMEOUT, json!({ "errcode": "M_CONNECTION_TIMEOUT" })),
        Failure::NoUrl | Failure::Connection(_) => {
            (StatusCode::BAD_GATEWAY, json!({ "errcode": "M_CONNECTION_FAILED" }))
        }
        Failure::Status(status, body) => {
            let body: String = body.chars().take(MAX_PASSED_ON).collect();
            let answer = json!({ "errcode": "M_BAD_STATUS", "status": status.as_u16(), "body": body });
            (StatusCode::BAD_GATEWAY, answer)
        }
    };
    let mut answer = answer;
    answer["error"] = message.into();
    Ok((status, Json(answer)).into_response())
}

/// `PUT /directory/list/appservice/{networkId}/{roomId}`
/// <https://spec.matrix.org/v1.19/application-service-api/#put_matrixclientv3directorylistappservicenetworkidroomid>
async fn list_room(
    State(server): State<Arc<Server>>,
    ByAppservice { service, body }: ByAppservice<set_room_visibility::v3::Request>,
) -> Result<Matrix<set_room_visibility::v3::Response>> {
    let network = third_party::instance_id(&service.id, &body.network_id);
    let is_listed = super::create_room::is_public(&body.visibility)?;
    directory::set_listed_in(&server, network, &body.room_id, is_listed).await?;
    Ok(Matrix(set_room_visibility::v3::Response::new()))
}

/// `GET /thirdparty/protocols`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocols>
async fn protocols(
    State(server): State<Arc<Server>>,
    _: Client<get_protocols::v3::Request>,
) -> Json<Map<String, Value>> {
    Json(third_party::protocols(&server).await)
}

/// `GET /thirdparty/protocol/{protocol}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol>
async fn protocol(
    State(server): State<Arc<Server>>,
    Client { body, .. }: Client<get_protocol::v3::Request>,
) -> Result<Json<Map<String, Value>>> {
    Ok(Json(third_party::protocol(&server, &body.protocol).await?))
}

/// `GET /thirdparty/location/{protocol}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartylocationprotocol>
async fn locations(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_location_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let (protocol, fields) = (body.protocol, fields_of(&sender, body.fields));
    Ok(Json(third_party::look_up(&server, Some(&protocol), &["location", &protocol], fields).await?))
}

/// `GET /thirdparty/location?alias=`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartylocation>
async fn locations_of_alias(
    State(server): State<Arc<Server>>,
    Client { body, .. }: Client<get_location_for_room_alias::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let query = vec![("alias".to_owned(), body.alias.to_string())];
    Ok(Json(third_party::look_up(&server, None, &["location"], query).await?))
}

/// `GET /thirdparty/user/{protocol}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyuserprotocol>
async fn users(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_user_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let (protocol, fields) = (body.protocol, fields_of(&sender, body.fields));
    Ok(Json(third_party::look_up(&server, Some(&protocol), &["user", &protocol], fields).await?))
}

/// `GET /thirdparty/user?userid=`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyuser>
async fn users_of_id(
    State(server): State<Arc<Server>>,
    Client { body, .. }: Client<get_user_for_user_id::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let query = vec![("userid".to_owned(), body.userid.to_string())];
    Ok(Json(third_party::look_up(&server, None, &["user"], query).await?))
}

/// What a service is asked for: all of the query but what says who asks, his access token above all.
fn fields_of(sender: &Caller, mut fields: BTreeMap<String, String>) -> Vec<(String, String)> {
    fields.remove("access_token");
    if sender.appservice.is_some() {
        ASSERTED.iter().for_each(|name| drop(fields.remove(*name)));
    }
    fields.into_iter().collect()
}
