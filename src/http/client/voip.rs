//! Voice over IP: <https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip>

use std::sync::Arc;

use axum::{Router, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use ruma::{UserId, api::client::voip::get_turn_server_info::v3::Request};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    Server,
    config::Turn,
    http::{
        endpoint,
        extract::{Client, Json},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(turn_server)
}

/// `GET /voip/turnServer`: an empty object where there is none, as clients know it.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>
async fn turn_server(State(server): State<Arc<Server>>, Client { sender, .. }: Client<Request>) -> Json<Value> {
    Json(match &server.config.turn {
        Some(turn) => credentials(turn, &sender.user_id, server.clock.now_ms() / 1_000),
        None => json!({}),
    })
}

/// Those of the configuration, or some that end: the TURN server knows by its secret that we made them.
/// <https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>
fn credentials(turn: &Turn, user: &UserId, now_s: u64) -> Value {
    let ttl = turn.ttl.as_secs();
    let (username, password) = match (&turn.secret, &turn.username, &turn.password) {
        (Some(secret), ..) => {
            let username = format!("{}:{user}", now_s.saturating_add(ttl));
            let mut mac =
                Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length will do");
            mac.update(username.as_bytes());
            let password = STANDARD.encode(mac.finalize().into_bytes());
            (username, password)
        }
        (None, Some(username), Some(password)) => (username.clone(), password.expose().to_owned()),
        _ => return json!({}), // the configuration was checked
    };
    json!({ "username": username, "password": password, "uris": turn.uris, "ttl": ttl })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::user_id;

    use super::*;
    use crate::config::Secret;

    #[test]
    fn the_turn_server_can_check_the_password() {
        let turn = Turn {
            uris: vec!["turn:t".to_owned()],
            secret: Some(Secret::new("north")),
            secret_file: None,
            username: None,
            password: None,
            ttl: Duration::from_secs(600),
        };
        let given = credentials(&turn, user_id!("@a:b"), 1_000);
        assert_eq!((&given["username"], &given["ttl"]), (&json!("1600:@a:b"), &json!(600)));
        // printf 1600:@a:b | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(given["password"], "I8JLUrf5Y8Bqc4xjE+bGxyU3g3U=");
    }
}
