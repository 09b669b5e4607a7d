//! `[retention]`: what is kept for how long.

use serde::Deserialize;
use toml::Spanned;

use super::super::{Retention, duration};
use super::Check;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetentionTable {
    failures: Option<Spanned<String>>,
    evaluations: Option<Spanned<String>>,
    newest: Option<u32>,
    uploads: Option<Spanned<String>>,
    collect: Option<Spanned<String>>,
}

pub(super) fn resolve(table: RetentionTable, check: &mut Check<'_>) -> Retention {
    let default = Retention::default();
    Retention {
        failures: check.value(table.failures, default.failures, |text| duration::parse(text)),
        evaluations: check.value(table.evaluations, default.evaluations, |text| duration::parse(text)),
        newest: table.newest.unwrap_or(default.newest),
        uploads: check.value(table.uploads, default.uploads, |text| duration::parse(text)),
        collect: check.value(table.collect, default.collect, |text| match text.as_str() {
            "off" => Ok(None),
            _ => match duration::parse(text) {
                Ok(every) if every.is_zero() => Err(format!("`collect` is `{text}`; write \"off\" for never")),
                Ok(every) => Ok(Some(every)),
                Err(mistake) => Err(format!("{mistake}, or \"off\"")),
            },
        }),
    }
}
