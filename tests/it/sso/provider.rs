//! An identity provider that says what the test wants: hostile things, too.

use std::{collections::HashMap, sync::Arc};

use axum::{Router, body::to_bytes, extract::Request};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use http::{Response, header};
use parking_lot::Mutex;
use ruma::signatures::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};

use crate::support::{START_MS, TestNetwork};

pub const HOST: &str = "id.example.org";
pub const ISSUER: &str = "https://id.example.org";
pub const CLIENT_ID: &str = "chappe";
pub const SECRET: &str = "the secret & more";
pub const CALLBACK: &str = "https://matrix.example.org/_chappe/sso/callback/test";

/// Who makes a signature.
#[derive(Clone, Copy, Debug)]
pub enum Signer {
    /// The key of this number; the provider publishes only the current one.
    Key(usize),
    /// Somebody else, who says that it is the current key.
    Stranger,
    /// HMAC with the client's secret.
    Secret,
    Nobody,
}

/// A token that the provider is about to sign.
pub struct Token {
    pub header: Value,
    pub claims: Value,
    pub signer: Signer,
}

type Change = Box<dyn Fn(&mut Token) + Send>;

/// How the userinfo endpoint answers.
pub enum UserInfo {
    None,
    Json(Value),
    /// Signed, as ProConnect does.
    Signed(Value, Change),
    Status(u16),
}

#[derive(Clone)]
pub struct Provider(Arc<Mutex<State>>);

struct State {
    keys: Vec<Ed25519KeyPair>,
    stranger: Ed25519KeyPair,
    current: usize,
    /// Whoever logs in there.
    claims: Value,
    user_info: UserInfo,
    change: Change,
    metadata: Value,
    /// By their codes.
    granted: HashMap<String, HashMap<String, String>>,
    /// The last requests to the authorization endpoint.
    asked: HashMap<String, String>,
}

fn new_key(version: &str) -> Ed25519KeyPair {
    Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), version.to_owned()).unwrap()
}

impl Provider {
    pub fn new(network: &TestNetwork) -> Self {
        Self::at(network, HOST)
    }

    pub fn at(network: &TestNetwork, host: &str) -> Self {
        let issuer = format!("https://{host}");
        let metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
        });
        let provider = Self(Arc::new(Mutex::new(State {
            keys: vec![new_key("a"), new_key("b")],
            stranger: new_key("a"),
            current: 0,
            claims: json!({}),
            user_info: UserInfo::None,
            change: Box::new(|_| ()),
            metadata,
            granted: HashMap::new(),
            asked: HashMap::new(),
        })));
        network.add(host, provider.router());
        provider
    }

    /// Whoever logs in from now on.
    pub fn says(&self, claims: Value) {
        self.0.lock().claims = claims;
    }

    pub fn user_info(&self, answer: UserInfo) {
        let mut state = self.0.lock();
        let issuer = state.metadata["issuer"].as_str().unwrap().to_owned();
        state.metadata["userinfo_endpoint"] = format!("{issuer}/userinfo").into();
        state.user_info = answer;
    }

    /// What is done to tokens before they are signed.
    pub fn changes(&self, change: impl Fn(&mut Token) + Send + 'static) {
        self.0.lock().change = Box::new(change);
    }

    /// What it says of itself.
    pub fn describes(&self, key: &str, value: Value) {
        self.0.lock().metadata[key] = value;
    }

    pub fn rotates_keys(&self) {
        self.0.lock().current = 1;
    }

    /// What it was last asked for in a browser.
    pub fn asked(&self, parameter: &str) -> Option<String> {
        self.0.lock().asked.get(parameter).cloned()
    }

    /// A browser comes, its user logs in and agrees: where it is sent back to.
    pub fn logs_in(&self, url: &str) -> String {
        let url = Url::parse(url).unwrap();
        let asked: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert!(url.as_str().starts_with(&format!("{}/authorize?tenant=1&", self.issuer())), "{url}");
        assert_eq!((asked["client_id"].as_str(), asked["response_type"].as_str()), (CLIENT_ID, "code"));
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["state"].len() >= 43 && asked["nonce"].len() >= 43 && asked["state"] != asked["nonce"]);
        let mut state = self.0.lock();
        let code = format!("code {}", state.granted.len());
        let mut back = Url::parse(&asked["redirect_uri"]).unwrap();
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked["state"]);
        state.asked.clone_from(&asked);
        state.granted.insert(code, asked);
        back.into()
    }

    fn issuer(&self) -> String {
        self.0.lock().metadata["issuer"].as_str().unwrap().to_owned()
    }

    fn router(&self) -> Router {
        let provider = self.clone();
        Router::new().fallback(move |request: Request| {
            let provider = provider.clone();
            async move { provider.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response<axum::body::Body> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let authorization = parts.headers.get(header::AUTHORIZATION).map(|it| it.to_str().unwrap().to_owned());
        let (kind, status, body) = match parts.uri.path() {
            "/.well-known/openid-configuration" => ("application/json", 200, self.0.lock().metadata.to_string()),
            "/keys" => ("application/json", 200, self.keys().to_string()),
            "/token" => {
                let form = form_urlencoded::parse(&body).into_owned().collect();
                match self.tokens(form, authorization.as_deref()) {
                    Some(tokens) => ("application/json", 200, tokens.to_string()),
                    None => ("application/json", 400, json!({ "error": "invalid_grant" }).to_string()),
                }
            }
            "/userinfo" => {
                assert_eq!(authorization.as_deref(), Some("Bearer an access token"));
                let state = self.0.lock();
                match &state.user_info {
                    UserInfo::None => unreachable!("it was not announced"),
                    UserInfo::Json(claims) => ("application/json; charset=utf-8", 200, claims.to_string()),
                    UserInfo::Signed(claims, change) => ("application/jwt", 200, state.signed(claims.clone(), change)),
                    UserInfo::Status(status) => ("text/plain", *status, String::new()),
                }
            }
            other => panic!("nothing is at {other}"),
        };
        Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()
    }

    fn keys(&self) -> Value {
        let state = self.0.lock();
        let key = &state.keys[state.current];
        let kid = ["a", "b"][state.current];
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let strange = json!({ "kty": "of another world", "kid": "c" });
        json!({ "keys": [strange, { "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": kid, "x": x }] })
    }

    /// What a code is worth. `None` unless everything about it is right.
    fn tokens(&self, form: HashMap<String, String>, authorization: Option<&str>) -> Option<Value> {
        let issuer = self.issuer();
        let mut state = self.0.lock();
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{}", encode(SECRET))));
        let methods = &state.metadata["token_endpoint_auth_methods_supported"];
        let is_known = match methods.as_array().is_some_and(|methods| methods.contains(&json!("client_secret_post"))) {
            true => authorization.is_none() && form["client_id"] == CLIENT_ID && form["client_secret"] == SECRET,
            false => authorization == Some(&basic),
        };
        let granted = state.granted.remove(form.get("code")?)?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form.get("code_verifier")?));
        let is_right = is_known
            && form.get("grant_type")? == "authorization_code"
            && form.get("redirect_uri")? == &granted["redirect_uri"]
            && challenge == granted["code_challenge"];
        if !is_right {
            return None;
        }
        let mut claims = json!({
            "iss": issuer,
            "aud": CLIENT_ID,
            "nonce": granted["nonce"],
            "iat": START_MS / 1_000,
            "exp": START_MS / 1_000 + 300,
        });
        for (key, value) in state.claims.as_object().unwrap() {
            claims[key] = value.clone();
        }
        let id_token = state.signed(claims, &state.change);
        Some(json!({ "access_token": "an access token", "token_type": "Bearer", "id_token": id_token }))
    }
}

impl State {
    fn signed(&self, claims: Value, change: &Change) -> String {
        let kid = ["a", "b"][self.current];
        let header = json!({ "alg": "EdDSA", "kid": kid });
        let mut token = Token { header, claims, signer: Signer::Key(self.current) };
        change(&mut token);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&token.header), part(&token.claims));
        let signature = match token.signer {
            Signer::Key(number) => self.keys[number].sign(signed.as_bytes()).as_bytes().to_vec(),
            Signer::Stranger => self.stranger.sign(signed.as_bytes()).as_bytes().to_vec(),
            Signer::Secret => {
                let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
                mac.update(signed.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
            Signer::Nobody => Vec::new(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
