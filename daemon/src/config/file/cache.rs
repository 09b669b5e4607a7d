//! `[cache]`.

use serde::Deserialize;
use toml::Spanned;

use super::Check;
use crate::config::{Cache, size};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheTable {
    serve: Option<bool>,
    priority: Option<u32>,
    level: Option<Spanned<i32>>,
    size: Option<Spanned<String>>,
}

pub(super) fn resolve(table: CacheTable, check: &mut Check<'_>) -> Cache {
    let default = Cache::default();
    Cache {
        serve: table.serve.unwrap_or(default.serve),
        priority: table.priority.unwrap_or(default.priority),
        level: check.value(table.level, default.level, |level| match level {
            1..=19 => Ok(*level),
            _ => Err(format!(
                "`level` is {level}; zstd has levels from 1 (fast) to 19 (small)"
            )),
        }),
        size: check.value(table.size, default.size, |text| size::parse("size", text).map(Some)),
    }
}
