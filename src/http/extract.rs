//! Requests, parsed by ruma and with a caller who is known. Which of these a handler takes is what its endpoint's
//! authentication in the specification allows; anything else does not compile.

use std::{fmt::Display, iter::successors, marker::PhantomData, net::IpAddr, sync::Arc};

use axum::{
    RequestExt,
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http::{Method, StatusCode, header, request::Parts};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata, OutgoingResponse,
    auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme, NoAccessToken,
        NoAuthentication,
    },
    error::{DeserializationError, ErrorKind},
};
use ruma::exports::serde_html_form;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};

pub use super::signed::{Federation, FederationJson};
use super::{
    bodies,
    error::{shaped, unreadable},
    old_identifier,
    peer::client_ip,
};
use crate::{
    Server,
    appservice::{self, Appservice},
    error::Error,
    plain_json,
    user::{
        account, moderation,
        session::{self, Caller},
        tables::Account,
    },
};

/// A client request whose access token was checked.
pub struct Client<R> {
    pub sender: Caller,
    pub body: R,
    /// The body as it came, for what ruma's types leave out.
    pub raw: Bytes,
}

/// As [`Client`], also of a guest: what these may do is what handlers take this for.
/// <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
pub struct GuestClient<R> {
    pub sender: Caller,
    pub body: R,
    pub raw: Bytes,
}

/// A client request that ruma has no type for.
pub struct UntypedClient {
    pub sender: Caller,
    /// The path's parameters, decoded.
    pub path: Vec<String>,
    pub query: Option<String>,
    pub raw: Bytes,
}

impl UntypedClient {
    /// A parameter of the path; `M_INVALID_PARAM` if it is no `T`.
    pub fn part<T: for<'a> TryFrom<&'a str>>(&self, number: usize) -> Result<T, Error> {
        let part = self.path.get(number).map_or("", String::as_str);
        T::try_from(part).map_err(|_| Error::invalid_param(format!("`{part}` can't stand in this path")))
    }

    /// The body, which must be JSON of this form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.raw).map_err(|e| unreadable(DeserializationError::Json(e).into()))
    }
}

/// What the query of a request says; `M_INVALID_PARAM` if it says something else.
pub fn from_query<T: DeserializeOwned>(query: Option<&str>) -> Result<T, Error> {
    let read = serde_html_form::from_str(query.unwrap_or_default());
    read.map_err(|e| Error::invalid_param(format!("A query parameter is wrong: {e}")))
}

/// As [`Client`], also of a user whose account is locked: he may log out.
pub struct LockedClient<R> {
    pub sender: Caller,
    pub body: R,
}

/// A request of an administrator of this server, without a body.
pub struct Admin(pub Caller);

/// A request of an administrator of this server, with a body that ruma has no type for. Who asks is looked at before the
/// body.
pub struct AdminJson<T> {
    pub sender: Caller,
    pub body: T,
}

/// A client request whose body is a file of any size.
pub struct Upload<R> {
    pub sender: Caller,
    /// Path, query and headers; its body is empty.
    pub head: R,
    /// The body, as it comes.
    pub content: BoxStream<'static, Result<Bytes, Error>>,
    /// How many bytes the client is about to send, if it says so.
    pub length: Option<u64>,
}

/// A client request that may come without a token, and also from a guest; one that has a wrong token is refused. Without a
/// token, its body is bounded as that of [`Public`].
pub struct MaybeClient<R> {
    pub sender: Option<Caller>,
    pub body: R,
    pub raw: Bytes,
    pub address: IpAddr,
}

/// Who sends a request that may come without a token, beside another extractor for the body. A wrong token is refused.
pub struct MaybeSender {
    pub sender: Option<Caller>,
    pub address: IpAddr,
}

/// What axum takes from a request's path or query. Its own refusals are plain text: `M_INVALID_PARAM`.
pub struct Checked<E>(pub E);

/// A request of an application service in its own name.
pub struct ByAppservice<R> {
    pub service: Arc<Appservice>,
    pub body: R,
}

/// A client request that needs no token. Its body is bounded by the `DefaultBodyLimit` of its route.
pub struct Public<R> {
    pub body: R,
    pub raw: Bytes,
    /// A token that came all the same, unchecked: application services register users by theirs.
    pub token: Option<String>,
    /// Who sends it.
    pub address: IpAddr,
}

/// As [`Public`], with a body that ruma has no type for, or none that is safe to use.
pub struct PublicJson<T> {
    pub body: T,
    /// A token that came all the same, unchecked: application services log users in by theirs.
    pub token: Option<String>,
    /// Who sends it.
    pub address: IpAddr,
}

/// In place of a request of type `R`, where the specification allows a body that ruma does not take, or wants another
/// error for it: the path only. The handler reads `raw`.
pub struct Loose<R> {
    /// The path's parameters, decoded, as many as `R` has.
    pub path: Vec<String>,
    uri: http::Uri,
    request: PhantomData<R>,
}

impl<R: IncomingRequest> Loose<R> {
    /// The request as ruma reads it with another body.
    pub fn with_body(self, body: &[u8]) -> Result<R, Error> {
        let mut request = http::Request::new(body);
        *request.method_mut() = R::METHOD;
        *request.uri_mut() = self.uri;
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        R::try_from_http_request(request, &path).map_err(unreadable)
    }
}

impl<R: Metadata> Metadata for Loose<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: R::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for Loose<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path: &[&str]) -> Result<Self, DeserializationError> {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        Ok(Self { path, uri: request.uri().clone(), request: PhantomData })
    }
}

/// A body that must be a JSON object, to be kept in part: `M_NOT_JSON` or `M_BAD_JSON` if it is none.
pub fn json_object(raw: &[u8]) -> Result<Map<String, Value>, Error> {
    if let Err(e) = serde_json::from_slice::<IgnoredAny>(raw) {
        return Err(Error::refused(ErrorKind::NotJson, format!("The body is not JSON: {e}")));
    }
    plain_json::object(raw)
}

/// The authentication schemes of endpoints that everybody may call.
pub trait Open: AuthScheme {}
impl Open for NoAuthentication {}
impl Open for NoAccessToken {}
impl Open for AppserviceTokenOptional {}

impl<R: IncomingRequest<Authentication = AccessToken> + Send> FromRequest<Arc<Server>> for Client<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (sender, request) = authenticate(request, server).await?;
        let (body, raw) = parse(request, server).await?;
        Ok(Self { sender, body, raw })
    }
}

impl<R: IncomingRequest<Authentication = AccessToken> + Send> FromRequest<Arc<Server>> for GuestClient<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (sender, request) = authenticate_any(request, server).await?;
        let (body, raw) = parse(request, server).await?;
        Ok(Self { sender, body, raw })
    }
}

impl FromRequest<Arc<Server>> for UntypedClient {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (sender, mut request) = authenticate(request, server).await?;
        let path = path_of(&mut request).await?;
        let path = path.iter().map(|(_, part)| part.to_owned()).collect();
        let query = request.uri().query().map(str::to_owned);
        let raw = read(request.into_body(), server).await?;
        Ok(Self { sender, path, query, raw })
    }
}

impl<R: IncomingRequest<Authentication = AccessToken> + Send> FromRequest<Arc<Server>> for LockedClient<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let token = bearer_token(&request)?.ok_or_else(Error::missing_token)?;
        let (address, request) = address_of(request, server);
        let sender = match by_service(server, &token, request.uri())? {
            Some((sender, _)) => sender,
            None => session::authenticate_any(server, &token, address).await?,
        };
        let (body, _) = parse(request, server).await?;
        Ok(Self { sender, body })
    }
}

impl FromRequest<Arc<Server>> for Admin {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        authenticate_admin(request, server).await.map(|(sender, _)| Self(sender))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for AdminJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (sender, request) = authenticate_admin(request, server).await?;
        let raw = read(request.into_body(), server).await?;
        let body = serde_json::from_slice(&raw).map_err(|e| unreadable(DeserializationError::Json(e).into()))?;
        Ok(Self { sender, body })
    }
}

impl<R: IncomingRequest<Authentication = AccessToken> + Send> FromRequest<Arc<Server>> for Upload<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (sender, mut request) = authenticate(request, server).await?;
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok());
        let body = std::mem::take(request.body_mut());
        let (head, _) = parse(request, server).await?;
        Ok(Self { sender, head, content: bodies::parts(body).boxed(), length })
    }
}

impl<R: IncomingRequest<Authentication = AccessTokenOptional> + Send> FromRequest<Arc<Server>> for MaybeClient<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let token = bearer_token(&request)?;
        let (address, request) = address_of(request, server);
        let (sender, request) = match token {
            Some(token) => (Some(caller(server, &token, request.uri(), address).await?), request),
            None => (None, request.with_limited_body()),
        };
        let (body, raw) = parse(request, server).await?;
        Ok(Self { sender, body, raw, address })
    }
}

impl FromRequestParts<Arc<Server>> for MaybeSender {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Error> {
        let address = client_ip(parts, &server.config.trusted_proxies);
        let head = Request::from_parts(parts.clone(), Body::empty());
        let sender = match bearer_token(&head)? {
            Some(token) => Some(caller(server, &token, &parts.uri, address).await?),
            None => None,
        };
        Ok(Self { sender, address })
    }
}

impl<E: FromRequestParts<Arc<Server>, Rejection: Display>> FromRequestParts<Arc<Server>> for Checked<E> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Error> {
        let taken = E::from_request_parts(parts, server).await;
        taken.map(Self).map_err(|refusal| Error::invalid_param(refusal.to_string()))
    }
}

impl<R: IncomingRequest<Authentication = AppserviceToken> + Send> FromRequest<Arc<Server>> for ByAppservice<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let service = appservice::accounts::service(server, bearer_token(&request)?.as_deref())?;
        let (body, _) = parse(request, server).await?;
        Ok(Self { service, body })
    }
}

impl<R: IncomingRequest<Authentication: Open> + Send> FromRequest<Arc<Server>> for Public<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let token = unchecked_token(&request);
        let (address, request) = address_of(request, server);
        let (body, raw) = parse(request.with_limited_body(), server).await?;
        Ok(Self { body, raw, token, address })
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for PublicJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let token = unchecked_token(&request);
        let (address, request) = address_of(request, server);
        let raw = read(request.into_limited_body(), server).await?;
        let body = serde_json::from_slice(&raw).map_err(|e| unreadable(DeserializationError::Json(e).into()))?;
        Ok(Self { body, token, address })
    }
}

/// Who sends a request that needs a token, and is for no guest.
async fn authenticate(request: Request, server: &Arc<Server>) -> Result<(Caller, Request), Error> {
    let (sender, request) = authenticate_any(request, server).await?;
    sender.check_not_guest()?;
    Ok((sender, request))
}

/// Who sends a request that needs a token.
async fn authenticate_any(request: Request, server: &Arc<Server>) -> Result<(Caller, Request), Error> {
    let token = bearer_token(&request)?.ok_or_else(Error::missing_token)?;
    let (address, request) = address_of(request, server);
    let sender = caller(server, &token, request.uri(), address).await?;
    Ok((sender, request))
}

/// As [`authenticate`], for what only administrators of this server may do.
async fn authenticate_admin(request: Request, server: &Arc<Server>) -> Result<(Caller, Request), Error> {
    let (sender, request) = authenticate(request, server).await?;
    match account::is_admin(&server.store.snapshot(), &sender.user_id)? {
        true => Ok((sender, request)),
        false => Err(Error::forbidden("You are not a server admin")),
    }
}

/// Whose token this is: a user's, or that of an application service, which says in the query as whom it acts.
async fn caller(server: &Arc<Server>, token: &str, uri: &http::Uri, address: IpAddr) -> Result<Caller, Error> {
    match by_service(server, token, uri)? {
        Some((sender, account)) => moderation::check_unlocked(&account).map(|()| sender),
        None => session::authenticate(server, token, address).await,
    }
}

/// As [`appservice::caller`], by what the query says.
fn by_service(server: &Server, token: &str, uri: &http::Uri) -> Result<Option<(Caller, Account)>, Error> {
    if server.appservices.with_token(token).is_none() {
        return Ok(None);
    }
    let assertion = Query::<appservice::Assertion>::try_from_uri(uri);
    let Query(assertion) = assertion.map_err(|e| Error::invalid_param(format!("A query parameter is wrong: {e}")))?;
    appservice::caller(server, token, assertion)
}

fn address_of(request: Request, server: &Server) -> (IpAddr, Request) {
    let (parts, body) = request.into_parts();
    let address = client_ip(&parts, &server.config.trusted_proxies);
    (address, Request::from_parts(parts, body))
}

/// A request that needs no token by the specification, on a server that may ask for one all the same.
pub struct WithOptionalToken<R>(pub R);

impl<R: Metadata> Metadata for WithOptionalToken<R> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = AccessTokenOptional;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for WithOptionalToken<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        R::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// A handler's answer.
pub struct Matrix<R>(pub R);

impl<R: OutgoingResponse> IntoResponse for Matrix<R> {
    fn into_response(self) -> Response {
        shaped(self.0)
    }
}

/// An answer that ruma has no type for.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Error::internal(error).into_response(),
        }
    }
}

/// The token of `Authorization: Bearer`, or of the deprecated query parameter.
fn bearer_token(request: &Request) -> Result<Option<String>, Error> {
    AccessTokenOptional::extract_authentication(request)
        .map_err(|e| Error::refused(ErrorKind::MissingToken, format!("The access token can't be read: {e}")))
}

/// What cannot be read is no token.
fn unchecked_token(request: &Request) -> Option<String> {
    bearer_token(request).ok().flatten()
}

/// Reads the whole body, at most `max_request_size` of it, and parses path, query and body.
pub(super) async fn parse<R: IncomingRequest>(mut request: Request, server: &Arc<Server>) -> Result<(R, Bytes), Error> {
    let path = path_of(&mut request).await?;
    let path: Vec<&str> = path.iter().map(|(_, value)| value).collect();
    let (parts, body) = request.into_parts();
    let mut raw = read(body, server).await?;
    if raw.is_empty() && parts.method == Method::POST {
        raw = Bytes::from_static(b"{}"); // clients leave out a body that would have nothing in it
    }
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let error = match R::try_from_http_request(http::Request::from_parts(parts, raw.as_ref()), &path) {
        Ok(body) => return Ok((body, raw)),
        Err(error) => unreadable(error),
    };
    let raw = old_identifier::with_identifier(&raw).ok_or(error)?;
    let mut request = http::Request::new(raw.as_ref());
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    let body = R::try_from_http_request(request, &path).map_err(unreadable)?;
    Ok((body, raw))
}

async fn path_of(request: &mut Request) -> Result<RawPathParams, Error> {
    request.extract_parts().await.map_err(|_| Error::invalid_param("The path is not UTF-8"))
}

/// A body of JSON, or none.
pub(super) async fn read(body: Body, server: &Server) -> Result<Bytes, Error> {
    let raw = bodies::read(body, server).await?;
    // serde_json does not look at the text of members that nobody asks for.
    match std::str::from_utf8(&raw) {
        Ok(_) => Ok(raw),
        Err(_) => Err(Error::refused(ErrorKind::NotJson, "The body is not UTF-8")),
    }
}

pub(super) fn unread_body(error: &axum::Error) -> Error {
    // Of two limits, one within the other, the outer one wraps the error of the inner one.
    let mut causes = successors(std::error::Error::source(error), |&cause| cause.source());
    if causes.any(|cause| cause.is::<http_body_util::LengthLimitError>()) {
        Error::too_large("The request is larger than this server accepts")
    } else {
        Error::refused(ErrorKind::Unknown, "The request ended early").with_status(StatusCode::BAD_REQUEST)
    }
}
