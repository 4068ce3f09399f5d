//! An OpenID Connect provider, as we ask it.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::DateTime;
use futures_util::future::BoxFuture;
use http::header;
use openidconnect::{
    AccessTokenHash, AdditionalProviderMetadata, AsyncHttpClient, AuthType, AuthenticationContextClass,
    AuthenticationFlow, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, ProviderMetadata,
    RedirectUrl, Scope, SignatureVerificationError, TokenResponse,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod, CoreGrantType,
        CoreIdTokenClaims, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm,
        CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType, CoreTokenResponse,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::warn;

use super::{
    Attempt, Failure, callback_url,
    claims::{self, ALGORITHMS, Claims, Expected},
    identity::Identity,
};
use crate::{
    Server,
    config::{ClientAuthMethod, IdentityProvider},
    error::Error,
    outgoing::{self, Limits},
};

/// What one request to a provider may cost. Redirects are not followed: they could lead a secret elsewhere.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 256 << 10, redirects: false };

/// How long a provider's description and keys are kept, and how soon they may be fetched again because a key is missing.
const KEPT_MS: u64 = 60 * 60 * 1_000;
const AGAIN_MS: u64 = 60 * 1_000;

/// How long a provider that could not be reached is left alone.
const FAILURE_KEPT_MS: u64 = 5 * 1_000;

/// By how much a provider's clock may be behind ours.
const SKEW_S: u64 = 60;

pub struct Provider {
    pub config: IdentityProvider,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// And when it was fetched.
    metadata: Option<(Arc<Metadata>, u64)>,
    failed_at_ms: Option<u64>,
}

/// What we read of a provider's description beyond what the library does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct More {
    prompt_values_supported: Vec<String>,
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for More {}

type Metadata = ProviderMetadata<
    More,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type Client = CoreClient<
    openidconnect::EndpointSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointMaybeSet,
    openidconnect::EndpointMaybeSet,
>;

/// What a provider is to do although it may know who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Have him prove anew who he is.
    Login,
    /// Let him make an account there, if it has a page for that.
    Create,
}

impl Provider {
    pub(super) fn new(config: IdentityProvider) -> Self {
        Self { config, known: Mutex::default() }
    }

    /// Where to send a browser.
    pub(super) async fn authorization_url(
        &self,
        server: &Server,
        state: &str,
        attempt: &Attempt,
        prompt: Option<Prompt>,
    ) -> Result<String, Failure> {
        let metadata = self.metadata(server, KEPT_MS).await?;
        let client = self.client(server, &metadata)?;
        let (state, nonce) = (CsrfToken::new(state.to_owned()), Nonce::new(attempt.nonce.clone()));
        let verifier = PkceCodeVerifier::new(attempt.verifier.clone());
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, move || state, move || nonce)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        // The library adds `openid` itself.
        for scope in self.config.scopes.iter().filter(|scope| *scope != "openid") {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        for level in &self.config.acr_values {
            request = request.add_auth_context_value(AuthenticationContextClass::new(level.clone()));
        }
        for (name, value) in &self.config.parameters {
            request = request.add_extra_param(name.clone(), value.clone());
        }
        let can_create =
            || metadata.additional_metadata().prompt_values_supported.iter().any(|value| value == "create");
        request = match prompt {
            Some(Prompt::Login) => request.add_prompt(CoreAuthPrompt::Login),
            Some(Prompt::Create) if can_create() => request.add_extra_param("prompt", "create"),
            Some(Prompt::Create) | None => request,
        };
        Ok(request.url().0.into())
    }

    /// Refuses an answer that says it is another provider's, or does not say whose it is although this one does (RFC 9207).
    pub(super) async fn check_issuer(&self, server: &Server, issuer: Option<&str>) -> Result<(), Failure> {
        let metadata = self.metadata(server, KEPT_MS).await?;
        match issuer {
            Some(issuer) if issuer == self.config.issuer => Ok(()),
            None if !metadata.additional_metadata().authorization_response_iss_parameter_supported => Ok(()),
            _ => Err(self.untrusted("the answer in the browser is not said to be its")),
        }
    }

    /// What the provider says of whoever logged in there with this code.
    pub(super) async fn identity(&self, server: &Server, code: String, attempt: &Attempt) -> Result<Identity, Failure> {
        let metadata = self.metadata(server, KEPT_MS).await?;
        let client = self.client(server, &metadata)?;
        let exchange = client.exchange_code(AuthorizationCode::new(code));
        let exchange = exchange.map_err(|error| self.failed(error))?;
        let exchange = exchange.set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()));
        let tokens = exchange.request_async(&self.http(server)).await.map_err(|error| self.failed(error))?;
        let (subject, metadata) = match self.verify(server, &metadata, &tokens, attempt)? {
            Verified::Yes(claims) => (claims.subject().to_string(), metadata),
            // It may have begun to use a new key.
            Verified::KeyMissing => {
                let metadata = self.metadata(server, AGAIN_MS).await?;
                match self.verify(server, &metadata, &tokens, attempt)? {
                    Verified::Yes(claims) => (claims.subject().to_string(), metadata),
                    Verified::KeyMissing => return Err(self.untrusted("its id_token is signed with an unknown key")),
                }
            }
        };
        let id_token = tokens.id_token().map(ToString::to_string).unwrap_or_default();
        let mut claims = claims::payload(&id_token).unwrap_or_default(); // it was read before
        if let Some(more) = self.user_info(server, &metadata, tokens.access_token().secret(), &subject).await? {
            if more.contains_key(&self.config.email_claim) {
                claims.remove("email_verified"); // which was said of the other address
            }
            claims.extend(more);
        }
        Identity::of(&self.config, &claims).ok_or_else(|| self.untrusted("its `sub` is empty or too long"))
    }

    /// The claims of the `id_token`, if it is this provider's, for us, for this log-in, and good now.
    fn verify(
        &self,
        server: &Server,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        attempt: &Attempt,
    ) -> Result<Verified, Failure> {
        let client = self.client(server, metadata)?;
        let id_token = tokens.id_token().ok_or_else(|| self.untrusted("it gave no id_token"))?;
        let now = i64::try_from(now_s(server)).ok().and_then(|now_s| DateTime::from_timestamp(now_s, 0));
        let now = now.ok_or_else(|| Error::internal("the clock shows no time"))?;
        let levels = self.config.acr_values.clone();
        // A provider that says nothing is believed to have done what it was told.
        let earliest = attempt.must_prove.then_some((attempt.begun_at_ms / 1_000).saturating_sub(SKEW_S));
        let verifier = client
            .id_token_verifier()
            .set_allowed_algs(ALGORITHMS)
            .set_time_fn(move || now)
            .set_auth_context_verifier_fn(move |level| match level {
                _ if levels.is_empty() => Ok(()),
                Some(level) if levels.contains(level) => Ok(()),
                level => Err(format!("{level:?} is none of those asked for")),
            })
            .set_auth_time_verifier_fn(move |at| {
                let at = at.and_then(|at| u64::try_from(at.timestamp()).ok());
                match at.zip(earliest) {
                    Some((at, earliest)) if at < earliest => Err("he was not asked anew who he is".to_owned()),
                    _ => Ok(()),
                }
            });
        let claims = match id_token.claims(&verifier, &Nonce::new(attempt.nonce.clone())) {
            Ok(claims) => claims,
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey)) => {
                return Ok(Verified::KeyMissing);
            }
            Err(error) => return Err(self.failed(error)),
        };
        if claims.authorized_party().is_some_and(|party| party.as_str() != self.config.client_id) {
            return Err(self.untrusted("its id_token was made for another client"));
        }
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = id_token.signing_alg().map_err(|error| self.failed(error))?;
            let key = id_token.signing_key(&verifier).map_err(|error| self.failed(error))?;
            let hash = AccessTokenHash::from_token(tokens.access_token(), algorithm, key);
            if hash.map_err(|error| self.failed(error))? != *expected {
                return Err(self.untrusted("its access token is not that of its id_token"));
            }
        }
        Ok(Verified::Yes(Box::new(claims.clone())))
    }

    /// What the userinfo endpoint says of `subject`; `None` if the provider has none.
    async fn user_info(
        &self,
        server: &Server,
        metadata: &Metadata,
        access_token: &str,
        subject: &str,
    ) -> Result<Option<Claims>, Failure> {
        let Some(url) = metadata.userinfo_endpoint() else { return Ok(None) };
        let request = http::Request::get(url.as_str())
            .header(header::ACCEPT, "application/json, application/jwt")
            .header(header::AUTHORIZATION, format!("Bearer {access_token}"))
            .body(Vec::new());
        let request = request.map_err(|error| self.failed(error))?;
        let answer = self.http(server).call(request).await.map_err(|error| self.failed(error))?;
        if answer.status() != http::StatusCode::OK {
            return Err(self.untrusted(format!("its userinfo endpoint answers {}", answer.status())));
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let claims: Claims = match kind.as_str() {
            "application/jwt" => {
                let (issuer, audience) = (self.config.issuer.as_str(), self.config.client_id.as_str());
                let expected = Expected { issuer, audience, now_s: now_s(server) };
                let token = String::from_utf8_lossy(answer.body());
                let claims = claims::verified(token.trim(), metadata.jwks(), &expected);
                claims.map_err(|why| self.untrusted(format!("of its userinfo: {why}")))?
            }
            _ => serde_json::from_slice(answer.body()).map_err(|error| self.failed(error))?,
        };
        // Otherwise one user's access token would do to be another.
        match claims.get("sub").is_some_and(|it| it == subject) {
            true => Ok(Some(claims)),
            false => Err(self.untrusted("its userinfo is about somebody else")),
        }
    }

    /// The provider's description and keys, no older than `max_age_ms`.
    async fn metadata(&self, server: &Server, max_age_ms: u64) -> Result<Arc<Metadata>, Failure> {
        let mut known = self.known.lock().await; // whoever comes meanwhile waits for the answer to the first
        let now_ms = server.clock.now_ms();
        let is_within = |at_ms: u64, age_ms: u64| now_ms < at_ms.saturating_add(age_ms);
        if let Some((metadata, _)) = known.metadata.as_ref().filter(|(_, at_ms)| is_within(*at_ms, max_age_ms)) {
            return Ok(Arc::clone(metadata));
        }
        if known.failed_at_ms.is_some_and(|at_ms| is_within(at_ms, FAILURE_KEPT_MS)) {
            return Err(Failure::Provider);
        }
        let issuer = IssuerUrl::new(self.config.issuer.clone()).map_err(|error| self.failed(error))?;
        match Metadata::discover_async(issuer, &self.http(server)).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                *known = Known { metadata: Some((Arc::clone(&metadata), now_ms)), failed_at_ms: None };
                Ok(metadata)
            }
            Err(error) => {
                known.failed_at_ms = Some(now_ms);
                Err(self.failed(error))
            }
        }
    }

    fn client(&self, server: &Server, metadata: &Metadata) -> Result<Client, Failure> {
        let secret = self.config.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().to_owned()));
        let id = ClientId::new(self.config.client_id.clone());
        let client = CoreClient::from_provider_metadata(metadata.clone(), id, secret);
        let callback = callback_url(server, &self.config.id).ok_or_else(|| Error::internal("there are no pages"))?;
        let callback = RedirectUrl::new(callback).map_err(Error::internal)?;
        let methods = metadata.token_endpoint_auth_methods_supported();
        let takes = |method| methods.is_some_and(|methods| methods.contains(&method));
        let auth_type = match self.config.client_auth_method {
            Some(ClientAuthMethod::ClientSecretBasic) => AuthType::BasicAuth,
            Some(ClientAuthMethod::ClientSecretPost) => AuthType::RequestBody,
            // ProConnect takes nothing else; without a word, every provider takes the header.
            None if takes(CoreClientAuthMethod::ClientSecretPost)
                && !takes(CoreClientAuthMethod::ClientSecretBasic) =>
            {
                AuthType::RequestBody
            }
            None => AuthType::BasicAuth,
        };
        Ok(client.set_redirect_uri(callback).set_auth_type(auth_type))
    }

    fn http<'a>(&'a self, server: &'a Server) -> Http<'a> {
        Http { outgoing: &server.outgoing, must_be_encrypted: self.config.issuer.starts_with("https:") }
    }

    /// Notes why the provider is of no use now.
    fn untrusted(&self, why: impl Display) -> Failure {
        warn!(provider = self.config.id, "a log-in failed: {why:#}");
        Failure::Provider
    }

    /// The same, with all that caused an error.
    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        self.untrusted(anyhow::Error::new(error))
    }
}

enum Verified {
    Yes(Box<CoreIdTokenClaims>),
    KeyMissing,
}

/// Our time, as late as a provider's clock may be.
fn now_s(server: &Server) -> u64 {
    (server.clock.now_ms() / 1_000).saturating_sub(SKEW_S)
}

/// Our client, in the library's words.
struct Http<'a> {
    outgoing: &'a outgoing::Client,
    must_be_encrypted: bool,
}

impl<'c> AsyncHttpClient<'c> for Http<'_> {
    type Error = outgoing::Failure;
    type Future = BoxFuture<'c, Result<HttpResponse, outgoing::Failure>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            if self.must_be_encrypted && request.uri().scheme_str() != Some("https") {
                let url = request.uri();
                return Err(outgoing::Failure::Unreachable(format!("{url} is not encrypted, unlike its provider")));
            }
            let answer = self.outgoing.send(request.map(Bytes::from), LIMITS).await?;
            let (parts, body) = answer.into_parts();
            Ok(HttpResponse::from_parts(parts, outgoing::read(body).await?.into()))
        })
    }
}
