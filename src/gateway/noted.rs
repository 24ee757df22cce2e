//! What the access log, metrics and traces are told of a decision.

use super::rejection::Rejection;
use super::request_body::BodyRefusal;
use crate::access::{Denied, Permit};
use crate::telemetry::exchange::{Decision, Exchange};

pub(super) fn note_refusal(rejection: &Rejection, exchange: &Exchange) {
    tracing::debug!(request_id = ?exchange.ids.request(), %rejection, "refused");
    if let Rejection::Denied(_) | Rejection::Body(BodyRefusal::Fault(_)) = rejection {
        exchange.decide(Decision::Deny);
    }
    exchange.reason.set(Some(rejection.reason()));
}

pub(super) fn note_permit(exchange: &Exchange, permit: &Permit) {
    let _: Result<(), _> = exchange.route.set(permit.route().label.clone());
    exchange.decide(Decision::Allow);
    exchange.note(|facts| {
        facts.resource = permit.route().resource().map(str::to_owned);
        facts.permission = permit.asked().map(|asked| asked.as_str());
        facts.user = permit.principal().map(|principal| principal.user().clone());
        facts.role = permit.principal().map(|principal| principal.role().clone());
    });
}

pub(super) fn note_denial(exchange: &Exchange, denied: &Denied) {
    if let Some(route) = &denied.route {
        let _: Result<(), _> = exchange.route.set(route.label.clone());
    }
    exchange.decide(Decision::Deny);
    exchange.note(|facts| {
        facts.resource = denied.route.as_ref().and_then(|route| route.resource()).map(str::to_owned);
        facts.permission = denied.asked.map(|asked| asked.as_str());
        facts.user = denied.principal.as_ref().map(|principal| principal.user().clone());
        facts.role = denied.principal.as_ref().map(|principal| principal.role().clone());
    });
}
