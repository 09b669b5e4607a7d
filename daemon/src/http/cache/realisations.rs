//! Where outputs of content-addressed derivations were realised: `/realisations/<hash>!<output>.doi` for clients up to Nix
//! 2.34, `/build-trace-v2/<derivation>/<output>.doi` for later ones.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use nixci_protocol::types::{DrvOutput, OutputName, StorePath};

use super::Cache;
use super::answer::{self, Refusal};

const KIND: &str = "application/json";

pub(super) async fn by_hash(
    State(cache): State<Cache>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id: DrvOutput = stem(&name)?.parse().map_err(nonsense)?;
    let found = cache.core.objects.realisation(&id).await?;
    let found = found.ok_or_else(|| Refusal::Missing(format!("no store here knows where {id} was realised")))?;
    let json = found.to_json();
    let etag = answer::etag(&json);
    Ok(answer::whole(&headers, KIND, &etag, answer::FOR_A_MINUTE, json))
}

/// Later versions of Nix name the derivation itself. No store of an earlier version can be asked that way.
pub(super) async fn by_path(Path((drv, output)): Path<(String, String)>) -> Result<Response, Refusal> {
    let drv: StorePath = drv.parse()?;
    let output: OutputName = stem(&output)?.parse().map_err(nonsense)?;
    Err(Refusal::Missing(format!(
        "no store here knows where {drv}^{output} was realised"
    )))
}

fn stem(name: &str) -> Result<&str, Refusal> {
    let stem = name.strip_suffix(".doi");
    stem.ok_or_else(|| Refusal::Nonsense("expected a name that ends in .doi".to_owned()))
}

fn nonsense(error: impl std::error::Error + 'static) -> Refusal {
    Refusal::Nonsense(crate::error::told(&error))
}
