//! Account management: <https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, whoami};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{GuestClient, Matrix, MaybeClient},
    },
    user::{
        account,
        deactivate::deactivate,
        device::Selection,
        email, password,
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<whoami::v3::Request, _, _>(who_am_i))
        .merge(endpoint::<change_password::v3::Request, _, _>(change_password))
        .merge(endpoint::<deactivate::v3::Request, _, _>(deactivate_account))
}

/// `GET /account/whoami`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>
async fn who_am_i(GuestClient { sender, .. }: GuestClient<whoami::v3::Request>) -> Matrix<whoami::v3::Response> {
    let device_id = sender.has_device().then_some(sender.device_id);
    let mut response = whoami::v3::Response::new(sender.user_id, sender.is_guest);
    response.device_id = device_id;
    Matrix(response)
}

/// `POST /account/password`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>
async fn change_password(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body, raw, address }: MaybeClient<change_password::v3::Request>,
) -> Result<Matrix<change_password::v3::Response>> {
    password::check_acceptable(&server.config.password_policy, &body.new_password)?;
    let operation = Operation::of::<change_password::v3::Request>("", &raw)?;
    let Some(sender) = sender else {
        // It takes one of the places of strangers, as a registration does.
        uiaa::limit_stranger(&server, &operation, body.auth.as_ref(), address)?;
        return reset_password(server, operation, body).await;
    };
    sender.check_not_guest()?;
    if sender.appservice.is_some() {
        return Err(Error::forbidden("Users of application services have no passwords"));
    }
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    let logged_out = if body.logout_devices { Selection::AllBut(sender.device_id) } else { Selection::None };
    account::set_password(server, sender.user_id, body.new_password, logged_out).await?;
    Ok(Matrix(change_password::v3::Response::new()))
}

/// The same for somebody who can't log in, but reads the mail of an address of his account.
async fn reset_password(
    server: Arc<Server>,
    operation: Operation,
    body: change_password::v3::Request,
) -> Result<Matrix<change_password::v3::Response>> {
    if server.config.mail.is_none() {
        return Err(no_other_proof());
    }
    let address = uiaa::confirm_password_reset(&server, operation, body.auth).await?;
    let user_id = email::resettable(&server, &address)?;
    let logged_out = if body.logout_devices { Selection::All } else { Selection::None };
    account::set_password(server, user_id, body.new_password, logged_out).await?;
    Ok(Matrix(change_password::v3::Response::new()))
}

/// `POST /account/deactivate`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
async fn deactivate_account(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body, raw, .. }: MaybeClient<deactivate::v3::Request>,
) -> Result<Matrix<deactivate::v3::Response>> {
    let sender = sender.ok_or_else(no_other_proof)?;
    sender.check_not_guest()?;
    let operation = Operation::of::<deactivate::v3::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await?;
    deactivate(server, sender.user_id, body.erase).await?;
    // No address of anybody was ever given to an identity server, so there is none to unbind.
    Ok(Matrix(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success)))
}

/// What can be asked for without a token where there are other proofs of whose the account is.
fn no_other_proof() -> Error {
    Error::missing_token()
}
