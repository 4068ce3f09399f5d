//! Account management: <https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    api::{
        client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, whoami},
        error::ErrorKind,
    },
    thirdparty::ThirdPartyIdentifier,
};
use serde::Serialize;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix, MaybeClient},
    },
    user::{
        account,
        deactivate::deactivate,
        device::Selection,
        password,
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<whoami::v3::Request, _, _>(who_am_i))
        .merge(endpoint::<change_password::v3::Request, _, _>(change_password))
        .merge(endpoint::<deactivate::v3::Request, _, _>(deactivate_account))
        .merge(endpoint::<get_3pids::v3::Request, _, _>(third_party_ids))
}

/// `GET /account/whoami`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>
async fn who_am_i(Client { sender, .. }: Client<whoami::v3::Request>) -> Matrix<whoami::v3::Response> {
    let device_id = sender.has_device().then_some(sender.device_id);
    let mut response = whoami::v3::Response::new(sender.user_id, false);
    response.device_id = device_id;
    Matrix(response)
}

/// `POST /account/password`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>
async fn change_password(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body, raw }: MaybeClient<change_password::v3::Request>,
) -> Result<Matrix<change_password::v3::Response>> {
    let sender = sender.ok_or_else(no_other_proof)?;
    if sender.appservice.is_some() {
        return Err(Error::forbidden("Users of application services have no passwords"));
    }
    password::check_acceptable(&body.new_password)?;
    let operation = Operation::of::<change_password::v3::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    let logged_out = if body.logout_devices { Selection::AllBut(sender.device_id) } else { Selection::None };
    account::set_password(server, sender.user_id, body.new_password, logged_out).await?;
    Ok(Matrix(change_password::v3::Response::new()))
}

/// `POST /account/deactivate`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
async fn deactivate_account(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body, raw }: MaybeClient<deactivate::v3::Request>,
) -> Result<Matrix<deactivate::v3::Response>> {
    let sender = sender.ok_or_else(no_other_proof)?;
    let operation = Operation::of::<deactivate::v3::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    deactivate(server, sender.user_id, body.erase).await?;
    // No address of anybody was ever given to an identity server.
    Ok(Matrix(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport)))
}

/// Both could be asked for without a token by whoever owns an address of the account; there are no such addresses.
fn no_other_proof() -> Error {
    Error::refused(ErrorKind::MissingToken, "Missing access token")
}

/// ruma leaves out an empty list; clients expect it.
#[derive(Serialize)]
struct ThirdPartyIds {
    threepids: Vec<ThirdPartyIdentifier>,
}

/// `GET /account/3pid`: accounts have no addresses or numbers.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid>
async fn third_party_ids(_: Client<get_3pids::v3::Request>) -> Json<ThirdPartyIds> {
    Json(ThirdPartyIds { threepids: Vec::new() })
}
