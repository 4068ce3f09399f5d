//! How clients named a user before there were identifiers. Element Android and what is built on it, such as Tchap's, still do
//! when they remove a device or set up cross-signing.

use bytes::Bytes;
use ruma::api::client::uiaa::{MatrixUserIdentifier, UserIdentifier};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What stands beside a password instead of `identifier`.
#[derive(Deserialize)]
pub struct OldIdentifier {
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
}

impl OldIdentifier {
    pub fn identifier(self) -> Option<UserIdentifier> {
        match (self.user, self.medium, self.address) {
            (Some(user), ..) => Some(UserIdentifier::Matrix(MatrixUserIdentifier::new(user))),
            (None, Some(medium), Some(address)) => {
                let identifier = json!({ "type": "m.id.thirdparty", "medium": medium, "address": address });
                serde_json::from_value(identifier).ok()
            }
            _ => None,
        }
    }
}

/// The body, with an `identifier` in its `auth` if that is an `m.login.password` stage of an old client; `None` if it is not.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#password-based>
pub fn with_identifier(raw: &[u8]) -> Option<Bytes> {
    let mut body: Map<String, Value> = serde_json::from_slice(raw).ok()?;
    let auth = body.get_mut("auth")?.as_object_mut()?;
    if auth.get("type")? != "m.login.password" || auth.contains_key("identifier") {
        return None;
    }
    let identifier = OldIdentifier::deserialize(&*auth).ok()?.identifier()?;
    auth.insert("identifier".to_owned(), serde_json::to_value(identifier).ok()?);
    serde_json::to_vec(&body).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(auth: &Value) -> Option<Value> {
        let raw = json!({ "devices": ["A"], "auth": auth }).to_string();
        let mended: Value = serde_json::from_slice(&with_identifier(raw.as_bytes())?).unwrap();
        assert_eq!(mended["devices"], json!(["A"]));
        Some(mended["auth"]["identifier"].clone())
    }

    #[test]
    fn an_identifier_is_made_of_what_old_clients_send() {
        let by_name = json!({ "type": "m.login.password", "user": "alice", "password": "x" });
        assert_eq!(mended(&by_name), Some(json!({ "type": "m.id.user", "user": "alice" })));
        let by_mail = json!({ "type": "m.login.password", "medium": "email", "address": "a@b.fr", "password": "x" });
        let expected = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@b.fr" });
        assert_eq!(mended(&by_mail), Some(expected));
    }

    #[test]
    fn other_bodies_stay_what_they_are() {
        let user = json!({ "type": "m.id.user", "user": "bob" });
        assert_eq!(mended(&json!({ "type": "m.login.password", "user": "alice", "identifier": user })), None);
        assert_eq!(mended(&json!({ "type": "m.login.password", "password": "x" })), None);
        assert_eq!(mended(&json!({ "type": "m.login.dummy", "user": "alice" })), None);
        assert_eq!(with_identifier(b"[]"), None);
    }
}
