//! Which events a user wants to be told of.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    api::client::push::{
        PushRule, delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{AnyPushRuleRef, RuleKind},
};
use serde_json::Value;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Loose, Matrix, json_object},
    },
    user::{
        push_rules::{self, Position, unknown_rule},
        session::Caller,
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_pushrules_all::v3::Request, _, _>(get_all))
        .merge(endpoint::<get_pushrules_global_scope::v3::Request, _, _>(get_global))
        .merge(endpoint::<get_pushrule::v3::Request, _, _>(get))
        .merge(endpoint::<set_pushrule::v3::Request, _, _>(set))
        .merge(endpoint::<delete_pushrule::v3::Request, _, _>(delete))
        .merge(endpoint::<get_pushrule_enabled::v3::Request, _, _>(is_enabled))
        .merge(endpoint::<set_pushrule_enabled::v3::Request, _, _>(set_enabled))
        .merge(endpoint::<get_pushrule_actions::v3::Request, _, _>(actions))
        .merge(endpoint::<set_pushrule_actions::v3::Request, _, _>(set_actions))
}

/// `GET /pushrules/`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrules>
async fn get_all(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_pushrules_all::v3::Request>,
) -> Result<Matrix<get_pushrules_all::v3::Response>> {
    let rules = server.read(move |snapshot| Ok(push_rules::get(snapshot, &sender.user_id)?)).await?;
    Ok(Matrix(get_pushrules_all::v3::Response::new(rules)))
}

/// `GET /pushrules/global/`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobal>
async fn get_global(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_pushrules_global_scope::v3::Request>,
) -> Result<Matrix<get_pushrules_global_scope::v3::Response>> {
    let rules = server.read(move |snapshot| Ok(push_rules::get(snapshot, &sender.user_id)?)).await?;
    Ok(Matrix(get_pushrules_global_scope::v3::Response::new(rules)))
}

/// `GET /pushrules/global/{kind}/{ruleId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid>
async fn get(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_pushrule::v3::Request>,
) -> Result<Matrix<get_pushrule::v3::Response>> {
    let rule = rule(&server, sender, kind(body.kind), body.rule_id).await?;
    Ok(Matrix(get_pushrule::v3::Response::new(rule)))
}

/// `PUT /pushrules/global/{kind}/{ruleId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid>
async fn set(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Loose<set_pushrule::v3::Request>>,
) -> Result<Matrix<set_pushrule::v3::Response>> {
    // A rule without conditions always matches; ruma wants them to be there.
    let mut rule = json_object(&raw)?;
    rule.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let rule = serde_json::to_vec(&rule).map_err(Error::internal)?;
    let request = body.with_body(&rule)?;
    let position = Position { before: request.before, after: request.after };
    push_rules::put(&server, &sender.user_id, request.rule, position).await?;
    Ok(Matrix(set_pushrule::v3::Response::new()))
}

/// `DELETE /pushrules/global/{kind}/{ruleId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid>
async fn delete(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_pushrule::v3::Request>,
) -> Result<Matrix<delete_pushrule::v3::Response>> {
    push_rules::delete(&server, &sender.user_id, kind(body.kind), body.rule_id).await?;
    Ok(Matrix(delete_pushrule::v3::Response::new()))
}

/// `GET /pushrules/global/{kind}/{ruleId}/enabled`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled>
async fn is_enabled(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_pushrule_enabled::v3::Request>,
) -> Result<Matrix<get_pushrule_enabled::v3::Response>> {
    let rule = rule(&server, sender, kind(body.kind), body.rule_id).await?;
    Ok(Matrix(get_pushrule_enabled::v3::Response::new(rule.enabled)))
}

/// `PUT /pushrules/global/{kind}/{ruleId}/enabled`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled>
async fn set_enabled(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<set_pushrule_enabled::v3::Request>,
) -> Result<Matrix<set_pushrule_enabled::v3::Response>> {
    push_rules::set_enabled(&server, &sender.user_id, kind(body.kind), body.rule_id, body.enabled).await?;
    Ok(Matrix(set_pushrule_enabled::v3::Response::new()))
}

/// `GET /pushrules/global/{kind}/{ruleId}/actions`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions>
async fn actions(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_pushrule_actions::v3::Request>,
) -> Result<Matrix<get_pushrule_actions::v3::Response>> {
    let rule = rule(&server, sender, kind(body.kind), body.rule_id).await?;
    Ok(Matrix(get_pushrule_actions::v3::Response::new(rule.actions)))
}

/// `PUT /pushrules/global/{kind}/{ruleId}/actions`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions>
async fn set_actions(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<set_pushrule_actions::v3::Request>,
) -> Result<Matrix<set_pushrule_actions::v3::Response>> {
    push_rules::set_actions(&server, &sender.user_id, kind(body.kind), body.rule_id, body.actions).await?;
    Ok(Matrix(set_pushrule_actions::v3::Response::new()))
}

/// The kind that a path names. That of the rules for threads (MSC4306) goes by its final name with everybody but ruma.
fn kind(named: RuleKind) -> RuleKind {
    if named.as_str() == "postcontent" { RuleKind::PostContent } else { named }
}

async fn rule(server: &Arc<Server>, sender: Caller, kind: RuleKind, rule_id: String) -> Result<PushRule> {
    let rules = server.read(move |snapshot| Ok(push_rules::get(snapshot, &sender.user_id)?)).await?;
    match rules.get(kind, &rule_id).ok_or_else(unknown_rule)? {
        AnyPushRuleRef::PostContent(rule) => Ok(rule.clone().into()), // the one kind at which ruma panics
        rule => Ok(rule.into()),
    }
}
