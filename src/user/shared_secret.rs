//! Registration by scripts that know `registration_shared_secret`, as Synapse has it:
//! <https://element-hq.github.io/synapse/latest/admin_api/register_api.html>

use std::{net::IpAddr, sync::Arc, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use ruma::api::error::ErrorKind;
use serde::Deserialize;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::{
    account::{self, NewAccount},
    registration::{self, Registered},
    session::DeviceRequest,
};
use crate::{
    Server,
    config::Secret,
    error::{Error, Result},
};

pub const NONCE_LIFETIME: Duration = Duration::from_secs(60);

const NONCE_LENGTH: usize = 43;

/// Synapse knows these.
const USER_TYPES: [&str; 2] = ["bot", "support"];

/// What a script asks for.
#[derive(Deserialize)]
pub struct Wish {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    /// Not part of what is signed.
    displayname: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    /// HMAC-SHA1 of the above, in hexadecimal digits.
    mac: String,
}

impl Wish {
    fn mac(&self, secret: &Secret) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length will do");
        let role = if self.admin { "admin" } else { "notadmin" };
        let parts = [&*self.nonce, &*self.username, &*self.password, role];
        let parts = parts.into_iter().chain(self.user_type.as_deref());
        for (index, part) in parts.enumerate() {
            if index > 0 {
                mac.update(&[0]);
            }
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A text that one registration must contain, within a minute.
pub fn make_nonce(server: &Server) -> Result<String> {
    secret(server)?;
    let nonce = server.random.text(NONCE_LENGTH);
    server.registration_nonces.insert(server.clock.now_ms(), &nonce, ());
    Ok(nonce)
}

/// Makes the account if `wish`, which comes from `address`, was signed with the secret.
pub async fn register(server: &Arc<Server>, wish: Wish, address: IpAddr) -> Result<Registered> {
    let secret = secret(server)?;
    server.limits.shared_secret_guess(address)?;
    let unknown = |message: &'static str| Error::refused(ErrorKind::Unknown, message);
    server.registration_nonces.take(server.clock.now_ms(), &wish.nonce).ok_or_else(|| unknown("Unrecognized nonce"))?;
    // The parts are told apart by NUL in what is signed.
    if wish.username.contains('\0') || wish.password.contains('\0') {
        return Err(unknown("Username and password must not contain NUL"));
    }
    if wish.user_type.as_deref().is_some_and(|user_type| !USER_TYPES.contains(&user_type)) {
        return Err(unknown("Unknown user_type"));
    }
    let is_signed: bool = wish.mac(secret).as_bytes().ct_eq(wish.mac.to_ascii_lowercase().as_bytes()).into();
    if !is_signed {
        server.limits.wrong_shared_secret(address);
        return Err(Error::forbidden("HMAC incorrect"));
    }
    let new = NewAccount {
        is_admin: wish.admin,
        user_type: wish.user_type,
        display_name: wish.displayname.filter(|name| !name.is_empty()),
        ..NewAccount::new(account::new_user_id(server.name(), &wish.username)?, wish.password)
    };
    registration::create_with_session(server, new, (!wish.inhibit_login).then(DeviceRequest::default)).await
}

fn secret(server: &Server) -> Result<&Secret> {
    let secret = server.config.registration_shared_secret.as_ref();
    secret.ok_or_else(|| Error::refused(ErrorKind::Unknown, "Shared secret registration is not enabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_that_of_synapse() {
        let mut wish = Wish {
            nonce: "thisisanonce".to_owned(),
            username: "pepper_roni".to_owned(),
            password: "pizza".to_owned(),
            admin: true,
            user_type: None,
            displayname: None,
            inhibit_login: false,
            mac: String::new(),
        };
        // Worked out with Python's hmac module.
        let secret = Secret::new("shared");
        assert_eq!(wish.mac(&secret), "4baca023abe6314415efbd20fe2e85ce78c5a2e8");
        wish.user_type = Some("support".to_owned());
        assert_eq!(wish.mac(&secret), "94ce7fe3b83d315ea061ff02bc6cc9845243442c");
    }
}
