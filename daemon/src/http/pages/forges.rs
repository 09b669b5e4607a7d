//! `/forges`: who is told of verdicts, and what stands in the way.

use askama::Template;
use axum::extract::State;
use axum::response::Html;
use nixci_protocol::nixci::report::ReportTroubleKind;

use crate::http::Site;
use crate::http::error::HttpError;
use crate::http::show::time::{When, now};
use crate::http::show::{count, shorten};

#[derive(Template)]
#[template(path = "forges.html")]
struct Forges {
    forges: Vec<ForgeView>,
    troubles: Vec<TroubleView>,
}

struct ForgeView {
    name: String,
    kind: &'static str,
    url: String,
    /// None where everything was sent.
    unsent: Option<String>,
    since: Option<When>,
    refused: Option<String>,
}

struct TroubleView {
    forge: String,
    about: String,
    /// Whether it mends itself.
    passes: bool,
    reason: String,
    since: When,
}

pub(in crate::http) async fn forges(State(site): State<Site>) -> Result<Html<String>, HttpError> {
    let (told, troubles) = site.reader.forges().await?;
    let now = now();
    let some = |number: u64| (number > 0).then(|| count(number));
    let forges = told.into_iter().map(|told| ForgeView {
        unsent: some(told.unsent),
        since: told.oldest.map(|at| When::new(at, now)),
        refused: some(told.refused),
        name: told.name,
        kind: told.kind.word(),
        url: shorten(&told.url, 120),
    });
    let troubles = troubles.into_iter().map(|trouble| TroubleView {
        passes: passes(trouble.kind),
        forge: trouble.forge,
        about: [trouble.repository, trouble.context]
            .into_iter()
            .flatten()
            .map(|text| shorten(&text, 120))
            .collect::<Vec<_>>()
            .join(" "),
        reason: shorten(&trouble.reason, 300),
        since: When::new(trouble.since, now),
    });
    let page = Forges {
        forges: forges.collect(),
        troubles: troubles.collect(),
    };
    Ok(Html(page.render()?))
}

fn passes(kind: ReportTroubleKind) -> bool {
    match kind {
        ReportTroubleKind::Down | ReportTroubleKind::Limited => true,
        ReportTroubleKind::Stopped | ReportTroubleKind::RefusedRepository | ReportTroubleKind::RefusedStatus => false,
    }
}
