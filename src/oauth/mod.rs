//! Log-in by OAuth 2.0: this server is the authorization server of its users.
//!
//! A client registers itself, sends its user's browser here, and gets a code for which it gets tokens. They are tokens
//! like all others, of a device like all others; what is kept beside them (`tables.rs`) says which client began the
//! session. What lasts for minutes is in memory.
//! <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api>

pub mod authorization;
pub mod browser;
pub mod client;
pub mod device_grant;
pub mod failure;
pub mod metadata;
pub mod redirect;
pub mod scope;
pub mod tables;
pub mod token;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ruma::UserId;
use sha2::Sha256;

use self::{authorization::Code, browser::Browser, client::Client, device_grant::DeviceGrant};
use crate::{Server, random::Random, user::expiring::Expiring};

/// Where the pages and endpoints are, below the public URL.
pub mod paths {
    pub const AUTHORIZE: &str = "/_chappe/oauth/authorize";
    pub const TOKEN: &str = "/_chappe/oauth/token";
    pub const REVOKE: &str = "/_chappe/oauth/revoke";
    pub const REGISTER: &str = "/_chappe/oauth/clients";
    pub const DEVICE: &str = "/_chappe/oauth/device";
    pub const LINK: &str = "/_chappe/oauth/link";
    pub const LOGIN: &str = "/_chappe/login";
    pub const LOGOUT: &str = "/_chappe/logout";
    pub const SIGN_UP: &str = "/_chappe/sign_up";
    pub const ACCOUNT: &str = "/_chappe/account";
}

/// How many of each are kept at a time: the oldest make room.
const MAX_NEW_CLIENTS: usize = 2_000;
const MAX_CODES: usize = 10_000;
const MAX_DEVICE_GRANTS: usize = 1_000;
const MAX_BROWSERS: usize = 10_000;

/// How long a client that registered has until somebody has logged in with it.
const NEW_CLIENT_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// What OAuth keeps in memory.
pub struct OAuth {
    /// The clients with which nobody is logged in, by their ids.
    clients: Expiring<Client>,
    codes: Expiring<Code>,
    /// By device code.
    device_grants: Expiring<DeviceGrant>,
    /// The device codes by what a person types.
    user_codes: Expiring<String>,
    /// Who is logged in to our pages, by his browser's cookie.
    browsers: Expiring<Browser>,
    /// Makes what nobody else can make: see [`Self::mac`].
    key: [u8; 32],
}

impl OAuth {
    pub fn new(random: &Random) -> Self {
        Self {
            clients: Expiring::new(NEW_CLIENT_LIFETIME, MAX_NEW_CLIENTS),
            codes: Expiring::new(authorization::REMEMBERED, MAX_CODES),
            device_grants: Expiring::new(device_grant::REMEMBERED, MAX_DEVICE_GRANTS),
            user_codes: Expiring::new(device_grant::REMEMBERED, MAX_DEVICE_GRANTS),
            browsers: Expiring::new(browser::LIFETIME, MAX_BROWSERS),
            key: random.bytes(),
        }
    }

    /// A text that only this process makes of `text`, for one purpose.
    pub fn mac(&self, purpose: &str, text: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text);
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Ends what a user has begun and not brought to a session yet: his password changed, or he left.
    pub fn forget_user(&self, user: &UserId) {
        self.codes.retain(|code| code.user_id != user);
        self.device_grants.retain(|grant| !grant.is_approved_by(user));
        self.browsers.retain(|browser| browser.user_id != user);
    }
}

/// Whether there is log-in by OAuth.
pub fn is_on(server: &Server) -> bool {
    server.config.oauth_base().is_some()
}
