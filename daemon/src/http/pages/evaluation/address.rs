//! Addresses of an evaluation's page, and the names in them.

use std::fmt::Write as _;

use nixci_protocol::nixci::verdict::Bucket;

use super::PageQuery;
use crate::http::show::segment;

/// Addresses of this page with one thing changed.
pub(super) struct Address<'a> {
    pub(super) url: &'a str,
    pub(super) query: &'a PageQuery,
}

impl Address<'_> {
    fn with(&self, end: &str, show: Option<&str>, page: Option<usize>, all: bool) -> String {
        let mut out = format!("{}{end}", self.url);
        let mut separator = '?';
        let mut add = |name: &str, value: &str| {
            let _ = write!(out, "{separator}{name}={}", segment(value));
            separator = '&';
        };
        if let Some(base) = &self.query.base {
            add("base", base);
        }
        if let Some(show) = show {
            add("show", show);
        }
        if let Some(q) = self.query.q.as_deref().filter(|q| all && !q.is_empty()) {
            add("q", q);
        }
        if let Some(page) = page.filter(|page| *page > 1) {
            add("page", &page.to_string());
        }
        out
    }

    pub(super) fn with_show(&self, show: Option<Bucket>) -> String {
        self.with("", show.map(bucket_name), None, true)
    }

    pub(super) fn with_page(&self, page: usize) -> String {
        self.with("", self.query.show.as_deref(), Some(page), true)
    }

    pub(super) fn events(&self) -> String {
        self.with(
            "/events",
            self.query.show.as_deref(),
            self.query.page.map(|page| page as usize),
            true,
        )
    }

    pub(super) fn with_base_only(&self) -> String {
        self.with("", None, None, false)[self.url.len()..].to_owned()
    }
}

/// A bucket's name in an address, as in JSON.
pub(super) fn bucket_name(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::NewlyFailing => "newly-failing",
        Bucket::AddedFailing => "added-failing",
        Bucket::Failing => "failing",
        Bucket::StillFailing => "still-failing",
        Bucket::Fixed => "fixed",
        Bucket::NotAnswered => "not-answered",
        Bucket::Running => "running",
        Bucket::Ok => "ok",
        Bucket::StillOk => "still-ok",
        Bucket::AddedOk => "added-ok",
        Bucket::Unchanged => "unchanged",
        Bucket::Removed => "removed",
    }
}

/// The bucket of this name.
pub(super) fn bucket(name: &str) -> Option<Bucket> {
    Bucket::ALL.into_iter().find(|bucket| bucket_name(*bucket) == name)
}
