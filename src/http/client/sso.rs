//! Log-in by an identity provider, for clients that do not know OAuth 2.0:
//! <https://spec.matrix.org/v1.19/client-server-api/#sso-client-loginauthentication>
//!
//! The browser is sent to our own pages, which send it on: only there, below the public URL, does it have our cookie.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use ruma::api::client::session::{SsoRedirectAction, sso_login, sso_login_with_provider};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{
    Server,
    error::{Error, Result},
    http::{endpoint, extract::from_query},
    oauth::metadata::address,
    sso::{client_address, paths},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<sso_login::v3::Request, _, _>(redirect)).merge(endpoint::<
        sso_login_with_provider::v3::Request,
        _,
        _,
    >(redirect_to_provider))
}

#[derive(Deserialize)]
struct Wish {
    #[serde(rename = "redirectUrl")]
    redirect_url: Option<String>,
    action: Option<SsoRedirectAction>,
    /// Before it was part of the specification (MSC3824).
    #[serde(rename = "org.matrix.msc3824.action")]
    unstable_action: Option<SsoRedirectAction>,
}

/// `GET /login/sso/redirect`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3loginssoredirect>
async fn redirect(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Result<Response> {
    to_page(&server, query.as_deref(), None)
}

/// `GET /login/sso/redirect/{idpId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3loginssoredirectidpid>
async fn redirect_to_provider(
    State(server): State<Arc<Server>>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let id = id.map_or_else(|_| String::new(), |Path(id)| id); // bytes that are no text name no provider
    to_page(&server, query.as_deref(), Some(&id))
}

fn to_page(server: &Server, query: Option<&str>, provider: Option<&str>) -> Result<Response> {
    let base = server.config.oauth_base().filter(|_| !server.sso.providers.is_empty());
    let base = base.ok_or_else(|| Error::unrecognized("Unrecognized request"))?;
    if provider.is_some_and(|id| server.sso.provider(id).is_none()) {
        return Err(Error::not_found("There is no such identity provider"));
    }
    let Wish { redirect_url, action, unstable_action } = from_query(query)?;
    let redirect_url = redirect_url.ok_or_else(|| Error::missing_param("`redirectUrl` is missing"))?;
    client_address::parse(&redirect_url)?;
    let page = format!("{}?", address(&base, paths::CLIENT));
    let start = page.len();
    let mut page = form_urlencoded::Serializer::for_suffix(page, start);
    page.append_pair("redirectUrl", &redirect_url);
    if let Some(id) = provider {
        page.append_pair("idp", id);
    }
    if action.or(unstable_action) == Some(SsoRedirectAction::Register) {
        page.append_pair("action", "register");
    }
    Ok((StatusCode::FOUND, [(header::LOCATION, page.finish())]).into_response())
}

/// The flow of `GET /login`, if there are providers. Whoever knows OAuth 2.0 is told to use that instead, which offers all that
/// this does. (ruma's type writes `null` for what a provider does not have.)
pub fn flow(server: &Server) -> Option<Value> {
    let providers = &server.sso.providers;
    if providers.is_empty() {
        return None;
    }
    let described = providers.iter().map(|provider| {
        let config = &provider.config;
        let mut described = json!({ "id": config.id, "name": config.name });
        if let Some(icon) = &config.icon {
            described["icon"] = json!(icon);
        }
        if let Some(brand) = &config.brand {
            described["brand"] = json!(brand);
        }
        described
    });
    Some(json!({
        "type": "m.login.sso",
        "identity_providers": described.collect::<Vec<_>>(),
        "oauth_aware_preferred": true,
        "org.matrix.msc3824.delegated_oidc_compatibility": true,
    }))
}
