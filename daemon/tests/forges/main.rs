//! Forgejo, Gitea, GitLab and plain webhooks, as their clients meet them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod comment;
mod contract;
mod forgejo;
mod forgejo_stub;
mod gitlab;
mod gitlab_stub;
mod secrets;
mod server;
mod statuses;
mod webhook;
