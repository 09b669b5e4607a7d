//! `/p/NAME`: a project's evaluations, and `/p/NAME/c/COMMIT`: the newest one of a commit.

use askama::Template;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{Html, IntoResponse, Response};
use nixci_protocol::nixci::control::{EvaluationSummary, Selector};

use super::evaluation::{self, PageQuery};
use super::lists::{Listed, listed};
use crate::http::error::HttpError;
use crate::http::select::{self, Form};
use crate::http::show::shorten;
use crate::http::show::time::now;
use crate::http::{Site, project_path};

/// Evaluations that are listed.
const LIMIT: u32 = 50;

#[derive(Template)]
#[template(path = "project.html")]
struct Project {
    name: String,
    url: String,
    evaluations: Vec<Listed>,
    limit: usize,
}

pub(in crate::http) async fn project(
    State(site): State<Site>,
    Path(rest): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, HttpError> {
    if let Some((project, commit)) = rest.rsplit_once("/c/") {
        let (commit, form) = select::form(commit);
        let which = Selector::Commit {
            project: Some(project.to_owned()),
            commit: commit.to_owned(),
        };
        return evaluation::show(&site, &which, form, query).await;
    }
    // A name may end in `.json` itself; the project of that name comes first.
    let found = site.reader.evaluations(Some(&rest), LIMIT).await?;
    let (name, form, found) = if found.is_empty() {
        let (name, form) = select::form(&rest);
        (name, form, site.reader.evaluations(Some(name), LIMIT).await?)
    } else {
        (rest.as_str(), Form::Html, found)
    };
    if found.is_empty() {
        return Err(HttpError::missing(format!("there is no project {name} here")));
    }
    match form {
        Form::Html => Ok(page(name, &found)?.into_response()),
        Form::Json => Ok(Json(found).into_response()),
        Form::Markdown => Err(HttpError::missing("a project has no Markdown form; its evaluations do")),
    }
}

fn page(name: &str, found: &[EvaluationSummary]) -> Result<Html<String>, HttpError> {
    let now = now();
    let page = Project {
        name: shorten(name, 120),
        url: project_path(name),
        evaluations: found.iter().map(|summary| listed(summary, now)).collect(),
        limit: LIMIT as usize,
    };
    Ok(Html(page.render()?))
}
