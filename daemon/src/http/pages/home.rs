//! `/`: the projects.

use askama::Template;
use axum::extract::State;
use axum::response::Html;

use super::lists::{Listed, listed};
use crate::http::error::HttpError;
use crate::http::show::shorten;
use crate::http::show::time::now;
use crate::http::{Site, project_path};

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    projects: Vec<Project>,
}

struct Project {
    name: String,
    url: String,
    latest: Option<Listed>,
}

pub(in crate::http) async fn home(State(site): State<Site>) -> Result<Html<String>, HttpError> {
    let now = now();
    let projects = site.reader.projects().await?;
    let projects = projects
        .into_iter()
        .map(|project| Project {
            url: project_path(&project.project),
            name: shorten(&project.project, 120),
            latest: project.latest.map(|latest| listed(&latest, now)),
        })
        .collect();
    Ok(Html(Home { projects }.render()?))
}
