//! The documents: every block of a kind that is checked, every link, flag, key, target and metric there. What their
//! commands do is tested where they are run, in a machine: `vm-tests/documents.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

mod commands;
mod configuration;
mod dashboard;
mod files;
mod links;
mod page;
