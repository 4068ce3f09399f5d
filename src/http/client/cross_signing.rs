//! <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::State};
use ruma::api::client::keys::{
    upload_signatures::{self, v3::Failure},
    upload_signing_keys,
};
use serde_json::json;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
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
) -> Result<Matrix<upload_signing_keys::v3::Response>> {
    let operation = Operation::of::<upload_signing_keys::v3::Request>("", &raw)?;
    let keys = SigningKeys {
        master: body.master_key,
        self_signing: body.self_signing_key,
        user_signing: body.user_signing_key,
    };
    // Who shares rooms with the caller must be woken even if he hangs up.
    Server::detached(async move {
        let user = &sender.user_id;
        let first = keys::upload_signing_keys(&server, user.clone(), keys.clone(), false).await?;
        if first == Uploaded::AuthenticationNeeded {
            uiaa::confirm(&server, &sender, operation, body.auth).await?;
            keys::upload_signing_keys(&server, user.clone(), keys, true).await?;
        }
        Ok(Matrix(upload_signing_keys::v3::Response::new()))
    })
    .await
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
