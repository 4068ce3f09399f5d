//! <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use ruma::api::client::{
    keys::{
        upload_signatures::{self, v3::Failure},
        upload_signing_keys,
    },
    uiaa::{AuthType, UiaaInfo},
};
use serde_json::json;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix},
    },
    user::{
        keys::{self, SigningKeys, Uploaded},
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<upload_signatures::v3::Request, _, _>(upload_signatures)).merge(endpoint::<
        upload_signing_keys::v3::Request,
        _,
        _,
    >(
        upload_signing_keys,
    ))
}

/// `POST /keys/device_signing/upload`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload>
async fn upload_signing_keys(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<upload_signing_keys::v3::Request>,
) -> Result<Response> {
    let operation = Operation::of::<upload_signing_keys::v3::Request>("", &raw)?;
    let keys = SigningKeys {
        master: body.master_key,
        self_signing: body.self_signing_key,
        user_signing: body.user_signing_key,
    };
    // Who shares rooms with the caller must be woken even if he hangs up.
    let done = Server::detached(async move {
        let user = &sender.user_id;
        let first = keys::upload_signing_keys(&server, user.clone(), keys.clone(), false).await?;
        if first == Uploaded::AuthenticationNeeded {
            uiaa::confirm_reset(&server, &sender, operation, body.auth).await?;
            keys::upload_signing_keys(&server, user.clone(), keys, true).await?;
        }
        Ok(())
    });
    match done.await {
        Ok(()) => Ok(Matrix(upload_signing_keys::v3::Response::new()).into_response()),
        Err(Error::AuthRequired(info)) => with_earlier_name(*info),
        Err(error) => Err(error),
    }
}

/// The stage `m.oauth` has another flow under the name that it had before, as MSC4312 asks; ruma takes them for one.
fn with_earlier_name(info: UiaaInfo) -> Result<Response> {
    const EARLIER: &str = "org.matrix.cross_signing_reset";
    let is_by_oauth = info.flows.iter().any(|flow| flow.stages.contains(&AuthType::OAuth));
    if !is_by_oauth {
        return Err(Error::AuthRequired(Box::new(info)));
    }
    let mut answer = serde_json::to_value(&info).map_err(Error::internal)?;
    answer["params"][EARLIER] = answer["params"]["m.oauth"].clone();
    if let Some(flows) = answer["flows"].as_array_mut() {
        flows.push(json!({ "stages": [EARLIER] }));
    }
    Ok((StatusCode::UNAUTHORIZED, Json(answer)).into_response())
}

/// `POST /keys/signatures/upload`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload>
async fn upload_signatures(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<upload_signatures::v3::Request>,
) -> Result<Matrix<upload_signatures::v3::Response>> {
    let signed_keys = body
        .signed_keys
        .into_iter()
        .map(|(user, keys)| (user, keys.iter().map(|(name, key)| (name.to_owned(), key.to_owned())).collect()));
    let signed_keys = signed_keys.collect();
    let failures =
        Server::detached(async move { keys::upload_signatures(&server, sender.user_id, signed_keys).await }).await?;
    let mut answer = upload_signatures::v3::Response::new();
    for (user, failures) in failures {
        let of_user: Result<BTreeMap<_, _>> =
            failures.into_iter().map(|(name, error)| Ok((name, failure(error)?))).collect();
        answer.failures.insert(user, of_user?);
    }
    Ok(Matrix(answer))
}

/// A refusal as it stands in `failures`; ruma can only read such, not make them.
fn failure(error: Error) -> Result<Failure> {
    match error {
        Error::Refused { kind, message, .. } => {
            let failure = json!({ "errcode": kind.errcode().as_str(), "error": message });
            serde_json::from_value(failure).map_err(Error::internal)
        }
        other => Err(other),
    }
}
