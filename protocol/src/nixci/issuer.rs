//! Who vouches for jobs of CI systems, as far as the daemon can check it.

use serde::{Deserialize, Serialize};

use super::control::Millis;

/// Answer to [`Request::Issuers`](super::control::Request::Issuers): one issuer, and whether its tokens can be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    /// Its address, as its tokens name it.
    pub issuer: String,
    /// What its claims are called like, as the configuration writes it: `github`.
    pub kind: String,
    /// For whom its tokens must be made to count here; empty where nothing says it.
    pub audience: String,
    /// The forge that confirms what its jobs say, by its name in the configuration.
    pub forge: Option<String>,
    /// How many of its keys are known; none before they could be had.
    pub keys: Option<u64>,
    /// When they were fetched.
    pub fetched: Option<Millis>,
    /// Until when they count if it does not answer again.
    pub good_until: Option<Millis>,
    /// Why they could not be had when they were asked for last.
    pub error: Option<String>,
}
