//! User-interactive authentication: some requests are done only when whoever sends them has proved who he is.
//!
//! A proof is good for one request, the one that it was begun for: the same endpoint and target, the same parameters,
//! the same user and device. What no branch here accepts is refused.
//! <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    DeviceId, OwnedUserId, UserId,
    api::{
        IncomingRequest,
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo},
        error::{ErrorKind, StandardErrorBody},
        path_builder::PathBuilder,
    },
};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use super::{
    account,
    email::{Proven, Purpose},
    expiring::Expiring,
    registration,
    session::{self, Caller},
};
use crate::{
    Server,
    error::{Error, Result},
    oauth::{
        metadata::{CROSS_SIGNING_RESET, address},
        paths,
    },
    sso,
};

/// How long a client has from its first request to the last stage; users read terms meanwhile.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How many sessions are kept, of each kind. When there are more, the oldest must start over.
const CAPACITY: usize = 2_000;

/// How many of them are one user's.
const CAPACITY_PER_USER: usize = 50;

/// Longest parameters that are kept for a client which does not repeat them, in bytes.
const MAX_KEPT_BYTES: usize = 4_096;

const SESSION_ID_LENGTH: usize = 32;

/// The authentications that have begun. Strangers can't push those of users out: they have their own.
pub struct Sessions {
    of_users: Expiring<Session>,
    of_strangers: Expiring<Session>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { of_users: Expiring::new(LIFETIME, CAPACITY), of_strangers: Expiring::new(LIFETIME, CAPACITY) }
    }
}

#[derive(Clone)]
struct Session {
    /// Whom it is about; nobody yet for a registration.
    caller: Option<Caller>,
    operation: [u8; 32],
    /// Method, path and target of the request.
    endpoint: String,
    /// See [`Operation::keeping_parameters`].
    kept_parameters: Option<String>,
    completed: Vec<AuthType>,
    /// The address that was proved.
    email: Option<Proven>,
    /// What its user may approve on a page of ours, where he logs in for it: [`AuthType::OAuth`] are new cross-signing keys.
    approvable: Option<AuthType>,
}

/// What a client wants done.
pub struct Operation {
    endpoint: String,
    /// The body without `auth`.
    parameters: BTreeMap<String, Value>,
    may_omit_parameters: bool,
}

impl Operation {
    /// A request to the endpoint of `R`, with what its path names (empty if nothing) and its body.
    pub fn of<R: IncomingRequest>(target: &str, body: &[u8]) -> Result<Self> {
        let path = R::PATH_BUILDER.all_paths().last().expect("every endpoint has a path");
        let mut parameters: BTreeMap<String, Value> = match body {
            [] => BTreeMap::new(),
            _ => serde_json::from_slice(body).map_err(|e| unreadable(&e))?,
        };
        parameters.remove("auth");
        let endpoint = format!("{} {path} {target}", R::METHOD);
        Ok(Self { endpoint, parameters, may_omit_parameters: false })
    }

    /// A later request of the session may leave out all parameters; those of the first one count then.
    // NOTSPEC: clients should repeat them, but Element for Android, and so Tchap, sends only `auth` to /register.
    #[must_use]
    pub fn keeping_parameters(self) -> Self {
        Self { may_omit_parameters: true, ..self }
    }

    /// By what the same request is known again, with the session that was gone through for it; `None` if it leaves out its
    /// parameters: whoever has only learnt of the session can send that.
    pub fn known_by(&self, session: &str) -> Option<String> {
        let parameters = self.parameters();
        let hash = Sha256::digest(format!("{session}\0{}\0{parameters}", self.endpoint));
        (!self.parameters.is_empty()).then(|| STANDARD_NO_PAD.encode(hash))
    }

    fn hash(&self, parameters: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.endpoint.as_bytes());
        hash.update([0]);
        hash.update(parameters.as_bytes());
        hash.finalize().into()
    }

    /// The same text for the same parameters: maps are sorted.
    fn parameters(&self) -> String {
        serde_json::to_string(&self.parameters).expect("JSON values can be written")
    }
}

/// What is asked of whoever sends a request.
struct Demand<'a> {
    caller: Option<&'a Caller>,
    operation: Operation,
    flows: Vec<AuthFlow>,
    /// What clients need to know for the stages.
    params: Box<RawValue>,
    /// For what an e-mail address may be proved.
    email_for: Option<Purpose>,
    /// The page of ours where the user approves what a client that logged in by OAuth wants done.
    page: Option<String>,
}

/// What was asked for by somebody who went through all stages.
pub struct Passed {
    /// Of his request, as JSON.
    pub parameters: String,
    /// The address that he proved, if that was a stage.
    pub email: Option<Proven>,
}

/// Makes `caller` prove, by his password or by logging in on our pages, that he himself asks for `operation`. The error
/// tells the client what is missing.
pub async fn confirm(
    server: &Arc<Server>,
    caller: &Caller,
    operation: Operation,
    auth: Option<AuthData>,
) -> Result<()> {
    if caller.appservice.is_some() {
        return Ok(()); // it proves by its token that it may act for the user
    }
    if session::is_by_oauth(&server.store.snapshot(), &caller.user_id, &caller.device_id)? {
        // Clients of OAuth are not to learn passwords; the specification has no endpoints like this one for them.
        return Err(Error::forbidden("This client logged in by OAuth 2.0: do this on the page of your account"));
    }
    let flows = flows_of(server, &caller.user_id)?;
    let demanded = Demand { caller: Some(caller), operation, flows, params: no_params(), email_for: None, page: None };
    demand(server, demanded, auth).await.map(drop)
}

/// How a user can prove who he is: by his password, if he has one, and by the identity providers that know him.
fn flows_of(server: &Server, user: &UserId) -> Result<Vec<AuthFlow>> {
    let snapshot = server.store.snapshot();
    let mut flows = Vec::new();
    for provider in &server.sso.providers {
        if flows.is_empty() && sso::tables::is_linked(&snapshot, user, &provider.config.id)? {
            flows.push(AuthFlow::new(vec![AuthType::Sso]));
        }
    }
    let has_password = account::get(&snapshot, user)?.is_some_and(|account| account.password_hash.is_some());
    if has_password || flows.is_empty() {
        flows.insert(0, AuthFlow::new(vec![AuthType::Password]));
    }
    Ok(flows)
}

/// As [`confirm`], for new cross-signing keys: a client that logged in by OAuth sends its user to a page of ours.
/// <https://spec.matrix.org/v1.19/client-server-api/#oauth-authentication>
pub async fn confirm_reset(
    server: &Arc<Server>,
    caller: &Caller,
    operation: Operation,
    auth: Option<AuthData>,
) -> Result<()> {
    let is_by_oauth = session::is_by_oauth(&server.store.snapshot(), &caller.user_id, &caller.device_id)?;
    let Some(base) = server.config.oauth_base().filter(|_| is_by_oauth) else {
        return confirm(server, caller, operation, auth).await;
    };
    let page = format!("{}?action={CROSS_SIGNING_RESET}", address(&base, paths::ACCOUNT));
    let flows = vec![AuthFlow::new(vec![AuthType::OAuth])];
    let (params, page) = (no_params(), Some(page));
    let demanded = Demand { caller: Some(caller), operation, flows, params, email_for: None, page };
    demand(server, demanded, auth).await.map(drop)
}

fn no_params() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("this is JSON")
}

/// Makes a stranger prove that he reads the mail of the account whose password he wants to reset: its address.
pub async fn confirm_password_reset(
    server: &Arc<Server>,
    operation: Operation,
    auth: Option<AuthData>,
) -> Result<String> {
    let flows = vec![AuthFlow::new(vec![AuthType::EmailIdentity])];
    let email_for = Some(Purpose::ResetPassword);
    let demanded = Demand { caller: None, operation, flows, params: no_params(), email_for, page: None };
    let email = demand(server, demanded, auth).await?.email;
    email.map(|email| email.address).ok_or_else(|| Error::internal("a stage was passed without its proof"))
}

/// Makes a stranger go through the stages of registration.
pub async fn confirm_registration(
    server: &Arc<Server>,
    operation: Operation,
    auth: Option<AuthData>,
) -> Result<Passed> {
    let (flows, params) = (registration::flows(&server.config), registration::params(&server.config));
    let email_for = Some(Purpose::Register);
    demand(server, Demand { caller: None, operation, flows, params, email_for, page: None }, auth).await
}

/// Counts a stranger's request as a registration from its address, unless it only asks how its session stands.
pub fn limit_stranger(server: &Server, operation: &Operation, auth: Option<&AuthData>, address: IpAddr) -> Result<()> {
    if is_waiting(server, operation, auth) { Ok(()) } else { server.limits.registration(address) }
}

/// Whether a stranger's request only asks how its session stands, as clients do every few seconds while he reads his mail
/// or a page: nothing in it can be guessed, and the session is that of the same request.
fn is_waiting(server: &Server, operation: &Operation, auth: Option<&AuthData>) -> bool {
    let cannot_be_guessed = |auth: &&AuthData| matches!(auth.auth_type(), None | Some(AuthType::EmailIdentity));
    let Some(id) = auth.filter(cannot_be_guessed).and_then(AuthData::session) else { return false };
    let is_of_it = |session: &mut Session| session.parameters_for(operation).is_some();
    server.uiaa.of_strangers.with(server.clock.now_ms(), id, is_of_it) == Some(true)
}

async fn demand(server: &Arc<Server>, demand: Demand<'_>, auth: Option<AuthData>) -> Result<Passed> {
    let Some(auth) = auth else { return demand.without_auth(server) };
    let (id, session) = match auth.session() {
        Some(id) => match demand.sessions(server).with(server.clock.now_ms(), id, |session| session.clone()) {
            Some(session) => (id.to_owned(), session),
            None => return Err(demand.begin(server, Some("This authentication session is unknown or has ended"))?),
        },
        // The first stage may come with the first request, for which there is no session yet.
        None => demand.new_session(server)?,
    };
    let parameters = demand.check_same(&session)?;
    let completed = match demand.stage_to_prove(&session, &auth) {
        Stage::Done => session.completed,
        Stage::OutOfOrder => return Err(demand.refuse(id, session.completed, "This stage is not the next of a flow")),
        Stage::Next(stage) => match prove(server, &demand, auth).await? {
            Err(why) => return Err(demand.refuse(id, session.completed, why)),
            Ok(email) => demand.complete(server, &id, stage, email)?,
        },
    };
    if !demand.is_complete(&completed) {
        return Err(demand.challenge(id, completed, None));
    }
    // Of two requests that completed the same session, one is done.
    match demand.sessions(server).take(server.clock.now_ms(), &id) {
        Some(session) => Ok(Passed { parameters, email: session.email }),
        None => Err(demand.begin(server, Some("This authentication session was used"))?),
    }
}

enum Stage {
    /// Nothing to prove: the stage was completed before, or the client only asks how things stand.
    Done,
    Next(AuthType),
    OutOfOrder,
}

impl Demand<'_> {
    fn sessions<'s>(&self, server: &'s Server) -> &'s Expiring<Session> {
        if self.caller.is_some() { &server.uiaa.of_users } else { &server.uiaa.of_strangers }
    }

    fn new_session(&self, server: &Server) -> Result<(String, Session)> {
        let parameters = self.operation.parameters();
        let operation = self.operation.hash(&parameters);
        if self.operation.may_omit_parameters && parameters.len() > MAX_KEPT_BYTES {
            return Err(Error::too_large("These parameters are too long"));
        }
        let kept_parameters = self.operation.may_omit_parameters.then_some(parameters);
        let session = Session {
            caller: self.caller.cloned(),
            operation,
            endpoint: self.operation.endpoint.clone(),
            kept_parameters,
            completed: Vec::new(),
            email: None,
            approvable: [AuthType::OAuth, AuthType::Sso].into_iter().find(|stage| self.has_flow_of(stage)),
        };
        let id = self.fixed_id(server).unwrap_or_else(|| server.random.text(SESSION_ID_LENGTH));
        let (now_ms, kept) = (server.clock.now_ms(), session.clone());
        match self.caller {
            Some(Caller { user_id, .. }) => {
                let is_his = |other: &Session| other.caller.as_ref().is_some_and(|caller| caller.user_id == *user_id);
                server.uiaa.of_users.insert_among(now_ms, &id, kept, CAPACITY_PER_USER, is_his);
            }
            None => server.uiaa.of_strangers.insert(now_ms, &id, kept),
        }
        Ok((id, session))
    }

    /// A request without `auth` begins a session. That of a client which waits for its user to approve it on a page may come
    /// again and again, until it is approved: the matrix-rust-sdk names no session.
    fn without_auth(&self, server: &Server) -> Result<Passed> {
        let now_ms = server.clock.now_ms();
        let known = self.fixed_id(server).and_then(|id| {
            let completed = self.sessions(server).with(now_ms, &id, |session| session.completed.clone())?;
            Some((id, completed))
        });
        match known {
            Some((id, completed))
                if self.is_complete(&completed) && self.sessions(server).take(now_ms, &id).is_some() =>
            {
                Ok(Passed { parameters: self.operation.parameters(), email: None })
            }
            Some((id, completed)) => Err(self.challenge(id, completed, None)),
            None => Err(self.begin(server, None)?),
        }
    }

    fn has_flow_of(&self, stage: &AuthType) -> bool {
        self.flows.iter().any(|flow| flow.stages == std::slice::from_ref(stage))
    }

    fn is_complete(&self, completed: &[AuthType]) -> bool {
        self.flows.iter().any(|flow| flow.stages == completed)
    }

    /// The id of the session of what is approved on a page: the same for the same request of the same device.
    fn fixed_id(&self, server: &Server) -> Option<String> {
        self.page.as_ref()?;
        let Caller { user_id, device_id, .. } = self.caller?;
        let hash = self.operation.hash(&self.operation.parameters());
        Some(server.oauth.mac("reset", format!("{user_id} {device_id} {hash:?}").as_bytes()))
    }

    /// The answer that begins a new session, because there was none or it has ended.
    fn begin(&self, server: &Server, why: Option<&'static str>) -> Result<Error> {
        let (id, _) = self.new_session(server)?;
        Ok(self.challenge(id, Vec::new(), why.map(|why| (ErrorKind::Unknown, why))))
    }

    /// The parameters to act on. `M_FORBIDDEN` if the request is not the one that the session was begun for.
    fn check_same(&self, session: &Session) -> Result<String> {
        let is_same_caller = session.caller.as_ref().map(whose) == self.caller.map(whose);
        let parameters = session.parameters_for(&self.operation).filter(|_| is_same_caller);
        parameters.ok_or_else(|| Error::forbidden("This authentication session was begun for another request"))
    }

    fn stage_to_prove(&self, session: &Session, auth: &AuthData) -> Stage {
        let Some(stage) = auth.auth_type() else { return Stage::Done };
        if session.completed.contains(&stage) {
            return Stage::Done;
        }
        let mut with_it = session.completed.clone();
        with_it.push(stage.clone());
        let is_next = self.flows.iter().any(|flow| flow.stages.starts_with(&with_it));
        if is_next { Stage::Next(stage) } else { Stage::OutOfOrder }
    }

    /// Notes that a stage was completed; returns all that were.
    fn complete(&self, server: &Server, id: &str, stage: AuthType, email: Option<Proven>) -> Result<Vec<AuthType>> {
        let completed = self.sessions(server).with(server.clock.now_ms(), id, |session| {
            if !session.completed.contains(&stage) {
                session.completed.push(stage);
            }
            if email.is_some() {
                session.email = email;
            }
            session.completed.clone()
        });
        completed.map_or_else(|| Err(self.begin(server, Some("This authentication session was used"))?), Ok)
    }

    /// The stage was not passed; the client may try again.
    fn refuse(&self, id: String, completed: Vec<AuthType>, why: &'static str) -> Error {
        self.challenge(id, completed, Some((ErrorKind::Forbidden, why)))
    }

    fn challenge(&self, id: String, completed: Vec<AuthType>, why: Option<(ErrorKind, &'static str)>) -> Error {
        let mut info = UiaaInfo::new(self.flows.clone());
        info.completed = completed;
        info.params = Some(match &self.page {
            // Its address names the session: approving is good for this request of this client only.
            Some(page) => oauth_params(&format!("{page}&session={id}")),
            None => self.params.clone(),
        });
        info.session = Some(id);
        info.auth_error = why.map(|(kind, message)| Box::new(StandardErrorBody::new(kind, message.to_owned())));
        Error::AuthRequired(Box::new(info))
    }
}

/// By whom and on which device something is asked for. Not by which token: it may expire while he proves who he is.
fn whose(caller: &Caller) -> (&UserId, &DeviceId) {
    (&caller.user_id, &caller.device_id)
}

fn oauth_params(url: &str) -> Box<RawValue> {
    let params = json!({ "m.oauth": { "url": url } });
    serde_json::value::to_raw_value(&params).expect("JSON values can be written")
}

/// How the reset of a user's cross-signing keys stands that one of his clients wants.
pub fn reset_on_page(server: &Server, id: &str, user: &UserId) -> OnPage {
    with_approvable(server, id, &AuthType::OAuth, |session| match session.is_of(user) {
        false => OnPage::Ended,
        true if session.completed.is_empty() => OnPage::Open,
        true => OnPage::Passed,
    })
    .unwrap_or(OnPage::Ended)
}

/// The user, who proved just now who he is, approves that reset.
pub fn approve_reset(server: &Server, id: &str, user: &UserId) {
    with_approvable(server, id, &AuthType::OAuth, |session| session.approve(user, AuthType::OAuth));
}

/// What a client of a user wants that he can approve by single sign-on.
pub struct AskedBySso {
    pub user: OwnedUserId,
    /// Method, path and target of the request.
    pub endpoint: String,
}

/// `None` if the session has ended, or is of another kind.
pub fn asked_by_sso(server: &Server, id: &str) -> Option<AskedBySso> {
    let asked = with_approvable(server, id, &AuthType::Sso, |session| {
        let user = session.caller.as_ref()?.user_id.clone();
        Some(AskedBySso { user, endpoint: session.endpoint.clone() })
    });
    asked.flatten()
}

/// The user, who proved just now who he is, approves that.
pub fn approve_sso(server: &Server, id: &str, user: &UserId) {
    with_approvable(server, id, &AuthType::Sso, |session| session.approve(user, AuthType::Sso));
}

fn with_approvable<R>(server: &Server, id: &str, stage: &AuthType, then: impl FnOnce(&mut Session) -> R) -> Option<R> {
    let then = |session: &mut Session| (session.approvable.as_ref() == Some(stage)).then(|| then(session));
    server.uiaa.of_users.with(server.clock.now_ms(), id, then).flatten()
}

impl Session {
    /// The parameters to act on. `None` if the session was begun for another request.
    fn parameters_for(&self, operation: &Operation) -> Option<String> {
        let mut parameters = operation.parameters();
        if operation.parameters.is_empty()
            && let Some(kept) = &self.kept_parameters
        {
            parameters.clone_from(kept);
        }
        (self.operation == operation.hash(&parameters)).then_some(parameters)
    }

    fn is_of(&self, user: &UserId) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.user_id == user)
    }

    fn approve(&mut self, user: &UserId, stage: AuthType) {
        if self.is_of(user) && self.completed.is_empty() {
            self.completed.push(stage);
        }
    }
}

/// How a stage stands for whoever looks at its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPage {
    Open,
    Passed,
    /// The session is unknown, used or too old.
    Ended,
}

/// How a stage of a session stands. Error: `M_UNRECOGNIZED` if there is no page for such a stage.
pub fn look_at(server: &Server, session: &str, stage: &str) -> Result<OnPage> {
    let stage = match AuthType::from(stage) {
        AuthType::Sso if !server.sso.providers.is_empty() => AuthType::Sso, // its page is among those of OAuth
        _ => stage_with_page(stage)?,
    };
    Ok(match find(server, session) {
        None => OnPage::Ended,
        Some((_, session)) if session.completed.contains(&stage) => OnPage::Passed,
        Some(_) => OnPage::Open,
    })
}

/// Completes a stage of a session by what somebody gave on its page, if that proves it.
pub async fn prove_on_page(server: &Arc<Server>, id: &str, stage: &str, secret: String) -> Result<OnPage> {
    let stage = stage_with_page(stage)?;
    let Some((sessions, session)) = find(server, id) else { return Ok(OnPage::Ended) };
    if session.completed.contains(&stage) {
        return Ok(OnPage::Passed);
    }
    let is_proven = match (&stage, &session.caller) {
        (AuthType::Password, Some(caller)) => account::check_password(server, &caller.user_id, secret).await?,
        (_, Some(_)) | (AuthType::Password, None) => false,
        (stage, None) => {
            let mut with_it = session.completed.clone();
            with_it.push(stage.clone());
            let is_next = registration::flows(&server.config).iter().any(|flow| flow.stages.starts_with(&with_it));
            is_next && (*stage != AuthType::RegistrationToken || registration::is_valid_token(&server.config, &secret))
        }
    };
    if !is_proven {
        return Ok(OnPage::Open);
    }
    let noted = sessions.with(server.clock.now_ms(), id, |session| {
        if !session.completed.contains(&stage) {
            session.completed.push(stage);
        }
    });
    Ok(if noted.is_some() { OnPage::Passed } else { OnPage::Ended })
}

fn find<'s>(server: &'s Server, id: &str) -> Option<(&'s Expiring<Session>, Session)> {
    let now_ms = server.clock.now_ms();
    [&server.uiaa.of_users, &server.uiaa.of_strangers]
        .into_iter()
        .find_map(|sessions| Some((sessions, sessions.with(now_ms, id, |session| session.clone())?)))
}

fn stage_with_page(stage: &str) -> Result<AuthType> {
    match AuthType::from(stage) {
        known @ (AuthType::Dummy | AuthType::Password | AuthType::RegistrationToken | AuthType::Terms) => Ok(known),
        _ => Err(Error::unrecognized("There is no page for that")),
    }
}

/// Nothing but JSON comes here, but ruma does not look into what it ignores: text there need not be UTF-8.
fn unreadable(error: &serde_json::Error) -> Error {
    let kind = if error.is_data() { ErrorKind::BadJson } else { ErrorKind::NotJson };
    Error::refused(kind, format!("The body can't be read: {error}"))
}

/// Whether what the client sent proves the stage, and which address it proves; the inner error says why not, and it may
/// try again.
async fn prove(
    server: &Arc<Server>,
    demand: &Demand<'_>,
    auth: AuthData,
) -> Result<Result<Option<Proven>, &'static str>> {
    let passed = |is_right: bool, why: &'static str| Ok(if is_right { Ok(None) } else { Err(why) });
    match (auth, demand.caller) {
        (AuthData::Password(given), Some(caller)) => {
            if account::named(server, &given.identifier)?.is_none_or(|named| named.user_id != caller.user_id) {
                return Err(Error::forbidden("You must authenticate as yourself"));
            }
            let is_right = account::check_password(server, &caller.user_id, given.password).await?;
            passed(is_right, "Invalid password")
        }
        (AuthData::RegistrationToken(given), None) => {
            let is_right = registration::is_valid_token(&server.config, &given.token);
            passed(is_right, "Invalid registration token")
        }
        (AuthData::EmailIdentity(given), None) if let Some(purpose) = demand.email_for => {
            let proof = given.thirdparty_id_creds;
            let (sid, secret) = (proof.sid.as_str(), proof.client_secret.as_str());
            let proven = server.emails.take(server.clock.now_ms(), sid, secret, purpose);
            Ok(proven.map(Some).ok_or("This address is not confirmed yet"))
        }
        (AuthData::Dummy(_) | AuthData::Terms(_), None) => Ok(Ok(None)),
        (other, Some(_)) if other.auth_type() == Some(AuthType::Sso) => {
            Ok(Err("This was not approved on the page of this stage yet"))
        }
        (AuthData::OAuth(_), Some(_)) => Ok(Err("This was not approved on the page of the account yet")),
        _ => Ok(Err("This kind of authentication is not offered")),
    }
}
