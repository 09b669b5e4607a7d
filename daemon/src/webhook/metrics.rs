//! What `/metrics` tells of webhooks.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use nixci_store::index::deliveries::{Outcome, Waiting};

use crate::core::now;

const RECEIVED: &str = "nixci_webhooks_received_total";
const REFUSED: &str = "nixci_webhooks_refused_total";
const KNOWN: &str = "nixci_webhooks_known_total";
const DONE: &str = "nixci_webhooks_done_total";
const RETRIED: &str = "nixci_webhooks_retried_total";
const WAITING: &str = "nixci_webhooks_waiting";
const OLDEST: &str = "nixci_webhooks_oldest_seconds";

/// Says what the figures are.
pub(crate) fn describe() {
    describe_counter!(RECEIVED, "Webhook deliveries with a right signature, by forge");
    describe_counter!(REFUSED, "Webhook deliveries that were not taken, by forge and reason");
    describe_counter!(KNOWN, "Webhook deliveries that had been here before, by forge");
    describe_counter!(DONE, "Webhook deliveries that came to an end, by forge and outcome");
    describe_counter!(
        RETRIED,
        "Webhook deliveries whose handling failed and is tried again, by forge"
    );
    describe_gauge!(WAITING, "Webhook deliveries that wait to be handled");
    describe_gauge!(OLDEST, Unit::Seconds, "Age of the oldest of them");
}

pub(super) fn received(forge: &str) {
    counter!(RECEIVED, "forge" => forge.to_owned()).increment(1);
}

pub(super) fn refused(forge: &str, reason: &'static str) {
    counter!(REFUSED, "forge" => forge.to_owned(), "reason" => reason).increment(1);
}

pub(super) fn known(forge: &str) {
    counter!(KNOWN, "forge" => forge.to_owned()).increment(1);
}

pub(super) fn done(forge: &str, outcome: Outcome) {
    counter!(DONE, "forge" => forge.to_owned(), "outcome" => outcome.word()).increment(1);
}

pub(super) fn retried(forge: &str) {
    counter!(RETRIED, "forge" => forge.to_owned()).increment(1);
}

/// Tells how much waits now.
pub(crate) fn waiting(waiting: Waiting) {
    let age = waiting.oldest.map_or(0, |oldest| now().saturating_sub(oldest).max(0));
    gauge!(WAITING).set(waiting.length as f64);
    gauge!(OLDEST).set(age as f64 / 1_000.0);
}
