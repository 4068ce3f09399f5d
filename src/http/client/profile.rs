//! What users say of themselves.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UserId,
    api::{
        client::profile::{delete_profile_field, get_profile, get_profile_field, set_profile_field},
        error::ErrorKind,
    },
    profile::{ProfileFieldName, ProfileFieldValue},
};
use serde_json::{Map, Value};

use crate::{
    Server, appservice,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{GuestClient, Loose, Matrix, MaybeClient, WithOptionalToken},
    },
    plain_json,
    user::{
        profile::{self, DISPLAY_NAME},
        session::Caller,
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<WithOptionalToken<get_profile::v3::Request>, _, _>(get))
        .merge(endpoint::<WithOptionalToken<get_profile_field::v3::Request>, _, _>(get_field))
        .merge(endpoint::<set_profile_field::v3::Request, _, _>(set_field))
        // Older versions of the specification have no such endpoint, so ruma gives it fewer paths than the others.
        .merge(endpoint::<delete_profile_field::v3::Request, _, _>(delete_field))
}

/// `GET /profile/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuserid>
async fn get(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body: WithOptionalToken(body), .. }: MaybeClient<WithOptionalToken<get_profile::v3::Request>>,
) -> Result<Matrix<get_profile::v3::Response>> {
    check_reader(&server, sender.as_ref())?;
    let profile = of_user(&server, &body.user_id, None).await?;
    Ok(Matrix(profile.into_iter().collect()))
}

/// `GET /profile/{userId}/{keyName}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuseridkeyname>
async fn get_field(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body: WithOptionalToken(body), .. }: MaybeClient<
        WithOptionalToken<get_profile_field::v3::Request>,
    >,
) -> Result<Matrix<get_profile_field::v3::Response>> {
    check_reader(&server, sender.as_ref())?;
    let mut profile = of_user(&server, &body.user_id, Some(body.field.clone())).await?;
    let value = profile.remove(body.field.as_str()).ok_or_else(|| Error::not_found("The profile has no such field"))?;
    let value = ProfileFieldValue::new(body.field.as_str(), value).map_err(Error::internal)?;
    Ok(Matrix(get_profile_field::v3::Response::new(value)))
}

/// `PUT /profile/{userId}/{keyName}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname>
async fn set_field(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, raw }: GuestClient<Loose<set_profile_field::v3::Request>>,
) -> Result<Matrix<set_profile_field::v3::Response>> {
    let [user_id, field] = body.path.as_slice() else { return Err(Error::internal("the path has two parameters")) };
    check_own(&sender, user_id, field)?;
    server.limits.message(&sender)?;
    let mut fields = plain_json::object(&raw)?; // `M_BAD_JSON` also for what is no JSON at all
    let value = fields.remove(field).ok_or_else(|| Error::missing_param(format!("The body has no `{field}`")))?;
    if !fields.is_empty() {
        return Err(Error::bad_json(format!("The body has more than `{field}`")));
    }
    profile::set(&server, &sender.user_id, field, value).await?;
    Ok(Matrix(set_profile_field::v3::Response::new()))
}

/// `DELETE /profile/{userId}/{keyName}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3profileuseridkeyname>
async fn delete_field(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<delete_profile_field::v3::Request>,
) -> Result<Matrix<delete_profile_field::v3::Response>> {
    check_own(&sender, body.user_id.as_str(), body.field.as_str())?;
    server.limits.message(&sender)?;
    profile::delete(&server, &sender.user_id, body.field.as_str()).await?;
    Ok(Matrix(delete_profile_field::v3::Response::new()))
}

/// Of his own profile a guest changes his name only.
fn check_own(caller: &Caller, user_id: &str, field: &str) -> Result<()> {
    if caller.user_id != user_id {
        return Err(Error::forbidden("You may only change your own profile"));
    }
    if field == DISPLAY_NAME { Ok(()) } else { caller.check_not_guest() }
}

/// Profiles are public, unless the server's administrator says otherwise.
fn check_reader(server: &Server, reader: Option<&Caller>) -> Result<()> {
    if reader.is_none() && server.config.require_auth_for_profile_requests {
        return Err(Error::refused(ErrorKind::MissingToken, "Log in to read profiles"));
    }
    Ok(())
}

/// The profile of a user, also of another server's, or a field of it.
async fn of_user(
    server: &Arc<Server>,
    user_id: &UserId,
    field: Option<ProfileFieldName>,
) -> Result<Map<String, Value>> {
    if server.is_ours(user_id) {
        appservice::query::user_exists(server, user_id).await?;
    }
    profile::of_any(server, user_id, field).await
}
