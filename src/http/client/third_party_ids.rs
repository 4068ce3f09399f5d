//! E-mail addresses of accounts. We send the mail ourselves, so an identity server that a client names is ignored.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use std::sync::Arc;

use axum::{Router, extract::State, routing::post};
use http::{HeaderMap, header};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::account::{
        ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
        request_3pid_management_token_via_email as add_by_email,
        request_3pid_management_token_via_msisdn as add_by_msisdn,
        request_password_change_token_via_email as reset_by_email,
        request_password_change_token_via_msisdn as reset_by_msisdn,
        request_registration_token_via_email as register_by_email,
        request_registration_token_via_msisdn as register_by_msisdn, unbind_3pid,
    },
    thirdparty::{Medium, ThirdPartyIdentifier, ThirdPartyIdentifierInit},
};
use serde::Serialize;

use crate::{
    Server,
    config::Language,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix, Public, UntypedClient},
    },
    mail::letter,
    user::{
        email::{self, Purpose, Wish},
        registration,
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_3pids::v3::Request, _, _>(list))
        .merge(endpoint::<add_3pid::v3::Request, _, _>(add))
        .merge(endpoint::<bind_3pid::v3::Request, _, _>(bind))
        // ruma does not have it.
        .route("/_matrix/client/r0/account/3pid", post(older_bind))
        .route("/_matrix/client/v3/account/3pid", post(older_bind))
        .merge(endpoint::<unbind_3pid::v3::Request, _, _>(unbind))
        .merge(endpoint::<delete_3pid::v3::Request, _, _>(delete))
        .merge(endpoint::<register_by_email::v3::Request, _, _>(request_to_register))
        .merge(endpoint::<reset_by_email::v3::Request, _, _>(request_to_reset))
        .merge(endpoint::<add_by_email::v3::Request, _, _>(request_to_add))
        .merge(endpoint::<register_by_msisdn::v3::Request, _, _>(by_telephone::<register_by_msisdn::v3::Request>))
        .merge(endpoint::<reset_by_msisdn::v3::Request, _, _>(by_telephone::<reset_by_msisdn::v3::Request>))
        .merge(endpoint::<add_by_msisdn::v3::Request, _, _>(by_telephone::<add_by_msisdn::v3::Request>))
}

/// ruma leaves out an empty list; clients expect it.
#[derive(Serialize)]
struct ThirdPartyIds {
    threepids: Vec<ThirdPartyIdentifier>,
}

/// `GET /account/3pid`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid>
async fn list(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_3pids::v3::Request>,
) -> Result<Json<ThirdPartyIds>> {
    let addresses = server.read(move |snapshot| email::list(snapshot, &sender.user_id)).await?;
    let at = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let shown = addresses.into_iter().map(|(address, email)| {
        let (validated_at, added_at) = (at(email.validated_at_ms), at(email.added_at_ms));
        ThirdPartyIdentifierInit { address, medium: Medium::Email, validated_at, added_at }.into()
    });
    Ok(Json(ThirdPartyIds { threepids: shown.collect() }))
}

/// `POST /account/3pid/add`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd>
async fn add(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<add_3pid::v3::Request>,
) -> Result<Matrix<add_3pid::v3::Response>> {
    if server.config.mail.is_none() {
        return Err(email::not_supported("E-mail addresses are not supported"));
    }
    let operation = Operation::of::<add_3pid::v3::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    email::add(&server, sender.user_id, body.sid.as_str(), body.client_secret.as_str()).await?;
    Ok(Matrix(add_3pid::v3::Response::new()))
}

/// `POST /account/3pid/bind`: there is no identity server that we trust with users' addresses.
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind>
async fn bind(_: Client<bind_3pid::v3::Request>) -> Result<Matrix<bind_3pid::v3::Response>> {
    Err(not_bound())
}

/// `POST /account/3pid`, which is deprecated: the specification made it the same as `bind`.
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pid>
async fn older_bind(_: UntypedClient) -> Result<Json<()>> {
    Err(not_bound())
}

fn not_bound() -> Error {
    super::inviting::no_identity_server("so nobody is found there by an address; /account/3pid/add adds one here")
}

/// `POST /account/3pid/unbind`: nothing is bound anywhere.
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind>
async fn unbind(_: Client<unbind_3pid::v3::Request>) -> Matrix<unbind_3pid::v3::Response> {
    Matrix(unbind_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// `POST /account/3pid/delete`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete>
async fn delete(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_3pid::v3::Request>,
) -> Result<Matrix<delete_3pid::v3::Response>> {
    if body.medium == Medium::Email {
        email::remove(&server, sender.user_id, &body.address).await?;
    }
    Ok(Matrix(delete_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport)))
}

/// `POST /register/email/requestToken`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken>
async fn request_to_register(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    Public { body, address, .. }: Public<register_by_email::v3::Request>,
) -> Result<Matrix<register_by_email::v3::Response>> {
    server.limits.registration(address)?;
    registration::check_open(&server.config)?;
    let wish = Wish {
        purpose: Purpose::Register,
        email: body.email,
        client_secret: body.client_secret.to_string(),
        send_attempt: body.send_attempt.into(),
        next_link: body.next_link,
        language: language(&server, &headers),
    };
    Ok(Matrix(register_by_email::v3::Response::new(request(&server, wish).await?)))
}

/// `POST /account/password/email/requestToken`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpasswordemailrequesttoken>
async fn request_to_reset(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    Public { body, address, .. }: Public<reset_by_email::v3::Request>,
) -> Result<Matrix<reset_by_email::v3::Response>> {
    server.limits.registration(address)?;
    let wish = Wish {
        purpose: Purpose::ResetPassword,
        email: body.email,
        client_secret: body.client_secret.to_string(),
        send_attempt: body.send_attempt.into(),
        next_link: body.next_link,
        language: language(&server, &headers),
    };
    Ok(Matrix(reset_by_email::v3::Response::new(request(&server, wish).await?)))
}

/// `POST /account/3pid/email/requestToken`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidemailrequesttoken>
async fn request_to_add(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    Public { body, address, .. }: Public<add_by_email::v3::Request>,
) -> Result<Matrix<add_by_email::v3::Response>> {
    server.limits.registration(address)?;
    let wish = Wish {
        purpose: Purpose::Add,
        email: body.email,
        client_secret: body.client_secret.to_string(),
        send_attempt: body.send_attempt.into(),
        next_link: body.next_link,
        language: language(&server, &headers),
    };
    Ok(Matrix(add_by_email::v3::Response::new(request(&server, wish).await?)))
}

async fn request(server: &Arc<Server>, wish: Wish) -> Result<ruma::OwnedSessionId> {
    let sid = email::request(server, wish).await?;
    sid.try_into().map_err(Error::internal)
}

/// The three `…/msisdn/requestToken`.
async fn by_telephone<R>(_: Public<R>) -> Result<Json<()>> {
    Err(email::not_supported("Telephone numbers are not supported"))
}

fn language(server: &Server, headers: &HeaderMap) -> Language {
    let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|wanted| wanted.to_str().ok());
    letter::language(wanted, server.config.mail.as_ref().map(|mail| mail.language).unwrap_or_default())
}
