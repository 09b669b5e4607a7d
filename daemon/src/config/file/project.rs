//! `[[project]]`.

use serde::Deserialize;
use toml::Spanned;

use super::Check;
use crate::config::project::PLACES;
use crate::config::{ContextNames, Detail, Forge, ForgeKind, Project};

/// How many jobs are shown where nothing else is said: below what forges take in an hour, with room for others.
const DETAILS: u32 = 47;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectTable {
    name: Spanned<String>,
    forge: Option<Spanned<String>>,
    repository: Option<String>,
    repository_id: Option<u64>,
    notify: Option<Vec<Spanned<String>>>,
    detail: Option<Spanned<String>>,
    details: Option<u32>,
    comment: Option<bool>,
    context: Option<Spanned<String>>,
    evaluation_context: Option<Spanned<String>>,
    job_context: Option<Spanned<String>>,
}

pub(super) fn resolve(tables: Vec<ProjectTable>, forges: &[Forge], check: &mut Check<'_>) -> Vec<Project> {
    let tables = tables.into_iter();
    tables.map(|table| project(table, forges, check)).collect()
}

fn project(table: ProjectTable, forges: &[Forge], check: &mut Check<'_>) -> Project {
    let (at, name) = (table.name.span().start, table.name.into_inner());
    if name.is_empty() {
        check.at(at, "a project needs a name, or `*` for all".to_owned());
    }
    let real = |forge: &&Forge| forge.kind != ForgeKind::Webhook;
    let forge = if let Some(named) = table.forge {
        let known = forges.iter().filter(real).any(|forge| forge.name == *named.get_ref());
        if !known {
            let text = format!(
                "there is no [[forge]] named `{}` that has repositories",
                named.get_ref()
            );
            check.at(named.span().start, text);
        }
        Some(named.into_inner())
    } else {
        let mut all = forges.iter().filter(real);
        match (all.next(), all.next()) {
            (Some(only), None) => Some(only.name.clone()),
            (None, _) => None,
            (Some(_), Some(_)) => {
                check.at(at, format!("project `{name}` needs `forge`, as there are several"));
                None
            }
        }
    };
    let notify = table.notify.unwrap_or_default().into_iter().map(|named| {
        let known = forges
            .iter()
            .filter(|forge| !real(forge))
            .any(|forge| forge.name == *named.get_ref());
        if !known {
            let text = format!("there is no [[forge]] of kind \"webhook\" named `{}`", named.get_ref());
            check.at(named.span().start, text);
        }
        named.into_inner()
    });
    let notify = notify.collect();
    let default = ContextNames::default();
    let contexts = ContextNames {
        summary: template("context", table.context, default.summary, check),
        evaluation: template(
            "evaluation_context",
            table.evaluation_context,
            default.evaluation,
            check,
        ),
        job: template("job_context", table.job_context, default.job, check),
    };
    let tells_jobs_apart = ["{attr}", "{name}"].iter().any(|place| contexts.job.contains(place));
    if !tells_jobs_apart {
        check.at(
            at,
            "`job_context` is the same for all jobs; it needs `{attr}` or `{name}`".to_owned(),
        );
    }
    if contexts.summary == contexts.evaluation {
        check.at(
            at,
            "`context` and `evaluation_context` are the same; they must differ".to_owned(),
        );
    }
    Project {
        name,
        forge,
        repository: table.repository,
        repository_id: table.repository_id,
        notify,
        detail: check.value(table.detail, Detail::Adaptive, |text| match text.as_str() {
            "adaptive" => Ok(Detail::Adaptive),
            "failures" => Ok(Detail::Failures),
            "all" => Ok(Detail::All),
            "summary" => Ok(Detail::Summary),
            _ => Err(format!(
                "`detail` is `{text}`; it can be \"adaptive\", \"failures\", \"all\" or \"summary\""
            )),
        }),
        details: table.details.unwrap_or(DETAILS),
        comment: table.comment.unwrap_or(false),
        contexts,
    }
}

fn template(key: &str, given: Option<Spanned<String>>, default: String, check: &mut Check<'_>) -> String {
    check.value(given, default, |text| {
        if text.trim().is_empty() {
            return Err(format!("`{key}` is empty"));
        }
        for piece in text.split('{').skip(1) {
            let place = piece.split_once('}').map(|(place, _)| place);
            if !place.is_some_and(|place| PLACES.contains(&place)) {
                let known = PLACES.map(|place| format!("{{{place}}}")).join(", ");
                return Err(format!("`{key}` is `{text}`; what stands in braces can be {known}"));
            }
        }
        Ok(text.clone())
    })
}
